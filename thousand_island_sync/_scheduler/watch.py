"""The stall watch: what the listener's thread does for the pool.

It takes the permit from a thread that stands still in a callback, stands in where no thread
has a permit, and tells when all of them are busy; see the essay in `_scheduler.scheduler`.
"""

from __future__ import annotations

from time import perf_counter, process_time

from .._base.clock import FOREVER
from . import alarm
from .mending import Mending
from .task import Task
from .tendency import HAND_OVER_COST, LONG, processor_time, wants_processor

#: Looks that found tasks run and none that stood still, until it is calm. A look that found
#: none run counts so many back: under single requests with pauses between, it is never calm.
_CALM_LOOKS, _PAUSE_LOOKS = 25, 5
#: Looks at one callback after which its permit is taken though the processor is busy.
_BUSY_LOOKS = 4
#: Between two looks while a ready connection waits for a thread.
_SATURATED_TICK = 0.01
#: Between two looks for threads that have died, in seconds.
_DEAD_S = 1.0


class Watch(Mending):
    """One look after another; `tend` is called again when it says."""

    __slots__ = ()

    def tend(self) -> float:
        """One look of the stall watch, and standing in where no thread holds a permit.

        Returns:
            Seconds until the next look; `FOREVER`: when `ring` is called, or, if
            `stand_in_fileno` is not `None`, when that is readable.

        Thread: the listener's alone.
        """
        self._do_left_over()
        if self._broken or self._somebody_died():
            self._put_right()
        idle = self._was_idle()
        with self._rousing, self._lock:
            self._alarm_may_stop = False  # it has gone off, or would for nothing
            # By `looking`, not by `task`: a task that was just taken off the queue is
            # nowhere to be seen until its worker has noted it.
            busy = stalled = False
            turns = 0
            for worker in list(self._holders):
                turns += worker.turn
                if worker.looking:
                    continue
                busy = True
                worker.looks = worker.looks + 1 if worker.turn == worker.seen else 0
                worker.seen = worker.turn
                task = worker.task  # once: it may finish at any moment
                if worker.looks and self._seems_dead(worker):
                    self._broken = True
                if task is None or not worker.looks:
                    continue
                stalled = True
                if worker.looks == 1:
                    worker.cpu_seen = processor_time(worker.native_id)
                # Where the processor was busy the callback may just be at work, or wait for
                # the GIL: another thread would only wait with it. Where others' processes
                # have the processors, so would one that wants one.
                blocked = idle and not wants_processor(worker.native_id)
                if blocked or worker.looks >= _BUSY_LOOKS:
                    self._give_up(worker)
                    if blocked:
                        self._suspect(task)
                    elif processor_time(worker.native_id) - worker.cpu_seen >= LONG:
                        self._is_long(task)
            crowd = self._busy() - len(self._holders)
            tasks = self._tasks.values()
            if self._trial.look(self._seen_at, self._seen_cpu, self._turns, crowd, tasks):
                self._sample_as_needed()
            standing_in = not self._holders and bool(self._tasks)
            quiet = not busy and turns == self._seen_turns and not self._ready
            # Where its class tends to block, every callback is looked at: see `_sample_mask`.
            if stalled or not self._sample_mask:
                self._calm = 0
            elif turns != self._seen_turns:
                self._calm = min(self._calm + 1, _CALM_LOOKS)
            else:
                self._calm = max(self._calm - _PAUSE_LOOKS, 0)
            self._seen_turns = turns
            self._watching = not quiet
            if quiet and self._trial.refute(self._seen_at):
                self._sample_as_needed()  # nobody looks again, and it holds on to its tasks
        if self._broken:
            return alarm.TICK
        if standing_in:
            return self._stand_in()
        self._tell_saturation()
        if quiet:
            return FOREVER
        return alarm.TICK if self._calm < _CALM_LOOKS else alarm.CALM_TICK

    def _somebody_died(self) -> bool:
        """Whether a thread of the pool has ended without a word; looks once in a while. That of
        one with a permit is seen to stand still before that."""
        if self._seen_at < self._dead_at + _DEAD_S:
            return False
        self._dead_at = self._seen_at
        with self._lock:
            return any(self._seems_dead(worker) for worker in self._threads)

    def _turns(self) -> int:
        """With the lock: tasks that the threads there are have run."""
        return sum(worker.turn for worker in self._threads)

    def _suspect(self, task: Task) -> None:
        """With the lock: a callback stands still, and it is not for want of a processor.

        It blocks, then, until its next run is measured; and so, for all that is known, do
        others of its class. Else each of a burst of them would be found out by itself, two
        looks later than the one before it.
        """
        task.blocks, task.sampled = True, False
        self.tendency.learn(0.0, alarm.TICK, alarm.TICK)
        self._trial.refute(self._seen_at)
        self._sample_as_needed()

    def _is_long(self, task: Task) -> None:
        """With the lock: a callback is at work, and has been for long.

        The next one of its connection makes way for the others before it starts: to see this
        one took five looks, and each waited for the GIL. A quick callback or two end that.
        Of its class it says nothing.
        """
        task.average = 2 * HAND_OVER_COST
        task.blocks = task.sampled = True
        task.doubtful = False

    def _was_idle(self) -> bool:
        """Whether the process used less than half a processor since this was asked last."""
        wall, process = perf_counter(), process_time()
        idle = process - self._seen_cpu < (wall - self._seen_at) / 2
        self._seen_at, self._seen_cpu = wall, process
        return idle

    def stand_in_fileno(self) -> int | None:
        """What the listener's thread waits for beside its bell. Thread: the listener's."""
        with self._lock:
            if self._holders or not self._tasks:
                return None
        return self._poller_fileno()

    def _poller_fileno(self) -> int | None:
        try:
            return self._poller.fileno()
        except ValueError:  # as above
            return None

    def _stand_in(self) -> float:
        try:
            self._absorb(self._poller.poll(0), None)
        except (OSError, ValueError):
            return alarm.TICK  # the last thread has just left, and closed it
        self._standing_in = True
        try:
            with self._rousing, self._lock:
                # A thread that could not be started before may start now.
                if self._ready and self._free:
                    self._call_heir()
                    self._nobody = False  # who would be called does this
        finally:
            self._standing_in = False
        self._tell_saturation()
        with self._lock:
            # Whoever says here that it watches must come back: nobody rings meanwhile.
            self._watching = bool(self._holders or self._ready)
            if self._watching:
                return alarm.TICK if self._holders else _SATURATED_TICK
            timer = self._next_timer
        if self._poller_fileno() is None:
            return _SATURATED_TICK
        return FOREVER if timer == FOREVER else max(alarm.TICK, timer - self._clock())

    def _tell_saturation(self) -> None:
        with self._lock:
            waiting = self._unserved()
            busy = self._busy()
            if self._saturated:
                # A thread that rests proves nothing while the one with the permit stands
                # still: what waits, waits for the next look to take it away.
                moving = not any(worker.looks for worker in self._holders)
                spare = moving and (bool(self._idle) or self._sleepers > 0)
                self._relief = self._relief + 1 if spare else 0
                if waiting and self._relief < 2:
                    return
                self._saturated, self._relief = False, 0
            elif waiting and self._free and not self._holders:
                self._saturated = True
            else:
                return
            saturated = self._saturated
        self._tell(saturated, busy, waiting)
