"""Calls that join the bytes of several receives, or peek.

The `Reader` keeps the bytes that such a call has received and does not return.
"""

from __future__ import annotations

import socket as stdlib_socket
from typing import TYPE_CHECKING, Any

from .._base.clock import FOREVER
from .._base.options import Missing
from ..errors import NotSupported, SocketClosed, SocketError
from . import failures
from .buffer import CHUNK
from .states import ENDED

if TYPE_CHECKING:
    from .duplex import Duplex
    from .reader import Reader

_PEEK = int(stdlib_socket.MSG_PEEK)
_DONTWAIT = int(getattr(stdlib_socket, "MSG_DONTWAIT", 0))
_WAITALL = int(getattr(stdlib_socket, "MSG_WAITALL", 0))


def recv_exactly(reader: Reader, length: int, timeout_ms: float | Missing | None) -> bytes:
    """See `Socket.recv_exactly`."""
    if length < 0:
        raise ValueError(f"recv_exactly: length: got {length}, takes 0 or more")
    timeout = reader.timeout(timeout_ms)
    return reader.run("recv_exactly", _exactly, length, timeout)


def _exactly(reader: Reader, length: int, timeout: float) -> bytes:
    deadline = reader.clock() + timeout
    buffer = reader.buffer
    seen = 0 if buffer is None else len(buffer) - buffer.fresh
    parts = [] if buffer is None else [reader.take(length)]
    missing = length - sum(map(len, parts))
    while missing:
        try:
            data = reader.receive("recv_exactly", min(missing, 4 * CHUNK), timeout, deadline)
            if not data:
                raise reader.gone("recv_exactly", f"end of stream, {missing} bytes short")
        except SocketClosed as error:
            error.partial = b"".join(parts)
            raise
        except SocketError:
            reader.keep(b"".join(parts), seen)
            raise
        parts.append(data)
        missing -= len(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def recv_until(
    reader: Reader, delimiter: Any, limit: int, timeout_ms: float | Missing | None
) -> bytes:
    """See `Socket.recv_until`."""
    if not isinstance(delimiter, (bytes, bytearray)):
        raise TypeError(f"recv_until: delimiter: got {type(delimiter).__name__}, takes bytes")
    if not delimiter:
        raise ValueError("recv_until: delimiter: got b'', takes one byte or more")
    if limit < len(delimiter):
        raise ValueError(f"recv_until: limit: got {limit}, less than the delimiter's length")
    timeout = reader.timeout(timeout_ms)
    return reader.run("recv_until", _until, bytes(delimiter), limit, timeout)


def _until(reader: Reader, delimiter: bytes, limit: int, timeout: float) -> bytes:
    deadline = reader.clock() + timeout
    searched = 0
    while True:
        buffer = reader.buffer
        if buffer is not None:
            end = buffer.find(delimiter, searched)
            if 0 <= end <= limit:
                return reader.take(end)
            if end > limit or len(buffer) >= limit:
                what = f"no {delimiter!r} within {limit} bytes; raise limit, or drop this peer"
                raise reader.limit_exceeded("recv_until", what)
            searched = max(0, len(buffer) - len(delimiter) + 1)
        try:
            data = reader.receive("recv_until", CHUNK, timeout, deadline)
            if not data:
                raise reader.gone("recv_until", f"end of stream before {delimiter!r}")
        except SocketClosed as error:
            if reader.buffer is not None:
                error.partial = reader.take(len(reader.buffer))
            raise
        reader.add_fresh(data)


def with_flags(
    reader: Reader, stream: Duplex, length: int, flags: int, timeout_ms: float | Missing | None
) -> bytes:
    """`recv` with flags. Where the kernel cannot look ahead, and for what is here already, the
    buffer answers `MSG_PEEK`; the rest is the transport's."""
    channel = stream.channel
    try:
        channel.check_flags(flags)
        if flags & _PEEK and flags & _WAITALL:
            raise NotSupported("recv: flags: MSG_PEEK cannot be combined with MSG_WAITALL")
        timeout = reader.timeout(timeout_ms)
        if flags & _DONTWAIT:
            flags &= ~_DONTWAIT
            timeout = 0.0
        with reader.turn():
            stream.check_open("recv")
            if not length:
                return b""
            if flags & _PEEK:
                return _peek(reader, length, timeout, flags if channel.peeks else 0)
            if flags & _WAITALL:
                return _all(reader, length, timeout)
            if reader.buffer is not None:
                return reader.take(length)
            if not flags:
                return reader.receive("recv", length, timeout, FOREVER)
            try:
                return channel.recv(length, flags) or b""
            except OSError as error:
                raise reader.failed("recv", error) from error
    except SocketError as error:
        failures.tell(stream.connection, error)
        raise


def _peek(reader: Reader, length: int, timeout: float, flags: int) -> bytes:
    """`flags`: what the kernel is asked with; 0: it cannot look ahead."""
    if reader.buffer is None and flags:
        return reader.receive("recv", length, timeout, FOREVER, None, flags)
    if reader.buffer is None:
        reader.keep(reader.receive("recv", CHUNK, timeout, FOREVER), 0)
    return b"" if reader.buffer is None else reader.buffer.peek(length)


def _all(reader: Reader, length: int, timeout: float) -> bytes:
    """The rest before the end of the stream is no error here."""
    try:
        return _exactly(reader, length, timeout)
    except SocketClosed as error:
        if reader.incoming in ENDED:
            return error.partial
        raise


def recv_into(
    reader: Reader, buffer: Any, nbytes: int, flags: int, timeout_ms: float | Missing | None
) -> int:
    """See `Socket.recv_into`."""
    with memoryview(buffer).cast("B") as view:
        if nbytes < 0 or nbytes > len(view):
            raise ValueError(f"recv_into: nbytes: got {nbytes}, the buffer holds {len(view)}")
        length = nbytes or len(view)
        if not length:
            return 0
        data = reader.recv(min(length, 4 * CHUNK), flags, timeout_ms)
        view[: len(data)] = data
    return len(data)
