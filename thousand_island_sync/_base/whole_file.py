"""Reading a file that is read again while a server runs, with a time limit.

open(2) of a pipe waits for its writer, without a limit and without a way to end the wait.
"""

from __future__ import annotations

import errno
import os
import select

from .clock import now

#: Seconds that the writer of a pipe may take.
WITHIN_S = 5.0


def read(path: str | bytes | os.PathLike[str] | os.PathLike[bytes], most: int) -> bytes:
    """The bytes of the file; of a pipe, until its writer closes it.

    Args:
        path: the file.
        most: bytes that it may have.

    Raises:
        OSError: it cannot be read, is too large, or nobody writes it in time.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        deadline = now() + WITHIN_S
        found = bytearray()
        while len(found) <= most:
            if not poller.poll(max(0.0, deadline - now()) * 1000):
                raise TimeoutError(
                    errno.ETIMEDOUT, f"a pipe that nobody has written to within {WITHIN_S:g} s"
                )
            data = os.read(fd, 65_536)
            if not data:
                return bytes(found)
            found += data
    finally:
        os.close(fd)
    raise OSError(errno.EFBIG, f"larger than {most} bytes")
