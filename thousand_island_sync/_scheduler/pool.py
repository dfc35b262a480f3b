"""The pool: threads, and the permits to take work that they pass among themselves.

See the essay in `_scheduler.scheduler`. Here is who holds a permit, and who gets one that was given
away; how a thread begins, rests and ends is in `_scheduler.workers`.

Two things happen in one way each, so that nobody is forgotten: a permit leaves a thread by
`_give_up`, and a task comes into the queue by `_enqueue`. (But a thread with a permit that
looks, or runs what is ready, puts tasks there as they come: it goes on with them itself.)
Both note whom they call, with the lock; `Rousing`, around the lock, wakes them without it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from .._base.clock import FOREVER, Clock, now
from .._base.locks import lock
from .alarm import Alarm
from .poller import Poller
from .task import Task
from .tendency import HAND_OVER_COST, SAMPLE_EVERY, Tendency
from .timers import Timers
from .trial import Trial

if TYPE_CHECKING:
    from .worker import Worker

#: Tasks that a thread runs between two looks; where other threads look, too.
_BATCH, _SHARED_BATCH = 64, 4


class Saturation(Protocol):
    """Told by the listener's thread when a ready connection finds no thread, and when
    that is over."""

    def __call__(self, saturated: bool, busy_threads: int, waiting: int, /) -> None: ...


class Rousing:
    """`with self._rousing, self._lock:` is how the queue and the permits are changed: whoever
    was called meanwhile is woken after the lock. What raises there, as an asynchronous
    exception may between any two steps, is put right."""

    __slots__ = ("_pool",)

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        pool = self._pool
        if kind is not None:
            pool._make_good()
        elif pool._called or pool._wakes or pool._nobody:
            pool._rouse()


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
        "_broken",
        "_called",
        "_calm",
        "_clock",
        "_closing",
        "_count",
        "_dead_at",
        "_doors",
        "_due",
        "_free",
        "_holders",
        "_idle",
        "_last_found",
        "_left_over",
        "_lock",
        "_made",
        "_name",
        "_next_timer",
        "_nobody",
        "_permits",
        "_poller",
        "_ready",
        "_relief",
        "_ring",
        "_rousing",
        "_sample_mask",
        "_saturated",
        "_seen_at",
        "_seen_cpu",
        "_seen_turns",
        "_sleepers",
        "_standing_in",
        "_stay_pays",
        "_stays",
        "_tasks",
        "_tell",
        "_threads",
        "_timers",
        "_trial",
        "_unlooked",
        "_wakes",
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
        self._left_over: deque[Callable[[], object]] = deque()
        # All below is guarded by the lock, but for taking from the ready queue.
        self._rousing = Rousing(self)
        self._called: deque[Worker] = deque()  # who got a permit, and is to be woken
        self._wakes = False  # one who waits in the poller is to be woken
        self._nobody = False  # the listener's thread is, for there is no other
        self._broken = False  # something was broken off, and the watch shall put it right
        self._ready: deque[Task] = deque()
        self._tasks: dict[int, Task] = {}
        self._doors: list[Task] = []  # tasks that are no connections
        self._timers = Timers()
        self._next_timer = FOREVER
        self._due: deque[Callable[[], None]] = deque()  # of `later`, and their time has come
        self.tendency = Tendency()
        self._trial = Trial(self.tendency)
        self._free = self._permits
        self._holders: list[Worker] = []
        self._idle: list[Worker] = []
        self._last_found = -1  # the descriptor that the last look made ready
        self._alone = 0  # looks in a row that found that one and nothing else
        self._stays = 0  # how often a thread might have stayed, see `_scheduler.staying`
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
        self._seen_at = self._seen_cpu = self._dead_at = 0.0
        self._saturated = False
        self._standing_in = False  # the listener's thread calls somebody, and looks again anyway
        self._relief = 0  # looks in a row that found a thread to spare
        self._closing = False

    def _employ(self) -> Worker | None:
        """With the lock: gives a free permit to somebody, whom the caller then wakes."""
        raise NotImplementedError

    def _wake(self, heir: Worker, tasks: tuple[Task, ...] = ()) -> bool:
        """Without the lock. False if it was a new one and could not be started, and `tasks`,
        which were to be its first, are taken back, for there is no other thread."""
        raise NotImplementedError

    def _settle(self, worker: Worker) -> None:
        """With the lock: parks what the worker has run."""
        raise NotImplementedError

    def _put_right(self) -> None:
        """Without the lock: makes good what an exception has left half done."""
        raise NotImplementedError

    def interrupted(self) -> None:
        """Something of ours that may have asked for anything here was broken off. Thread: any."""
        self._make_good()

    def _make_good(self) -> None:
        """An exception has ended something of ours before its end. Without the lock."""
        self._broken = True
        try:
            self._ring()  # the watch does it if this thread cannot
        finally:
            self._put_right()

    def _sample_as_needed(self) -> None:
        """With the lock. Where the class tends to block, every callback is looked at."""
        tends = self.tendency.average > HAND_OVER_COST
        self._sample_mask = 0 if tends else SAMPLE_EVERY - 1

    def counts(self) -> tuple[int, int, int]:
        """Threads, busy threads, ready tasks that no thread has come to. O(1), without the
        lock: about, where they change at this moment."""
        return self._count, self._busy(), self._unserved()

    def soon(self, call: Callable[[], object]) -> None:
        """Has the listener's thread call it, or the pool's (the other may be in a receiver): for
        whoever must not wait. Thread: any, wherever it was interrupted."""
        self._left_over.append(call)
        self._ring()
        self._poller.wake()

    def _do_left_over(self) -> None:
        """Thread: the listener's or the pool's, in no lock and no callback."""
        while self._left_over:
            try:
                call = self._left_over.popleft()
            except IndexError:  # another thread was quicker
                return
            call()

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
        with self._rousing, self._lock:
            if self._ready and self._free and not self._holders:
                self._bound = max(self._bound, self._count + 1)
                self._call_heir()

    # ---- who comes ------------------------------------------------------------

    def _enqueue(self, *tasks: Task) -> None:
        """With the lock, inside `_rousing`: they are run soon, by whoever is called for it."""
        for task in tasks:
            task.owned = True
        self._ready.extend(tasks)
        self._call_somebody()

    def _call_somebody(self) -> None:
        """As above: one who waits in the poller comes to what is ready, else who gets a free
        permit. Where all are held and nobody waits, one of the holders will look."""
        if self._sleepers > 0:
            self._wakes = True
        elif self._free:
            self._call_heir()

    def _call_heir(self) -> None:
        """As above: who gets a free permit, unless all is over. What is ready then was forgotten
        in the queue (`Door.close`), and each thread that came for it would call the next."""
        if self._closing and not self._tasks:
            return
        heir = self._employ()
        if heir is not None:
            self._called.append(heir)
        elif not self._holders:
            self._nobody = True

    def _rouse(self, tasks: tuple[Task, ...] = ()) -> bool:
        """Without the lock: wakes who was called, by whomever. False as of `_wake`."""
        try:
            return self._wake_called(tasks)
        except BaseException:
            self._make_good()
            raise

    def _rouse_no_new_one(self) -> None:
        """As `_rouse`, but no thread is started: one that begins takes locks of the standard
        library's, which who was interrupted may have."""
        if all(heir.turn for heir in list(self._called)):
            self._rouse()
        else:
            self.soon(self._rouse)

    def _wake_called(self, tasks: tuple[Task, ...] = ()) -> bool:
        started = True
        if self._wakes:
            self._wakes = False
            self._poller.wake()
        while self._called:
            try:
                heir = self._called.popleft()
            except IndexError:  # another thread wakes it
                break
            started = self._wake(heir, tasks) and started
        if self._nobody:
            self._nobody = False
            self._ring()  # the listener's thread stands in
        return started

    # ---- permits --------------------------------------------------------------

    def _hand_over(self, worker: Worker) -> None:
        """Thread: the worker's own."""
        with self._rousing, self._lock:
            if worker.permit:
                self._give_up(worker)

    def _give_up(self, worker: Worker) -> None:
        """With the lock, inside `_rousing`: somebody else gets its permit."""
        self._revoke(worker)
        self._call_heir()

    def _revoke(self, worker: Worker) -> None:
        """With the lock. What the worker has run must not wait for its present task."""
        self._settle(worker)
        worker.permit = False
        self._holders.remove(worker)
        self._free += 1

    def _grant(self, worker: Worker) -> None:
        self._holders.append(worker)
        worker.permit = True
        self._free -= 1
