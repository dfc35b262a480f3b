"""The status of a server: which changes each status allows, and the turn to make one."""

from __future__ import annotations

import threading
from collections import deque
from enum import Enum
from typing import Final

from .._base.latch import Latch
from .._base.locks import lock
from .._base.types import Status

#: Seconds between two looks whether the thread whose turn it is is there still.
_LOOK_S = 0.5


class Ask(Enum):
    """What is asked for."""

    START = "start"
    SUSPEND = "suspend"
    RESUME = "resume"
    DRAIN = "drain"
    STOP = "stop"


class Answer(Enum):
    """What becomes of it."""

    GO = "it is done"
    NOTHING = "there is nothing to do"
    NOT_RUNNING = "it needs a server that was started"
    ALREADY = "it was started already"


NEW: Final = "new"
RUNNING: Final = "running"
SUSPENDED: Final = "suspended"
DRAINING: Final = "draining"
STOPPING: Final = "stopping"
STOPPED: Final = "stopped"

_ASKS = (Ask.START, Ask.SUSPEND, Ask.RESUME, Ask.DRAIN, Ask.STOP)
_GO, _NOTHING, _NOT, _ALREADY = Answer.GO, Answer.NOTHING, Answer.NOT_RUNNING, Answer.ALREADY
_ROWS: dict[Status, tuple[Answer, ...]] = {
    NEW: (_GO, _NOT, _NOT, _NOTHING, _NOTHING),
    RUNNING: (_ALREADY, _GO, _NOTHING, _GO, _GO),
    SUSPENDED: (_ALREADY, _NOTHING, _GO, _GO, _GO),
    DRAINING: (_ALREADY, _NOTHING, _NOTHING, _NOTHING, _GO),
    STOPPING: (_ALREADY, _NOTHING, _NOTHING, _NOTHING, _GO),
    STOPPED: (_GO, _NOT, _NOT, _NOTHING, _NOTHING),
}
#: (status, what is asked for) -> what becomes of it.
ANSWERS = {
    (status, ask): answer
    for status, row in _ROWS.items()
    for ask, answer in zip(_ASKS, row, strict=True)
}


class Turns:
    """Who may change something: one at a time, in the order in which they came. No lock is held
    meanwhile; the turn of a thread that has died passes on. Thread: one made for the change."""

    __slots__ = ("_lock", "_owner", "_queue")

    def __init__(self) -> None:
        self._lock = lock("server.status")
        self._owner: threading.Thread | None = None
        self._queue: deque[tuple[threading.Thread, Latch]] = deque()

    def __enter__(self) -> None:
        mine = threading.current_thread(), Latch()
        try:
            with self._lock:
                self._queue.append(mine)
            while not self._take(mine):
                mine[1].wait(_LOOK_S)
        except BaseException:  # where no thread can be made it is the one that asked, and lives on
            self._leave(mine)
            raise

    def _take(self, mine: tuple[threading.Thread, Latch]) -> bool:
        with self._lock:
            if self._owner is not None and self._owner.is_alive():
                return False
            while self._queue[0] is not mine and not self._queue[0][0].is_alive():
                self._queue.popleft()
            if self._queue[0] is not mine:
                return False
            self._owner, _ = self._queue.popleft()
            return True

    def _leave(self, mine: tuple[threading.Thread, Latch]) -> None:
        with self._lock:
            if mine in self._queue:
                self._queue.remove(mine)
                return
            has_it = self._owner is mine[0]
        if has_it:
            self.__exit__()

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._owner = None
            following = self._queue[0][1] if self._queue else None
        if following is not None:
            following.open()


class Load:
    """How busy a server is.

    Attributes:
        free: threads that are not in a callback, those included that are not started yet.
        most: the bound of the threads.
        is_full: there are `max_connections`.
    """

    __slots__ = ("free", "is_full", "most")

    def __init__(self, free: int, most: int, is_full: bool) -> None:
        self.free, self.most, self.is_full = free, most, is_full
