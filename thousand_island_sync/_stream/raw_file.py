"""`Socket.makefile`: the standard library's buffers over an unbuffered file of a `Socket`."""

from __future__ import annotations

import io
from typing import Any, Protocol

from .._base.types import Buffer


class _Socket(Protocol):
    def fileno(self) -> int: ...
    def recv_into(self, buffer: Buffer, /) -> int: ...
    def send(self, data: Buffer, /) -> int: ...


def opened(
    socket: Any,
    mode: str,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
) -> Any:
    """See `Socket.makefile`. `socket`: what is read from and written to."""
    if not set(mode) <= set("rwb"):
        raise ValueError(f"makefile: mode: got {mode!r}, takes r, w, b only")
    writing, binary = "w" in mode, "b" in mode
    reading = "r" in mode or not writing  # "b" alone reads
    raw = _RawFile(socket, reading, writing)
    if buffering == 0:
        if not binary:
            raise ValueError("makefile: buffering: got 0, which needs a binary mode, such as 'rb'")
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


class _RawFile(io.RawIOBase):
    """The unbuffered file under `makefile`'s."""

    def __init__(self, socket: _Socket, reading: bool, writing: bool) -> None:
        self._socket = socket
        self._reading = reading
        self._writing = writing

    @property
    def mode(self) -> str:
        """`gzip.GzipFile` and others decide by it whether to read or to write."""
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

    def readinto(self, buffer: Buffer) -> int | None:
        self._usable(self._reading, "read")
        try:
            return self._socket.recv_into(buffer)
        except BlockingIOError:
            return None

    def write(self, data: Buffer) -> int | None:
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
