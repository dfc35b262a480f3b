"""Who runs what: run permits, the ready queue, the pool of threads, the stall watch.

The facts. Between callbacks a connection needs no thread, only a place in the
poller. A callback that does not block is cheapest when it runs straight from the
poll loop, as on an event loop: handing each event to another thread costs a GIL
hand-over, about half as much again as the whole request. But a callback that blocks
on the poll loop stops everybody.

What others do. Event loops forbid blocking. Thread pools pay a hand-over for each
event. Leader/followers pools do, too: the leader always gives its place away first.

Our decision: *run permits*. A permit is the right to take work: to poll, and to run
connections off the ready queue. There are as many as threads can run Python at once:
one with the GIL, the CPU count without. A thread keeps its permit from callback to
callback, and gives it away before it waits, in one of three ways:

1. It is about to wait in a call of ours (`_waits.give_way`): exact, and free of cost
   when nothing blocks.
2. Its connection *tends* to block (`_tendency`): it gives the permit away before the
   callback starts.
3. The stall watch finds it in one callback at two ticks in a row, and takes it.

A thread that gave its permit away finishes its callback without one. A permit that
is given away goes to the idle thread that slept last (its cache is warm) or to a new
one. At the bound it lies free: the listener's thread stands in (`tend`), polls and
keeps the deadlines, but runs nothing; the first thread to finish takes it up.

Nothing depends on permits being exclusive. They decide how many threads take work,
not who may touch what. What keeps two threads out of one connection is ownership:
`task.owned` is true from the moment a task is put into the ready queue until the
thread that ran it parks it, and changes only under the lock. An event for an owned
task sets `marked`, and a marked task is not parked but run again. Clearing `marked`
just before a run is safe without the lock: whatever set it happened before the run
looks at the descriptor.

Only the owner closes a descriptor, after `forget` has taken it out of the poller and
out of `_tasks`. A poll that was already under way may still report the number, now
perhaps another task's: that one gets a run for nothing, which every task bears.

No callback, receiver or log handler is ever called with the lock held.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import deque
from collections.abc import Callable
from time import perf_counter, process_time, thread_time
from typing import Protocol

from . import _waits
from ._clock import FOREVER, Clock, now
from ._poller import HANGUP, WRITE, Events, Poller
from ._tendency import HAND_OVER_COST, SAMPLE_EVERY, Tendency
from ._timers import Timer, Timers

#: Verdicts of `Task.run`: wait for an event or the deadline; run again soon; over.
PARK, AGAIN, DONE = 0, 1, 2

#: Seconds between two looks of the stall watch.
TICK = 0.002
#: Between two looks while a ready connection waits for a thread.
_SATURATED_TICK = 0.01
#: A thread that had nothing to do for this long ends.
_IDLE_S = 30.0
#: Tasks that a thread runs between two looks; where other threads look, too.
_BATCH, _SHARED_BATCH = 64, 4
_SAMPLE_MASK = SAMPLE_EVERY - 1

_log = logging.getLogger("thousand_island_sync")


class Task:
    """What the scheduler runs. Its fields are the scheduler's, but for those that the
    task sets while it is run: `deadline`, `wants_write` and `alert`."""

    __slots__ = (
        "alert",
        "attached",
        "average",
        "blocks",
        "deadline",
        "fd",
        "hung_up",
        "marked",
        "only_writable",
        "owned",
        "timer",
        "timer_at",
        "wants_write",
    )

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.owned = False
        self.marked = False
        self.attached = False
        self.hung_up = False
        # There is more to look at than the descriptor.
        self.alert = False
        # The event that woke it told of no bytes: later ones will be a new event.
        self.only_writable = False
        # True until the first run: registering for writing is what wakes a new task.
        self.wants_write = True
        self.deadline = FOREVER
        self.timer: Timer | None = None
        self.timer_at = FOREVER
        self.average = 0.0  # seconds that its callbacks block
        self.blocks = False  # whether that is more than a hand-over costs

    def run(self) -> int:
        """One step; returns a verdict and never raises. Thread: the pool's."""
        raise NotImplementedError

    def broke(self) -> None:
        """Called when `run` raised all the same: must let go of everything."""
        raise NotImplementedError

    def stop_begins(self) -> None:
        """The server stops; the task is made ready afterwards. Thread: any."""


