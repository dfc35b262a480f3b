"""Who must come for what has changed in the queue or among the permits, and waking them.

Two things happen in one way each, so that nobody is forgotten: a task comes into the queue by
`RunQueue.put`, and a permit leaves a thread by `Permits.give_up`. (But a thread with a permit
that looks, or runs what is ready, puts tasks there as they come: it goes on with them itself.)
Both are given the `Calls` of a change, which is entered so, around the lock:

    with rousing as calls, lock:
        queue.put(calls, (task,))

Both note there whom they call, with the lock; `Rousing` wakes them without it. What raises inside,
as an asynchronous exception may between any two steps, is put right.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from .._base.locks import if_free
from .errands import Errands
from .task import Task
from .worker import Worker


class _Queue(Protocol):
    """What is known here of the run queue."""

    sleepers: int


class _Table(Protocol):
    """What is known here of all tasks."""

    def is_over(self) -> bool: ...


class _Permits(Protocol):
    """What is known here of the permits."""

    free: int

    def are_held(self) -> bool: ...
    def employ(self) -> Worker | None: ...


class _Workers(Protocol):
    """What is known here of the threads."""

    def wake(self, worker: Worker, tasks: tuple[Task, ...]) -> bool: ...
    def dismiss(self) -> None: ...


class Calls:
    """Who was called and is to be woken. With the lock, inside `Rousing`, but for taking."""

    __slots__ = ("_heirs", "_listener", "_permits", "_queue", "_sleeper", "_table", "pending")

    def __init__(self, queue: _Queue, table: _Table, permits: _Permits) -> None:
        self._queue = queue
        self._table = table
        self._permits = permits
        self._heirs: deque[Worker] = deque()  # who got a permit
        self._sleeper = False  # one who waits in the poller
        self._listener = False  # the listener's thread, for there is no other
        #: Somebody was called. It is set after that is noted, and cleared before that is looked at.
        self.pending = False

    def somebody(self) -> None:
        """One who waits in the poller comes to what is ready, else who gets a free permit. Where
        all are held and nobody waits, one of the holders will look."""
        if self._queue.sleepers > 0:
            self._sleeper = True
            self.pending = True
        elif self._permits.free:
            self.heir()

    def heir(self, *, else_listener: bool = True) -> None:
        """Who gets a free permit, unless all is over. What is ready then was forgotten in the
        queue (`RunQueue.forget`), and each thread that came for it would call the next."""
        if self._table.is_over():
            return
        heir = self._permits.employ()
        if heir is not None:
            self._heirs.append(heir)
            self.pending = True
        elif else_listener and not self._permits.are_held():
            self._listener = True
            self.pending = True

    def for_timer(self, is_next: bool) -> None:
        """Somebody must look in time for a timer that was started, perhaps the next one now."""
        if is_next and self._queue.sleepers > 0:
            self._sleeper = True
            self.pending = True
        elif not self._permits.are_held():
            self._listener = True
            self.pending = True

    def has(self, worker: Worker) -> bool:
        return worker in self._heirs

    def start_a_thread(self) -> bool:
        """Whether one of those is new."""
        return not all(heir.turn for heir in list(self._heirs))

    def take_sleeper(self) -> bool:
        called, self._sleeper = self._sleeper, False
        return called

    def take_listener(self) -> bool:
        called, self._listener = self._listener, False
        return called

    def take_heir(self) -> Worker | None:
        try:
            return self._heirs.popleft() if self._heirs else None
        except IndexError:  # another thread wakes it
            return None


class Rousing:
    """A context manager around the lock, see above; it wakes whoever was called.

    Args:
        lock: the scheduler's.
        errands: for what must not be done here and now.
        ring: wakes the listener's thread.
        wake: wakes a thread that waits in the poller.
        broken_off: an exception came inside; without the lock.
    """

    __slots__ = ("_errands", "_ring", "_wake", "_workers", "broken_off", "calls", "lock")

    def __init__(
        self,
        lock: Any,
        errands: Errands,
        ring: Callable[[], None],
        wake: Callable[[], None],
        broken_off: Callable[[], None],
    ) -> None:
        #: Guards the books of a scheduler.
        self.lock = lock
        self._errands = errands
        self._ring = ring
        self._wake = wake
        #: An exception came inside; without the lock.
        self.broken_off = broken_off
        #: What `with` gives.
        self.calls: Calls
        self._workers: _Workers

    def serve(self, calls: Calls, workers: _Workers) -> None:
        """Who is called, and who wakes them. Before any other call."""
        self.calls = calls
        self._workers = workers

    def __enter__(self) -> Calls:
        return self.calls

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        if kind is not None:
            self.broken_off()
        elif self.calls.pending:
            self.rouse()

    def if_free(self, change: Callable[[Calls], object]) -> bool:
        """A change that interrupting code may ask for, with the lock (`_base.locks.if_free`).
        False: it may not be waited for."""
        try:
            changed = if_free(self.lock, lambda: change(self.calls))
            if changed:
                self._rouse_no_new_one()
            return changed
        except BaseException:
            self.broken_off()
            raise

    def rouse(self, tasks: tuple[Task, ...] = ()) -> bool:
        """Without the lock: wakes who was called, by whomever. False: one was to run these
        `tasks` first and could not be started, and they are taken back, for there is no other."""
        try:
            return self.wake_called(tasks)
        except BaseException:
            self.broken_off()
            raise

    def dismiss(self) -> None:
        """Nothing will come any more: every thread may end. Without the lock."""
        self._workers.dismiss()

    def _rouse_no_new_one(self) -> None:
        """As `rouse`, but no thread is started: one that begins takes locks of the standard
        library's, which who was interrupted may have."""
        if self.calls.start_a_thread():
            self._errands.leave(self.rouse)
        elif self.calls.pending:
            self.rouse()

    def wake_called(self, tasks: tuple[Task, ...] = ()) -> bool:
        """As `rouse`; what it raises is the caller's matter."""
        calls, started = self.calls, True
        calls.pending = False
        if calls.take_sleeper():
            self._wake()
        while (heir := calls.take_heir()) is not None:
            started = self._workers.wake(heir, tasks) and started
        if calls.take_listener():
            self._ring()  # it stands in
        return started
