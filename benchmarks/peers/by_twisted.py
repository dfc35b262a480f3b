"""Twisted, on its epoll reactor. What blocks goes to its threads."""

from __future__ import annotations

from typing import Any

from twisted.internet import epollreactor

epollreactor.install()

from twisted.internet import protocol, reactor, ssl, threads  # noqa: E402
from twisted.protocols.basic import FileSender  # noqa: E402

from .. import work  # noqa: E402
from ..work import WORK, answer, may_block  # noqa: E402
from . import Announce  # noqa: E402


class _Connection(protocol.Protocol):  # type: ignore[misc]
    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)


class _Ping(_Connection):
    def dataReceived(self, data: bytes) -> None:
        if may_block(data):
            threads.deferToThread(answer, data).addCallback(self.transport.write)
        else:
            self.transport.write(answer(data))


class _Http(_Connection):
    def dataReceived(self, data: bytes) -> None:
        kind, size, keep = work.parse(data)
        if kind == "file":
            self.transport.write(work.head(size, keep))
            self._send_file(_Part(size), keep)
            return
        for part in work.message(size, keep):
            self.transport.write(bytes(part))
        if not keep:
            self.transport.loseConnection()

    def _send_file(self, file: _Part, keep: bool) -> None:
        def sent(_: object) -> None:
            file.close()
            if not keep:
                self.transport.loseConnection()

        FileSender().beginFileTransfer(file, self.transport).addBoth(sent)


class _Part:
    """The first bytes of the file."""

    def __init__(self, size: int) -> None:
        self._file, self._left = open(WORK.file, "rb", buffering=0), size  # noqa: SIM115

    def read(self, count: int) -> bytes:
        data = self._file.read(min(count, self._left))
        self._left -= len(data)
        return data

    def close(self) -> None:
        self._file.close()


def serve(announce: Announce) -> None:
    used: Any = reactor
    used.suggestThreadPoolSize(WORK.threads)
    factory = protocol.Factory.forProtocol(_Http if WORK.http else _Ping)
    factory.noisy = False
    if WORK.pem:
        with open(WORK.pem) as file:
            certificate = ssl.PrivateCertificate.loadPEM(file.read())
        options = certificate.options()
        port = used.listenSSL(0, factory, options, work.BACKLOG, work.HOST)
    else:
        port = used.listenTCP(0, factory, work.BACKLOG, work.HOST)
    announce(port.getHost().port)
    used.run(installSignalHandlers=False)
