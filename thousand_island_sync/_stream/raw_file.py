"""`Socket.makefile`: the standard library's buffers over an unbuffered file of a `Socket`."""

from __future__ import annotations

import io
from typing import Any, Literal, Protocol, overload

from .._base.types import Buffer


class _Stream(Protocol):
    def check_open(self, call: str, /) -> None: ...


class _Socket(Protocol):
    @property
    def _stream(self) -> _Stream: ...
    def fileno(self) -> int: ...
    def recv_into(self, buffer: Buffer, /) -> int: ...
    def send(self, data: Buffer, /) -> int: ...


_Both = Literal["rwb", "rbw", "wrb", "wbr", "brw", "bwr"]
_Read = Literal["rb", "br", "b"]
_Write = Literal["wb", "bw"]
_Text = Literal["r", "w", "rw", "wr", ""]


@overload
def makefile(  # type: ignore[overload-overlap]
    self: _Socket,
    mode: _Both | _Read | _Write,
    buffering: Literal[0],
    *,
    encoding: str | None = ...,
    errors: str | None = ...,
    newline: str | None = ...,
) -> io.RawIOBase: ...
@overload
def makefile(
    self: _Socket,
    mode: _Both = ...,
    buffering: int = ...,
    *,
    encoding: str | None = ...,
    errors: str | None = ...,
    newline: str | None = ...,
) -> io.BufferedRWPair: ...
@overload
def makefile(
    self: _Socket,
    mode: _Read,
    buffering: int = ...,
    *,
    encoding: str | None = ...,
    errors: str | None = ...,
    newline: str | None = ...,
) -> io.BufferedReader: ...
@overload
def makefile(
    self: _Socket,
    mode: _Write,
    buffering: int = ...,
    *,
    encoding: str | None = ...,
    errors: str | None = ...,
    newline: str | None = ...,
) -> io.BufferedWriter: ...
@overload
def makefile(
    self: _Socket,
    mode: _Text,
    buffering: int = ...,
    *,
    encoding: str | None = ...,
    errors: str | None = ...,
    newline: str | None = ...,
) -> io.TextIOWrapper: ...
@overload
def makefile(
    self: _Socket,
    mode: str,
    buffering: int = ...,
    *,
    encoding: str | None = ...,
    errors: str | None = ...,
    newline: str | None = ...,
) -> io.IOBase: ...
def makefile(
    self: _Socket,
    mode: str = "rwb",
    buffering: int = -1,
    *,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
) -> Any:
    """A file object, as `socket.socket.makefile`'s. Closing it leaves the socket open.

    What it has buffered no other read sees.

    Args:
        mode: `r`, `w`, `b` in any order; without `b` it is text.
        buffering: bytes of its buffer; 0: none (binary modes); -1: the standard library's.
        encoding: as for `open`, and so are `errors` and `newline`.

    Raises:
        ValueError: an unknown mode, or text without a buffer.
        SocketClosed: the socket was closed here.

    Thread: any; a file object is one thread's at a time.
    """
    self._stream.check_open("makefile")
    return _opened(self, mode, buffering, encoding, errors, newline)


def _opened(
    socket: _Socket,
    mode: str,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
) -> io.IOBase:
    if not set(mode) <= set("rwb"):
        raise ValueError(f"makefile: mode: got {mode!r}, takes r, w, b only")
    writing, binary = "w" in mode, "b" in mode
    reading = "r" in mode or not writing  # "b" alone reads
    raw = _RawFile(socket, reading, writing)
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
        return buffered  # type: ignore[no-any-return]
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
