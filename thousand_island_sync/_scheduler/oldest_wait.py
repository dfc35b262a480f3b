"""Since when the oldest of the ready connections waits for a thread, while all are busy.

The facts. Ready tasks are in a queue, first in, first out, and the time at which one came is not
noted: that would be one more clock call for each message. While a thread is to spare, no task waits
for longer than a moment.

Our decision: while the pool is saturated the listener's thread looks every 10 ms anyway, and keeps
a copy of the queue, with the time at which it saw each task for the first time. Tasks that are gone
from the front were taken; new ones at the back have just come. So the answer is late by one look at
most.
"""

from __future__ import annotations

from collections import deque

from .._base.clock import Clock
from .run_queue import RunQueue
from .task import Task
from .task_table import TaskTable
from .workers import Workers

#: Seconds between two copies, and the same of a long queue, and how long that is.
_EVERY_S, _LONG_EVERY_S, _LONG = 0.009, 0.099, 1_000


class OldestWait:
    """Thread: the listener's, with the scheduler's lock, unless it says otherwise."""

    __slots__ = ("_clock", "_looked", "_queue", "_seen", "_since", "_table", "_turns", "_workers")

    def __init__(self, queue: RunQueue, table: TaskTable, workers: Workers, clock: Clock) -> None:
        self._queue = queue
        self._table = table
        self._workers = workers
        self._clock = clock
        self._seen: deque[tuple[Task, float]] = deque()
        self._turns = 0  # steps that all threads had begun at the last look
        self._looked = 0.0
        self._since: float | None = None  # `None`: no task waits

    def seconds(self) -> float:
        """How long it has waited. Thread: any, without the lock: approximate."""
        since = self._since
        return 0.0 if since is None else max(0.0, self._clock() - since)

    def look(self) -> None:
        """All threads are busy."""
        time_now, every = self._clock(), _EVERY_S if len(self._seen) < _LONG else _LONG_EVERY_S
        if self._seen and time_now - self._looked < every:
            return
        ready = self._queue.snapshot()
        if ready is not None:
            self._looked = time_now
            self._compare(self._table.counted(ready), time_now)

    def _compare(self, ready: list[Task], time_now: float) -> None:
        seen, turns = self._seen, self._workers.turns()
        taken, self._turns = turns - self._turns, turns
        # So many tasks were taken that all of these may have been, and been put back since.
        if 0 < len(seen) <= taken:
            seen.clear()
        while seen and (not ready or seen[0][0] is not ready[0]):
            seen.popleft()
        seen.extend((task, time_now) for task in ready[len(seen) :])
        self._since = seen[0][1] if seen else None

    def is_over(self) -> None:
        """There are threads to spare."""
        self._seen.clear()
        self._since = None
