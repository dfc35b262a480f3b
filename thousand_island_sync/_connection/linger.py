"""Closing a descriptor that has unread input without losing the reply.

A socket closed with unread bytes sends RST, and the peer then throws away what it has
not read yet of the reply (RFC 2525, 2.17). So sending is shut down, a bounded number of bytes
is read and dropped, and only then the descriptor is closed. That may take a while; it holds no
thread, and does not count as a connection.
"""

from __future__ import annotations

import socket
from typing import Protocol

from .._base import descriptors
from .._base.clock import Clock
from .._base.unread import read_away
from .._scheduler.task import AGAIN, DONE, PARK, Task

#: How much is read and dropped at most, in bytes and in seconds.
MOST_BYTES = 256 * 1024
MOST_S = 1.0
_AT_ONCE = 64 * 1024


class _Pool(Protocol):
    def forget(self, task: Task) -> None: ...


class Linger(Task):
    """Owns a descriptor whose connection has ended."""

    __slots__ = ("_bytes_left", "_clock", "_pool", "_sock")

    def __init__(self, sock: socket.socket, pool: _Pool, clock: Clock) -> None:
        super().__init__(sock.fileno())
        self._sock = sock
        self._pool = pool
        self._clock = clock
        self.deadline = clock() + MOST_S
        self._bytes_left = MOST_BYTES
        self.write_edges = False

    def run(self) -> int:
        over = self._clock() >= self.deadline  # before the read: that still reads what has come
        count, more = read_away(self._sock, min(self._bytes_left, _AT_ONCE))
        self._bytes_left -= count
        some_left = count >= _AT_ONCE
        if (more or some_left) and self._bytes_left > 0:
            if some_left:
                return AGAIN
            if not over:
                return PARK
        self.broke()
        return DONE

    def stop_begins(self) -> None:
        self.deadline = 0.0  # not `alert`, which others set

    def unwatched(self, error: OSError) -> None:
        self.deadline = 0.0

    def broke(self) -> None:
        self._pool.forget(self)
        descriptors.close(self._sock)
