"""What any thread may ask of the scheduler, wherever it was interrupted.

A `__del__` or a signal handler may post a message, too, while the thread that it interrupts holds a
lock of the library (`_base.locks`). If the code must not wait for the scheduler's lock, the request
is left to another thread (`errands`).
"""

from __future__ import annotations

import functools

from .deadlines import Deadlines
from .errands import Errands
from .rousing import Calls, Rousing
from .run_queue import RunQueue
from .task import Task
from .timers import Timer


class Requests:
    """Every method may be called from anywhere."""

    __slots__ = ("_deadlines", "_errands", "_queue", "_rousing")

    def __init__(
        self, rousing: Rousing, queue: RunQueue, deadlines: Deadlines, errands: Errands
    ) -> None:
        self._rousing = rousing
        self._queue = queue
        self._deadlines = deadlines
        self._errands = errands

    def make_ready(self, task: Task) -> None:
        """Runs the task soon, without an event. Ignored once the task is over."""
        if not self._rousing.if_free(lambda calls: self._queue.make_ready(calls, task)):
            self._errands.leave(functools.partial(self.make_ready, task))

    def start(self, timer: Timer) -> None:
        """Has a thread of the pool call the target, which must not block, when the timer is due."""

        def change(calls: Calls) -> None:
            calls.for_timer(is_next=self._deadlines.start(timer))

        if not self._rousing.if_free(change):
            self._errands.leave(functools.partial(self.start, timer))

    def cancel(self, timer: Timer) -> None:
        """Takes the lock, so interrupting code must not call it."""
        call = timer.target  # freed after the lock is released: that may run user code
        with self._rousing.lock:
            self._deadlines.cancel(timer)
        del call
