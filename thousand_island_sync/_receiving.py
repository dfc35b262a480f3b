"""The receiving half of `Socket`."""

from __future__ import annotations

import errno
import socket as stdlib_socket
from threading import get_ident
from typing import Any

from . import _waits, events
from ._clock import FOREVER, now
from ._options import MISSING, Missing
from ._socket_core import SocketCore
from .errors import LimitExceeded, SocketClosed, SocketError
from .transports._base import WRITE

#: What one receive asks for when the caller names no length.
CHUNK = 65_536
_received = events.socket_recv
_UNREAD_MOST = 1 << 20
_PEEK = int(stdlib_socket.MSG_PEEK)
_DONTWAIT = int(getattr(stdlib_socket, "MSG_DONTWAIT", 0))
_WAITALL = int(getattr(stdlib_socket, "MSG_WAITALL", 0))


class ReadBuffer:
    """Bytes that were read and not handed out: some put back, then some fresh.

    Attributes:
        fresh: how many, at the end, no callback has seen yet.
    """

    __slots__ = ("_data", "_start", "fresh")

    def __init__(self, data: bytes, fresh: int) -> None:
        self._data = data
        self._start = 0
        self.fresh = fresh

    def __len__(self) -> int:
        return len(self._data) - self._start

    def peek(self, length: int) -> bytes:
        return self._data[self._start : self._start + length]

    def take(self, length: int) -> bytes:
        taken = self._data[self._start : self._start + length]
        self._start += len(taken)
        self.fresh = min(self.fresh, len(self))
        return taken

    def put_back(self, data: bytes) -> None:
        self._data = data + self._data[self._start :]
        self._start = 0

    def add(self, data: bytes) -> None:
        self._data = self._data[self._start :] + data
        self._start = 0
        self.fresh += len(data)

    def find(self, delimiter: bytes, start: int) -> int:
        """Where the delimiter ends, counted from the front; -1: it is not there."""
        found = self._data.find(delimiter, self._start + start)
        return -1 if found < 0 else found + len(delimiter) - self._start


