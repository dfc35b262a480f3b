"""Sends the waiting bytes of all connections, as their peers make room.

The facts. A connection whose bytes wait may be parked, in a long callback, or after its last
callback. The bytes must be sent all the same, and no thread may wait for that.

Our decision: one task of the scheduler does it for all of them, with a poller of its own that
reports which have room (`_scheduler.write_poller`). The task sends without waiting, and has the
connection run again when that changes what may be delivered to it. While bytes wait, it checks a
few times a second for peers that take nothing. It is made when the first bytes wait.

If the system has no room for that poller, for a descriptor in it, or for it in the scheduler's
poller, the task tries to send every few milliseconds instead.

It never waits for the turn to send: the thread that has the turn sends what waits, or calls `watch`
when it gives the turn back. (The quick way of a send does not, but is over in a moment: then the
task tries again.)

The task runs no user code. So if no thread of the pool is free to run it, or none can be started,
the listener's thread does its work while it stands in (`_scheduler.stand_in`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .._base.clock import FOREVER, Clock
from .._base.locks import lock
from .._scheduler.task import AGAIN, DONE, PARK, Task
from .._scheduler.write_poller import LookedAt, WritePoller, new_write_poller
from .._stream.send_buffer import SendBuffer
from .._stream.unsent_total import UnsentTotal

#: Seconds until the task tries again for a turn that was not free, and how often.
_RETRY_S = 0.002
_TRIES = 10
#: Seconds between two tries if no event reports room.
_LOOK_S = 0.01
#: Rounds of the listener's thread in a row, before its other work.
_ROUNDS = 16


class _Scheduler(Protocol):
    """What the outflow needs of the scheduler."""

    def add_uncounted(self, task: Task) -> None: ...
    def make_ready(self, task: Task) -> None: ...
    def forget(self, task: Task) -> None: ...
    def stands_in_for(self, call: Callable[[], object]) -> None: ...


class Outflow:
    """Drives the send buffers of a run; `UnsentTotal.driver`. Thread: any.

    Args:
        total: the books of all send buffers.
        scheduler: runs the task.
        clock: gives seconds.
    """

    __slots__ = (
        "_clock",
        "_lock",
        "_next_look",
        "_over",
        "_poller",
        "_readers",
        "_refused",
        "_scheduler",
        "_task",
        "_total",
        "_tries",
        "_unadded",
        "_unpolled",
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
        self._unadded = False  # the scheduler could not take the task, for want of a thread
        self._refused = False  # the scheduler's poller has no room for this one
        self._next_look = 0.0
        self._watched: dict[int, SendBuffer] = {}
        self._tries: dict[int, int] = {}  # for each whose turn another thread had
        self._unpolled: set[int] = set()  # those for which the poller has no room
        self._readers: set[int] = set()  # TLS must read first; the owner may read that

    def watch(self, buffer: SendBuffer, fd: int, *, read: bool) -> None:
        with self._lock:
            if self._over or buffer.failure is not None:
                return
            idle = not self._watched
            self._watched[fd] = buffer
            begins = self._poller is None or self._unadded
            poller = self._open_poller() if self._poller is None else self._poller
            idle = self._put_in(poller, fd, read) or idle
            task = self._task
        if begins:
            self._add_task()
        elif idle and task is not None:
            self._scheduler.make_ready(task)

    def _put_in(self, poller: WritePoller, fd: int, read: bool) -> bool:
        """With the lock. Whether the poller has newly no room for it, so that the task must try."""
        if read:
            self._readers.add(fd)
        else:
            self._readers.discard(fd)
        try:
            poller.watch(fd, read=read)
        except OSError:
            news = fd not in self._unpolled
            self._unpolled.add(fd)
            return news
        self._unpolled.discard(fd)
        return False

    def _open_poller(self) -> WritePoller:
        """With the lock."""
        try:
            poller = self._poller = LookedAt() if self._refused else new_write_poller()
        except OSError:  # no descriptor is left
            poller = self._poller = LookedAt()
        self._task = _OutflowTask(self, poller.fileno())
        return poller

    def _add_task(self) -> None:
        self._scheduler.stands_in_for(self.stand_in)
        with self._lock:
            task, self._unadded = self._task, False
        if task is None:
            return  # it is over
        try:
            self._scheduler.add_uncounted(task)
        except RuntimeError:
            # There is no thread and none can be started; or the server has stopped.
            with self._lock:
                self._unadded = self._task is task

    def unwatch(self, buffer: SendBuffer, fd: int) -> None:
        with self._lock:
            if self._watched.get(fd) is not buffer:
                return  # the number is another connection's by now
            del self._watched[fd]
            self._unpolled.discard(fd)
            self._readers.discard(fd)
            self._tries.pop(fd, None)
            if self._poller is not None:
                self._poller.forget(fd)

    def watches(self, buffer: SendBuffer) -> bool:
        """For debug mode. After `close` nothing is sent, so the answer is `True`."""
        with self._lock:
            return self._over or any(one is buffer for one in self._watched.values())

    def step(self, task: Task) -> int:
        """Sends what has room now; a verdict. Thread: the task's."""
        more = self._send_what_goes(task)
        if more is None:
            return DONE
        with self._lock:
            task.deadline = self._when(task.fd)
        return AGAIN if more else PARK

    def stand_in(self) -> None:
        """The same, if no thread is free to run the task. Thread: the listener's."""
        with self._lock:
            task = self._task
            if task is None or not self._watched:
                return
            unadded = self._unadded
        if unadded:
            self._add_task()
        try:
            for _ in range(_ROUNDS):
                if not self._send_what_goes(task):
                    break
        except BaseException:
            self.begin_anew()
            raise

    def _send_what_goes(self, task: Task) -> bool | None:
        """Whether there may be more; `None`: the task is over."""
        with self._lock:
            if self._over or task is not self._task or self._poller is None:
                return None
            refused = self._refused and task.fd >= 0
            ready = [] if refused else self._poller.ready()
            # In a TLS handshake a send waits for the peer's answer. If the connection's owner has
            # read that, no event will come.
            tried = {*self._tries, *self._unpolled, *self._readers}.difference(ready)
        if refused:
            self.begin_anew()
            return None
        time_now = self._clock()
        looks = time_now >= self._next_look
        went = [self._drive(fd) for fd in ready]
        for fd in tried:
            if looks or fd in self._unpolled or self._tries.get(fd, _TRIES) < _TRIES:
                self._drive(fd)
        if looks:
            self._next_look = min(self._total.look_at_next(), time_now + self._total.tick())
        # With edges there may be more. Without them a descriptor stays ready until a send.
        return any(went) or bool(ready and task.fd >= 0)

    def _drive(self, fd: int) -> bool:
        """Whether this thread had the turn to send."""
        buffer = self._watched.get(fd)
        if buffer is None:
            return False
        done = buffer.drive()
        with self._lock:
            if done is None and self._watched.get(fd) is buffer:
                self._tries[fd] = self._tries.get(fd, 0) + 1
            else:
                self._tries.pop(fd, None)
        return done is not None

    def _when(self, fd: int) -> float:
        """When to run again without an event; with the lock."""
        if not self._watched:
            return FOREVER
        if any(tries < _TRIES for tries in self._tries.values()):
            return self._clock() + _RETRY_S
        return self._clock() + _LOOK_S if fd < 0 or self._unpolled else self._next_look

    def refuse(self) -> None:
        """The scheduler's poller has no room for it. Thread: any, with the scheduler's lock."""
        self._refused = True

    def begin_anew(self) -> None:
        """A step was interrupted: a new task takes over."""
        with self._lock:
            before, task = self._poller, self._task
            if before is None or self._over:
                return
            poller = self._open_poller()
            for fd in self._watched:
                self._put_in(poller, fd, False)
            try:
                before.ready()
            except (OSError, ValueError):
                before.lose()
                before = None
        if task is not None:
            self._scheduler.forget(task)
        if before is not None:
            before.close()
        self._add_task()

    def close(self) -> None:
        """Nothing is sent any more. It may be called twice."""
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
        self._outflow.refuse()
