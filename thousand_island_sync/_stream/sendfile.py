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
from typing import Any

from .. import events
from .._base.clock import now
from .._base.options import MISSING
from ..errors import NotSupported
from .sending import Sending

#: Bytes that are read at a time where the transport has no sendfile. Over a Unix socket, MiB
#: a second by size, in two runs: 32 KiB 1,550 and 2,010; 64 KiB 1,810 and 1,780; 128 KiB 1,940
#: and 330; 256 KiB 1,080 and 450. Over TLS to one client, files of 64 MiB a second: 64 KiB 5.8,
#: 128 KiB 6.1, 256 KiB 6.5; to four at once 5.1, 5.0, 6.2.
_CHUNK, _CHUNK_TLS = 64 * 1024, 256 * 1024

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


class SendingFiles(Sending):
    """`sendfile`."""

    __slots__ = ()

    def sendfile(self, file: Any, offset: int = 0, length: int | None = None) -> int:
        """Sends a file, or a part of it.

        Without TLS its pages go out as they are: what changes it before the peer has
        received it may change what the peer receives (sendfile(2)).

        Args:
            file: a path, or a binary file object, whose position does not move.
            offset: the first byte, counted from the file's start.
            length: how many; `None`: to the end.

        Returns:
            How many bytes; fewer than `length` if the file ends early.

        Raises:
            OSError: the file's own errors, before any byte is sent; the connection
                stays usable.
            ValueError: a negative number.
            TypeError: no path and no binary file.
            SocketTimeout: not all went out within `send_timeout_ms`; see `.bytes_sent`.
            SocketError: as for `send`.

        Thread: any; holds the turn to send for the whole file.
        """
        progress = [0]
        try:
            self._send_file(file, offset, length, progress)
        except Exception as error:
            self._tell_file(file, offset, length, progress[0], error)
            raise
        self._tell_file(file, offset, length, progress[0], None)
        return progress[0]

    def _send_file(self, file: Any, offset: int, length: int | None, progress: list[int]) -> None:
        """Counts in `progress`."""
        for name, value in (("offset", offset), ("length", length)):
            if value is not None and value < 0:
                raise ValueError(f"sendfile: {name}: got {value}, takes 0 or more")
        self._open("sendfile")
        if not isinstance(file, (str, bytes, os.PathLike)):
            self._send_open_file(file, _descriptor(file), offset, length, progress)
            return
        fd = os.open(file, os.O_RDONLY)
        try:
            self._send_open_file(file, fd, offset, length, progress)
        finally:
            os.close(fd)

    def _send_open_file(
        self, file: Any, fd: int | None, offset: int, length: int | None, progress: list[int]
    ) -> None:
        if fd is None:
            read, zero_copy = _reader(file), False
        else:
            found = os.fstat(fd)
            regular = stat.S_ISREG(found.st_mode)
            zero_copy = regular and found.st_size > 0
            if offset and not regular and not stat.S_ISBLK(found.st_mode):
                raise OSError(errno.ESPIPE, "sendfile: offset: this file cannot be positioned")
            read = _positioned(fd) if regular or stat.S_ISBLK(found.st_mode) else _streamed(fd)
        timeout = self._timeout(MISSING, self._connection.send_timeout)
        cause: OSError | None = None
        deadline = now() + timeout
        held = False
        try:
            self._take_turn("sendfile", timeout, deadline)
            held = True
            self._open("sendfile")
            self._push([], 0, timeout, deadline, False, [0])
            if zero_copy and fd is not None:
                zero_copy = self._send_zero_copy(fd, offset, length, timeout, deadline, progress)
            if not zero_copy:
                self._send_reading(read, offset, length, timeout, deadline, progress)
            self._send_count += 1
            self._answered = self._bytes_received
        except _FileError as failed:
            raise failed.error from None
        except OSError as caught:
            cause = caught
        finally:
            if held:
                self._bytes_sent += progress[0]
                self._sending.release()
        if cause is not None:
            error = self._failed("sendfile", cause)
            error.bytes_sent = progress[0]  # type: ignore[attr-defined]
            raise error

    def _send_zero_copy(
        self,
        fd: int,
        offset: int,
        length: int | None,
        timeout: float,
        deadline: float,
        progress: list[int],
    ) -> bool:
        """False if this transport or file system cannot; nothing was sent then."""
        while length is None or progress[0] < length:
            count = (1 << 30) if length is None else length - progress[0]
            try:
                sent = self._channel.sendfile(fd, offset + progress[0], count)
            except NotSupported:
                return False
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.ENOSYS) and not progress[0]:
                    return False
                raise
            if sent is None:
                self._wait_for_room("sendfile", timeout, deadline)
            elif sent == 0:
                break
            else:
                progress[0] += sent
        return True

    def _send_reading(
        self,
        read: _Read,
        offset: int,
        length: int | None,
        timeout: float,
        deadline: float,
        progress: list[int],
    ) -> None:
        chunk = _CHUNK_TLS if self._channel.secure else _CHUNK
        while length is None or progress[0] < length:
            count = chunk if length is None else min(chunk, length - progress[0])
            try:
                data = read(offset + progress[0], count)
            except OSError as error:
                raise _FileError(error) from error
            if not data:
                break
            self._push([memoryview(data)], 0, timeout, deadline, False, progress)

    def _tell_file(
        self, file: Any, offset: int, length: int | None, bytes_sent: int, error: Exception | None
    ) -> None:
        signal = events.socket_sendfile if error is None else events.socket_sendfile_error
        if signal.receivers:
            measurements: dict[str, Any] = {
                "file": file,
                "offset": offset,
                "length": length,
                "bytes_sent": bytes_sent,
            }
            if error is not None:
                measurements["error"] = error
            connection = self._connection
            events.emit(signal, connection.server, measurements, {"connection_id": connection.id})


class _FileError(Exception):
    """The file failed, not the connection."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


def _positioned(fd: int) -> _Read:
    return lambda offset, count: os.pread(fd, count, offset)


def _streamed(fd: int) -> _Read:
    return lambda offset, count: os.read(fd, count)