class Saturation(Protocol):
    """Told by the listener's thread when a ready connection finds no thread, and when
    that is over."""

    def __call__(self, saturated: bool, busy_threads: int, waiting: int, /) -> None: ...


class Worker:
    """A thread of the pool, and whether it holds a permit."""

    __slots__ = (
        "bell",
        "parked",
        "permit",
        "sample",
        "scheduler",
        "seen",
        "task",
        "turn",
        "waited",
    )

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.permit = True
        self.task: Task | None = None
        # What it ran and what shall be parked: settled together, with the lock taken once.
        self.parked: deque[Task] = deque()
        self.turn = 0  # counts tasks run
        self.seen = -1  # the turn in which the stall watch saw it last
        self.sample = False  # measure the next one
        self.waited = False  # the present task waited in a call of ours
        self.bell = threading.Lock()
        self.bell.acquire()

    def give_way(self) -> None:
        self.scheduler._hand_over(self)


def default_permits() -> int:
    """As many threads as can run Python at once."""
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        return 1
    import os

    return os.cpu_count() or 1


class Scheduler:
    """See the module's essay. Every method may be called from any thread unless it says so.

    Args:
        poller: reports ready descriptors; closed by the scheduler.
        max_threads: the bound of the pool.
        name: prefix of the threads' names.
        ring: wakes the thread that calls `tend`.
        saturation: told when the pool is saturated and when it is relieved.
    """

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
        self._batch = _BATCH if self._permits == 1 else _SHARED_BATCH

        self._lock = threading.Lock()
        # All below is guarded by the lock, but for taking from the ready queue.
        self._ready: deque[Task] = deque()
        self._tasks: dict[int, Task] = {}
        self._timers = Timers()
        self._next_timer = FOREVER
        self.tendency = Tendency()
        self._free = self._permits
        self._holders: list[Worker] = []
        self._idle: list[Worker] = []
        self._threads: set[threading.Thread] = set()
        self._count = 0  # threads, those about to start included
        self._made = 0
        self._sleepers = 0  # threads that wait in the poller
        self._watching = False
        self._seen_turns = -1
        self._saturated = False
        self._closing = False
        self._poller_closed = False

    # ---- what others ask for --------------------------------------------------

    def add(self, task: Task) -> None:
        """Takes a new task; it is run as soon as a thread comes to it.

        Raises:
            OSError: the poller has no room for it.
            RuntimeError: the pool has no thread and none can be started, or it is closed.
        """
        task.average = self.tendency.average
        task.blocks = task.average > HAND_OVER_COST
        with self._lock:
            if self._closing:
                raise RuntimeError("the server has stopped")
            self._tasks[task.fd] = task
            task.attached = True
            heir = self._employ() if self._free else None
        try:
            if heir is not None and not self._wake(heir) and not self._count:
                raise RuntimeError("no handler thread can be started")
            self._poller.register(task.fd, write=True)
        except BaseException:
            self.forget(task)
            raise

    def make_ready(self, task: Task) -> None:
        """Runs the task soon, whatever its descriptor does. Ignored once it is over."""
        with self._lock:
            if task.owned:
                task.marked = True
                return
            if self._tasks.get(task.fd) is not task:
                return
            task.owned = True
            self._ready.append(task)
            sleeper = self._sleepers > 0
            heir = self._employ() if self._free and not sleeper else None
        if sleeper:
            self._poller.wake()
        elif heir is not None:
            self._wake(heir)

    def later(self, when: float, call: Callable[[], None]) -> Timer:
        """Calls `call`, which must be quick, on a thread of the pool at `when`."""
        with self._lock:
            timer = self._timers.add(when, call)
            wake = self._note_timer(when)
            unattended = not self._holders
        if wake:
            self._poller.wake()
        elif unattended:
            self._ring()
        return timer

    def cancel(self, timer: Timer) -> None:
        with self._lock:
            self._timers.cancel(timer)

    def detach(self, task: Task) -> None:
        """Takes a task's descriptor out of the poller until it is parked again, so that
        what its own thread waits for does not wake another. Thread: any that uses it."""
        with self._lock:
            attached, task.attached = task.attached, False
        if attached:
            self._poller.unregister(task.fd)

    def forget(self, task: Task) -> None:
        """The last word of a task, before its descriptor is closed. Thread: its owner."""
        if task.attached:
            self._poller.unregister(task.fd)
        with self._lock:
            task.attached = False
            if self._tasks.get(task.fd) is task:
                del self._tasks[task.fd]
            if task.timer is not None:
                self._timers.cancel(task.timer)
                task.timer = None
            last = self._closing and not self._tasks
        if last:
            self._dismiss()

    def replace(self, task: Task, successor: Task) -> None:
        """Another task takes over a descriptor and runs next. Thread: the task's owner."""
        with self._lock:
            successor.attached, task.attached = task.attached, False
            if task.timer is not None:
                self._timers.cancel(task.timer)
                task.timer = None
            successor.owned = True
            self._tasks[task.fd] = successor
            self._ready.append(successor)

    def counts(self) -> tuple[int, int, int]:
        """Threads, busy threads, ready tasks that no thread has come to. O(1)."""
        with self._lock:
            return (
                self._count,
                max(0, self._count - len(self._idle) - self._sleepers),
                len(self._ready),
            )

    def watch_reads_only(self, task: Task) -> None:
        """No write edges from now on: a Unix socket gives one for each read of its peer.
        Thread: the task's owner."""
        if task.attached:
            self._poller.modify(task.fd, write=False)

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

    def tasks(self) -> list[Task]:
        with self._lock:
            return list(self._tasks.values())

    def threads(self) -> list[threading.Thread]:
        with self._lock:
            return list(self._threads)

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

    def _wake(self, heir: Worker) -> bool:
        """Without the lock. False if it was a new one and could not be started."""
        if heir.turn:
            heir.bell.release()
            return True
        heir.turn = 1
        with self._lock:
            self._made += 1
            name = f"{self._name}-handler-{self._made}"
        thread = threading.Thread(target=self._work, args=(heir,), name=name, daemon=True)
        with self._lock:
            self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:  # "can't start new thread": that is the bound, then
            with self._lock:
                self._threads.discard(thread)
                self._revoke(heir)
                self._count -= 1
            self._ring()
            return False
        return True

    # ---- the threads ----------------------------------------------------------

    def _work(self, worker: Worker) -> None:
        """The life of a pool thread."""
        _waits.this_thread_is(worker)
        try:
            while True:
                if not worker.permit and not self._rest(worker):
                    break
                if self._closing and not self._tasks:
                    break
                self._look(worker)
                try:
                    self._run_batch(worker)
                except BaseException:
                    self._run_broke(worker)
        finally:
            self._leave(worker)

    def _rest(self, worker: Worker) -> bool:
        """Waits for a permit; False: the thread shall end."""
        with self._lock:
            if worker.permit:
                return True
            if self._closing and not self._tasks:
                return False
            if self._free:
                self._grant(worker)
                return True
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
            self._threads.discard(threading.current_thread())
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

    def _look(self, worker: Worker) -> None:
        """Polls; waits only when nothing is ready. Fires the timers that are due."""
        with self._lock:
            self._settle(worker)
            if self._ready or (self._closing and not self._tasks):
                timeout = 0.0
            else:
                timeout = self._next_timer
                if timeout != FOREVER:
                    timeout = max(0.0, timeout - self._clock())
            self._sleepers += 1
        events: Events = []
        try:
            events = self._poller.poll(timeout)
        finally:
            self._absorb(events, 1)

    def _absorb(self, events: Events, sleepers: int) -> None:
        """Puts what an event or a timer made ready into the queue."""
        calls: list[Callable[[], None]] = []
        ready = self._ready
        with self._lock:
            self._sleepers -= sleepers
            find, hang_up, write = self._tasks.get, HANGUP, WRITE
            for fd, bits in events:
                task = find(fd)
                if task is None:
                    continue  # the wake-up, or just forgotten
                if bits & hang_up:
                    task.hung_up = task.alert = True
                if task.owned:
                    task.marked = True
                elif bits != write:
                    task.owned = True
                    ready.append(task)
                elif task.wants_write:
                    task.owned = task.only_writable = True
                    ready.append(task)
            if self._next_timer != FOREVER and self._next_timer <= self._clock():
                calls = self._fire()
            ring = bool(ready) and not self._watching
            if ring:
                self._watching = True
            # Without the GIL others may sleep while there is work for several.
            wake = self._sleepers > 0 and len(ready) > 1
        if ring:
            self._ring()
        if wake:
            self._poller.wake()
        for call in calls:
            call()

    def _fire(self) -> list[Callable[[], None]]:
        """With the lock. A deadline that was moved meanwhile goes back to sleep."""
        time_now = self._clock()
        calls = []
        for target in self._timers.due(time_now):
            if not isinstance(target, Task):
                calls.append(target)
                continue
            target.timer = None
            target.timer_at = FOREVER
            if target.owned:
                continue  # it looks at its deadlines itself when it parks
            if target.deadline > time_now:
                self._arm(target)
            else:
                target.owned = True
                self._ready.append(target)
        self._next_timer = self._timers.next()
        return calls

    def _arm(self, task: Task) -> bool:
        """With the lock: sets the task's timer to its deadline. Whether to wake a sleeper."""
        if task.timer is not None:
            self._timers.cancel(task.timer)
        task.timer = self._timers.add(task.deadline, task)
        task.timer_at = task.deadline
        return self._note_timer(task.deadline)

    def _note_timer(self, when: float) -> bool:
        if when >= self._next_timer:
            return False
        self._next_timer = when
        return self._sleepers > 0

    def _run_batch(self, worker: Worker) -> None:
        """The hot path: runs what is ready now, at most 64, then it is time to look again.

        Each line here is paid for every message. So what shall be parked is collected,
        and settled with the lock taken once: nobody else looks at events meanwhile, or
        settles it for us when taking the permit. Without the GIL others do look, and
        the batches are short.
        """
        ready = self._ready
        take, park = ready.popleft, worker.parked.append
        for _ in range(min(len(ready), self._batch)):
            try:
                task = take()
            except IndexError:  # another thread was quicker
                break
            task.marked = False
            worker.task = task
            worker.turn = turn = worker.turn + 1
            if turn & _SAMPLE_MASK and not task.blocks:
                verdict = task.run()
            else:
                verdict = self._run_measured(worker, task)
            if not verdict:  # PARK
                park(task)
            elif verdict == AGAIN:
                ready.append(task)
            if not worker.permit:
                worker.task = None
                self._help(worker)
                return
        worker.task = None

    def _settle(self, worker: Worker) -> None:
        """With the lock: parks what the worker has run. What was marked goes on."""
        parked, ready = worker.parked, self._ready
        rearm = self._poller.needs_rearm
        while parked:
            task = parked.popleft()
            if task.marked:
                ready.append(task)
                continue
            task.owned = False
            if task.deadline < task.timer_at and self._arm(task):
                self._poller.wake()
            if rearm or not task.attached:
                self._put_back(task)

    def _put_back(self, task: Task) -> None:
        """With the lock: a descriptor that was taken out, or must always be put back."""
        try:
            if not task.attached:
                task.attached = True
                self._poller.register(task.fd, write=task.wants_write)
            else:
                self._poller.rearm(task.fd, write=task.wants_write)
        except OSError:  # no room in the poller: the task finds out when it is run
            task.attached = False
            task.owned = True
            self._ready.append(task)

    def _help(self, worker: Worker) -> None:
        """A thread without a permit has finished: takes a free one, or sees that what it
        put into the queue is found."""
        with self._lock:
            self._settle(worker)
            if self._free and not worker.permit:
                self._grant(worker)
                return
            wake = bool(self._ready) and self._sleepers > 0
        if wake:
            self._poller.wake()

    def _run_measured(self, worker: Worker, task: Task) -> int:
        """Runs a task that tends to block without a permit, and measures it.

        The clocks of the process and the thread are system calls; they are asked only
        of a task that was seen to take long.
        """
        blocks = task.blocks
        if not blocks and not worker.sample:
            began = perf_counter()
            verdict = task.run()
            if perf_counter() - began > HAND_OVER_COST:
                worker.sample = True
                worker.turn |= _SAMPLE_MASK  # the next one
            return verdict
        if blocks:
            self._hand_over(worker)
        worker.sample = False
        worker.waited = False
        wall, process, thread = perf_counter(), process_time(), thread_time()
        verdict = task.run()
        if not worker.waited:  # its waits in calls of ours were handed over for exactly
            thread = thread_time() - thread
            process = process_time() - process
            wall = perf_counter() - wall
            with self._lock:
                task.average = self.tendency.learn(task.average, wall - process, wall - thread)
                task.blocks = task.average > HAND_OVER_COST
        return verdict

    def _run_broke(self, worker: Worker) -> None:
        """A bug of ours or an asynchronous exception: one connection pays, no thread."""
        task, worker.task = worker.task, None
        _log.exception("a connection broke off; this is a bug in thousand_island_sync")
        if task is not None:
            try:
                task.broke()
            except BaseException:
                _log.exception("while breaking off")

    # ---- the listener's thread ------------------------------------------------

    def tend(self) -> float:
        """One look of the stall watch, and standing in where no thread holds a permit.

        Returns:
            Seconds until the next look; `FOREVER`: when `ring` is called, or, if
            `stand_in_fileno` is not `None`, when that is readable.

        Thread: the listener's alone.
        """
        heirs: list[Worker | None] = []
        with self._lock:
            busy = False
            turns = 0
            for worker in list(self._holders):
                turns += worker.turn
                if worker.task is None:
                    continue
                busy = True
                if worker.turn == worker.seen:
                    self._revoke(worker)
                    worker.sample = True  # it notices with one of its next tasks
                    heirs.append(self._employ())
                worker.seen = worker.turn
            standing_in = not self._holders and bool(self._tasks)
            quiet = not busy and turns == self._seen_turns and not self._ready
            self._seen_turns = turns
            self._watching = not quiet
        for heir in heirs:
            if heir is not None:
                self._wake(heir)
        if standing_in:
            return self._stand_in()
        self._tell_saturation()
        return FOREVER if quiet else TICK

    def stand_in_fileno(self) -> int | None:
        """What the listener's thread waits for beside its bell. Thread: the listener's."""
        with self._lock:
            if self._holders or not self._tasks:
                return None
        return self._poller.fileno()

    def _stand_in(self) -> float:
        self._absorb(self._poller.poll(0), 0)
        with self._lock:
            # A thread that could not be started before may start now.
            heir = self._employ() if self._ready and self._free else None
            timer = self._next_timer
        if heir is not None:
            self._wake(heir)
        self._tell_saturation()
        if self._saturated or self._poller.fileno() is None:
            return _SATURATED_TICK
        return FOREVER if timer == FOREVER else max(TICK, timer - self._clock())

    def _tell_saturation(self) -> None:
        with self._lock:
            waiting = len(self._ready)
            busy = max(0, self._count - len(self._idle) - self._sleepers)
            if self._saturated:
                over = not waiting or bool(self._idle) or self._sleepers > 0
                if not over:
                    return
                self._saturated = False
            elif waiting and self._free and not self._holders:
                self._saturated = True
            else:
                return
            saturated = self._saturated
        self._tell(saturated, busy, waiting)
