"""The status of a server: what may be asked for in which, and whose turn it is to change it."""

from __future__ import annotations

from collections import deque
from enum import Enum

from ._latch import Latch
from ._locks import lock


class Ask(Enum):
    """What is asked for."""

    START = "start"
    SUSPEND = "suspend"
    RESUME = "resume"
    STOP = "stop"


class Answer(Enum):
    """What becomes of it."""

    GO = "it is done"
    NOTHING = "there is nothing to do"
    NOT_RUNNING = "it needs a server that was started"
    ALREADY = "it was started already"


NEW, RUNNING, SUSPENDED, STOPPING, STOPPED = "new", "running", "suspended", "stopping", "stopped"
#: In these a server has a run.
STARTED = frozenset({RUNNING, SUSPENDED, STOPPING})

_ASKS = (Ask.START, Ask.SUSPEND, Ask.RESUME, Ask.STOP)
_GO, _NOTHING, _NOT, _ALREADY = Answer.GO, Answer.NOTHING, Answer.NOT_RUNNING, Answer.ALREADY
_ROWS = {
    NEW: (_GO, _NOT, _NOT, _NOTHING),
    RUNNING: (_ALREADY, _GO, _NOTHING, _GO),
    SUSPENDED: (_ALREADY, _NOTHING, _GO, _GO),
    STOPPING: (_ALREADY, _NOTHING, _NOTHING, _GO),
    STOPPED: (_GO, _NOT, _NOT, _NOTHING),
}
#: (status, what is asked for) -> what becomes of it.
ANSWERS = {
    (status, ask): answer
    for status, row in _ROWS.items()
    for ask, answer in zip(_ASKS, row, strict=True)
}


class Turns:
    """Who may change something: one at a time, in the order in which they came. No lock is held
    meanwhile. Thread: one that was made for the change."""

    __slots__ = ("_lock", "_queue", "_taken")

    def __init__(self) -> None:
        self._lock = lock("server.status")
        self._taken = False
        self._queue: deque[Latch] = deque()

    def __enter__(self) -> None:
        mine = Latch()
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            self._queue.append(mine)
        mine.wait()

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            if not self._queue:
                self._taken = False
                return
            following = self._queue.popleft()
        following.open()
