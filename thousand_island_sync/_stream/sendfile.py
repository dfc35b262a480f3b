"""`Socket.sendfile`: a regular file without copying, everything else by reading.

`os.sendfile` gives 0 for a file of /proc and for a pipe although they hold data, and a
short count, with no error, for a file that ends early. So what is not a regular file
with a size is read and sent, and a 0 ends it.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .. import events
from .._base.options import Missing
from ..errors import NotSupported
from .payload import Payload

if TYPE_CHECKING:
    from .duplex import Duplex

#: Bytes that are read at a time where the transport has no sendfile. Over a Unix socket, MiB
#: a second by size, in two runs: 32 KiB 1,550 and 2,010; 64 KiB 1,810 and 1,780; 128 KiB 1,940
#: and 330; 256 KiB 1,080 and 450. Over TLS to one client, files of 64 MiB a second: 64 KiB 5.8,
#: 128 KiB 6.1, 256 KiB 6.5; to four at once 5.1, 5.0, 6.2.
_CHUNK, _CHUNK_TLS = 64 * 1024, 256 * 1024
#: Bytes of pages that the transport is asked to send at a time.
_PAGES_MOST = 1 << 30

_Read = Callable[[int, int], bytes]


def _descriptor(file: Any) -> int | None:
    """The descriptor of a plain binary file object; a wrapper that changes what it reads
    (gzip, say) also has a `fileno`, and must be read instead."""
    raw = getattr(file, "raw", file)
    if isinstance(raw, io.FileIO):
        return raw.fileno()
    inner = getattr(file, "file", None)  # what tempfile wraps
    return _descriptor(inner) if inner is not None and inner is not file else None


def _reader(file: Any) -> _Read:
    """Reads an object without a descriptor, its position untouched."""
    if isinstance(file, io.TextIOBase):
        raise TypeError("sendfile: the file is open in text mode, takes a binary one")
    if not hasattr(file, "read"):
        raise TypeError(f"sendfile: got {type(file).__name__}, takes a path or a binary file")

    def read(offset: int, count: int) -> bytes:
        before = file.tell()
        try:
            file.seek(offset)
            return bytes(file.read(count))
        finally:
            file.seek(before)

    def read_on(offset: int, count: int) -> bytes:
        return bytes(file.read(count) or b"")

    seekable = getattr(file, "seekable", None)
    return read if seekable is not None and seekable() else read_on


class FileSending:
    """One `sendfile`: which part of which file, and how far it has come."""

    __slots__ = ("_file", "_length", "_offset", "_payload", "_stream", "_timeout_ms", "_writer")

    def __init__(
        self,
        stream: Duplex,
        file: Any,
        offset: int,
        length: int | None,
        timeout_ms: float | Missing | None,
    ) -> None:
        self._stream = stream
        self._writer = stream.writer
        self._timeout_ms = timeout_ms
        self._file = file
        self._offset = offset
        self._length = length
        self._payload = Payload(times=stream.times)

    def run(self) -> int:
        """See `Socket.sendfile`."""
        try:
            self._send()
        except Exception as error:
            self._tell(error)
            raise
        self._tell(None)
        return self._payload.sent

    def _send(self) -> None:
        for name, value in (("offset", self._offset), ("length", self._length)):
            if value is not None and value < 0:
                raise ValueError(f"sendfile: {name}: got {value}, takes 0 or more")
        self._stream.check_open("sendfile")
        file = self._file
        if not isinstance(file, (str, bytes, os.PathLike)):
            self._send_open_file(_descriptor(file))
            return
        fd = os.open(file, os.O_RDONLY)
        try:
            self._send_open_file(fd)
        finally:
            os.close(fd)

    def _send_open_file(self, fd: int | None) -> None:
        if fd is None:
            read, zero_copy = _reader(self._file), False
        else:
            found = os.fstat(fd)
            regular = stat.S_ISREG(found.st_mode)
            zero_copy = regular and found.st_size > 0
            if self._offset and not regular and not stat.S_ISBLK(found.st_mode):
                raise OSError(errno.ESPIPE, "sendfile: offset: this file is not seekable")
            read = _positioned(fd) if regular or stat.S_ISBLK(found.st_mode) else _streamed(fd)
        payload, writer = self._payload, self._writer
        otherwise = self._stream.connection.send_timeout
        payload.limit(self._stream.timeout(self._timeout_ms, otherwise))
        cause: OSError | None = None
        amid = writer.is_inside()
        try:
            writer.take_turn("sendfile", payload)
            writer.check("sendfile")
            writer.push(payload, "sendfile")
            while writer.buffer is not None and writer.buffer.barred:  # an upgrade comes first
                writer.wait_for_room("sendfile", payload)
                writer.push(payload, "sendfile")
            if not (zero_copy and fd is not None and self._send_zero_copy(fd)):
                self._send_reading(read)
            writer.finished()
        except _FileError as failed:
            if failed.error.filename is None and isinstance(self._file, (str, bytes, os.PathLike)):
                failed.error.filename = os.fspath(self._file)  # as `open` says it
            raise failed.error from None
        except OSError as caught:
            cause = caught
        finally:
            if not amid and writer.is_inside():
                writer.give_turn_back(payload.sent)
        if cause is not None:
            error = writer.failed("sendfile", cause)
            error.bytes_sent = payload.sent  # type: ignore[attr-defined]
            raise error

    def _next_size(self, most: int) -> int:
        """How many bytes to send next, at most so many."""
        return most if self._length is None else min(most, self._length - self._payload.sent)

    def _send_zero_copy(self, fd: int) -> bool:
        """False if this transport or file system cannot; nothing was sent then."""
        payload = self._payload
        while count := self._next_size(_PAGES_MOST):
            try:
                sent = self._stream.channel.sendfile(fd, self._offset + payload.sent, count)
            except NotSupported:
                return False
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.ENOSYS) and not payload.sent:
                    return False
                raise
            if sent is None:
                self._writer.wait_for_room("sendfile", payload)
            elif sent == 0:
                break
            else:
                payload.sent += sent
                buffer = self._writer.buffer
                if buffer is not None:
                    buffer.moved()
        return True

    def _send_reading(self, read: _Read) -> None:
        payload = self._payload
        while count := self._next_size(_CHUNK_TLS if self._stream.channel.secure else _CHUNK):
            try:
                data = read(self._offset + payload.sent, count)
            except OSError as error:
                raise _FileError(error) from error
            if not data:
                break
            payload.views.append(memoryview(data))
            self._writer.push(payload)

    def _tell(self, error: Exception | None) -> None:
        signal = events.socket_sendfile if error is None else events.socket_sendfile_error
        if signal.receivers:
            measurements: dict[str, Any] = {
                "file": self._file,
                "offset": self._offset,
                "length": self._length,
                "bytes_sent": self._payload.sent,
            }
            if error is not None:
                measurements["error"] = error
            connection = self._stream.connection
            events.emit(signal, connection.server, measurements, events.About(connection))


class _FileError(Exception):
    """The file failed, not the connection."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


def _positioned(fd: int) -> _Read:
    return lambda offset, count: os.pread(fd, count, offset)


def _streamed(fd: int) -> _Read:
    return lambda offset, count: os.read(fd, count)