class Receiving(SocketCore):
    """`recv` and what is built on it."""

    __slots__ = ()

    def recv(
        self, length: int = 0, flags: int = 0, *, timeout_ms: float | Missing | None = MISSING
    ) -> bytes:
        """The next available bytes.

        Args:
            length: at most so many; 0: up to 64 KiB.
            flags: as for `socket.recv`.
            timeout_ms: milliseconds; not given: `settimeout`'s, or the read timeout.

        Returns:
            Bytes; `b""` at the end of the stream.

        Raises:
            SocketTimeout: nothing came in time.
            SocketClosed: the peer reset the connection, or it was closed here.
            ServerStopping: the wait was ended by a stop or by `Connection.close()`.
            SocketError: any other failure, with its errno.
            NotSupported: a flag that the transport cannot honour.
            ValueError: `length` is negative.

        Thread: any, one at a time.
        """
        # A handler that loops over recv: it has waited in this callback already, so it
        # has no permit to give away and waits in the kernel at once. Whatever is not
        # bytes is left to the code below.
        if (
            self._waiter == get_ident()
            and not self._connection.attached
            and self._buffer is None
            and timeout_ms is MISSING
            and not flags
            and length >= 0
        ):
            try:
                data = self._sock.recv(length or CHUNK)
            except OSError:
                data = b""
            if data:
                self._bytes_received += len(data)
                self._recv_count += 1
                if _received.receivers:
                    self._tell(data)
                return data
        if length < 0:
            raise ValueError(f"recv: length: got {length}, takes 0 or more")
        if flags:
            return self._recv_with_flags(length or CHUNK, flags, timeout_ms)
        timeout = self._timeout(timeout_ms, self._connection.read_timeout)
        try:
            with self._receiving:
                self._open("recv")
                if self._buffer is not None:
                    return self._take(length or CHUNK)
                data = self._receive("recv", length or CHUNK, timeout, FOREVER)
        except SocketError as error:
            self._tell_error(error)
            raise
        self._tell(data)
        return data

    def recv_exactly(self, length: int, *, timeout_ms: float | Missing | None = MISSING) -> bytes:
        """That many bytes, within `timeout_ms` in all.

        Raises:
            SocketClosed: the stream ended, or was reset, before; `.partial` has the rest.
            SocketTimeout: what was read is kept for the next call.
            ValueError: `length` is negative.
            SocketError: as for `recv`.

        Thread: any, one at a time.
        """
        if length < 0:
            raise ValueError(f"recv_exactly: length: got {length}, takes 0 or more")
        timeout = self._timeout(timeout_ms, self._connection.read_timeout)
        try:
            with self._receiving:
                self._open("recv_exactly")
                data = self._exactly(length, timeout)
        except SocketError as error:
            self._tell_error(error)
            raise
        self._tell(data)
        return data

    def _exactly(self, length: int, timeout: float) -> bytes:
        deadline = now() + timeout
        seen = 0 if self._buffer is None else len(self._buffer) - self._buffer.fresh
        parts = [self._take(length)] if self._buffer is not None else []
        missing = length - sum(map(len, parts))
        while missing:
            try:
                data = self._receive("recv_exactly", min(missing, 4 * CHUNK), timeout, deadline)
                if not data:
                    raise self._gone("recv_exactly", f"end of stream, {missing} bytes short")
            except SocketClosed as error:
                error.partial = b"".join(parts)
                raise
            except SocketError:
                self._keep(b"".join(parts), seen)
                raise
            parts.append(data)
            missing -= len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _keep(self, data: bytes, seen: int) -> None:
        """Keeps what no call has returned; `seen` of it, in front, a callback knows."""
        if data:
            self._buffer = ReadBuffer(data, len(data) - min(seen, len(data)))
            self._connection.alert = True

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
            timeout_ms: milliseconds.

        Raises:
            LimitExceeded: no delimiter within `limit`; the bytes stay readable.
            SocketClosed: the stream ended, or was reset, before; `.partial` has the rest.
            SocketTimeout: what was read is kept for the next call.
            ValueError: an empty delimiter, or a limit below its length.
            SocketError: as for `recv`.

        Thread: any, one at a time.
        """
        if not isinstance(delimiter, (bytes, bytearray)):
            raise TypeError(f"recv_until: delimiter: got {type(delimiter).__name__}, takes bytes")
        if not delimiter:
            raise ValueError("recv_until: delimiter: got b'', takes one byte or more")
        if limit < len(delimiter):
            raise ValueError(f"recv_until: limit: got {limit}, less than the delimiter's length")
        timeout = self._timeout(timeout_ms, self._connection.read_timeout)
        try:
            with self._receiving:
                self._open("recv_until")
                data = self._until(bytes(delimiter), limit, timeout)
        except SocketError as error:
            self._tell_error(error)
            raise
        self._tell(data)
        return data

    def _until(self, delimiter: bytes, limit: int, timeout: float) -> bytes:
        deadline = now() + timeout
        searched = 0
        while True:
            buffer = self._buffer
            if buffer is not None:
                end = buffer.find(delimiter, searched)
                if 0 <= end <= limit:
                    return self._take(end)
                if end > limit or len(buffer) >= limit:
                    raise self._made(
                        LimitExceeded(
                            errno.EMSGSIZE,
                            f"recv_until {self._who()}: no {delimiter!r} within {limit} bytes;"
                            " raise limit, or drop this peer",
                        )
                    )
                searched = max(0, len(buffer) - len(delimiter) + 1)
            try:
                data = self._receive("recv_until", CHUNK, timeout, deadline)
                if not data:
                    raise self._gone("recv_until", f"end of stream before {delimiter!r}")
            except SocketClosed as error:
                if self._buffer is not None:
                    error.partial = self._take(len(self._buffer))
                raise
            if self._buffer is None:
                self._keep(data, 0)
            else:
                self._buffer.add(data)

    def recv_into(
        self,
        buffer: Any,
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
        with memoryview(buffer).cast("B") as view:
            if nbytes < 0 or nbytes > len(view):
                raise ValueError(f"recv_into: nbytes: got {nbytes}, the buffer holds {len(view)}")
            length = nbytes or len(view)
            if not length:
                return 0
            data = self.recv(min(length, 4 * CHUNK), flags, timeout_ms=timeout_ms)
            view[: len(data)] = data
        return len(data)

    def unread(self, data: Any) -> None:
        """Puts bytes back in front: the next read sees them first.

        What is still unread when a callback returns waits for new bytes and is
        delivered in front of them.

        Raises:
            LimitExceeded: more than 1 MiB would be unread.
            SocketClosed: the socket was closed here.
            TypeError: not bytes-like.

        Thread: any, one at a time.
        """
        if isinstance(data, str):
            raise TypeError("unread: got str, takes bytes")
        data = bytes(memoryview(data))
        with self._receiving:
            self._open("unread")
            if not data:
                return
            buffer = self._buffer
            unread = 0 if buffer is None else len(buffer) - buffer.fresh
            if unread + len(data) > _UNREAD_MOST:
                raise self._made(
                    LimitExceeded(
                        errno.EMSGSIZE,
                        f"unread {self._who()}: {unread + len(data)} bytes, takes at most"
                        f" {_UNREAD_MOST}; keep more than that in the handler",
                    )
                )
            if buffer is None:
                self._buffer = ReadBuffer(data, 0)
            else:
                buffer.put_back(data)

    # ---- the one place that waits for bytes -----------------------------------

    def _receive(self, doing: str, length: int, timeout: float, deadline: float) -> bytes:
        """Bytes from the channel, waiting; holds `_receiving`.

        `timeout` is the whole call's; where it makes several receives, `deadline` says
        when it ends, else `FOREVER`.
        """
        channel = self._channel
        if self._interrupted:
            raise self._stopping_error(doing)
        try:
            data: bytes | None = None
            # Once this callback has waited, the next bytes are probably not there either.
            if self._connection.attached or not channel.kernel_waits:
                data = channel.recv(length)
            if data is None:
                data = self._wait_for_bytes(doing, length, timeout, deadline)
        except SocketError:
            raise
        except OSError as error:
            raise self._failed(doing, error) from error
        if data:
            self._bytes_received += len(data)
            self._recv_count += 1
        else:
            if self._interrupted:
                raise self._stopping_error(doing)
            if self._closed:
                raise self._closed_error(doing)
            if self._cut:
                raise self._gone(doing, "cut")
            self._eof = self._connection.alert = True
        return data

    def _wait_for_bytes(self, doing: str, length: int, timeout: float, deadline: float) -> bytes:
        connection, channel = self._connection, self._channel
        if timeout == 0:
            raise self._nothing_came(doing, timeout)
        connection.take_out()
        _waits.give_way()
        while True:
            bell = connection.interrupt()
            if bell is not None:
                if self._bytes_received != self._answered:
                    bell = None  # a request is under way: it may be finished
                elif connection.stopping:
                    raise self._stopping_error(doing)
            if self._interrupted:
                raise self._stopping_error(doing)
            left = timeout if deadline == FOREVER else self._left(deadline)
            if left <= 0:
                raise self._nothing_came(doing, timeout)
            if deadline == FOREVER and timeout != FOREVER:
                deadline = now() + timeout
            if channel.kernel_waits and bell is None:
                data = channel.wait_recv(length, left)
                if (
                    timeout == connection.read_timeout
                    and not connection.attached
                    and self._default_timeout is MISSING
                ):
                    self._waiter = get_ident()
            else:
                write = channel.recv_wants == WRITE
                _waits.wait_for(self._sock.fileno(), write=write, timeout=left, also=bell)
                # A TLS session that met the end of an interrupted read could send no more.
                data = None if self._interrupted else channel.recv(length)
            if data is not None:
                return data

    def _nothing_came(self, doing: str, timeout: float) -> SocketError:
        return self._timed_out(
            doing, timeout, "nothing came", "read_timeout_ms, or timeout_ms of the call"
        )

    def _recv_with_flags(
        self, length: int, flags: int, timeout_ms: float | Missing | None
    ) -> bytes:
        """What the buffer holds answers `MSG_PEEK`; the rest is the transport's."""
        self._channel.check_flags(flags)
        timeout = self._timeout(timeout_ms, self._connection.read_timeout)
        if flags & _DONTWAIT:
            flags &= ~_DONTWAIT
            timeout = 0.0
        with self._receiving:
            self._open("recv")
            if flags & _PEEK:
                if self._buffer is None:
                    data = self._receive("recv", CHUNK, timeout, FOREVER)
                    self._keep(data, 0)
                return b"" if self._buffer is None else self._buffer.peek(length)
            if flags & _WAITALL:
                try:
                    return self._exactly(length, timeout)
                except SocketClosed as error:
                    if self._eof:
                        return error.partial
                    raise
            if self._buffer is not None:
                return self._take(length)
            if not flags:
                return self._receive("recv", length, timeout, FOREVER)
            try:
                return self._channel.recv(length, flags) or b""
            except OSError as error:
                raise self._failed("recv", error) from error

    # ---- the buffer -----------------------------------------------------------

    def _take(self, length: int) -> bytes:
        buffer = self._buffer
        assert buffer is not None
        data = buffer.take(length)
        if not len(buffer):
            self._buffer = None
        return data

    def _take_fresh(self) -> bytes:
        """All that waits here, if some of it no callback has seen. Thread: the owner's."""
        buffer = self._buffer
        if buffer is None or not buffer.fresh:
            return b""
        self._buffer = None
        return buffer.take(len(buffer))

    def _behind_unread(self, data: bytes) -> bytes:
        """New bytes, with what was put back in front. Thread: the owner's."""
        buffer, self._buffer = self._buffer, None
        assert buffer is not None
        return buffer.take(len(buffer)) + data

    def _drop_read(self) -> None:
        """An upgrade: plaintext is never taken for encrypted. Thread: the owner's."""
        self._buffer = None

    # ---- events ---------------------------------------------------------------

    def _tell(self, data: bytes) -> None:
        if events.socket_recv.receivers:
            connection = self._connection
            events.emit(
                events.socket_recv,
                connection.server,
                {"data": data},
                {"connection_id": connection.id},
            )

    def _tell_error(self, error: SocketError) -> None:
        if events.socket_recv_error.receivers:
            connection = self._connection
            events.emit(
                events.socket_recv_error,
                connection.server,
                {"error": error},
                {"connection_id": connection.id},
            )
