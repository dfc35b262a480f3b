"""Closing a descriptor that has unread input, so that the reply is not lost.

A socket closed with unread bytes sends RST, and the peer then throws away what it has
not read yet of our reply (RFC 2525, 2.17). So writing is shut down, a bounded rest is
read away, and only then is it closed. That may take a while; it holds no thread, and
counts as no connection.
"""

from __future__ import annotations

import fcntl
import socket
import termios
from typing import Protocol

from ._clock import Clock
from ._scheduler import AGAIN, DONE, PARK, Task

#: What is read away at most, in bytes and in seconds.
MOST_BYTES = 256 * 1024
MOST_S = 1.0
_PIECE = 65_536
_NOTHING = bytes(4)
_DONTWAIT = int(socket.MSG_DONTWAIT)


class _Pool(Protocol):
    def forget(self, task: Task) -> None: ...


def unread_bytes(sock: socket.socket) -> bool:
    """Whether bytes of the peer lie unread in the kernel."""
    try:
        return fcntl.ioctl(sock.fileno(), termios.FIONREAD, _NOTHING) != _NOTHING
    except OSError:
        return False


def read_away(sock: socket.socket, most: int) -> tuple[int, bool]:
    """Reads what is there, at most `most` bytes; how many, and whether more may come."""
    count = 0
    while count < most:
        try:
            data = sock.recv(_PIECE, _DONTWAIT)
        except BlockingIOError:
            return count, True
        except OSError:
            return count, False
        if not data:
            return count, False
        count += len(data)
    return count, False


class Linger(Task):
    """Owns a descriptor whose connection has ended."""

    __slots__ = ("_bytes_left", "_clock", "_end", "_hurry", "_pool", "_sock")

    def __init__(self, sock: socket.socket, pool: _Pool, clock: Clock) -> None:
        super().__init__(sock.fileno())
        self._sock = sock
        self._pool = pool
        self._clock = clock
        self._end = self.deadline = clock() + MOST_S
        self._bytes_left = MOST_BYTES
        self._hurry = False
        self.wants_write = False

    def run(self) -> int:
        hurry = self._hurry  # before looking: what came until now is still read
        count, more = read_away(self._sock, min(self._bytes_left, 4 * _PIECE))
        self._bytes_left -= count
        if more and self._bytes_left > 0 and not hurry and self._clock() < self._end:
            return PARK if not self._hurry else AGAIN
        self.broke()
        return DONE

    def stop_begins(self) -> None:
        self._hurry = True

    def broke(self) -> None:
        self._pool.forget(self)
        self._sock.close()
