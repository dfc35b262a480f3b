"""What waits for one connection's `handle_info` and `handle_call`."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from . import _waits
from ._locks import process_lock
from ._timers import Timer
from .errors import MailboxFull


class Call:
    """A `Connection.call` on its way: the message, then what came of it."""

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

    def wait(self, timeout: float) -> bool:
        """Whether it has finished within `timeout` seconds (negative: no limit)."""
        if self._done.acquire(blocking=False):
            return True
        _waits.give_way()
        return self._done.acquire(timeout=timeout)


#: Of all mailboxes, so that whoever interrupts its holder can know that.
_lock = process_lock("mailbox")


class Mailbox:
    """Messages and calls in the order made; those with a delay as their time comes.

    Any thread may use it, also from where it has interrupted itself in here: each method bears
    that another puts something in at any point of it. Closed, it takes nothing more. What is the
    user's neither ends nor is compared under the lock.
    """

    __slots__ = ("_delayed", "_limit", "_queue", "closed")

    def __init__(self, limit: int | None, *, closed: bool = False) -> None:
        self._limit = limit
        self._queue: deque[Any] = deque()
        self._delayed: dict[object, Timer | None] = {}
        self.closed = closed

    def __len__(self) -> int:
        return len(self._queue) + len(self._delayed)

    def put(self, message: Any) -> bool:
        """False: closed. Raises MailboxFull."""
        with _lock:
            if not self.closed:
                self._room()
                self._queue.append(message)
            return not self.closed

    def _room(self) -> None:
        waiting = len(self._queue) + len(self._delayed)
        if self._limit is not None and waiting >= self._limit:
            raise MailboxFull(
                f"{waiting} messages wait for this connection, max_pending_messages is"
                f" {self._limit}; post less, or raise it"
            )

    def put_delayed(self, key: object) -> bool:
        """Keeps a place for a message whose time will come. As `put`."""
        with _lock:
            if not self.closed:
                self._room()
                self._delayed[key] = None
            return not self.closed

    def remember(self, key: object, timer: Timer) -> None:
        """The timer of a delayed message, so that `close` can tell it."""
        with _lock:
            if key in self._delayed:
                self._delayed[key] = timer

    def arrive(self, key: object, message: Any) -> bool:
        """A delayed message's time has come; False: closed meanwhile."""
        with _lock:
            if self.closed or key not in self._delayed:
                return False
            self._queue.append(message)
            del self._delayed[key]
            return True

    def take(self) -> Any:
        """The next one. Thread: the owner's. Raises IndexError: nothing waits."""
        with _lock:
            return self._queue.popleft()

    def waiting(self) -> int:
        """How many could be taken now."""
        return len(self._queue)

    def withdraw(self, call: Call) -> None:
        """Its caller waits no longer; if it has begun it goes on."""
        with _lock:
            queue = self._queue
            for place in range(len(queue)):
                if queue[place] is call:  # a message may have an `__eq__` of its own
                    del queue[place]
                    return

    def close(self) -> tuple[list[Call], list[Timer]]:
        """Drops what waits; the calls among it, and the timers to cancel."""
        with _lock:
            self.closed = True
            queue, self._queue = self._queue, deque()
            delayed, self._delayed = self._delayed, {}
        calls = [entry for entry in queue if isinstance(entry, Call)]
        return calls, [timer for timer in delayed.values() if timer is not None]


#: What a connection that ended without ever having had a mailbox has.
CLOSED = Mailbox(0, closed=True)
