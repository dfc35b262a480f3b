"""A thread of the pool, as the scheduler sees it."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Protocol

from .._base.compiled import native
from .task import Task


class _Permits(Protocol):
    """What a worker needs of the permits."""

    def hand_off(self, worker: Worker) -> None: ...


class Running:
    """What a thread of the pool runs.

    Attributes:
        ident: the thread's.
        turns: steps that it has begun: a new number means a new step.
        task: what is run.
        has_permit: whether others wait until its callback ends, or the watchdog takes the permit.
    """

    __slots__ = ("has_permit", "ident", "task", "turns")

    def __init__(self, ident: int, turns: int, task: Task, has_permit: bool) -> None:
        self.ident, self.turns = ident, turns
        self.task, self.has_permit = task, has_permit


class PythonWorker:
    """The fields of a `Worker` that each message needs; `_native.Worker` is its equal in C.

    Attributes:
        permit: whether it has one.
        task: what it runs.
        looking: whether it is in the poller. Changes under the lock; the watchdog relies on it.
        parked: what it ran and is to park: settled together, with the lock taken once.
        turn: counts the tasks that it has run, without the steps of stays.
        waited: whether the present task waited in a call of the library.
    """

    __slots__ = ("looking", "parked", "permit", "task", "turn", "waited")

    def __init__(self) -> None:
        self.parked: deque[Task] = deque()
        self.permit = True
        self.task: Task | None = None
        self.looking = self.waited = False
        self.turn = 0


if TYPE_CHECKING:
    WorkerCore = PythonWorker
else:
    WorkerCore = getattr(native, "Worker", PythonWorker)


class Worker(WorkerCore):
    """A thread of the pool, and whether it holds a permit."""

    __slots__ = ("_permits", "bell", "cpu_seen", "looks", "native_id", "seen", "stayed")

    def __init__(self, permits: _Permits) -> None:
        super().__init__()
        self._permits = permits
        self.stayed = 0  # counts steps of stays
        self.seen = -1  # the turn in which the watchdog saw it last
        self.looks = 0  # further looks that found it in the same turn
        self.cpu_seen = 0.0  # its processor time at the first of them
        self.native_id = 0  # the kernel's number of the thread
        self.bell = threading.Lock()
        self.bell.acquire()

    def hand_off(self) -> None:
        self._permits.hand_off(self)

    def turns(self) -> int:
        """All steps that it has begun."""
        return self.turn + self.stayed

    def count_look(self) -> int:
        """How many looks in a row before this one have found it in its present turn. Thread: the
        watchdog's."""
        turns = self.turns()
        self.looks = self.looks + 1 if turns == self.seen else 0
        self.seen = turns
        return self.looks

    def ring(self) -> None:
        """Ends its rest, or its next one if it does not rest: it then checks for work.
        Thread: any."""
        try:
            self.bell.release()
        except RuntimeError:
            pass  # it has been rung already
