"""When a parked task is run without an event, and when timers call their targets.

The heap below it is in `timers`. A task has one timer at most; its deadline may move on
while the timer stays (`timers` has the reason), so a timer that fires early is put back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from .._base.clock import FOREVER, Clock
from .._base.compiled import native
from .states import PARKED
from .task import Task
from .time_slots import FAR_S, TimeSlot, TimeSlots
from .timers import Timer, Timers


class PythonDeadlines:
    """The fields of `Deadlines` that each look needs; `_native.Deadlines` is its equal in C.

    Attributes:
        _clock: gives seconds.
        _next: no timer fires before this time.
        calls: due targets, for `call_due`.
    """

    __slots__ = ("_clock", "_next", "calls")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.calls: deque[Callable[[], None]] = deque()
        self._next = FOREVER


if TYPE_CHECKING:
    DeadlinesCore = PythonDeadlines
else:
    DeadlinesCore = getattr(native, "Deadlines", PythonDeadlines)


class Deadlines(DeadlinesCore):
    """All under the scheduler's lock, unless it says otherwise.

    Args:
        clock: gives seconds.
    """

    __slots__ = ("_slots", "_timers")

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._timers = Timers()
        self._slots = TimeSlots(self._timers)

    def start(self, timer: Timer) -> bool:
        """Whether it is the next one: then a thread in the poller waits for too long."""
        self._timers.put(timer)
        return self._comes_first(timer.when)

    def cancel(self, timer: Timer) -> None:
        self._timers.cancel(timer)

    def set(self, task: Task) -> bool:
        """Sets the task's timer to its deadline; as `start`."""
        if task.timer is not None:
            self.drop(task)
        if not FAR_S <= task.deadline - self._clock() < FOREVER:
            task.timer = self._timers.add(task.deadline, task, ordered=False)
            task.timer_at = task.deadline
        else:
            task.timer_at = self._slots.put(task)
        return self._comes_first(task.timer_at)

    def drop(self, task: Task) -> None:
        """Cancels the task's timer, which would keep a task alive that is over."""
        timer, task.timer = task.timer, None
        if isinstance(timer, TimeSlot):
            self._slots.remove(task, timer)
        elif timer is not None:
            self._timers.cancel(timer)

    def drop_all(self, tasks: Iterable[Task]) -> None:
        """The same for all, even if an exception has left the slots half changed. Each task gets
        a new timer when it parks next."""
        self._slots.clear()
        for task in tasks:
            timer, task.timer, task.timer_at = task.timer, None, FOREVER
            if isinstance(timer, Timer):
                self._timers.cancel(timer)
        self._next = self._timers.next()

    def left(self) -> float:
        """Seconds until the next; `FOREVER`: there is none. A hint without the lock."""
        if self._next == FOREVER:
            return FOREVER
        left = self._next - self._clock()
        return left if left > 0 else 0.0

    def are_due(self) -> bool:
        """Whether there is anything to `fire`."""
        return self._next != FOREVER and self._next <= self._clock()

    def fire(self) -> list[Task]:
        """Parked tasks whose deadline has passed; other due targets are left for `call_due`. A task
        whose deadline has moved gets a new timer."""
        over: list[Task] = []
        time_now = self._clock()
        for target in self._timers.due(time_now):
            if isinstance(target, TimeSlot):
                for task in self._slots.take(target):
                    self._fired(task, time_now, over)
            elif isinstance(target, Task):
                self._fired(target, time_now, over)
            else:
                self.calls.append(target)
        self._next = self._timers.next()
        return over

    def _fired(self, task: Task, time_now: float, over: list[Task]) -> None:
        task.timer, task.timer_at = None, FOREVER
        if task.ownership != PARKED:
            return  # `settle` compares its deadline with the timer when it parks
        if task.deadline > time_now:
            self.set(task)
        else:
            over.append(task)

    def call_due(self) -> None:
        """Without the lock. Also calls those that an interrupted thread has left."""
        while True:
            try:
                call = self.calls.popleft()
            except IndexError:
                return
            call()

    def _comes_first(self, when: float) -> bool:
        if when >= self._next:
            return False
        self._next = when
        return True
