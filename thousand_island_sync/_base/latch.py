"""Something that happens once, and waiting for it.

`threading.Event` has a lock inside. A signal handler, or a `__del__` that the collector runs, may
come while its own thread holds that lock, and Ctrl-C may leave it held. Here each waiting thread
has a lock of its own, for which no other thread waits.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from .clock import FOREVER
from .locks import waits


class Latch:
    """Closed until `open`, then open for good. Thread: any, signal handlers included."""

    __slots__ = ("_waiting", "is_open")

    def __init__(self) -> None:
        self.is_open = False
        self._waiting: deque[Any] = deque()

    def open(self) -> None:
        self.is_open = True
        while True:
            try:
                waiting = self._waiting.popleft()
            except IndexError:
                return
            waiting.release()

    @waits
    def wait(self, timeout: float = FOREVER) -> bool:
        """Whether it is open, after at most so many seconds."""
        if self.is_open or timeout <= 0:
            return self.is_open
        mine = threading.Lock()
        mine.acquire()
        self._waiting.append(mine)
        try:
            if not self.is_open:  # a thread that opens it from now on sees the lock
                mine.acquire(timeout=-1 if timeout == FOREVER else timeout)
        finally:
            try:
                self._waiting.remove(mine)
            except ValueError:
                pass  # it was opened
        return self.is_open
