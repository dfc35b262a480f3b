"""Messages and calls that wait for one connection's `handle_info` and `handle_call`."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from .._base import waits
from .._base.clock import Times
from .._base.locks import if_possible, process_lock
from .._scheduler.timers import Timer
from ..errors import MailboxFull


class Call:
    """A `Connection.call`: the message, then its result or exception."""

    __slots__ = ("_done", "error", "message", "result")

    def __init__(self, message: Any) -> None:
        self.message = message
        self.result: Any = None
        self.error: BaseException | None = None
        self._done = threading.Lock()
        self._done.acquire()

    def finish(self, result: Any, error: BaseException | None) -> None:
        """Thread: the connection's owner, once."""
        self.result, self.error = result, error
        self._done.release()

    def wait(self, times: Times, timeout: float) -> bool:
        """Whether it has finished within `timeout` seconds."""
        if self._done.acquire(blocking=False):
            return True
        waits.before_wait()
        return times.acquire(self._done, times.clock() + timeout)


#: One lock for all mailboxes, so that a thread can tell whether it holds it.
_lock = process_lock("mailbox")


class Mailbox:
    """Messages and calls in the order in which they were made; those with a delay when it is over.

    Thread: any. `put` may be called by code that has interrupted a thread with a lock. If the
    mailbox's lock is not free, that code goes on without it: each single step is safe, and the
    limit may be exceeded by one. A closed mailbox takes nothing more. User objects are neither
    freed nor compared under the lock, as that may run user code.
    """

    __slots__ = ("_delayed", "_limit", "_queue", "closed")

    def __init__(self, limit: int | None, *, closed: bool = False) -> None:
        self._limit = limit
        self._queue: deque[Any] = deque()
        self._delayed: dict[Timer, None] = {}
        self.closed = closed

    def __len__(self) -> int:
        return len(self._queue) + len(self._delayed)

    def put(self, message: Any) -> bool:
        """`False`: it is closed. Raises MailboxFull."""
        return if_possible(_lock, lambda: self._put(self._queue.append, message))

    def _put(self, put: Callable[[Any], object], what: Any) -> bool:
        if not self.closed:
            self._room()
            put(what)
        return not self.closed

    def _room(self) -> None:
        waiting = len(self._queue) + len(self._delayed)
        if self._limit is not None and waiting >= self._limit:
            raise MailboxFull(
                f"{waiting} messages wait for this connection already, which is the limit"
                " (max_pending_messages); post less, or raise it"
            )

    def put_delayed(self, timer: Timer) -> bool:
        """Counts a message that has a delay. As `put`."""
        return if_possible(_lock, lambda: self._put(self._delayed.setdefault, timer))

    def arrive(self, timer: Timer, message: Any) -> bool:
        """A message's delay is over; `False`: the mailbox was closed meanwhile."""
        with _lock:
            if self.closed or timer not in self._delayed:
                return False
            self._queue.append(message)
            del self._delayed[timer]
            return True

    def take(self) -> Any:
        """The next one. Thread: the owner's. Raises IndexError: nothing waits."""
        with _lock:
            return self._queue.popleft()

    def waiting(self) -> int:
        """How many could be taken now."""
        return len(self._queue)

    def withdraw(self, call: Call) -> None:
        """The caller does not wait any longer. A call that has begun goes on."""
        with _lock:
            queue = self._queue
            for place in range(len(queue)):
                if queue[place] is call:  # a message may have an `__eq__` of its own
                    del queue[place]
                    return

    def close(self) -> tuple[list[Call], list[Timer]]:
        """Drops what waits. Returns the calls among it, and the timers to cancel."""
        with _lock:
            self.closed = True
            queue, self._queue = self._queue, deque()
            delayed, self._delayed = self._delayed, {}
        return [entry for entry in list(queue) if isinstance(entry, Call)], list(delayed)


#: The mailbox of connections that have ended.
CLOSED = Mailbox(0, closed=True)
