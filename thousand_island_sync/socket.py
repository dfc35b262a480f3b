"""`Socket`: what callbacks get, and what may be handed to a library that wants a
blocking socket."""

from __future__ import annotations

import io
import socket as stdlib_socket
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from . import events
from ._base import addresses
from ._stream import core
from ._stream.handover import hand_over, share
from ._stream.receiving import Receiving
from ._stream.sendfile import SendingFiles
from .errors import NotSupported

_RECEIVE_TIMEOUT = (stdlib_socket.SOL_SOCKET, stdlib_socket.SO_RCVTIMEO)
_HOW = {
    "read": stdlib_socket.SHUT_RD,
    "write": stdlib_socket.SHUT_WR,
    "both": stdlib_socket.SHUT_RDWR,
    stdlib_socket.SHUT_RD: stdlib_socket.SHUT_RD,
    stdlib_socket.SHUT_WR: stdlib_socket.SHUT_WR,
    stdlib_socket.SHUT_RDWR: stdlib_socket.SHUT_RDWR,
}
_HOW_NAMES = {
    stdlib_socket.SHUT_RD: "read",
    stdlib_socket.SHUT_WR: "write",
    stdlib_socket.SHUT_RDWR: "both",
}


def _named(kind: type[IntEnum], value: int) -> int:
    """It with its name, as the standard library says it, if it has one."""
    try:
        return kind(value)
    except ValueError:
        return value


@dataclass(frozen=True, slots=True)
class Stats:
    """What a connection has moved so far."""

    bytes_received: int
    recv_count: int
    bytes_sent: int
    send_count: int


