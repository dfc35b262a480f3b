"""What has the watchdog look: a ring, an alarm that goes off in a moment, or that it looks anyway.

`alarm` has the reason for the alarm. Who runs what is ready sees first that one of the three is so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._base.clock import FOREVER, Clock
from . import alarm as _alarm
from .alarm import Alarm


class WatchdogTimer:
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
        "may_stop",
        "watching",
    )

    def __init__(self, ring: Callable[[], None], clock: Clock, lock: Any, one_runs: bool) -> None:
        self._lock = lock
        self._ring = ring
        self._clock = clock
        self._one_runs = one_runs
        self._alarm: Alarm | None = None
        self._set_at = -FOREVER
        self._insists = False
        #: The watchdog looks again by itself, or an alarm is set for it.
        self.watching = False
        #: The alarm is needless once the thread that works waits again.
        self.may_stop = False

    def use(self, alarm: Alarm | None) -> None:
        """Sets it from now on; `None`: rings. Thread: the listener's, which waits for it."""
        self._alarm, self.may_stop = alarm, False

    def begin(self, by_alarm: bool) -> bool:
        """Something is about to be run. True: who asks must ring, without the lock.

        Args:
            by_alarm: an alarm will do, if there is one.
        """
        if self.watching:
            return False
        self.watching = True
        return not (by_alarm and self.arm())

    def begin_now(self) -> None:
        """What is to be run came after the look, or there was none, as before the first task.
        Without the lock."""
        with self._lock:
            ring = self.begin(by_alarm=False)
        if ring:
            self._ring()

    def arm(self) -> bool:
        """Sets the alarm. False: there is none, so somebody must ring."""
        if self._alarm is None:
            return False
        time_now, before = self._clock(), self._set_at
        self._set_at = time_now
        may_stop = self._one_runs and not self._insists
        self.may_stop = may_stop and time_now - before >= _alarm.SPARSE_S
        self._alarm.set(_alarm.TICK)
        return True

    def disarm(self) -> None:
        """What began is over, and nobody has to look."""
        self.may_stop = self.watching = False
        if self._alarm is not None:
            self._alarm.stop()

    def looks(self, again: bool) -> None:
        """The watchdog has looked, and does so `again` by itself. Thread: its own."""
        self.may_stop, self.watching = False, again

    def insist(self, on: bool) -> None:
        """Whether the watchdog waits for something to be over, so that each alarm goes off."""
        self._insists = on

    def ring(self) -> None:
        """Without the lock. Thread: any."""
        self._ring()
