"""Tells when a ready connection finds no thread, and when there are threads again."""

from __future__ import annotations

from typing import Protocol

from .oldest_wait import OldestWait
from .permits import Permits
from .run_queue import RunQueue
from .watchdog_timer import WatchdogTimer
from .workers import Workers


class TellSaturation(Protocol):
    """The listener's thread calls it, and holds no lock."""

    def __call__(self, saturated: bool, busy_threads: int, waiting: int, /) -> None: ...


class Saturation:
    """Thread: the listener's.

    Args:
        watchdog_timer: must not be stopped while a connection waits.
        oldest: measures the longest wait while the pool is saturated.
    """

    __slots__ = ("_oldest", "_on", "_permits", "_queue", "_relief", "_tell", "_timer", "_workers")

    def __init__(
        self,
        tell: TellSaturation,
        queue: RunQueue,
        permits: Permits,
        workers: Workers,
        watchdog_timer: WatchdogTimer,
        oldest: OldestWait,
    ) -> None:
        self._tell = tell
        self._queue = queue
        self._permits = permits
        self._workers = workers
        self._timer = watchdog_timer
        self._oldest = oldest
        self._on = False
        self._relief = 0  # looks in a row that found a thread to spare

    def look(self) -> None:
        """Without the lock."""
        with self._queue.lock:
            waiting, busy = self._queue.waiting(), self._workers.busy()
            changed = self._is_over(waiting) if self._on else self._begins(waiting)
            if changed:
                self._on = not self._on
                self._timer.insist(self._on)
            saturated = self._on
            if saturated:
                self._oldest.look()
            elif changed:
                self._oldest.is_over()
        if changed:
            self._tell(saturated, busy, waiting)

    def _begins(self, waiting: int) -> bool:
        return waiting > 0 and self._permits.are_all_free()

    def _is_over(self, waiting: int) -> bool:
        # A thread that rests is no proof of relief while the holder of the permit stands still:
        # what is ready waits for the next look, which takes the permit from that holder.
        moving = not any(worker.looks for worker in self._permits.holders())
        spare = moving and (self._permits.resting() > 0 or self._queue.sleepers > 0)
        self._relief = self._relief + 1 if spare else 0
        if waiting and self._relief < 2:
            return False
        self._relief = 0
        return True