class Socket(Receiving, SendingFiles):
    """A synchronous socket. Every call waits as long as it says and no longer; while it
    waits, another thread of the pool serves the other connections."""

    __slots__ = ("__weakref__",)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<Socket {self.connection_id} {self._who()} {state}>"

    def shutdown(self, how: str | int) -> None:
        """Ends one direction, or both.

        Args:
            how: `"read"`, `"write"`, `"both"`, or the standard library's `SHUT_RD`, ...

        Raises:
            SocketClosed: the peer has gone, or the socket was closed here.
            ValueError: another `how`.

        Thread: any.
        """
        chosen = _HOW.get(how)
        if chosen is None:
            raise ValueError(
                f'shutdown: how: got {how!r}, takes "read", "write", "both" or SHUT_RD, ...'
            )
        with core._guard:
            self._open("shutdown")
            try:
                self._channel.shutdown(chosen)
            except OSError as cause:
                raise self._failed("shutdown", cause) from cause
            if chosen != stdlib_socket.SHUT_RD:
                self._write_shut = True
        if events.socket_shutdown.receivers:
            events.emit(
                events.socket_shutdown,
                self._connection.server,
                {"how": _HOW_NAMES[chosen]},
                {"connection_id": self.connection_id},
            )

    def makefile(
        self,
        mode: str = "rwb",
        buffering: int = -1,
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        """A file object, as `socket.socket.makefile`'s. Closing it leaves the socket open.

        Raises:
            ValueError: an unknown mode, or text without a buffer.
        """
        if not set(mode) <= set("rwb"):
            raise ValueError(f"makefile: mode: got {mode!r}, takes r, w, b only")
        self._open("makefile")
        writing, binary = "w" in mode, "b" in mode
        reading = "r" in mode or not writing  # "b" alone reads
        raw = _RawFile(self, reading, writing)
        if buffering == 0:
            if not binary:
                raise ValueError("makefile: unbuffered streams must be binary")
            return raw
        size = io.DEFAULT_BUFFER_SIZE if buffering < 0 else buffering
        buffered: Any
        if reading and writing:
            buffered = io.BufferedRWPair(raw, raw, size)
        elif reading:
            buffered = io.BufferedReader(raw, size)
        else:
            buffered = io.BufferedWriter(raw, size)
        if binary:
            return buffered
        text = io.TextIOWrapper(buffered, encoding, errors, newline)
        text.mode = mode  # type: ignore[misc]
        return text

    # ---- facts ----------------------------------------------------------------

    def stats(self) -> Stats:
        """What was moved so far; answers after the close, too."""
        return Stats(self._bytes_received, self._recv_count, self._bytes_sent, self._send_count)

    @property
    def connection(self) -> Any:
        """The `Connection`, which any thread may use."""
        return self._connection.handle

    @property
    def connection_id(self) -> str:
        return self._connection.id

    @property
    def secure(self) -> bool:
        """Whether the bytes are encrypted."""
        return self._channel.secure

    @property
    def truncated(self) -> bool:
        """Whether an encrypted stream ended without saying so (`close_notify`)."""
        return self._channel.truncated

    @property
    def stopping(self) -> bool:
        """Whether the server is stopping."""
        return self._connection.stopping

    def negotiated_protocol(self) -> str | None:
        """The ALPN protocol, or `None`."""
        return self._channel.negotiated_protocol()

    def peer_certificate(self) -> Any:
        """A `cryptography.x509.Certificate`, or `None`."""
        return self._channel.peer_certificate()

    def tls_info(self) -> Any:
        """What the handshake agreed on.

        Raises:
            NotSupported: the connection is not encrypted.
        """
        return self._channel.tls_info()

    def peer_credentials(self) -> tuple[int, int, int]:
        """`(pid, uid, gid)` of a Unix peer (SO_PEERCRED, unix(7)).

        Raises:
            NotSupported: not a Unix socket, or a platform without it.
        """
        self._open("peer_credentials")
        option = getattr(stdlib_socket, "SO_PEERCRED", None)
        if option is None or self._sock.family != stdlib_socket.AF_UNIX:
            raise NotSupported("peer_credentials() needs a Unix socket, on Linux")
        layout = struct.Struct("3i")
        found = self.getsockopt(stdlib_socket.SOL_SOCKET, option, layout.size)
        pid, uid, gid = layout.unpack(found)
        return pid, uid, gid

    # ---- as on socket.socket --------------------------------------------------

    @property
    def family(self) -> int:
        return _named(stdlib_socket.AddressFamily, self._sock.family)

    @property
    def type(self) -> int:
        return _named(stdlib_socket.SocketKind, self._sock.type)

    @property
    def proto(self) -> int:
        return self._sock.proto

    def fileno(self) -> int:
        """The descriptor; -1 once closed.

        For libraries that ask select(2) before each `recv`: over TLS nothing is received ahead of
        the record that is read, once this was called. What came before may be in memory already,
        so call it in `handle_connection`; and ask `recv` for 16 KiB or more, all that a record
        can hold (RFC 8446, 5.1).

        The descriptor blocks or not as `gettimeout()` says (a number: not, as the standard
        library's), and no time limit of ours is on it, now or later: a child may have it. It
        stays this socket's: who makes a `socket.socket(fileno=...)` of it without `detach()`
        must not let that one close it. Two owners of a number send one client's bytes to another.
        """
        share(self)
        with core._guard:
            if self._closed:
                return -1
            self._set_blocking()
            return self._sock.fileno()

    def detach(self) -> int:
        """Hands the descriptor over; it is the caller's from now on, and this socket is closed.

        `ssl_context.wrap_socket(socket, server_side=True)` calls it, so that works, and so do
        libraries that do it. The connection ends as after `close()`, without a last callback,
        when the callback returns, and counts until then: a stop waits for the callback, and
        cannot cut what was handed over. Over TLS it is the bare descriptor, as of
        `ssl.SSLSocket.detach`. What was read and not taken is dropped.

        Sends that are under way, and what TLS holds of the last one, get the send timeout; what
        does not go out then is lost, and `socket.send_error` tells. Receives of other threads
        that wait end with `SocketClosed`, within a second.

        Returns:
            The descriptor: blocking as `gettimeout()` says, without a time limit of ours, in no
            poller of ours.

        Raises:
            SocketClosed: the socket was closed or detached here before; nothing else.

        Thread: any.
        """
        return hand_over(self)

    def getpeername(self) -> Any:
        """The peer's address; raises SocketClosed once closed."""
        self._open("getpeername")
        return addresses.plain(self._connection.peer_address)

    def getsockname(self) -> Any:
        """This side's address; raises SocketClosed once closed, SocketError as the system."""
        return addresses.plain(self._asked("getsockname"))

    def setsockopt(self, *args: Any) -> None:
        """setsockopt(2); raises SocketClosed once closed, SocketError as the system."""
        self._asked("setsockopt", *args)

    def getsockopt(self, *args: Any) -> Any:
        """getsockopt(2); raises SocketClosed once closed, SocketError as the system."""
        return self._asked("getsockopt", *args)

    def _asked(self, call: str, *args: Any) -> Any:
        if args[:2] == _RECEIVE_TIMEOUT:  # the user's own
            share(self)
        with core._guard:
            self._open(call)
            try:
                return getattr(self._sock, call)(*args)
            except OSError as cause:
                raise self._failed(call, cause) from cause


class _RawFile(io.RawIOBase):
    """The unbuffered file under `makefile`'s."""

    def __init__(self, socket: Socket, reading: bool, writing: bool) -> None:
        self._socket = socket
        self._reading = reading
        self._writing = writing

    @property
    def mode(self) -> str:
        """`gzip.GzipFile` and others take from it whether to read or to write."""
        return "r" * self._reading + "w" * self._writing + "b"

    @property
    def name(self) -> int:
        return -1 if self.closed else self.fileno()

    def readable(self) -> bool:
        self._not_closed()
        return self._reading

    def writable(self) -> bool:
        self._not_closed()
        return self._writing

    def fileno(self) -> int:
        self._not_closed()
        return self._socket.fileno()

    def readinto(self, buffer: Any) -> int | None:
        self._usable(self._reading, "read")
        try:
            return self._socket.recv_into(buffer)
        except BlockingIOError:
            return None

    def write(self, data: Any) -> int | None:
        self._usable(self._writing, "write")
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return None

    def _usable(self, allowed: bool, what: str) -> None:
        self._not_closed()
        if not allowed:
            raise io.UnsupportedOperation(what)

    def _not_closed(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on a closed file")
