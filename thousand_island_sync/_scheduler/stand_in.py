"""Standing in: what the listener's thread does while no thread of the pool has a permit.

All of them are in callbacks, and the permit is free. No other thread would see new events; so the
listener's thread polls and keeps the deadlines, but runs no user code. The first thread to finish
its callback takes over. Calls of the library that must not wait for that (`serve`) it makes itself.
"""

from __future__ import annotations

from collections.abc import Callable

from .._base.clock import FOREVER
from . import alarm
from .deadlines import Deadlines
from .permits import Permits
from .registrations import Registrations
from .run_queue import RunQueue
from .task_table import TaskTable
from .watchdog_timer import WatchdogTimer

#: Between two looks while a ready connection waits for a thread.
_SATURATED_TICK = 0.01


class StandIn:
    """Thread: the listener's."""

    __slots__ = (
        *("_calls", "_deadlines", "_permits", "_queue", "_registrations", "_table"),
        "_timer",
    )

    def __init__(
        self,
        queue: RunQueue,
        table: TaskTable,
        permits: Permits,
        registrations: Registrations,
        deadlines: Deadlines,
        watchdog_timer: WatchdogTimer,
    ) -> None:
        self._queue = queue
        self._table = table
        self._permits = permits
        self._registrations = registrations
        self._deadlines = deadlines
        self._timer = watchdog_timer
        self._calls: tuple[Callable[[], object], ...] = ()

    def serve(self, call: Callable[[], object]) -> None:
        """Has `call` called after each poll; giving it twice changes nothing. It must not wait, nor
        run user code. Thread: any."""
        if call not in self._calls:
            self._calls = (*self._calls, call)

    def is_needed(self) -> bool:
        """With the lock. Timers are kept even if there is no task and no thread."""
        if self._permits.are_held():
            return False
        waits = self._deadlines.left() != FOREVER and not self._table.closing
        return waits or not self._table.is_empty()

    def poll(self) -> bool:
        """Puts what has events into the queue. `False`: there is no poller any more."""
        try:
            self._queue.poll_once()
        except (OSError, ValueError):
            return False  # the last thread has just left, and closed it
        for call in self._calls:
            call()
        return True

    def next_look(self) -> float:
        """With the lock. Seconds; `FOREVER`: when there is something to poll."""
        # After `again=True` it must look by itself: no other thread rings for it.
        held, ready = self._permits.are_held(), self._queue.has_ready()
        self._timer.looks(again=held or ready)
        if held:
            return alarm.TICK
        if ready or self._registrations.fileno() is None:
            return _SATURATED_TICK
        left = self._deadlines.left()
        return FOREVER if left == FOREVER else max(alarm.TICK, left)

    def fileno(self) -> int | None:
        """Readable when there is something to `poll`; `None`: the poller has no descriptor."""
        return self._registrations.fileno()
