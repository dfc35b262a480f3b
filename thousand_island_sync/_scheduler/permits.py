"""Run permits: which threads may take work, which rest, and how many permits are free.

See the essay in `scheduler`. A permit leaves a thread by `give_up` alone, which calls for the
thread that gets it next (`rousing`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from .rousing import Calls, Rousing
from .worker import Worker


def default_permits() -> int:
    """As many threads as can run Python at once."""
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        return 1
    return os.cpu_count() or 1


class _Queue(Protocol):
    """What is known here of the run queue."""

    def settle(self, worker: Worker) -> None: ...


class Permits:
    """Under the scheduler's lock, unless a method says otherwise.

    Args:
        total: how many there are.
        lock: the scheduler's.
        rousing: wakes the thread that gets one.
        queue: what a worker has run is parked there before its permit goes.
        hire: makes a worker; `None`: the pool is at its bound.
    """

    __slots__ = ("_hire", "_holders", "_lock", "_queue", "_resting", "_rousing", "_total", "free")

    def __init__(
        self,
        total: int,
        lock: Any,
        rousing: Rousing,
        queue: _Queue,
        hire: Callable[[], Worker | None],
    ) -> None:
        self._total = total
        #: How many no thread holds.
        self.free = total
        self._lock = lock
        self._rousing = rousing
        self._queue = queue
        self._hire = hire
        self._holders: list[Worker] = []
        self._resting: list[Worker] = []

    # ---- giving and taking ------------------------------------------------------

    def hand_off(self, worker: Worker) -> None:
        """Gives its permit away, if it has one. Thread: the worker's own, without the lock."""
        with self._rousing as calls, self._lock:
            if worker.permit:
                self.give_up(calls, worker)

    def give_up(self, calls: Calls, worker: Worker) -> None:
        """Another thread gets its permit."""
        self._revoke(worker)
        calls.heir()

    def drop_unstarted(self, worker: Worker) -> None:
        """The permit of a thread that could not be started becomes free: the pool is at its bound,
        then. The caller wakes the listener's thread."""
        if worker.permit:
            self._revoke(worker)

    def take_free(self, worker: Worker) -> bool:
        """Gives it a free one if it has none. Whether it got one now."""
        if worker.permit or not self.free:
            return False
        self._grant(worker)
        return True

    def employ(self) -> Worker | None:
        """Gives a free permit to the thread that went to rest last, or to a new one; the caller
        then wakes it. `None`: there is none."""
        worker = self._resting.pop() if self._resting else self._hire()
        if worker is not None:
            self._grant(worker)
        return worker

    def _grant(self, worker: Worker) -> None:
        self._holders.append(worker)
        worker.permit = True
        self.free -= 1

    def _revoke(self, worker: Worker) -> None:
        """Settles first: what the worker has run must not wait for the task that it runs now."""
        self._queue.settle(worker)
        worker.permit = False
        self._holders.remove(worker)
        self.free += 1

    # ---- resting ----------------------------------------------------------------

    def rest(self, worker: Worker) -> None:
        """It waits for a permit from now on."""
        self._resting.append(worker)

    def rise(self, worker: Worker) -> bool:
        """It does not wait for a permit any more. Whether it did."""
        if worker not in self._resting:
            return False
        self._resting.remove(worker)
        return True

    # ---- asking: without the lock, a hint ------------------------------------------

    def are_held(self) -> bool:
        """Whether a thread polls, or will after its callback, or after the watchdog took its
        permit."""
        return bool(self._holders)

    def are_all_free(self) -> bool:
        """Whether no thread holds a permit, though one is free."""
        return self.free > 0 and not self._holders

    def is_one(self) -> bool:
        """Whether only one thread at a time takes work."""
        return self._total == 1

    def holders(self) -> list[Worker]:
        return list(self._holders)

    def heir(self) -> Worker | None:
        """A thread that holds a permit: any of several."""
        for holder in self._holders:
            return holder
        return None

    def resting(self) -> int:
        """How many threads wait for a permit."""
        return len(self._resting)

    def rests(self, worker: Worker) -> bool:
        return worker in self._resting

    # ---- mending and checking ----------------------------------------------------

    def true_up(self, workers: Iterable[Worker]) -> None:
        """Rebuilds the books from the `permit` flags of the threads that exist."""
        there = list(workers)
        self._holders = [worker for worker in there if worker.permit]
        self.free = self._total - len(self._holders)
        self._resting = [one for one in self._resting if one in there and not one.permit]

    def faults(self) -> Iterator[str]:
        """What is wrong with the books."""
        if self.free + len(self._holders) != self._total or self.free < 0:
            yield f"{self.free} permits free, {len(self._holders)} held, of {self._total}"
        if len({id(one) for one in self._holders}) != len(self._holders):
            yield "a thread is listed twice as holding a permit"
        if not all(one.permit for one in self._holders):
            yield "a thread is listed as holding a permit, and does not know it"
        if any(one.permit for one in self._resting):
            yield "a thread rests with a permit"
