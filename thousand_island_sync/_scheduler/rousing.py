"""Which threads a change in the queue or among the permits needs, and waking them.

So that no thread is forgotten, there is one way to put a task into the queue, `RunQueue.put`, and
one way for a permit to leave a thread, `Permits.give_up`. (Exception: a thread with a permit that
polls, or runs what is ready, puts tasks there directly, as it will run them itself.) Both get the
`Calls` of the change, which is entered around the lock:

    with rousing as calls, lock:
        queue.put(calls, (task,))

Both note there, with the lock, which thread is needed; `Rousing` wakes it after the lock is
released: a thread that woke earlier would only wait for the lock. If an exception comes inside, as
an asynchronous one may between any two steps, the books are repaired (`mending`).
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
    """The threads that are to be woken. With the lock, inside `Rousing`, except the `take_...`."""

    __slots__ = ("_heirs", "_listener", "_permits", "_queue", "_sleeper", "_table", "pending")

    def __init__(self, queue: _Queue, table: _Table, permits: _Permits) -> None:
        self._queue = queue
        self._table = table
        self._permits = permits
        self._heirs: deque[Worker] = deque()  # workers that got a permit
        self._sleeper = False  # whether to wake a thread that waits in the poller
        self._listener = False  # whether to wake the listener's thread: there is no other
        #: Whether a thread is to be woken. Set after it is noted, cleared before that is read.
        self.pending = False

    def somebody(self) -> None:
        """A thread that waits in the poller is to come for what is ready, else one that gets a
        free permit. If all permits are held and no thread waits, a holder will look."""
        if self._queue.sleepers > 0:
            self._sleeper = True
            self.pending = True
        elif self._permits.free:
            self.heir()

    def heir(self, *, else_listener: bool = True) -> None:
        """A thread gets a free permit, unless all is over. In that case the ready tasks are
        forgotten ones (`RunQueue.forget`), and each thread that came would call the next."""
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
        """A timer was started: a thread must poll no longer than until it is due."""
        if is_next and self._queue.sleepers > 0:
            self._sleeper = True
            self.pending = True
        elif not self._permits.are_held():
            self._listener = True
            self.pending = True

    def has(self, worker: Worker) -> bool:
        return worker in self._heirs

    def start_a_thread(self) -> bool:
        """Whether one of the heirs is a new thread."""
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
    """A context manager around the lock, see above; at its exit it wakes the threads called for.

    Args:
        lock: the scheduler's.
        errands: for calls that this thread must not make now.
        ring: wakes the listener's thread.
        wake: wakes a thread that waits in the poller.
        broken_off: called if an exception came inside; without the lock.
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
        #: Called if an exception came inside; without the lock.
        self.broken_off = broken_off
        #: What `with` gives.
        self.calls: Calls
        self._workers: _Workers

    def serve(self, calls: Calls, workers: _Workers) -> None:
        """Sets where calls are noted, and what wakes the threads. Before any other call."""
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
        """Makes a change that interrupting code asks for, with the lock (`_base.locks.if_free`).
        `False`: the lock was not free, and must not be waited for."""
        try:
            changed = if_free(self.lock, lambda: change(self.calls))
            if changed:
                self._rouse_no_new_one()
            return changed
        except BaseException:
            self.broken_off()
            raise

    def rouse(self, tasks: tuple[Task, ...] = ()) -> bool:
        """Without the lock: wakes all threads that were called for, by any thread. `False`: as
        `Workers.wake`, for these `tasks`."""
        try:
            return self.wake_called(tasks)
        except BaseException:
            self.broken_off()
            raise

    def dismiss(self) -> None:
        """No task is left, nor will be added: every thread may end. Without the lock."""
        self._workers.dismiss()

    def _rouse_no_new_one(self) -> None:
        """As `rouse`, but starts no thread: a start takes locks of the standard library, which
        the interrupted code may hold."""
        if self.calls.start_a_thread():
            self._errands.leave(self.rouse)
        elif self.calls.pending:
            self.rouse()

    def wake_called(self, tasks: tuple[Task, ...] = ()) -> bool:
        """As `rouse`; if it raises, the caller has the books repaired."""
        calls, started = self.calls, True
        calls.pending = False
        if calls.take_sleeper():
            self._wake()
        while (heir := calls.take_heir()) is not None:
            started = self._workers.wake(heir, tasks) and started
        if calls.take_listener():
            self._ring()  # it stands in
        return started
