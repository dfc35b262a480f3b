"""The pool: threads, and the permits to take work that they pass among themselves.

See the essay in `_scheduler`. Here is who holds a permit, who gets one that was given
away, and how a thread begins, rests and ends.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from ._alarm import Alarm
from ._clock import FOREVER, Clock, now
from ._locks import lock
from ._poller import Poller
from ._task import Task
from ._tendency import HAND_OVER_COST, SAMPLE_EVERY, Tendency
from ._timers import Timers
from ._trial import Trial

#: A thread that had nothing to do for this long ends.
_IDLE_S = 30.0
#: Tasks that a thread runs between two looks; where other threads look, too.
_BATCH, _SHARED_BATCH = 64, 4


class Saturation(Protocol):
    """Told by the listener's thread when a ready connection finds no thread, and when
    that is over."""

    def __call__(self, saturated: bool, busy_threads: int, waiting: int, /) -> None: ...


class Worker:
    """A thread of the pool, and whether it holds a permit."""

    __slots__ = (
        "bell",
        "cpu_seen",
        "looking",
        "looks",
        "native_id",
        "parked",
        "permit",
        "pool",
        "seen",
        "task",
        "turn",
        "waited",
    )

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.permit = True
        self.task: Task | None = None
        # It is in the poller. Changes under the lock: the stall watch goes by it.
        self.looking = False
        # What it ran and what shall be parked: settled together, with the lock taken once.
        self.parked: deque[Task] = deque()
        self.turn = 0  # counts tasks run
        self.seen = -1  # the turn in which the stall watch saw it last
        self.looks = 0  # further looks that found it in the same turn
        self.cpu_seen = 0.0  # its processor time at the first of them
        self.native_id = 0  # the kernel's number of the thread
        self.waited = False  # the present task waited in a call of ours
        self.bell = threading.Lock()
        self.bell.acquire()

    def give_way(self) -> None:
        self.pool._hand_over(self)


def default_permits() -> int:
    """As many threads as can run Python at once."""
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        return 1
    return os.cpu_count() or 1


class Pool:
    """The fields of a scheduler, and its threads.

    Args:
        poller: reports ready descriptors; closed by the pool.
        max_threads: the bound of the pool.
        name: prefix of the threads' names.
        ring: wakes the thread that calls `tend`.
        saturation: told when the pool is saturated and when it is relieved.
    """

    __slots__ = (
        "_alarm",
        "_alarm_may_stop",
        "_alarm_set_at",
        "_alone",
        "_batch",
        "_bound",
        "_calm",
        "_clock",
        "_closing",
        "_count",
        "_doors",
        "_free",
        "_holders",
        "_idle",
        "_last_found",
        "_left_over",
        "_lock",
        "_made",
        "_name",
        "_next_timer",
        "_permits",
        "_poller",
        "_poller_closed",
        "_ready",
        "_relief",
        "_ring",
        "_sample_mask",
        "_saturated",
        "_seen_at",
        "_seen_cpu",
        "_seen_turns",
        "_sleepers",
        "_stay_pays",
        "_stays",
        "_tasks",
        "_tell",
        "_threads",
        "_timers",
        "_trial",
        "_unlooked",
        "_watching",
        "tendency",
    )

    def __init__(
        self,
        poller: Poller,
        *,
        max_threads: int,
        name: str,
        ring: Callable[[], None],
        saturation: Saturation,
        permits: int | None = None,
        clock: Clock = now,
    ) -> None:
        self._poller = poller
        self._bound = max_threads
        self._name = name
        self._ring = ring
        self._tell = saturation
        self._clock = clock
        self._permits = default_permits() if permits is None else permits
        self._sample_mask = SAMPLE_EVERY - 1
        self._batch = _BATCH if self._permits == 1 else _SHARED_BATCH

        self._lock = lock("scheduler")
        self._left_over: deque[Callable[[], None]] = deque()
        # All below is guarded by the lock, but for taking from the ready queue.
        self._ready: deque[Task] = deque()
        self._tasks: dict[int, Task] = {}
        self._doors: list[Task] = []  # tasks that are no connections
        self._timers = Timers()
        self._next_timer = FOREVER
        self.tendency = Tendency()
        self._trial = Trial(self.tendency)
        self._free = self._permits
        self._holders: list[Worker] = []
        self._idle: list[Worker] = []
        self._last_found = -1  # the descriptor that the last look made ready
        self._alone = 0  # looks in a row that found that one and nothing else
        self._stays = 0  # how often a thread might have stayed, see `_staying`
        self._stay_pays = 1.0  # the share of stays that brought bytes
        self._threads: dict[Worker, threading.Thread] = {}
        self._count = 0  # threads, those about to start included
        self._made = 0
        self._sleepers = 0  # threads that wait in the poller
        self._unlooked = 0  # tasks that were run since the last look
        self._watching = False  # the watch looks again by itself, or an alarm is set for it
        self._alarm: Alarm | None = None
        self._alarm_set_at = -FOREVER
        self._alarm_may_stop = False
        self._seen_turns = -1
        self._calm = 0  # looks in a row that found nothing to suspect
        self._seen_at = self._seen_cpu = 0.0
        self._saturated = False
        self._relief = 0  # looks in a row that found a thread to spare
        self._closing = False
        self._poller_closed = False

    def _work(self, worker: Worker) -> None:
        """The life of a pool thread."""
        raise NotImplementedError

    def _settle(self, worker: Worker) -> None:
        """With the lock: parks what the worker has run."""
        raise NotImplementedError

    def _sample_as_needed(self) -> None:
        """With the lock. Where the class tends to block, every callback is looked at."""
        tends = self.tendency.average > HAND_OVER_COST
        self._sample_mask = 0 if tends else SAMPLE_EVERY - 1

    def counts(self) -> tuple[int, int, int]:
        """Threads, busy threads, ready tasks that no thread has come to. O(1), without the
        lock: about, where they change at this moment."""
        return self._count, self._busy(), self._unserved()

    def soon(self, call: Callable[[], None]) -> None:
        """Has the listener's thread call it: for whoever must not wait. Thread: any, wherever
        it was interrupted."""
        self._left_over.append(call)
        self._ring()

    def _unserved(self) -> int:
        """Connections among the ready tasks; about, while a door is run."""
        doors = sum(door.owned for door in self._doors)
        return max(0, len(self._ready) - doors)

    def _busy(self) -> int:
        """Threads that neither rest nor wait in the poller."""
        return max(0, self._count - len(self._idle) - self._sleepers)

    def attended(self) -> bool:
        """Whether a thread looks at what comes, or will when its callback is over or is seen
        to stand still. A hint: without the lock."""
        return bool(self._holders)

    def threads(self) -> list[threading.Thread]:
        with self._lock:
            return list(self._threads.values())

    def reinforce(self) -> None:
        """Starts a thread beyond the bound if a ready task finds none (in a stop)."""
        with self._lock:
            if not (self._ready and self._free and not self._holders):
                return
            self._bound = max(self._bound, self._count + 1)
            heir = self._employ()
        if heir is not None:
            self._wake(heir)

    def close(self) -> None:
        """No task will be added any more; threads end when the last task has."""
        with self._lock:
            self._closing = True
            last = not self._tasks
        if last:
            self._dismiss()

    # ---- permits --------------------------------------------------------------

    def _hand_over(self, worker: Worker) -> None:
        """Thread: the worker's own."""
        with self._lock:
            if not worker.permit:
                return
            self._revoke(worker)
            heir = self._employ()
        if heir is not None:
            self._wake(heir)
        else:
            self._ring()  # nobody is left: the listener's thread stands in

    def _revoke(self, worker: Worker) -> None:
        """With the lock. What the worker has run must not wait for its present task."""
        self._settle(worker)
        worker.permit = False
        self._holders.remove(worker)
        self._free += 1

    def _grant(self, worker: Worker) -> None:
        worker.permit = True
        self._holders.append(worker)
        self._free -= 1

    def _employ(self) -> Worker | None:
        """With the lock: gives a free permit to somebody, whom the caller then wakes."""
        if self._idle:
            worker = self._idle.pop()
        elif self._count < self._bound:
            worker = Worker(self)
            self._count += 1
        else:
            return None
        self._grant(worker)
        return worker

    def _wake(self, heir: Worker, tasks: tuple[Task, ...] = ()) -> bool:
        """Without the lock. False if it was a new one and could not be started, and `tasks`,
        which were to be its first, are taken back, for there is no other thread."""
        if heir.turn:
            heir.bell.release()
            return True
        heir.turn = 1
        with self._lock:
            self._made += 1
            name = f"{self._name}-handler-{self._made}"
        thread = threading.Thread(target=self._work, args=(heir,), name=name, daemon=True)
        with self._lock:
            self._threads[heir] = thread
        try:
            thread.start()
        except RuntimeError:  # "can't start new thread": that is the bound, then
            with self._lock:
                del self._threads[heir]
                self._revoke(heir)
                self._count -= 1
                # In the same moment, or the listener's thread sees them, and tries as well.
                taken_back = not self._count and self._take_back(tasks)
            self._ring()
            return not taken_back
        return True

    def _take_back(self, tasks: tuple[Task, ...]) -> bool:
        """With the lock, of tasks that no thread will run. Whether none has, and there are any."""
        if any(task not in self._ready for task in tasks):
            return False  # one that has come and gone
        for task in tasks:
            self._ready.remove(task)
            del self._tasks[task.fd]
        return bool(tasks)

    # ---- the threads ----------------------------------------------------------

    def _rest(self, worker: Worker) -> bool:
        """Waits for a permit, or finds a task it may run without; False: it shall end."""
        with self._lock:
            if worker.permit:
                return True
            if self._closing and not self._tasks:
                return False
            if self._free:
                self._grant(worker)
                return True
            if self._ready and not self._sample_mask:
                return True  # where callbacks tend to block it takes one more as it is
            self._idle.append(worker)
        if not worker.bell.acquire(timeout=_IDLE_S):
            with self._lock:
                if worker in self._idle:
                    self._idle.remove(worker)
                    return False
            worker.bell.acquire()  # granted a moment ago: the bell is about to ring
        return worker.permit

    def _leave(self, worker: Worker) -> None:
        with self._lock:
            if worker.permit:
                self._revoke(worker)
            self._count -= 1
            self._threads.pop(worker, None)
            last = self._closing and not self._count and not self._tasks
            last = last and not self._poller_closed
            if last:
                self._poller_closed = True
            others = self._closing and self._sleepers > 0
        if last:
            self._poller.close()
        elif others:
            self._poller.wake()  # each that leaves wakes the next

    def _dismiss(self) -> None:
        """Nothing is left to do: every thread may end, the last closes the poller."""
        with self._lock:
            idle, self._idle = self._idle, []
            sleepers = self._sleepers
            last = not self._count and not self._poller_closed
            if last:
                self._poller_closed = True
        for worker in idle:
            worker.bell.release()
        if last:
            self._poller.close()
        else:
            for _ in range(sleepers):
                self._poller.wake()
