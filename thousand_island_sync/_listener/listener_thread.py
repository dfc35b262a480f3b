"""The listener's thread: the scheduler's watchdog, which also restarts dead acceptors."""

from __future__ import annotations

import select
import time
from collections.abc import Callable

from .._base import waits
from .._base.clock import now, wait_time
from .._base.supervised import Supervised
from .._base.wake_up import WakeUp
from .._scheduler import alarm as _alarm
from .._scheduler.alarm import Alarm, alarm_if_there_is_one
from .._scheduler.scheduler import Scheduler
from .listener import Listener

#: Between two checks whether all acceptors live, in seconds.
_LOOK_S = 1.0


class ListenerThread:
    """Of one run. Its descriptors are opened before it begins, and closed when it has ended.

    Args:
        name: prefix of the thread's name.
    """

    _scheduler: Scheduler
    _listener: Listener
    _wake_up: WakeUp

    def __init__(self, name: str) -> None:
        self._name = f"{name}-listener"
        self._thread: Supervised | None = None
        self._over = False
        self._begun = False
        self._looked_at = 0.0
        self._alarm: Alarm | None = None

    def open(self) -> None:
        """Raises OSError: no descriptor is free."""
        self._wake_up = WakeUp()
        self._alarm = alarm_if_there_is_one()

    def start(self, scheduler: Scheduler, listener: Listener) -> None:
        """Begins to look after both.

        Raises:
            RuntimeError: no thread can be started.
        """
        self._scheduler, self._listener = scheduler, listener
        # Set first: `stop` must find it even if the start is interrupted.
        self._thread = Supervised(self._run, self._name)
        self._thread.start()

    def wake(self) -> None:
        """Thread: any."""
        self._wake_up.wake()
        if self._thread is not None:
            self._thread.ensure()

    def stop(self, until: float, blocked: Callable[[int], bool]) -> bool:
        """`False`: it has not ended in time. See `Supervised.wait`."""
        self._over = True
        thread = self._thread
        if thread is None or thread.give_up():
            self.close()
            return True
        self._wake_up.wake()
        return thread.wait(until, blocked)

    def close(self) -> None:
        """After it has ended, or if it never began. May be called more than once."""
        wake_up: WakeUp | None = getattr(self, "_wake_up", None)
        if wake_up is not None:
            wake_up.close()
        alarm = self._alarm
        if alarm is not None:
            alarm.close()  # before `None` is set: if interrupted, the next call closes it
            self._alarm = None

    def _run(self) -> None:
        """Thread: its own."""
        waits.this_thread_is(waits.OwnThread())
        scheduler = self._scheduler
        scheduler.use_alarm(self._alarm)
        if self._begun:
            scheduler.interrupted()
        self._begun = True
        try:
            while not self._over:
                timeout = scheduler.tend()
                if not scheduler.attended():
                    self._listener.look_again()  # no thread of the pool accepts
                self._look_at_acceptors()
                if timeout and not self._over:
                    self._wait(timeout)
        finally:
            scheduler.use_alarm(None)  # from now on a run rings instead
        scheduler.tend()  # a last look, for the end of a saturation
        self.close()

    def _look_at_acceptors(self) -> None:
        """Once a second at most, when it is awake."""
        if now() >= self._looked_at + _LOOK_S:
            self._looked_at = now()
            self._listener.ensure_acceptors()

    def _wait(self, timeout: float) -> None:
        stand_in = self._scheduler.stand_in_fileno()
        if timeout <= _alarm.CALM_TICK and stand_in is None:
            # Ticking: the wake-up can wait for a tick, and sleeping is one call.
            time.sleep(timeout)
            return
        poller = select.poll()
        poller.register(self._wake_up.fileno(), select.POLLIN)
        if self._alarm is not None:
            poller.register(self._alarm.fileno(), select.POLLIN)
        if stand_in is not None:
            poller.register(stand_in, select.POLLIN)
        most = wait_time(timeout)
        poller.poll(None if most is None else most * 1000)
        self._wake_up.clear()
        if self._alarm is not None:
            self._alarm.hush()
