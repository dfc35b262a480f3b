"""A thread of the pool, as the scheduler sees it."""

from __future__ import annotations

import threading
from collections import deque
from typing import Protocol

from .task import Task


class _Permits(Protocol):
    """What a worker needs of the permits."""

    def hand_off(self, worker: Worker) -> None: ...


class Worker:
    """A thread of the pool, and whether it holds a permit."""

    __slots__ = (
        "_permits",
        "bell",
        "cpu_seen",
        "looking",
        "looks",
        "native_id",
        "parked",
        "permit",
        "seen",
        "task",
        "turn",
        "waited",
    )

    def __init__(self, permits: _Permits) -> None:
        self._permits = permits
        self.permit = True
        self.task: Task | None = None
        # It is in the poller. Changes under the lock: the watchdog goes by it.
        self.looking = False
        # What it ran and what shall be parked: settled together, with the lock taken once.
        self.parked: deque[Task] = deque()
        self.turn = 0  # counts tasks run
        self.seen = -1  # the turn in which the watchdog saw it last
        self.looks = 0  # further looks that found it in the same turn
        self.cpu_seen = 0.0  # its processor time at the first of them
        self.native_id = 0  # the kernel's number of the thread
        self.waited = False  # the present task waited in a call of ours
        self.bell = threading.Lock()
        self.bell.acquire()

    def give_way(self) -> None:
        self._permits.hand_off(self)

    def count_look(self) -> int:
        """How many looks in a row before this one have found it in its present turn. Thread: the
        watchdog's."""
        self.looks = self.looks + 1 if self.turn == self.seen else 0
        self.seen = self.turn
        return self.looks

    def ring(self) -> None:
        """Ends its rest, or its next one if it does not rest: it looks at the world anew.
        Thread: any."""
        try:
            self.bell.release()
        except RuntimeError:
            pass  # it has been rung already
