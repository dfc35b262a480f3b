"""Taking handlers for quick on trial.

The facts. A thread that waits for the GIL looks from outside like one that blocks. So
where callbacks make many short system calls (a file opened and read for each request),
a few of them that run side by side hold each other up, each is taken for one that
blocks, and gets a thread of its own: the same work at two or three times the cost, with
sixty threads, and no sample of any one callback tells the two apart.

Our decision: look at the whole. Where the process keeps a processor busy while several
threads run callbacks without a permit, all handlers that are taken for blocking are
taken for quick, for a few hundredths of a second. If more callbacks end in that time
than before it stays so. If not, or if one is found to block while the processor is
idle, all is as it was at once, and the next trial comes much later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .task import Classified, Task
from .tendency import Tendency

#: Seconds in which callbacks are counted, before and on trial, and to settle in between.
WINDOW, SETTLE = 0.05, 0.04
#: So many times as many callbacks make a trial a success.
GAIN = 1.2
#: Seconds after which less than this share of the callbacks ends it early.
_SOON, _FAILS = 0.01, 0.5
#: Threads without a permit, and the share of a processor in use, that make a case.
_CROWD, _BUSY = 2, 0.8
#: Seconds until the next trial may be; times as long after each failure in a row.
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
        # When counting began, and what the process and the callbacks had come to then.
        self._since = self._cpu = 0.0
        self._turns = 0
        self._before = 0.0  # callbacks in a second, before the trial
        self._pause = PAUSE
        # What was known of those on trial; empty if none are.
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
            turns: counts the callbacks that were run so far; asked only when it matters.
            crowd: threads that run one without a permit.
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
        """All is as it was before the trial, if there is one; whether there was."""
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
