"""A connection without a socket: replacements for the descriptor, the acceptor and the scheduler.
The rest is the code of a server: its machine, its callbacks, its streams."""

from __future__ import annotations

import errno
import os
import socket as stdlib_socket
from collections import deque
from collections.abc import Callable
from typing import Any, NoReturn

from .._base import addresses
from .._base.clock import FOREVER, Clock
from .._base.waits import OwnThread
from .._connection.callbacks import Callbacks, End, Outcome
from .._connection.client import Client, next_serial
from .._connection.closing import Closing
from .._connection.environment import Environment
from .._connection.frames import Frames
from .._connection.machine import Machine
from .._connection.states import PARKED, REASON, STOPPING, Cause
from .._connection.task import ConnectionTask
from .._stream.reader import Reader
from .._stream.states import COMES, WAS_RESET, Incoming
from ..errors import NotSupported
from ..events import By
from ..framing import Framing
from ..handler import Handler, SwitchTransport
from ..socket import Socket
from ..transports.base import Channel, ListenSocket, Transport

_FLAGS = int(stdlib_socket.MSG_PEEK | stdlib_socket.MSG_WAITALL | stdlib_socket.MSG_DONTWAIT)
_SHUT_READS = (stdlib_socket.SHUT_RD, stdlib_socket.SHUT_RDWR)
_SHUT_WRITES = (stdlib_socket.SHUT_WR, stdlib_socket.SHUT_RDWR)
#: The server's own address.
_OURS = {
    stdlib_socket.AF_INET: ("127.0.0.1", 4000),
    stdlib_socket.AF_INET6: ("::1", 4000, 0, 0),
    stdlib_socket.AF_UNIX: "",
}


class _NoDescriptor(NotSupported, OSError):
    """Also an OSError: code that expects a closed descriptor handles a missing one, too."""


def not_here(what: str) -> NotSupported:
    """The error for calls that need more than memory."""
    return NotSupported(
        f"{what}: testing.call has no socket and no TLS; serve() has: use"
        " thousand_island_sync.testing.serve for this test"
    )


class NoSocket(stdlib_socket.socket):
    """A socket that was never opened, and so has no descriptor. Made by `of`."""

    family: Any = stdlib_socket.AF_INET
    type: Any = stdlib_socket.SOCK_STREAM
    proto: Any = 0
    options: dict[Any, Any]
    #: Whether user code calls `fileno` from now on.
    is_users: bool

    @classmethod
    def of(cls, peer: Any) -> NoSocket:
        """A socket as accepted from that peer."""
        made = cls.__new__(cls)
        if not isinstance(peer, tuple):
            made.family = stdlib_socket.AF_UNIX
        elif ":" in str(peer[0]):
            made.family = stdlib_socket.AF_INET6
        made.options, made.is_users = {}, False
        return made

    def fileno(self) -> int:
        if self.is_users:
            raise _NoDescriptor(str(not_here("fileno()")))
        return -1

    def getsockname(self) -> Any:
        return _OURS[self.family]

    def getsockopt(self, level: int, name: int, *length: int) -> Any:
        return self.options.get((level, name), bytes(*length) if length else 0)

    def setsockopt(self, level: int, name: int, *value: Any) -> None:
        self.options[level, name] = value[0]


class Peer:
    """The peer: bytes of it that were not received yet, and bytes that it has got.

    Attributes:
        arrived: bytes of it that were not received yet, each piece as it came.
        direction: whether it sends, or how it ended its sending side.
        given: how many receives have got something of it.
        sends: what it has got, one entry for each send.
    """

    __slots__ = ("arrived", "direction", "given", "sends")

    def __init__(self) -> None:
        self.arrived: deque[bytes] = deque()
        self.direction: Incoming = COMES
        self.given = 0
        self.sends: list[bytes] = []

    def does(self, move: dict[Incoming, Incoming]) -> None:
        """It ends its sending side (`AFTER_END`), or resets the connection (`AFTER_RESET`)."""
        self.direction = move.get(self.direction, self.direction)

    @property
    def has_reset(self) -> bool:
        return self.direction in WAS_RESET

    @property
    def waits(self) -> bool:
        """Whether there is something to receive."""
        return bool(self.arrived) or self.direction is not COMES

    def take(self, length: float) -> bytes | None:
        """The next piece, at most so much of it; `b""`: the end; `None`: nothing yet."""
        if not self.waits:
            return None
        self.given += 1
        if self.has_reset:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        if not self.arrived:
            return b""
        piece = self.arrived.popleft()
        if len(piece) <= length:
            return piece
        self.arrived.appendleft(piece[int(length) :])
        return piece[: int(length)]


