"""What any thread may ask of the scheduler, wherever it was interrupted.

A message is posted from a `__del__` or a signal's handler, too, in the middle of a stretch of ours
that holds a lock (`_base.locks`). Where the scheduler's may not be waited for, what is asked for is
left to another thread.
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
        """Runs the task soon, whatever its descriptor does. Ignored once it is over."""
        if not self._rousing.if_free(lambda calls: self._queue.make_ready(calls, task)):
            self._errands.leave(functools.partial(self.make_ready, task))

    def start(self, timer: Timer) -> None:
        """Calls its target, which must be quick, on a thread of the pool in time."""

        def change(calls: Calls) -> None:
            calls.for_timer(is_next=self._deadlines.start(timer))

        if not self._rousing.if_free(change):
            self._errands.leave(functools.partial(self.start, timer))

    def cancel(self, timer: Timer) -> None:
        """Not from everywhere: takes the lock."""
        call = timer.target  # it ends without the lock: with it ends what is the user's
        with self._rousing.lock:
            self._deadlines.cancel(timer)
        del call
