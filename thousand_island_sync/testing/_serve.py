"""`serve`: a server on a free port, its clients, and checks for what it leaves behind."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Unpack

from .._base import addresses, waits
from .._base.types import PEM
from .._server.option_types import ServerOptions
from ..errors import ConfigError
from ..handler import Handler
from ..server import ThousandIsland, config_of
from ..transports import TLS
from ._clock import Clock, times_of
from ._leaks import Before, clients

#: Milliseconds.
_SHUTDOWN_MS = 5_000
#: An exception's type, or several.
Expected = type[BaseException] | Iterable[type[BaseException]]


class Server(ThousandIsland):
    """A server with checks at its end: see `serve`. The constructor starts it.

    Args:
        handler_cls: a subclass of `Handler`.
        expect: types of exceptions that may be logged.
        ignore_threads: names of threads that may stay.
        clock: the clock of its time-outs.
        options: as for `ThousandIsland`.
    """

    def __init__(
        self,
        *,
        handler_cls: type[Handler],
        expect: Expected = (),
        ignore_threads: Iterable[str] = (),
        clock: Clock | None = None,
        **options: Unpack[ServerOptions],
    ) -> None:
        self._times = times_of(clock)
        options.setdefault("shutdown_timeout_ms", _SHUTDOWN_MS)
        super().__init__(handler_cls=handler_cls, **at_a_free_port(options))
        self._clients: list[socket.socket] = []
        self._over = False
        self._log = _Log(self, expect)
        self._before = Before(lambda server: server is self, ignore_threads)
        self._log.begin()
        try:
            self.start()
        except BaseException:
            self._log.end()
            raise

    def connect(
        self,
        *,
        ca_certs: PEM | None = None,
        certfile: PEM | None = None,
        keyfile: PEM | None = None,
        server_hostname: str | None = "localhost",
        alpn: Sequence[str] | None = None,
        timeout_ms: float | None = 5_000,
    ) -> socket.socket:
        """Connects a client, which is closed at the end of `serve`.

        Args:
            ca_certs: the CAs that the client trusts: a PEM path, or PEM bytes; `None`: it
                verifies nothing.
            certfile: its own certificate, PEM path or bytes.
            keyfile: the key, if it is not in `certfile`.
            server_hostname: the server name that it sends, and verifies if `ca_certs` is given.
            alpn: the protocols that it offers.
            timeout_ms: milliseconds to connect, and of each call on the socket; `None`: no limit.

        Returns:
            A connected `socket.socket`; if the server uses TLS, an `ssl.SSLSocket`.

        Raises:
            OSError: it cannot connect, or the handshake fails (`ssl.SSLError`).
            ServerNotRunning: the server does not listen.
            ConfigError: an option of TLS was given, and the server does not use TLS.

        Thread: any.
        """
        tls = isinstance(config_of(self).transport, TLS)
        given = {"ca_certs": ca_certs, "certfile": certfile, "keyfile": keyfile, "alpn": alpn}
        for name, value in given.items():
            if value is not None and not tls:
                raise ConfigError(
                    f"connect: {name}: needs TLS, but this server does not use it; wrap the socket"
                    " yourself after an upgrade"
                )
        timeout = None if timeout_ms is None else timeout_ms / 1000
        sock = connected(self.local_address, timeout)
        try:
            if tls:
                context = _context(ca_certs, certfile, keyfile)
                context.check_hostname = ca_certs is not None and server_hostname is not None
                if alpn:
                    context.set_alpn_protocols([alpn] if isinstance(alpn, str) else list(alpn))
                sock = context.wrap_socket(sock, server_hostname=server_hostname)
        except BaseException:
            sock.close()
            raise
        self._clients.append(sock)
        clients.add(sock)
        return sock

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        found = self._end()
        if not found:
            return
        text = f"serve({config_of(self).handler_cls.__name__}): " + "\n".join(found)
        if value is None:
            raise AssertionError(text)
        value.add_note(text)

    def _end(self) -> list[str]:
        """Stops it, once. What is wrong, in words."""
        if self._over:
            return []
        self._over = True
        found: list[str] = []
        try:
            for client in self._clients:
                client.close()
            self._clients.clear()
            if not self.stop():
                found.append(
                    "stop() was False: a connection did not end by itself within"
                    f" {config_of(self).shutdown_timeout_ms:g} ms, and was cut"
                )
        finally:
            self._log.end()
        return [*found, *self._before.left(), *self._log.found]


@contextlib.contextmanager
def serve(
    handler_cls: type[Handler],
    *,
    expect: Expected = (),
    ignore_threads: Iterable[str] = (),
    clock: Clock | None = None,
    **options: Unpack[ServerOptions],
) -> Iterator[Server]:
    """Serves a handler on a free port of 127.0.0.1, and checks at the end what it leaves behind.

    At its end it closes the sockets of `connect`, and stops the server. Then it checks that no
    connection was cut; that no thread and no descriptor is left that was not there before, after a
    second; and that the library has logged no traceback and nothing at level ERROR, except for
    expected exceptions. Threads and descriptors of another server that still runs do not count.

    Args:
        handler_cls: a subclass of `Handler`.
        expect: a type of exceptions that may be logged, or several.
        ignore_threads: names of threads that may stay; `*` stands for anything.
        clock: the clock of all time-outs of the server, except those of handshakes and stops.
            `None`: real time.
        options: as for `ThousandIsland`. `port` is 0, `host` 127.0.0.1 and
            `shutdown_timeout_ms` 5,000 unless they are given.

    Yields:
        The started server, with `connect` for its clients.

    Raises:
        AssertionError: a check failed; the text says which. If the body of `with` raised, that
            exception is raised, with the text as a note.
        ConfigError, ListenError: as for `ThousandIsland`.

    Thread: any.
    """
    with Server(
        handler_cls=handler_cls,
        expect=expect,
        ignore_threads=ignore_threads,
        clock=clock,
        **options,
    ) as server:
        yield server


def at_a_free_port(options: ServerOptions) -> ServerOptions:
    """The options, with the address of a test server unless they have one."""
    transport: Any = options.get("transport_options", {})
    given = transport if isinstance(transport, Mapping) else getattr(transport, "given", {})
    if "host" not in given and "sockets" not in given:
        options.setdefault("host", "127.0.0.1")
    host = options.get("host") or given.get("host") or ""
    if not addresses.is_unix(str(host)):
        options.setdefault("port", 0)
    return options


def connected(address: Any, timeout: float | None) -> socket.socket:
    """A client that is connected to a `local_address`; `timeout` in seconds.

    Raises:
        OSError: it cannot connect.
    """
    if isinstance(address, tuple):
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address[0], address[0])
        return socket.create_connection((host, address[1]), timeout=timeout)
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(timeout)
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
    except BaseException:
        sock.close()
        raise
    return sock


def _context(ca_certs: Any, certfile: Any, keyfile: Any) -> ssl.SSLContext:
    """A client's context. The standard library reads certificates from files only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if ca_certs is None:
        context.verify_mode = ssl.CERT_NONE
    elif isinstance(ca_certs, bytes):
        context.load_verify_locations(cadata=ca_certs.decode("ascii"))
    else:
        context.load_verify_locations(ca_certs)
    if certfile is not None:
        with tempfile.TemporaryDirectory() as folder:
            certificate, key = (
                _as_file(what, os.path.join(folder, name))
                for name, what in (("certificate", certfile), ("key", keyfile))
            )
            context.load_cert_chain(certificate, key)
    return context


def _as_file(what: Any, path: str) -> Any:
    if not isinstance(what, bytes):
        return what
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(what)
    return path


class _Log(logging.Handler):
    """Notes what one server logs and should not."""

    def __init__(self, server: ThousandIsland, expect: Expected) -> None:
        super().__init__()
        self._server = server
        self._expected = (expect,) if isinstance(expect, type) else tuple(expect)
        self._logger = logging.getLogger("thousand_island_sync")
        #: In words.
        self.found: list[str] = []

    def begin(self) -> None:
        self._logger.addHandler(self)

    def end(self) -> None:
        self._logger.removeHandler(self)
        self.close()

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.ERROR and not record.exc_info:
            return
        whose = getattr(waits.current_task(), "server", self._server)
        if whose is not self._server or any(
            isinstance(error, self._expected) for error in _errors_of(record)
        ):
            return
        text = f"{record.levelname} was logged: {record.getMessage()}"
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        self.found.append(text)


def _errors_of(record: logging.LogRecord) -> list[Any]:
    """The exceptions of a record."""
    known = record.exc_info[1] if record.exc_info else None
    return [known, getattr(record, "error", None)]
