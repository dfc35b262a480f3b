"""`Socket`: callbacks get one, and may give it to libraries that want a blocking socket."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from ._base.compiled import in_c
from ._base.options import MISSING, Missing
from ._stream import descriptor, gather
from ._stream.buffer import CHUNK
from ._stream.duplex import Duplex
from ._stream.handover import HandOver, share
from ._stream.sendfile import FileSending
from ._stream.standard_names import StandardNames

if TYPE_CHECKING:
    from ._base.types import Buffer, File
    from ._stream.reader import Reader
    from ._stream.stats import Stats
    from ._stream.writer import Writer
    from .connection import Connection


@in_c
class PythonSocket:
    """The fields of a `Socket`, with `recv` and `send`; `_native.Socket` is its equal in C."""

    __slots__ = ("_reader", "_stream", "_writer")

    def __init__(self, stream: Any, reader: Any, writer: Any, /) -> None:
        self._stream: Duplex = stream
        self._reader: Reader = reader
        self._writer: Writer = writer

    def recv(
        self, length: int = CHUNK, flags: int = 0, *, timeout_ms: float | Missing | None = MISSING
    ) -> bytes:
        """Receives the next available bytes.

        Args:
            length: the most bytes to return; not given: 64 KiB.
            flags: as for `socket.socket.recv`.
            timeout_ms: milliseconds to wait; `None` means no limit. Not given: the time of
                `settimeout`, or the read timeout.

        Returns:
            Bytes; `b""` at the end of the stream, or if `length` is 0.

        Raises:
            SocketTimeout: no data received in time.
            SocketClosed: the peer has reset the connection, or it was closed locally.
            ServerStopping: a stop, or `Connection.close()`, has ended the wait.
            SocketError: any other failure, with its errno.
            NotSupported: the transport does not support one of the flags.
            ValueError: `length` is negative.

        Thread: any, one at a time.
        """
        return self._reader.recv(length, flags, timeout_ms)

    def send(
        self,
        data: Buffer | Iterable[Buffer],
        flags: int = 0,
        *,
        timeout_ms: float | Missing | None = MISSING,
    ) -> int:
        """Sends all of `data`.

        Bytes for which the kernel has no room are copied to the send buffer, and go out as the
        peer reads. If that is full, too (`max_unsent`, `max_unsent_total`), `send` waits. After
        `settimeout` with a number, nothing goes to the send buffer. Without `timeout_ms`, `send`
        then behaves as `socket.socket.send`: it may send a part, and raises if nothing went out.

        Args:
            data: bytes-like, or an iterable of bytes-like objects.
            flags: as for `socket.socket.send`.
            timeout_ms: milliseconds for all of it; `None` means no limit. Not given: the time of
                `settimeout`, or `send_timeout_ms`.

        Returns:
            The number of bytes sent or buffered.

        Raises:
            SocketTimeout: some bytes were neither sent nor buffered in time; `.bytes_sent` is the
                number of those that were.
            SocketClosed: the peer has closed the connection, or it was closed locally.
            SocketError: any other failure, with its errno.
            TypeError: `data` is a `str`, or not bytes-like.
            NotSupported: the transport does not support one of the flags.

        Thread: any; sends do not interleave inside one another.
        """
        return self._writer.send(data, flags, timeout_ms)


class Socket(PythonSocket, StandardNames):
    """A blocking socket, with the methods of `socket.socket` and more; each call has a time limit.

    While a call waits, other threads of the pool serve the other connections."""

    __slots__ = ("__weakref__",)

    def _duplex(self) -> Duplex:
        return self._stream

    def __repr__(self) -> str:
        return f"<Socket {self.connection_id} {descriptor.described(self._stream)}>"

    def __reduce_ex__(self, protocol: Any, /) -> NoReturn:
        raise TypeError("a Socket cannot be copied or pickled: one connection has one")

    # ---- receiving ------------------------------------------------------------

    def recv_exactly(self, length: int, *, timeout_ms: float | Missing | None = MISSING) -> bytes:
        """Receives exactly `length` bytes.

        Args:
            length: how many bytes.
            timeout_ms: milliseconds for all of them; `None` means no limit. Not given: the time
                of `settimeout`, or the read timeout.

        Returns:
            `length` bytes.

        Raises:
            SocketClosed: the stream ended too early, or was reset; see `.partial`.
            SocketTimeout: the time is over; bytes that have arrived are kept for the next call.
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
        """Receives bytes up to and including `delimiter`.

        Args:
            delimiter: `bytes`, one or more.
            limit: the most bytes to return, the delimiter included.
            timeout_ms: milliseconds for all of them; `None` means no limit. Not given: the time
                of `settimeout`, or the read timeout.

        Returns:
            The bytes, which end with `delimiter`.

        Raises:
            LimitExceeded: no delimiter within `limit` bytes; they stay readable.
            SocketClosed: the stream ended too early, or was reset; see `.partial`.
            SocketTimeout: the time is over; bytes that have arrived are kept for the next call.
            ValueError: the delimiter is empty, or longer than `limit`.
            TypeError: the delimiter is not `bytes`.
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
        """Receives the next available bytes into a buffer.

        Args:
            buffer: a writable bytes-like object.
            nbytes: the most bytes to write; 0: as many as the buffer holds.
            flags: as for `socket.socket.recv_into`.
            timeout_ms: as for `recv`.

        Returns:
            The number of bytes written; 0 at the end of the stream.

        Raises:
            ValueError: `nbytes` is negative, or larger than the buffer.
            SocketError: as for `recv`.

        Thread: any, one at a time.
        """
        return gather.recv_into(self._reader, buffer, nbytes, flags, timeout_ms)

    def unread(self, data: Buffer) -> None:
        """Puts bytes back: the next read returns them first.

        Bytes that are still unread when a callback returns wait there. `handle_data` gets them
        when new bytes arrive, in front of those.

        Args:
            data: bytes-like.

        Raises:
            LimitExceeded: more than `max_unread` bytes would be unread.
            SocketClosed: the socket was closed locally.
            TypeError: `data` is not bytes-like.

        Thread: any, one at a time.
        """
        self._reader.unread(data)

    # ---- sending --------------------------------------------------------------

    def sendall(self, data: Buffer | Iterable[Buffer], flags: int = 0) -> None:
        """Sends all of `data`, also after `settimeout` with a number.

        Args:
            data: bytes-like, or an iterable of bytes-like objects.
            flags: as for `socket.socket.sendall`.

        Raises:
            SocketError: as for `send`.

        Thread: any; sends do not interleave inside one another.
        """
        self._writer.sendall(data, flags)

    def flush(self, timeout_ms: float | Missing | None = MISSING) -> None:
        """Waits until the send buffer is empty.

        Args:
            timeout_ms: milliseconds to wait; `None` means no limit. Not given: the time of
                `settimeout`, or `send_timeout_ms`.

        Raises:
            SocketTimeout: the peer has not read enough in time.
            SocketError: as for `send`.

        Thread: any.
        """
        self._writer.flush(timeout_ms)

    @property
    def unsent(self) -> int:
        """How many bytes wait in the send buffer, because the peer reads slowly."""
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

        Without TLS, the kernel sends the file's pages without a copy. If the file changes before
        the peer has received it, the peer may receive the changed bytes (sendfile(2)).

        Args:
            file: a path, or a binary file object, whose position does not move.
            offset: the first byte to send, counted from the start of the file.
            length: how many bytes to send; `None`: to the end of the file.
            timeout_ms: milliseconds for all of it; `None` means no limit. Not given: the time of
                `settimeout`, or `send_timeout_ms`.

        Returns:
            The number of bytes sent; fewer than `length` if the file ends early.

        Raises:
            OSError: the file cannot be read; no byte was sent, the connection stays usable.
            ValueError: `offset` or `length` is negative.
            TypeError: `file` is neither a path nor a binary file.
            SocketTimeout: not all of it was sent in time; see `.bytes_sent`.
            SocketError: as for `send`.

        Thread: any; other sends wait until the whole file is sent.
        """
        return FileSending(self._stream, file, offset, length, timeout_ms).run()

    # ---- both directions ------------------------------------------------------

    def shutdown(self, how: Literal["read", "write", "both"] | int) -> None:
        """Ends one direction, or both.

        Args:
            how: `"read"`, `"write"`, `"both"`, or `SHUT_RD`, `SHUT_WR`, `SHUT_RDWR` of `socket`.

        Raises:
            SocketClosed: the peer has closed the connection, or it was closed locally.
            ValueError: `how` is none of those.

        Thread: any.
        """
        descriptor.shutdown(self._stream, how)

    def close(self) -> None:
        """Closes the connection; none of the last callbacks runs. A second call does nothing.

        Thread: any. Only the connection's own thread closes the descriptor; another one ends the
        traffic.
        """
        self._stream.close()

    def settimeout(self, value: float | None) -> None:
        """Sets the default time limit of every later call on this socket, in **seconds**.

        Args:
            value: seconds; `None` means no limit.

        Raises:
            ValueError: `value` is negative.
        """
        self._stream.settimeout(value)

    # ---- facts ----------------------------------------------------------------

    def stats(self) -> Stats:
        """The traffic so far, as `Stats`; it answers after the close, too."""
        return descriptor.traffic(self._reader, self._writer)

    @property
    def connection(self) -> Connection:
        """The `Connection`: a handle that any thread may use."""
        return self._stream.connection.handle

    @property
    def connection_id(self) -> str:
        """The `connection_id` of the events, a `str`; unique among all servers of the process."""
        return self._stream.connection.id

    @property
    def secure(self) -> bool:
        """Whether the connection is encrypted, a `bool`."""
        return self._stream.channel.secure

    @property
    def truncated(self) -> bool:
        """Whether an encrypted stream has ended without TLS's `close_notify`, a `bool`."""
        return self._stream.channel.truncated

    @property
    def stopping(self) -> bool:
        """Whether the server is stopping, a `bool`."""
        return self._stream.connection.stopping

    def fileno(self) -> int:
        """The descriptor, an `int`; -1 once the socket is closed.

        For libraries that call select(2) before each `recv`: over TLS, no record is received ahead
        of the one that is read from now on. Bytes may be in memory already, so call it in
        `handle_connection`; and give `recv` 16 KiB or more, a whole record (RFC 8446, 5.1).

        It blocks if `gettimeout()` is `None`, as in the standard library, and has no time limit.
        It still belongs to this socket: a `socket.socket(fileno=...)` made of it without
        `detach()` must not close it, or one client may get another's bytes.
        """
        share(self._stream)
        return self._stream.fileno()

    def detach(self) -> int:
        """Hands the descriptor over to the caller, who has to close it; this socket is closed.

        `ssl_context.wrap_socket(socket, server_side=True)` calls `detach()`, so it works. (Type
        checkers accept `wrap_socket(stdlib_socket.socket(fileno=socket.detach()), ...)`.) When the
        callback returns, the connection ends as after `close()`. A stop waits for that callback,
        and cannot cut a descriptor that was handed over. Over TLS it is the bare descriptor, as
        from `ssl.SSLSocket.detach`. Bytes that were received and not read are dropped.

        Sends that are under way, and the rest of the last TLS record, get the send timeout; bytes
        that do not go out then are lost, and the event `socket.send_error` reports them. Receives
        of other threads end with `SocketClosed`, within a second.

        Returns:
            The descriptor, an `int`: blocking if `gettimeout()` is `None`, without a time limit of
            this library, and in none of its pollers.

        Raises:
            SocketClosed: the socket was closed or detached before; there is no other error.

        Thread: any.
        """
        return HandOver(self._stream).run()