#: Waits for bytes: so many at most, for so many seconds; as `Channel.wait_recv`.
WaitsFor = Callable[[int, float], bytes | None]


class MemoryChannel(Channel):
    """Carries bytes to and from a `Peer`."""

    __slots__ = ("_peer", "_shut", "_task", "_wait")

    kernel_waits = True  # the channel itself waits
    exposed = True  # there is no time limit on a descriptor

    def __init__(self, task: ConnectionTask, peer: Peer, wait: WaitsFor) -> None:
        self._task = task
        self._peer = peer
        self._wait = wait
        self._shut: set[str] = set()

    def handshake(self) -> bool:
        return True

    def recv(self, length: int, flags: int = 0) -> bytes | None:
        if "read" in self._shut:
            return b""
        # A piece is one `handle_data`; a read in a callback gives its own length.
        return self._peer.take(FOREVER if self._task.machine.state is PARKED else length)

    def wait_recv(self, length: int, timeout: float) -> bytes | None:
        return b"" if "read" in self._shut else self._wait(length, timeout)

    def send(self, data: Any, flags: int = 0) -> int:
        return self.send_gathered([memoryview(data)])

    def send_gathered(self, buffers: Any, flags: int = 0) -> int:
        if "write" in self._shut or self._peer.has_reset:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        data = b"".join(buffers)
        self._peer.sends.append(data)
        return len(data)

    def shutdown(self, how: int) -> None:
        if how in _SHUT_READS:
            self._shut.add("read")
        if how in _SHUT_WRITES:
            self._shut.add("write")

    def check_flags(self, flags: int) -> None:
        if flags & ~_FLAGS:
            raise NotSupported(f"flags={flags:#x}: {not_here('flags')}")

    def negotiated_protocol(self) -> NoReturn:
        raise not_here("negotiated_protocol()")

    def peer_certificate(self) -> NoReturn:
        raise not_here("peer_certificate()")

    def tls_info(self) -> NoReturn:
        raise not_here("tls_info()")


class MemoryTransport(Transport):
    """A transport with one channel."""

    def __init__(self, made: Channel) -> None:
        super().__init__({})
        self._made = made

    def listen(self, port: int, count: int) -> list[ListenSocket]:
        raise not_here("listening")

    def channel(self, sock: stdlib_socket.socket) -> Channel:
        return self._made

    def upgrade(self, sock: stdlib_socket.socket, old: Channel) -> Channel:
        raise not_here("SwitchTransport")


class Record:
    """The record of what a handler has done.

    Attributes:
        callbacks: as `Transcript.callbacks`.
        ended: as `Transcript.ended`.
        error: as `Transcript.error`.
    """

    __slots__ = ("callbacks", "ended", "error")

    def __init__(self) -> None:
        self.callbacks: list[tuple[str, tuple[Any, ...], Any]] = []
        self.ended: Any = None
        self.error: Any = None

    def note(self, name: str, arguments: tuple[Any, ...], run: Callable[[], object]) -> object:
        """Runs a callback, and records its result or exception."""
        place = len(self.callbacks)
        self.callbacks.append((name, arguments, None))  # before the call, which may never return
        try:
            result = run()
        except BaseException as error:
            self.callbacks[place] = (name, arguments, error)
            raise
        self.callbacks[place] = (name, arguments, result)
        return result


