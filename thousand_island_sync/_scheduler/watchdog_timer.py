"""What makes the watchdog look: a ring, an alarm that goes off soon, or its own next look.

`alarm` has the reason for the alarm. Before a thread runs what is ready, it makes sure that one of
the three is there. Which of them is there, is one state and its table. Every rule about it must
live here.

    SLEEPS --(begin)--> LOOKS, MAY_STOP --(it has looked)--> SLEEPS, LOOKS
      ^                            |
      +----(the thread waits)------+

SLEEPS: no task is known to run. LOOKS: the watchdog was rung, or looks again by itself, or an alarm
is set that must go off. MAY_STOP: an alarm is set that may be stopped when the thread that works
waits in the poller again.

They are numbers, as a task's ownership is: the C keeps them in a field of its own
(native/scheduler.h), and the hot path in Python writes the number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._base.clock import FOREVER, Clock
from .._base.compiled import native
from . import alarm as _alarm
from .alarm import Alarm

SLEEPS, LOOKS, MAY_STOP = 0, 1, 2

#: What is done: state before -> state after. Where nothing is said, it stays.
Move = dict[int, int]
#: A task is about to be run. The key is what `arm` returned; `None` also: the watchdog is rung.
AFTER_ARM: dict[bool | None, int] = {None: LOOKS, False: LOOKS, True: MAY_STOP}
#: The thread that works waits in the poller again.
ON_WAIT: Move = {MAY_STOP: SLEEPS}
#: There is another alarm, or none: the one before may not be stopped any more.
ON_ALARM: Move = {MAY_STOP: LOOKS}


class PythonWatchdogTimer:
    """The field of a `WatchdogTimer` that each look needs; `_native.WatchdogTimer` is its equal in
    C.

    Attributes:
        state: whether the watchdog looks.
    """

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state = SLEEPS


if TYPE_CHECKING:
    WatchdogTimerCore = PythonWatchdogTimer
else:
    WatchdogTimerCore = getattr(native, "WatchdogTimer", PythonWatchdogTimer)


class WatchdogTimer(WatchdogTimerCore):
    """All under the scheduler's lock, unless it says otherwise.

    Args:
        ring: wakes the listener's thread, which is the watchdog.
        clock: gives seconds.
        lock: the scheduler's.
        one_runs: there is one permit: when its holder waits again, no task is run.
    """

    __slots__ = (
        "_alarm",
        "_clock",
        "_insists",
        "_lock",
        "_one_runs",
        "_ring",
        "_set_at",
    )

    def __init__(self, ring: Callable[[], None], clock: Clock, lock: Any, one_runs: bool) -> None:
        super().__init__()
        self._lock = lock
        self._ring = ring
        self._clock = clock
        self._one_runs = one_runs
        self._alarm: Alarm | None = None
        self._set_at = -FOREVER
        self._insists = False

    def use(self, alarm: Alarm | None) -> None:
        """Uses this alarm from now on; `None`: rings instead. Thread: the listener's."""
        self._alarm = alarm
        self.state = ON_ALARM.get(self.state, self.state)

    def begin(self, by_alarm: bool) -> bool:
        """A task is about to be run. `True`: the caller must ring, without the lock.

        Args:
            by_alarm: an alarm is enough, if there is one.
        """
        if self.state:
            return False
        self.state = LOOKS
        may_stop = self.arm() if by_alarm else None
        self.state = AFTER_ARM[may_stop]
        return may_stop is None

    def begin_now(self) -> None:
        """A task is to be run that became ready after the last poll, or before the first.
        Without the lock."""
        with self._lock:
            ring = self.begin(by_alarm=False)
        if ring:
            self._ring()

    def arm(self) -> bool | None:
        """Sets the alarm. Whether it may be stopped when the thread that works waits again;
        `None`: there is no alarm, so the caller must ring."""
        if self._alarm is None:
            return None
        time_now, before = self._clock(), self._set_at
        self._set_at = time_now
        self._alarm.set(_alarm.TICK)
        return self._one_runs and not self._insists and time_now - before >= _alarm.SPARSE_S

    def disarm(self) -> None:
        """No task is run any more, so the watchdog need not look."""
        self.state = SLEEPS
        self.quiet()

    def quiet(self) -> None:
        """Stops the alarm, if there is one."""
        if self._alarm is not None:
            self._alarm.stop()

    def looks(self, again: bool) -> None:
        """The watchdog has looked, and does so `again` by itself. Thread: its own."""
        self.state = LOOKS if again else SLEEPS

    def insist(self, on: bool) -> None:
        """Whether each alarm must go off (while the pool is saturated)."""
        self._insists = on

    def ring(self) -> None:
        """Without the lock. Thread: any."""
        self._ring()
