"""`Socket`: what callbacks get, and what may be handed to who wants a blocking socket."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ._base.options import MISSING, Missing
from ._stream import descriptor, gather
from ._stream.buffer import CHUNK
from ._stream.duplex import Duplex
from ._stream.handover import HandOver, share
from ._stream.sendfile import FileSending
from ._stream.standard_names import StandardNames

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from ._base.types import Buffer, File
    from ._stream.reader import Reader
    from ._stream.writer import Writer
    from .connection import Connection
    from .transports import TLSInfo


@dataclass(frozen=True, slots=True)
class Stats:
    """What a connection has moved so far; see `Socket.stats`.

    Attributes:
        bytes_received: bytes, decrypted over TLS.
        recv_count: in how many pieces they came.
        bytes_sent: bytes, before they are encrypted.
        send_count: in how many calls they were sent.
    """

    bytes_received: int
    recv_count: int
    bytes_sent: int
    send_count: int


class Socket(StandardNames):
    """A synchronous socket. Every call waits as long as it says and no longer; while it
    waits, another thread of the pool serves the other connections."""

    __slots__ = ("__weakref__", "_reader", "_stream", "_writer")

    def __init__(self, stream: Any, /) -> None:
        self._stream: Duplex = stream
        self._reader: Reader = self._stream.reader
        self._writer: Writer = self._stream.writer

    def _duplex(self) -> Duplex:
        return self._stream

    def __repr__(self) -> str:
        return f"<Socket {self.connection_id} {descriptor.described(self._stream)}>"

    # ---- receiving ------------------------------------------------------------

    def recv(
        self, length: int = CHUNK, flags: int = 0, *, timeout_ms: float | Missing | None = MISSING
    ) -> bytes:
        """The next available bytes.

        Args:
            length: at most so many; not given: 64 KiB.
            flags: as for `socket.recv`.
            timeout_ms: milliseconds; not given: `settimeout`'s, or the read timeout.

        Returns:
            Bytes; `b""` at the end of the stream, or where `length` is 0.

        Raises:
            SocketTimeout: nothing came in time.
            SocketClosed: the peer reset the connection, or it was closed here.
            ServerStopping: the wait was ended by a stop or by `Connection.close()`.
            SocketError: any other failure, with its errno.
            NotSupported: a flag that the transport cannot honour.
            ValueError: `length` is negative.

        Thread: any, one at a time.
        """
        return self._reader.recv(length, flags, timeout_ms)

    def recv_exactly(self, length: int, *, timeout_ms: float | Missing | None = MISSING) -> bytes:
        """That many bytes, within `timeout_ms` in all.

        Args:
            length: how many bytes.
            timeout_ms: milliseconds for all of them; not given: `settimeout`'s, or the read
                timeout.

        Raises:
            SocketClosed: the stream ended, or was reset, before; `.partial` has the rest.
            SocketTimeout: what was read is kept for the next call.
            ValueError: `length` is negative.
            SocketError: as for `recv`.

        Thread: any, one at a time.
        """
        return gather.recv_exactly(self._reader, length, timeout_ms)

    def recv_until(
        self,
        delimiter: bytes,
        limit: int = 65_536,
        *,
        timeout_ms: float | Missing | None = MISSING,
    ) -> bytes:
        """The bytes up to and including `delimiter`, within `timeout_ms` in all.

        Args:
            delimiter: one byte or more.
            limit: how many bytes it may be, the delimiter among them.
            timeout_ms: milliseconds for all of them; not given: `settimeout`'s, or the read
                timeout.

        Raises:
            LimitExceeded: no delimiter within `limit`; the bytes stay readable.
            SocketClosed: the stream ended, or was reset, before; `.partial` has the rest.
            SocketTimeout: what was read is kept for the next call.
            ValueError: an empty delimiter, or a limit below its length.
            SocketError: as for `recv`.

        Thread: any, one at a time.
        """
        return gather.recv_until(self._reader, delimiter, limit, timeout_ms)

    def recv_into(
        self,
        buffer: Buffer,
        nbytes: int = 0,
        flags: int = 0,
        *,
        timeout_ms: float | Missing | None = MISSING,
    ) -> int:
        """The next available bytes into a writable buffer.

        Args:
            buffer: a writable bytes-like.
            nbytes: at most so many; 0: as many as fit.
            flags: as for `socket.recv_into`.
            timeout_ms: as for `recv`.

        Returns:
            How many; 0 at the end of the stream.

        Raises:
            ValueError: `nbytes` is negative, or more than the buffer holds.
            SocketError: as for `recv`.

        Thread: any, one at a time.
        """
        return gather.recv_into(self._reader, buffer, nbytes, flags, timeout_ms)

    def unread(self, data: Buffer) -> None:
        """Puts bytes back in front: the next read sees them first.

        What is still unread when a callback returns waits for new bytes and is
        delivered in front of them.

        Raises:
            LimitExceeded: more than `max_unread` would be unread.
            SocketClosed: the socket was closed here.
            TypeError: not bytes-like.

        Thread: any, one at a time.
        """
        self._reader.unread(data)

    # ---- sending --------------------------------------------------------------

    def send(
        self,
        data: Buffer | Iterable[Buffer],
        flags: int = 0,
        *,
        timeout_ms: float | Missing | None = MISSING,
    ) -> int:
        """Sends all of `data`.

        What the kernel has no room for, as the peer does not read, is copied and goes out later:
        `send` waits for what `max_unsent` and `max_unsent_total` have no room for.

        After `settimeout` was given a number nothing is kept like that; and without `timeout_ms`
        it is as `socket.send` is then: it may send a part, and raises only if nothing went out.

        Args:
            data: bytes-like, or an iterable of bytes-like.
            flags: as for `socket.send`.
            timeout_ms: milliseconds for all of it; not given: `settimeout`'s, or
                `send_timeout_ms`.

        Returns:
            How many bytes.

        Raises:
            SocketTimeout: not all was taken in time, or kept; `.bytes_sent` says how much was.
            SocketClosed: the peer has gone, or the socket was closed here.
            SocketError: any other failure, with its errno.
            TypeError: `str`, or nothing bytes-like.
            NotSupported: a flag that the transport cannot honour.

        Thread: any; sends do not interleave inside one another.
        """
        return self._writer.send(data, flags, timeout_ms)

    def sendall(self, data: Buffer | Iterable[Buffer], flags: int = 0) -> None:
        """Sends all of `data`, whatever `settimeout` was given.

        Raises:
            SocketError: as for `send`.

        Thread: any; sends do not interleave inside one another.
        """
        self._writer.sendall(data, flags)

    def flush(self, timeout_ms: float | Missing | None = MISSING) -> None:
        """Waits until nothing is left in the send buffer.

        Args:
            timeout_ms: milliseconds; not given: `settimeout`'s, or `send_timeout_ms`.

        Raises:
            SocketTimeout: the peer has not made room for all of it in time.
            SocketError: as for `send`.

        Thread: any.
        """
        self._writer.flush(timeout_ms)

    @property
    def unsent(self) -> int:
        """How many bytes wait in the send buffer, because the peer does not read."""
        return self._writer.unsent

    def sendfile(
        self,
        file: File,
        offset: int = 0,
        length: int | None = None,
        *,
        timeout_ms: float | Missing | None = MISSING,
    ) -> int:
        """Sends a file, or a part of it.

        Without TLS its pages go out as they are: what changes it before the peer has
        received it may change what the peer receives (sendfile(2)).

        Args:
            file: a path, or a binary file object, whose position does not move.
            offset: the first byte, counted from the file's start.
            length: how many; `None`: to the end.
            timeout_ms: milliseconds for all of it; not given: `settimeout`'s, or
                `send_timeout_ms`.

        Returns:
            How many bytes; fewer than `length` if the file ends early.

        Raises:
            OSError: the file's own errors, before any byte is sent; the connection
                stays usable.
            ValueError: a negative number.
            TypeError: no path and no binary file.
            SocketTimeout: not all went out in time; see `.bytes_sent`.
            SocketError: as for `send`.

        Thread: any; holds the turn to send for the whole file.
        """
        return FileSending(self._stream, file, offset, length, timeout_ms).run()

    # ---- both directions ------------------------------------------------------

    def shutdown(self, how: Literal["read", "write", "both"] | int) -> None:
        """Ends one direction, or both.

        Args:
            how: `"read"`, `"write"`, `"both"`, or the standard library's `SHUT_RD`, ...

        Raises:
            SocketClosed: the peer has gone, or the socket was closed here.
            ValueError: another `how`.

        Thread: any.
        """
        descriptor.shutdown(self._stream, how)

    def close(self) -> None:
        """Closes the connection; idempotent. No last callback runs then.

        Thread: any. The connection's own thread closes the descriptor, now or as soon
        as it comes to it; another thread only ends the traffic.
        """
        self._stream.close()

    def settimeout(self, value: float | None) -> None:
        """Sets the default time of every later call here, in **seconds**; `None`: no limit.

        Raises:
            ValueError: it is negative.
        """
        self._stream.settimeout(value)

    # ---- facts ----------------------------------------------------------------

    def stats(self) -> Stats:
        """What was moved so far; answers after the close, too."""
        return Stats(self._reader.bytes_received, self._reader.recv_count, *self._writer.counts())

    @property
    def connection(self) -> Connection:
        """The `Connection`, which any thread may use."""
        return self._stream.connection.handle

    @property
    def connection_id(self) -> str:
        """What the events call the connection; unique among all servers of the process."""
        return self._stream.connection.id

    @property
    def secure(self) -> bool:
        """Whether the bytes are encrypted."""
        return self._stream.channel.secure

    @property
    def truncated(self) -> bool:
        """Whether an encrypted stream ended without saying so (`close_notify`)."""
        return self._stream.channel.truncated

    @property
    def stopping(self) -> bool:
        """Whether the server is stopping."""
        return self._stream.connection.stopping

    def negotiated_protocol(self) -> str | None:
        """The ALPN protocol, or `None`."""
        return self._stream.channel.negotiated_protocol()

    def peer_certificate(self) -> Certificate | None:
        """The client's certificate; `None`: it showed none, or TLS is not used."""
        return self._stream.channel.peer_certificate()

    def tls_info(self) -> TLSInfo:
        """What the handshake agreed on.

        Raises:
            NotSupported: the connection is not encrypted.
        """
        return self._stream.channel.tls_info()

    def peer_credentials(self) -> tuple[int, int, int]:
        """`(pid, uid, gid)` of a Unix peer (SO_PEERCRED, unix(7)).

        Raises:
            NotSupported: not a Unix socket, or a platform without it.
        """
        return descriptor.peer_credentials(self._stream)

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
        share(self._stream)
        return self._stream.fileno()

    def detach(self) -> int:
        """Hands the descriptor over; it is the caller's from now on, and this socket is closed.

        `ssl_context.wrap_socket(socket, server_side=True)` calls it, so that works. (What type
        checkers take is `wrap_socket(stdlib_socket.socket(fileno=socket.detach()), ...)`.) The
        connection ends as after `close()`, without a last callback, when the callback returns;
        a stop waits until then, and cannot cut what was handed over. Over TLS it is the bare
        descriptor, as of `ssl.SSLSocket.detach`. What was read and not taken is dropped.

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
        return HandOver(self._stream).run()