class _Noting:
    """A handler, as its frames see it: records each call."""

    def __init__(self, handler: Handler, record: Record) -> None:
        self._handler = handler
        self._record = record

    @property
    def framing(self) -> Framing | None:
        return self._handler.framing

    def handle_data(self, data: bytes, socket: Socket) -> object:
        whole = self._handler.handle_data
        return self._record.note("handle_data", (data,), lambda: whole(data, socket))


class _Frames(Frames):
    __slots__ = ()

    def __init__(self, whose: Any, handler: Any, reader: Reader, clock: Clock) -> None:
        super().__init__(whose, _Noting(handler, whose.record), reader, clock)  # type: ignore[arg-type]


#: All other callbacks count as run, even if they do nothing.
_IDLE: frozenset[object] = frozenset({Handler.handle_drain})


class _Callbacks(Callbacks):
    """Records the callbacks; logs nothing."""

    __slots__ = ("_record",)

    frames_cls = _Frames

    def __init__(self, whose: Any, *given: Any) -> None:
        super().__init__(whose, *given)
        self._record: Record = whose.record

    def named(self, name: str, idle: frozenset[object] = _IDLE) -> Callable[..., Any] | None:
        return super().named(name, idle)

    def make(self, env: Environment, reader: Reader) -> None:
        super().make(env, reader)
        if self.frames is None:
            self.receiver = _Noting(self._handler, self._record)  # type: ignore[assignment]

    def call(self, name: str, callback: Callable[..., Any], *arguments: Any) -> object:
        whole, shown = super().call, arguments[:-1]
        return self._record.note(name, shown, lambda: whole(name, callback, *arguments))

    def returned(self, result: object, name: str, socket: Socket) -> Outcome:
        outcome = super().returned(result, name, socket)
        if isinstance(outcome, SwitchTransport):
            return End(Cause.ERROR, not_here("SwitchTransport"), By.TRACEBACK)
        return outcome

    def log(self, error: BaseException, where: str) -> None:
        pass


class _Closing(Closing):
    """Records how the connection ended."""

    __slots__ = ()

    def tell_end(self, last: str | None, cause: Cause, reason: Any, told: By | None) -> None:
        assert isinstance(self.task, MemoryConnection)
        record = self.task.record
        record.ended = "error" if last == "handle_error" else REASON[cause]
        if last == "handle_error":
            record.error = reason
        super().tell_end(last, cause, reason, told)


class _Machine(Machine):
    __slots__ = ()

    callbacks_cls = _Callbacks

    def closing(self, kind: type[Closing] = _Closing) -> Closing:
        return super().closing(kind)


class _Client(Client):
    __slots__ = ("_peer",)

    def __init__(self, env: Environment, sock: NoSocket, address: Any, peer: Peer) -> None:
        host, port = addresses.apart(address)
        super().__init__(env, sock, host, port, env.times.real(), next_serial())
        self._peer = peer

    def has_left(self) -> bool:
        return self._peer.has_reset

    def was_reset(self, shut: bool) -> bool:
        return self._peer.has_reset


class MemoryConnection(ConnectionTask):
    """A connection as the scheduler runs it.

    Args:
        env: what the connections of a run share.
        address: its peer's.
        peer: its peer.
        wait: waits for bytes, for a callback that reads.

    Attributes:
        record: what its handler has done.
    """

    __slots__ = ("record",)

    machine_cls = _Machine

    def __init__(self, env: Environment, address: Any, peer: Peer, wait: WaitsFor) -> None:
        self.record = Record()
        sock = NoSocket.of(address)
        transport = MemoryTransport(MemoryChannel(self, peer, wait))
        super().__init__(env, transport, sock, address, 0)
        sock.is_users = True
        self.client = _Client(env, sock, address, peer)

    def run(self) -> int:
        self.alert = True  # no short cut: each step runs in Python, which records it
        if self.machine.state is PARKED:
            self.machine.callbacks.look_at_framing()  # another thread may have set it
        return super().run()

    def receive(self) -> int:
        return self.run()

    def interrupt(self) -> int | None:
        env = self.env
        return env.interrupt if env.stage is STOPPING else None


class ThisThread(OwnThread):
    """The calling thread, while it runs a connection."""

    def __init__(self, task: ConnectionTask) -> None:
        self.task = task
