"""The receiving half of `Socket`."""

from __future__ import annotations

import errno
import socket as stdlib_socket
from threading import get_ident
from typing import Any

from .. import events
from .._base.clock import FOREVER, now
from .._base.options import MISSING, Missing
from ..errors import LimitExceeded, NotSupported, SocketClosed, SocketError
from .arrivals import Arrivals
from .buffer import ReadBuffer

#: What one receive asks for when the caller names no length.
CHUNK = 65_536
_received = events.socket_recv
_PEEK = int(stdlib_socket.MSG_PEEK)
_DONTWAIT = int(getattr(stdlib_socket, "MSG_DONTWAIT", 0))
_WAITALL = int(getattr(stdlib_socket, "MSG_WAITALL", 0))


class Receiving(Arrivals):
    """`recv` and what is built on it."""

    __slots__ = ()

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
        # A handler that loops over recv: it has waited in this callback already, so it
        # has no permit to give away, nothing is buffered, and it waits in the kernel at
        # once.
        if (
            self._waiter == get_ident()
            and timeout_ms is MISSING
            and not flags
            and length > 0
            and not self._receiving._is_owned()
            and self._receiving.acquire(False)
        ):
            began, met = now(), 0
            try:
                data = self._sock.recv(length)
                if data:
                    self._bytes_received += len(data)
                    self._recv_count += 1
            except OSError as error:
                data, met = b"", error.errno or errno.EIO
            finally:
                self._receiving.release()
            if not data:
                return self._waited(length, began, met)
            if _received.receivers:
                self._tell(data)
            return data
        if length < 0:
            raise ValueError(f"recv: length: got {length}, takes 0 or more")
        if flags:
            try:
                return self._recv_with_flags(length, flags, timeout_ms)
            except SocketError as error:
                self._tell_error(error)
                raise
        timeout = self._timeout(timeout_ms, self._connection.read_timeout)
        return self._recv(length, timeout, FOREVER, None)

    def _waited(self, length: int, began: float, met: int) -> bytes:
        """For a thread that has waited in the kernel and got no bytes; `met` as in `_receive`."""
        timeout = self._connection.read_timeout
        return self._recv(length, timeout, began + timeout, met)

    def _recv(self, length: int, timeout: float, deadline: float, met: int | None) -> bytes:
        try:
            with self._reading():
                self._open("recv")
                if not length:
                    return b""
                if self._buffer is not None:
                    return self._take(length)
                data = self._receive("recv", length, timeout, deadline, met)
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
            with self._reading():
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
            with self._reading():
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
            self._add_fresh(data)

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
            LimitExceeded: more than `max_unread` would be unread.
            SocketClosed: the socket was closed here.
            TypeError: not bytes-like.

        Thread: any, one at a time.
        """
        if isinstance(data, str):
            raise TypeError("unread: got str, takes bytes")
        data = bytes(memoryview(data))
        with self._reading():
            self._open("unread")
            if not data:
                return
            buffer = self._buffer
            unread = 0 if buffer is None else len(buffer) - buffer.fresh
            most = self._connection.max_unread
            if unread + len(data) > most:
                raise self._made(
                    LimitExceeded(
                        errno.EMSGSIZE,
                        f"unread {self._who()}: {unread + len(data)} bytes, takes at most {most}"
                        " (max_unread); raise it, or keep more than that in the handler",
                    )
                )
            self._waiter = 0
            if buffer is None:
                self._buffer = ReadBuffer(data, 0)
            else:
                buffer.put_back(data)

    def _recv_with_flags(
        self, length: int, flags: int, timeout_ms: float | Missing | None
    ) -> bytes:
        """Where the kernel cannot look ahead, and for what is here already, the buffer answers
        `MSG_PEEK`; the rest is the transport's."""
        self._channel.check_flags(flags)
        if flags & _PEEK and flags & _WAITALL:
            raise NotSupported("recv: flags: MSG_PEEK is not combined with MSG_WAITALL here")
        timeout = self._timeout(timeout_ms, self._connection.read_timeout)
        if flags & _DONTWAIT:
            flags &= ~_DONTWAIT
            timeout = 0.0
        with self._reading():
            self._open("recv")
            if not length:
                return b""
            if flags & _PEEK:
                if self._buffer is None and self._channel.peeks:
                    return self._receive("recv", length, timeout, FOREVER, None, flags)
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
