"""Trials: all handlers are treated as quick for a moment, to see if more callbacks end.

The facts. A thread that waits for the GIL looks from outside like one that blocks. So
if callbacks make many short system calls (a file opened and read for each request), a
few that run at the same time delay each other. Each is taken to block, and gets a thread
of its own: the same work at two or three times the cost, with sixty threads. No sample
of a single callback tells the two cases apart.

Our decision: measure the whole. If the process keeps a processor busy while several
threads run callbacks without a permit, all connections that are classified as blocking
are treated as quick, for a few hundredths of a second. If more callbacks end in that
time than before, this stays. If not, or if one is found to block while the processor is
idle, the old classification is restored at once, and the next trial comes much later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .task import Classified, Task
from .tendency import Tendency

#: Seconds in which callbacks are counted, before and in the trial; and a pause in between.
WINDOW, SETTLE = 0.05, 0.04
#: A trial succeeds with so many times as many callbacks as before.
GAIN = 1.2
#: After so many seconds, fewer than this share of the callbacks end it early.
_SOON, _FAILS = 0.01, 0.5
#: Threads without a permit, and share of a processor in use, from which a trial is made.
_CROWD, _BUSY = 2, 0.8
#: Seconds until the next trial may begin; the factor for each failure in a row; the most.
PAUSE, _MORE, LONGEST_PAUSE = 0.1, 8, 60.0

_NONE, _BEFORE, _SETTLING, _TRIAL = range(4)


class Trial:
    """Called with the scheduler's lock, which guards it, by the watchdog.

    Args:
        tendency: the handler class's.
    """

    __slots__ = (
        "_average",
        "_before",
        "_cpu",
        "_pause",
        "_saved",
        "_since",
        "_stage",
        "_tendency",
        "_turns",
        "_until",
    )

    def __init__(self, tendency: Tendency) -> None:
        self._tendency = tendency
        self._stage = _NONE
        self._until = 0.0  # when the stage, or the pause, is over
        # When counting began, with the process's CPU time and the number of callbacks at that time.
        self._since = self._cpu = 0.0
        self._turns = 0
        self._before = 0.0  # callbacks in a second, before the trial
        self._pause = PAUSE
        # The averages and classes before the trial; empty if there is none.
        self._average = 0.0
        self._saved: list[tuple[Task, float, Classified]] = []

    def look(
        self,
        time_now: float,
        cpu: float,
        turns: Callable[[], int],
        crowd: int,
        tasks: Iterable[Task],
    ) -> bool:
        """One look; whether it has changed the class's average.

        Args:
            time_now: seconds.
            cpu: seconds of processor time that the process has used so far.
            turns: counts the callbacks that were run so far; called only if needed.
            crowd: threads that run a callback without a permit.
            tasks: all connections.
        """
        if time_now < self._until:
            soon = self._saved and time_now - self._since >= _SOON
            if soon and self._rate(time_now, turns) < _FAILS * self._before:
                return self.refute(time_now)
            return False
        if self._stage == _NONE:
            if crowd >= _CROWD:
                self._cpu = cpu
                self._begin_stage(_BEFORE, WINDOW, time_now, turns)
        elif self._stage == _BEFORE:
            self._before = self._rate(time_now, turns)
            busy = cpu - self._cpu >= _BUSY * (time_now - self._since)
            if busy and crowd >= _CROWD and self._take_for_quick(tasks):
                self._begin_stage(_SETTLING, SETTLE, time_now, turns)
                return True
            self._end_stages(time_now)
        elif self._stage == _SETTLING:
            self._begin_stage(_TRIAL, WINDOW, time_now, turns)
        elif self._rate(time_now, turns) > GAIN * self._before:
            self._pause = PAUSE
            self._end_stages(time_now)
        else:
            return self.refute(time_now)
        return False

    def refute(self, time_now: float) -> bool:
        """Restores what was known before the trial. Whether there was one."""
        if not self._saved:
            return False
        self._tendency.average = max(self._average, self._tendency.average)
        for task, average, classified in self._saved:
            task.average, task.classified = average, classified
        self._pause = min(_MORE * self._pause, LONGEST_PAUSE)
        self._end_stages(time_now)
        return True

    def _take_for_quick(self, tasks: Iterable[Task]) -> bool:
        self._saved = [
            (task, task.average, task.classified) for task in tasks if task.classified.blocks
        ]
        self._average = self._tendency.average
        if self._saved:
            self._tendency.average = 0.0
        for task, _, _ in self._saved:
            task.average, task.classified = 0.0, Classified.UNKNOWN
        return bool(self._saved)

    def _end_stages(self, time_now: float) -> None:
        self._stage, self._until = _NONE, time_now + self._pause
        self._saved = []

    def _begin_stage(
        self, stage: int, duration: float, time_now: float, turns: Callable[[], int]
    ) -> None:
        self._stage, self._until = stage, time_now + duration
        self._since, self._turns = time_now, turns()

    def _rate(self, time_now: float, turns: Callable[[], int]) -> float:
        return (turns() - self._turns) / (time_now - self._since)
