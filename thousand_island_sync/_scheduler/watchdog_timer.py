"""What has the watchdog look: a ring, an alarm that goes off in a moment, or that it looks anyway.

`alarm` has the reason for the alarm. Who runs what is ready sees first that one of the three is so.
Whether it is, is one state and its table. Every rule about it must live here.

    SLEEPS --(begin)--> LOOKS, MAY_STOP --(it has looked)--> SLEEPS, LOOKS
      ^                            |
      +----(the thread waits)------+

SLEEPS: nothing runs, as far as is known. LOOKS: the watchdog was rung, looks again by itself, or an
alarm is set that goes off in any case. MAY_STOP: an alarm is set that is needless once the thread
that works waits again.

They are numbers, as a task's ownership is: the C has them in a field of its own
(native/scheduler.h), and what a message pays for in Python spells them.
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
#: Something is about to be run, and the watchdog is rung, or what `arm` has said of its alarm.
AFTER_ARM: dict[bool | None, int] = {None: LOOKS, False: LOOKS, True: MAY_STOP}
#: The thread that works waits again.
ON_WAIT: Move = {MAY_STOP: SLEEPS}
#: There is another alarm, or none: nobody knows of the one before whether it is needless.
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
        one_runs: only one thread at a time takes work: when it waits again, nothing is run.
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
        """Sets it from now on; `None`: rings. Thread: the listener's, which waits for it."""
        self._alarm = alarm
        self.state = ON_ALARM.get(self.state, self.state)

    def begin(self, by_alarm: bool) -> bool:
        """Something is about to be run. True: who asks must ring, without the lock.

        Args:
            by_alarm: an alarm will do, if there is one.
        """
        if self.state:
            return False
        self.state = LOOKS
        may_stop = self.arm() if by_alarm else None
        self.state = AFTER_ARM[may_stop]
        return may_stop is None

    def begin_now(self) -> None:
        """What is to be run came after the look, or there was none, as before the first task.
        Without the lock."""
        with self._lock:
            ring = self.begin(by_alarm=False)
        if ring:
            self._ring()

    def arm(self) -> bool | None:
        """Sets the alarm. Whether it is needless once the thread that works waits again; `None`:
        there is no alarm, so somebody must ring."""
        if self._alarm is None:
            return None
        time_now, before = self._clock(), self._set_at
        self._set_at = time_now
        self._alarm.set(_alarm.TICK)
        return self._one_runs and not self._insists and time_now - before >= _alarm.SPARSE_S

    def disarm(self) -> None:
        """What began is over, and nobody has to look."""
        self.state = SLEEPS
        self.quiet()

    def quiet(self) -> None:
        """The alarm does not go off, if there is one."""
        if self._alarm is not None:
            self._alarm.stop()

    def looks(self, again: bool) -> None:
        """The watchdog has looked, and does so `again` by itself. Thread: its own."""
        self.state = LOOKS if again else SLEEPS

    def insist(self, on: bool) -> None:
        """Whether the watchdog waits for something to be over, so that each alarm goes off."""
        self._insists = on

    def ring(self) -> None:
        """Without the lock. Thread: any."""
        self._ring()
