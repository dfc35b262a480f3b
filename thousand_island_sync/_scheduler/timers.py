"""Deadlines, lazily: a heap of entries that may fire too early and never too late.

A message that moves a deadline further away only stores the new time; the entry in
the heap stays, fires at the old time, and is put back for the new one. So the hot
path touches no heap. A cancelled entry stays in the heap as a tombstone that refers to
nothing; tombstones are removed when they are the larger part, so 50,000 short
connections with a timeout of a minute cost no memory.

Not locked: the scheduler's lock guards it.
"""

from __future__ import annotations

import heapq
from typing import Any

from .._base.clock import FOREVER


class Timer:
    """An entry: when it fires, and its target; `None`: it was cancelled, or has fired."""

    __slots__ = ("number", "target", "when")

    def __init__(self, when: float, number: int = -1, target: Any = None) -> None:
        self.when = when
        # The order among entries of the same time; negative: not in the heap yet.
        self.number = number
        self.target = target

    def __lt__(self, other: Timer) -> bool:
        mine, others = self.when, other.when
        return mine < others or (mine == others and self.number < other.number)


class Timers:
    """The heap."""

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._tombstones = 0
        self._made = 0

    def add(self, when: float, target: Any, *, ordered: bool = True) -> Timer:
        """`ordered`: among entries of the same time, it comes after those that were added before.
        Without it there is one number less to keep."""
        if ordered:
            self._made += 1
        timer = Timer(when, self._made if ordered else 0, target)
        heapq.heappush(self._heap, timer)
        return timer

    def put(self, timer: Timer) -> None:
        """Adds an entry that was made before, unless it was cancelled; the last of its time."""
        if timer.target is None:
            return
        self._made += 1
        timer.number = self._made
        heapq.heappush(self._heap, timer)

    def cancel(self, timer: Timer) -> None:
        """Harmless if it has fired or was cancelled."""
        if timer.target is None:
            return
        timer.target = None
        if timer.number < 0:
            return
        self._tombstones += 1
        if self._tombstones > 64 and self._tombstones * 2 > len(self._heap):
            kept = [entry for entry in self._heap if entry.target is not None]
            heapq.heapify(kept)
            self._heap, self._tombstones = kept, 0

    def next(self) -> float:
        """When the earliest fires; `FOREVER` if there is none."""
        heap = self._heap
        while heap and heap[0].target is None:
            heapq.heappop(heap)
            self._tombstones -= 1
        return heap[0].when if heap else FOREVER

    def due(self, now: float) -> list[Any]:
        """Takes out the targets of all entries whose time has come."""
        targets = []
        while self.next() <= now:
            timer = heapq.heappop(self._heap)
            targets.append(timer.target)
            timer.target = None
        return targets

    def __len__(self) -> int:
        return len(self._heap) - self._tombstones
