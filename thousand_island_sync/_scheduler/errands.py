"""Calls that code which must not wait leaves to the listener's thread or one of the pool."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Errands:
    """Calls that another thread makes, without a lock.

    Args:
        ring: wakes the listener's thread.
        wake: wakes a thread that waits in the poller.
    """

    __slots__ = ("_ring", "_wake", "left")

    def __init__(self, ring: Callable[[], None], wake: Callable[[], None]) -> None:
        self._ring = ring
        self._wake = wake
        #: Empty: there is none. Only `run` takes from it.
        self.left: deque[Callable[[], object]] = deque()

    def leave(self, call: Callable[[], object]) -> None:
        """Has the listener's thread or one of the pool make the call, whichever is free first (the
        other may be in a receiver). Thread: any, wherever it was interrupted."""
        self.left.append(call)
        self._ring()
        self._wake()

    def run(self) -> None:
        """Thread: the listener's or the pool's, without a lock and outside of callbacks."""
        while self.left:
            try:
                call = self.left.popleft()
            except IndexError:  # another thread was quicker
                return
            call()
