"""One TLS connection, with pyOpenSSL.

The facts. The thread that polls, a thread in a callback, and a thread that closes the connection
may all use it at once. OpenSSL allows one at a time (`_tls.stream`), and runs the user's `sni` in
the middle of a handshake.

What others do. The standard library holds a lock for each SSL object and waits outside
of it; Twisted feeds memory buffers from its loop.

Our decision. A channel is made of parts that share one lock, which is held around each step, and
never around a wait:

    Wire        the socket, and bytes that it had no room for  (`_tls.wire`)
    Session     OpenSSL's connection, and how it ends          (`_tls.session`)
    Handshake   everything until the handshake is done         (`_tls.handshake`)
    Stream      the path of each message, from then on         (`_tls.stream`)

Before a connection is parked, `drained` says whether anything is left in OpenSSL or the kernel.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from OpenSSL import SSL

from ..._base import locks
from ...errors import NotSupported
from .._tls_info import TLSInfo
from ..base import Channel, Sink, Source
from .agreed import AgreedByTLS
from .handshake import Handshake
from .hello import policy_of
from .reasons import Notes
from .session import Session
from .stream import Stream
from .wire import Wire, in_front

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

_HARMLESS_FLAGS = 0
for _name in ("MSG_DONTWAIT", "MSG_PEEK", "MSG_WAITALL", "MSG_NOSIGNAL"):
    _HARMLESS_FLAGS |= int(getattr(socket, _name, 0))
_lock_of_session = locks.maker("tls")


class TLSChannel(Channel):
    """See the module's essay.

    Args:
        sock: of an accepted connection.
        context: for the session.
    """

    __slots__ = ("_handshake", "_lock", "_session", "_stream", "_wire")

    secure = True
    exposed = property(attrgetter("_wire.exposed"))
    recv_wants = property(attrgetter("_wire.recv_wants"))
    send_wants = property(attrgetter("_wire.send_wants"))
    truncated = property(attrgetter("_session.truncated"))
    agreed = property(lambda self: AgreedByTLS(self._session, self._stream))

    def __init__(self, sock: socket.socket, context: SSL.Context) -> None:
        lock = self._lock = _lock_of_session()
        wire = self._wire = Wire(sock)
        notes = Notes(lock, context, policy_of(context))
        session = self._session = Session(context, notes)
        self._stream = Stream(lock, wire, session)
        self._handshake: Handshake | None = Handshake(wire, session)  # `None`: done

    # ---- the handshake --------------------------------------------------------

    @property
    def handshaking(self) -> bool:  # type: ignore[override]
        return self._handshake is not None

    @property
    def heard(self) -> bool:  # type: ignore[override]
        handshake = self._handshake
        return handshake is None or handshake.heard

    def begin_with(self, data: bytes) -> bytes:
        self._wire.begin_with(data)
        return b""

    def when_handshake_done(self, call: Callable[[], None]) -> bool:
        with self._lock:
            if self._handshake is None:
                return False
            self._handshake.wait_for_end(call)
            return True

    def handshake(self) -> bool:
        handshake = self._handshake
        if handshake is None:
            return True
        with self._lock:
            if not handshake.step():
                return False
            self._stream.open()
            self._handshake = None
        handshake.tell()
        return True

    def negotiated_protocol(self) -> str | None:
        return self._session.negotiated_protocol()

    def peer_certificate(self) -> Certificate | None:
        return self._session.peer_certificate()

    def tls_info(self) -> TLSInfo:
        return self._session.tls_info(handshake_done=self._handshake is None)

    # ---- bytes ----------------------------------------------------------------

    def source(self) -> Source:
        return self._stream

    def sink(self) -> Sink:
        return self._stream

    def recv(self, length: int, flags: int = 0) -> bytes | None:
        return self._stream.recv(length, flags)

    def send(self, data: Any, flags: int = 0) -> int:
        sent = self._stream.send(data, flags)
        return sent if sent >= 0 else ~sent

    def send_gathered(self, buffers: Sequence[memoryview], flags: int = 0) -> int:
        return self.send(in_front(buffers), flags)

    def flush(self) -> bool:
        with self._lock:
            try:
                return self._wire.flush()
            except OSError as error:
                self._session.call_failed(error)
                raise

    @property
    def unfinished(self) -> bool:  # type: ignore[override]
        return self._wire.held is not None

    def left_behind(self) -> int:
        held = self._wire.held
        return 0 if held is None else len(held)

    def took_in(self) -> bool:
        return self._stream.took_in()

    def drained(self) -> bool:
        return self._stream.drained()

    def expose(self) -> None:
        self._wire.expose()

    def check_flags(self, flags: int) -> None:
        if flags & ~_HARMLESS_FLAGS:
            raise NotSupported(f"flags={flags:#x}: TLS cannot honour them")

    # ---- the end --------------------------------------------------------------

    def shutdown(self, how: int) -> None:
        if how != socket.SHUT_RD:
            self.send_close_notify()
        self._wire.shutdown(how)

    def end_reads(self) -> None:
        self._wire.end_reads()

    def send_close_notify(self) -> None:
        session, wire = self._session, self._wire
        with self._lock:
            # Not before the handshake is done: the peer does not expect it. Not while bytes are
            # held: it would have to wait behind them.
            if self._handshake is not None or wire.held is not None:
                return
            if session.send_close_notify():
                wire.push_last(session.records.get())

    def renew(self) -> None:
        locks.renew(self._lock)

    def is_inside(self) -> bool:
        return locks.owns(self._lock)
