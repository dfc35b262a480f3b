"""What sends for all connections whose bytes wait, as their peers make room.

The facts. Bytes wait for a connection that may be parked, in a callback that lasts, or past its
last one; they must go out all the same, and no thread may wait for that.

Our decision: one task of the scheduler for all of them, with a poller of its own that tells which
have room (`_scheduler.write_poller`). It sends what goes without waiting, and gets the connection
run again when that changes what may be delivered to it. It looks a few times a second, while
anything waits, for peers that take nothing. It is made when the first bytes wait.

Where the system has no room for that poller, for a descriptor in it, or for it in the scheduler's,
it looks by itself every few milliseconds: who waits must not fare worse for it.

It never waits for the turn to send: whoever has it sends what waits himself, or tells when he gives
it back. (The quick way of a send tells nobody, and is over in a moment: it is tried again.)

Nothing of the user's is called for it. So where no thread of the pool is free to run the task, or
none can be started, the listener's thread does the same as it stands in (`_scheduler.stand_in`).
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

#: Seconds until who had no turn tries again, and how often.
_RETRY_S = 0.002
_TRIES = 10
#: The same where nobody tells that there is room.
_LOOK_S = 0.01
#: Rounds of whoever stands in, before it looks at the rest of what it does.
_ROUNDS = 16


class _Scheduler(Protocol):
    """What it needs of the scheduler."""

    def add_uncounted(self, task: Task) -> None: ...
    def make_ready(self, task: Task) -> None: ...
    def forget(self, task: Task) -> None: ...
    def stands_in_for(self, call: Callable[[], object]) -> None: ...


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
        self._unadded = False  # the scheduler had no thread for it, and could start none
        self._refused = False  # the scheduler's poller has no room for ours
        self._next_look = 0.0
        self._watched: dict[int, SendBuffer] = {}
        self._tries: dict[int, int] = {}  # of those whose turn another thread has
        self._unpolled: set[int] = set()  # for whom the poller has no room
        self._readers: set[int] = set()  # whose sends wait for bytes, which others may read

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
        """With the lock. Whether there is no room for it any more: from now on it is looked at."""
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
            # No thread can be started, and none is there; or the server has stopped.
            with self._lock:
                self._unadded = self._task is task

    def unwatch(self, buffer: SendBuffer, fd: int) -> None:
        with self._lock:
            if self._watched.get(fd) is not buffer:
                return  # the number is another's by now
            del self._watched[fd]
            self._unpolled.discard(fd)
            self._readers.discard(fd)
            self._tries.pop(fd, None)
            if self._poller is not None:
                self._poller.forget(fd)

    def watches(self, buffer: SendBuffer) -> bool:
        """For servers that check themselves. Where it is over, nothing is to go out."""
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
        """The same, where no thread is free to run the task. Thread: the listener's."""
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
            # Amid a TLS handshake a send waits for the peer's answer. If the connection's owner has
            # read that, there is nothing to tell of any more.
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
        # Of edges there may be more; where there are none, it has room for as long as nobody sends.
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
        """When to look again, though nothing has come; with the lock."""
        if not self._watched:
            return FOREVER
        if any(tries < _TRIES for tries in self._tries.values()):
            return self._clock() + _RETRY_S
        return self._clock() + _LOOK_S if fd < 0 or self._unpolled else self._next_look

    def refuse(self) -> None:
        """The scheduler's poller has no room for ours. Thread: any, with the scheduler's lock."""
        self._refused = True

    def begin_anew(self) -> None:
        """A step broke off: another task takes over."""
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
        self._outflow.refuse()
