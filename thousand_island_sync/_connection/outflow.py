"""What sends for all connections whose bytes wait, as their peers make room.

The facts. Bytes wait for a connection that may be parked, in a callback that lasts, or past its
last one; they must go out all the same, and no thread may wait for that.

Our decision: one task of the scheduler for all of them, with a poller of its own that tells which
have room (`_scheduler.write_poller`). It sends what goes without waiting, and gets the connection
run again when that changes what may be delivered to it. It looks a few times a second, while
anything waits, for peers that take nothing. It is made when the first bytes wait.

It never waits for the turn to send: whoever has it sends what waits himself, or tells when he gives
it back. (The quick way of a send tells nobody, and is over in a moment: it is tried again.)
"""

from __future__ import annotations

from typing import Protocol

from .._base.clock import FOREVER, Clock
from .._base.locks import lock
from .._scheduler.task import AGAIN, DONE, PARK, Task
from .._scheduler.write_poller import WritePoller, new_write_poller
from .._stream.send_buffer import SendBuffer
from .._stream.unsent_total import UnsentTotal

#: Seconds until who had no turn tries again, and how often.
_RETRY_S = 0.002
_TRIES = 10
#: The same where nobody tells that there is room.
_LOOK_S = 0.01


class _Scheduler(Protocol):
    """What it needs of the scheduler."""

    def add_uncounted(self, task: Task) -> None: ...
    def make_ready(self, task: Task) -> None: ...
    def forget(self, task: Task) -> None: ...


class Outflow:
    """Drives the send buffers of a run; `UnsentTotal.driver`. Thread: any.

    Args:
        total: their books.
        scheduler: runs the task.
        clock: gives seconds.
    """

    __slots__ = (
        "_clock",
        "_lock",
        "_next_look",
        "_over",
        "_poller",
        "_scheduler",
        "_task",
        "_total",
        "_tries",
        "_watched",
    )

    def __init__(self, total: UnsentTotal, scheduler: _Scheduler, clock: Clock) -> None:
        self._total = total
        self._scheduler = scheduler
        self._clock = clock
        self._lock = lock("outflow")
        self._over = False
        self._poller: WritePoller | None = None
        self._task: _OutflowTask | None = None
        self._next_look = 0.0
        self._watched: dict[int, SendBuffer] = {}
        self._tries: dict[int, int] = {}  # of those whose turn another thread has

    def watch(self, buffer: SendBuffer, fd: int, *, read: bool) -> None:
        with self._lock:
            if self._over or buffer.failure is not None:
                return
            idle = not self._watched
            self._watched[fd] = buffer
            begins = self._poller is None
            poller = self._open() if self._poller is None else self._poller
            try:
                poller.watch(fd, read=read)
            except OSError:
                self._tries[fd] = 0  # as if another thread had the turn: it is looked at
                idle = True
            task = self._task
        if begins:
            self._add()
        elif idle and task is not None:
            self._scheduler.make_ready(task)

    def _open(self) -> WritePoller:
        poller = self._poller = new_write_poller()
        self._task = _OutflowTask(self, poller.fileno())
        return poller

    def _add(self) -> None:
        task = self._task
        try:
            if task is not None:
                self._scheduler.add_uncounted(task)
        except RuntimeError:
            pass  # the server has stopped

    def unwatch(self, buffer: SendBuffer, fd: int) -> None:
        with self._lock:
            if self._watched.get(fd) is not buffer:
                return  # the number is another's by now
            del self._watched[fd]
            self._tries.pop(fd, None)
            if self._poller is not None:
                self._poller.forget(fd)

    def step(self, task: Task) -> int:
        """Sends what has room now; a verdict. Thread: the task's."""
        with self._lock:
            if self._over or task is not self._task or self._poller is None:
                return DONE
            ready = self._poller.ready()
            tried = [fd for fd, tries in self._tries.items() if fd not in ready]
        time_now = self._clock()
        looks = time_now >= self._next_look
        for fd in ready:
            self._drive(fd)
        for fd in tried:
            if looks or self._tries.get(fd, _TRIES) < _TRIES:
                self._drive(fd)
        if looks:
            self._next_look = min(self._total.look_at_all(), time_now + self._total.tick())
        with self._lock:
            task.deadline = self._when(task.fd)
        return AGAIN if ready else PARK

    def _drive(self, fd: int) -> None:
        buffer = self._watched.get(fd)
        if buffer is None:
            return
        done = buffer.drive()
        with self._lock:
            if done is None:
                self._tries[fd] = self._tries.get(fd, 0) + 1
            else:
                self._tries.pop(fd, None)

    def _when(self, fd: int) -> float:
        """When to look again, though nothing has come; with the lock."""
        if not self._watched:
            return FOREVER
        soon = any(tries < _TRIES for tries in self._tries.values())
        if fd < 0:
            return self._clock() + _LOOK_S
        return self._clock() + _RETRY_S if soon else self._next_look

    def begin_anew(self) -> None:
        """A step broke off: another task takes over."""
        with self._lock:
            before, task = self._poller, self._task
            if before is None or self._over:
                return
            poller = self._open()
            for fd in self._watched:
                poller.watch(fd, read=False)
        if task is not None:
            self._scheduler.forget(task)
        before.close()
        self._add()

    def close(self) -> None:
        """Nothing goes out any more. Idempotent."""
        with self._lock:
            self._over = True
            poller, self._poller = self._poller, None
            task, self._task = self._task, None
        if task is not None:
            self._scheduler.forget(task)
        if poller is not None:
            poller.close()


class _OutflowTask(Task):
    """The driver, as the scheduler runs it."""

    __slots__ = ("_outflow",)

    def __init__(self, outflow: Outflow, fd: int) -> None:
        super().__init__(fd)
        self._outflow = outflow
        self.write_edges = False

    def run(self) -> int:
        self.no_sample = True
        return self._outflow.step(self)

    def broke(self) -> None:
        self._outflow.begin_anew()

    def unwatched(self, error: OSError) -> None:
        self.deadline = 0.0
