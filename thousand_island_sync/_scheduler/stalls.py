"""Finding threads whose callback does not go on, and taking their permits.

See the essay in `scheduler`. If two looks in a row find a thread in one callback, the thread
blocks. If the processor was busy meanwhile, or the thread only waits for one, it takes five looks.
"""

from __future__ import annotations

from time import perf_counter, process_time

from .._base.clock import FOREVER
from . import alarm
from .blocking_estimate import BlockingEstimate
from .permits import Permits
from .rousing import Calls
from .run_queue import RunQueue
from .task_table import TaskTable
from .tendency import LONG, processor_time, wants_processor
from .watchdog_timer import WatchdogTimer
from .worker import Worker
from .workers import Workers

#: Looks in a row that found tasks run and no stalled thread, until the pace is calm. A look that
#: found no task run takes so many off again: single requests with pauses never make it calm.
_CALM_LOOKS, _PAUSE_LOOKS = 25, 5
#: Looks at one callback after which its permit is taken though the processor is busy.
_BUSY_LOOKS = 4
#: Between two looks for threads that have died, in seconds.
_DEAD_S = 1.0


class Pace:
    """How soon the watchdog looks again."""

    __slots__ = ("_calm", "turns")

    def __init__(self) -> None:
        self._calm = 0  # looks in a row that found nothing to suspect
        #: Tasks that the holders of permits had run at the last look; -1: there was no look.
        self.turns = -1

    def next(self, turns: int, suspicious: bool) -> float:
        """Seconds until the next look; `turns`: tasks that the holders have run so far."""
        if suspicious:
            self._calm = 0
        elif turns != self.turns:
            self._calm = min(self._calm + 1, _CALM_LOOKS)
        else:
            self._calm = max(self._calm - _PAUSE_LOOKS, 0)
        self.turns = turns
        return alarm.TICK if self._calm < _CALM_LOOKS else alarm.CALM_TICK


class Stalls:
    """Thread: the listener's.

    Args:
        permits: the holders are looked at.
        workers: all threads.
        estimate: is told which tasks block.
        table: the tasks, for a trial.
        queue: what is ready.
        watchdog_timer: is told whether the watchdog looks again without a ring.
    """

    __slots__ = (
        "_dead_at",
        "_estimate",
        "_found_dead",
        "_pace",
        "_permits",
        "_queue",
        "_seen_at",
        "_seen_cpu",
        "_table",
        "_timer",
        "_workers",
    )

    def __init__(
        self,
        permits: Permits,
        workers: Workers,
        estimate: BlockingEstimate,
        table: TaskTable,
        queue: RunQueue,
        watchdog_timer: WatchdogTimer,
    ) -> None:
        self._permits = permits
        self._workers = workers
        self._estimate = estimate
        self._table = table
        self._queue = queue
        self._timer = watchdog_timer
        self._pace = Pace()
        self._seen_at = self._seen_cpu = self._dead_at = 0.0
        self._found_dead = False

    def was_idle(self) -> bool:
        """Whether the process used less than half a processor since this was asked last."""
        wall, process = perf_counter(), process_time()
        idle = process - self._seen_cpu < (wall - self._seen_at) / 2
        self._seen_at, self._seen_cpu = wall, process
        return idle

    def look(self, calls: Calls, idle: bool) -> float:
        """With the lock. Seconds until the next look; `FOREVER`: nothing is run, so none is
        needed until the bell rings.

        Args:
            idle: as `was_idle` has just said.
        """
        # By `looking`, not by `task`: a task that was just taken off the queue is
        # nowhere to be seen until its worker has noted it.
        holders = self._permits.holders()
        turns = sum(worker.turns() for worker in holders)
        busy = [worker for worker in holders if not worker.looking]
        stalled = [self._is_stalled(worker, calls, idle) for worker in busy]
        # Threads that run a callback without a permit; also those that have just lost theirs.
        crowd = self._workers.busy() - len(self._permits.holders())
        self._estimate.doubt(
            self._seen_at, self._seen_cpu, self._workers.turns, crowd, self._table.each()
        )
        # Between two looks a task may have been run, or an interrupted thread have left some.
        quiet = not busy and turns == self._pace.turns and not self._queue.has_ready()
        suspicious = any(stalled) or self._estimate.looks_at_each()
        tick = self._pace.next(turns, suspicious)
        self._timer.looks(again=not quiet)
        if quiet:
            self._estimate.end_trial(self._seen_at)
        return FOREVER if quiet else tick

    def _is_stalled(self, worker: Worker, calls: Calls, idle: bool) -> bool:
        """Whether two looks in a row have found it in the same callback."""
        looks = worker.count_look()
        task = worker.task  # once: it may finish at any moment
        # One look proves nothing: the callback may have begun a moment ago. The same turn in a
        # second one has lasted for a tick at least.
        if looks and self._workers.seems_dead(worker):
            self._found_dead = True
        if task is None or not looks:
            return False
        if looks == 1:
            worker.cpu_seen = processor_time(worker.native_id)
        # If the processor was busy, the callback may compute, or wait for the GIL: another
        # thread would only wait as well. The same holds if the thread waits for a processor
        # that other processes use.
        blocked = idle and not wants_processor(worker.native_id)
        if blocked or looks >= _BUSY_LOOKS:
            self._permits.give_up(calls, worker)
            if blocked:
                self._estimate.suspect(task, self._seen_at)
            elif processor_time(worker.native_id) - worker.cpu_seen >= LONG:
                self._estimate.is_long(task)
        return True

    def found_dead(self) -> bool:
        """Whether the last look has found a thread that has ended and still holds a permit."""
        return self._found_dead

    def somebody_died(self) -> bool:
        """Whether any thread has ended unnoticed; checks all of them once a second. A dead holder
        of a permit is found sooner, as it looks stalled. Without the lock."""
        found, self._found_dead = self._found_dead, False
        if self._seen_at < self._dead_at + _DEAD_S:
            return found
        self._dead_at = self._seen_at
        return found or bool(self._workers.that_seem_dead())
