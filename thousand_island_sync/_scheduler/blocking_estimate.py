"""Which tasks tend to block: what is known of each task, and how that is measured.

`tendency` has the reasons, and what a sample proves; `trial` tests the estimate as a whole. If a
task tends to block, its thread hands its permit off before the callback starts, and measures it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import perf_counter, process_time, thread_time
from typing import TYPE_CHECKING, Any

from .._base.compiled import native
from . import alarm
from .task import Classified, Task
from .tendency import HAND_OFF_COST, LONG, SAMPLE_EVERY, Tendency, voluntary_switches
from .trial import Trial
from .worker import Worker

SAMPLE_SHIFT = SAMPLE_EVERY.bit_length() - 1
UNKNOWN, QUICK = Classified.UNKNOWN, Classified.QUICK
SUSPECT, DOUBTFUL, BLOCKING = Classified.SUSPECT, Classified.DOUBTFUL, Classified.BLOCKING

#: One callback in so many is timed; each, if the class tends to block.
_SOME, _EACH = SAMPLE_EVERY - 1, 0


class PythonEstimate:
    """The fields of a `BlockingEstimate` that each run needs; `_native.BlockingEstimate` is its
    equal in C.

    Attributes:
        sample_mask: a run is timed if its number has none of these bits.
        timed_by_kernel: the times come from the system's clocks, so the C may take them.
    """

    __slots__ = ("sample_mask", "timed_by_kernel")

    def __init__(self) -> None:
        self.sample_mask = 0
        self.timed_by_kernel = False


if TYPE_CHECKING:
    EstimateCore = PythonEstimate
else:
    EstimateCore = getattr(native, "BlockingEstimate", PythonEstimate)


class BlockingEstimate(EstimateCore):
    """For the tasks of one scheduler, whose lock guards this. Methods "without the lock" take it.

    Args:
        lock: the scheduler's.
    """

    __slots__ = ("_lock", "_trial", "tendency")

    def __init__(self, lock: Any) -> None:
        super().__init__()
        self.timed_by_kernel = type(self) is BlockingEstimate
        self._lock = lock
        #: Of the handler class.
        self.tendency = Tendency()
        self._trial = Trial(self.tendency)
        self.sample_mask = _SOME

    def looks_at_each(self) -> bool:
        """Whether the class tends to block, so that every callback is timed. A hint without
        the lock."""
        return self.sample_mask == _EACH

    def introduce(self, tasks: Iterable[Task]) -> None:
        """New tasks are taken to be as others of their class. Without the lock."""
        average = self.tendency.average
        if not average:
            return  # as they were made
        for task in tasks:
            task.average = average
            if average > HAND_OFF_COST:
                task.classified = SUSPECT

    # ---- a run -----------------------------------------------------------------------

    def run(self, worker: Worker, task: Task) -> int:
        """Runs a task that tends to block, or that is the next sample, and measures it. Returns
        its verdict. Without the lock.

        The clocks of the process and the thread are system calls; they are asked only
        of a task that was seen to take long.
        """
        if not task.classified.measured and self.tendency.average > HAND_OFF_COST:
            task.average, task.classified = self.tendency.average, SUSPECT
        task.no_sample = worker.waited = False
        # If the class tends to block, one callback in so many is measured in full even if its own
        # task is quick: the connections that blocked may have ended, and nothing else shows that.
        in_full = not worker.turn & _SOME
        if not task.classified.blocks and not (in_full and self.looks_at_each()):
            return self._run_timed(worker, task)
        if task.classified.certain and not in_full:
            return task.run()
        return self._run_measured(worker, task)

    def _run_timed(self, worker: Worker, task: Task) -> int:
        """Runs a task that is taken for quick, and only times it."""
        # Shifts the sample by one each time: callbacks that repeat in a row are all sampled.
        worker.turn += worker.turn >> SAMPLE_SHIFT & 1
        switches, began = voluntary_switches(), perf_counter()
        verdict = task.run()
        long = perf_counter() - began > HAND_OFF_COST
        told = not worker.waited and not task.no_sample
        if long and told and voluntary_switches() != switches:
            # Its next run is measured, after its thread has handed its permit off.
            task.classified = SUSPECT
        return verdict

    def _run_measured(self, worker: Worker, task: Task) -> int:
        switches = voluntary_switches()
        wall, process, thread = perf_counter(), process_time(), thread_time()
        verdict = task.run()
        worked = thread_time() - thread
        if task.classified.blocks and worked >= LONG:
            task.classified = BLOCKING
        # Not if it waited in a call of the library: that call has handed the permit off itself.
        elif not worker.waited and not task.no_sample:
            at_least = at_most = 0.0
            waits = voluntary_switches() - switches
            if waits:
                wall = perf_counter() - wall
                at_least = wall - (process_time() - process)
                at_most = wall - worked
            self._learn(task, at_least, at_most, waits)
        return verdict

    def _learn(self, task: Task, at_least: float, at_most: float, waits: int) -> None:
        with self._lock:
            task.average = self.tendency.learn(task.average, at_least, at_most, waits)
            if task.average <= HAND_OFF_COST:
                task.classified = QUICK
            else:
                task.classified = BLOCKING if at_least > HAND_OFF_COST else DOUBTFUL
            self._sample_as_needed()

    # ---- what others have seen ------------------------------------------------------------

    def suspect(self, task: Task, time_now: float) -> None:
        """A callback does not go on, though a processor is free for it.

        So it is taken to block until its next run is measured; and so are others of its class.
        Else, in a burst of blocking callbacks, the watchdog would find each one separately, two
        looks later than the one before it.
        """
        task.classified = SUSPECT
        self.tendency.learn(0.0, alarm.TICK, alarm.TICK)
        self._trial.refute(time_now)
        self._sample_as_needed()

    def is_long(self, task: Task) -> None:
        """A callback computes, and has done so for long.

        Before the next callback of its connection its thread hands the permit off: the watchdog
        needed five looks to see this one, and other connections waited for the GIL meanwhile.
        One or two quick callbacks end that. It says nothing about the class.
        """
        task.average = 2 * HAND_OFF_COST
        task.classified = BLOCKING

    def was_quick(self, task: Task) -> None:
        """A callback did not block after all."""
        task.average = self.tendency.learn(task.average, 0.0, 0.0)
        if task.average <= HAND_OFF_COST:
            task.classified = QUICK

    def measure_next(self, task: Task) -> None:
        """Its next run is measured again, to see whether the task still is what it was."""
        task.classified = SUSPECT if task.classified.blocks else UNKNOWN

    # ---- the trial ---------------------------------------------------------------------

    def doubt(
        self,
        time_now: float,
        cpu: float,
        turns: Callable[[], int],
        crowd: int,
        tasks: Iterable[Task],
    ) -> None:
        """The watchdog looks: as `Trial.look`."""
        if self._trial.look(time_now, cpu, turns, crowd, tasks):
            self._sample_as_needed()

    def end_trial(self, time_now: float) -> None:
        """The watchdog does not look for a while, and a trial would keep its tasks alive."""
        if self._trial.refute(time_now):
            self._sample_as_needed()

    def _sample_as_needed(self) -> None:
        tends = self.tendency.average > HAND_OFF_COST
        self.sample_mask = _EACH if tends else _SOME
