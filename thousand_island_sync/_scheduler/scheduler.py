"""Who runs what: run permits, the run queue, the threads, the watchdog.

The facts. Between callbacks a connection needs no thread, only a place in the
poller. A callback that does not block is cheapest when it runs straight from the
poll loop, as on an event loop: handing each event to another thread costs a GIL
hand-off, about half as much again as the whole request. But a callback that blocks
on the poll loop stops everybody.

What others do. Event loops forbid blocking. Thread pools pay a hand-off for each
event. Leader/followers pools do, too: the leader always promotes a follower first.

Our decision: *run permits*. A permit is the right to take work: to poll, and to run
connections off the ready queue. There are as many as threads can run Python at once:
one with the GIL, the CPU count without. A thread keeps its permit from callback to
callback, and loses it when a callback waits, in one of three ways:

1. The thread is about to wait in a call of this library (`waits.before_wait`), and hands the
   permit off. This is exact, and costs nothing while nothing blocks.
2. Its connection *tends* to block, or to compute for long (`tendency`): the thread hands the
   permit off before the callback starts.
3. The watchdog finds the thread in one callback at two looks in a row, and takes the
   permit. It takes five looks if the processor was busy meanwhile, or if the thread only
   waits for a processor. The watchdog looks every 2 ms while callbacks run, and every 8 ms
   if nothing has blocked for a while. It does not look on an idle server, nor while quick
   requests come one by one: their end stops the timer that would wake it (`alarm`). Before a
   thread runs a ready task, it makes sure that the watchdog looks or the alarm is set.

A thread that lost its permit finishes its callback without one. The permit goes to the
idle thread that ran most recently (its cache is warm), or to a new thread. If the pool is
at its bound, the permit stays free: the listener's thread stands in (`stand_in`), polls and
keeps the deadlines, but runs nothing. The first thread to finish its callback takes the permit.

Nothing depends on permits being exclusive. They decide how many threads take work,
not who may touch what. What keeps two threads out of one connection is ownership
(`_scheduler.states`): a task is owned from the moment it is put into the ready queue until the
thread that ran it parks it. An event for an owned task marks it, and a marked task is not parked
but run again.

Only the owner closes a descriptor, after `forget` has taken it out of the poller and
out of the table of tasks. A poll that was already under way may still report the number, which
may be another task's by then: that task gets a needless run, which does no harm.

No callback, receiver or log handler is ever called with the lock held.

The objects. One lock guards the books of all of them; each has fields of its own:

- `RunQueue`: what is ready, and the poller; beside it `TaskTable` (all tasks), `Registrations`
  (what is in the poller), `Deadlines` (when a task is run though nothing came);
- `Permits`: which threads may take work, and which rest; `Rousing`: which threads a change needs;
  it wakes them when the lock is free;
- `Workers`: the threads; `Runner`: what each of them does; `Affinity`: a thread stays with a task;
  `Mending`: rebuilds the books after an unexpected exception;
- `BlockingEstimate`: which tasks tend to block;
- `Watchdog`, with `Stalls`, `StandIn`, `Saturation`, and `WatchdogTimer`, which has it look;
- `Requests` and `Errands`: what interrupting code (`__del__`, a signal handler) may ask for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple, Protocol

from .._base.clock import Clock, now
from .._base.locks import lock
from .affinity import Affinity
from .alarm import Alarm
from .blocking_estimate import BlockingEstimate
from .deadlines import Deadlines
from .errands import Errands
from .mending import Mending
from .oldest_wait import OldestWait
from .permits import Permits, default_permits
from .poller import Poller
from .registrations import Registrations
from .requests import Requests
from .rousing import Calls, Rousing
from .run_queue import RunQueue
from .runner import ComesBackTo, Runner
from .saturation import Saturation, TellSaturation
from .stalls import Stalls
from .stand_in import StandIn
from .task import Task
from .task_table import TaskTable
from .timers import Timer
from .watchdog import Watchdog
from .watchdog_timer import WatchdogTimer
from .worker import Running
from .workers import Workers


class Asked(Protocol):
    """What interrupting code may ask for: `Requests`."""

    def make_ready(self, task: Task) -> None: ...
    def start(self, timer: Timer) -> None: ...
    def cancel(self, timer: Timer) -> None: ...


class Gone(ComesBackTo, Asked, Protocol):
    """What takes the place of the scheduler's parts in a forked child."""


class NoInspection:
    """Checks nothing. In debug mode another class checks the books (`_server.checked`)."""

    __slots__ = ()

    def __init__(
        self,
        queue: RunQueue,
        table: TaskTable,
        permits: Permits,
        workers: Workers,
        watchdog_timer: WatchdogTimer,
        mending: Mending,
    ) -> None:
        pass

    def before_look(self) -> None:
        """Before each look of the watchdog. Thread: its own, without the lock."""

    def after_look(self, timeout: float) -> float:
        """After each look. Returns the seconds until the next: `timeout`, or fewer."""
        return timeout


class Parts(NamedTuple):
    """The classes that a scheduler is made of: tests and debug mode replace some of them."""

    queue: type[RunQueue] = RunQueue
    permits: type[Permits] = Permits
    workers: type[Workers] = Workers
    estimate: type[BlockingEstimate] = BlockingEstimate
    inspection: type[NoInspection] = NoInspection
    clock: Clock = now


class Scheduler:
    """See the module's essay. Every method may be called from any thread unless it says so.

    Args:
        poller: reports ready descriptors; closed by the last thread.
        max_threads: the bound of the pool.
        name: prefix of the threads' names.
        ring: wakes the thread that calls `tend`.
        saturation: told when the pool is saturated and when it is relieved.
        permits: how many there are; `None`: as many threads as can run Python at once.
    """

    parts = Parts()

    def __init__(
        self,
        poller: Poller,
        *,
        max_threads: int,
        name: str,
        ring: Callable[[], None],
        saturation: TellSaturation,
        permits: int | None = None,
    ) -> None:
        clock = self.parts.clock
        total = default_permits() if permits is None else permits
        the_lock = self._lock = lock("scheduler")
        timer = self._watchdog_timer = WatchdogTimer(ring, clock, the_lock, total == 1)
        errands = self._errands = Errands(ring, poller.wake)
        mending = self._mending = Mending(timer, errands)
        rousing = Rousing(the_lock, errands, ring, poller.wake, mending.make_good)
        table = self._table = TaskTable()
        deadlines = Deadlines(clock)
        registrations = Registrations(poller, the_lock, mending.poller_was_lost)
        queue = self._queue = self.parts.queue(
            poller, table, rousing, registrations, deadlines, timer
        )
        if total > 1:
            queue.share()
        workers = self._workers = self.parts.workers(max_threads, name, timer)
        held = self._permits = self.parts.permits(total, the_lock, rousing, queue, workers.hire)
        estimate = self._estimate = self.parts.estimate(the_lock)
        affinity = Affinity(queue, table, held, workers, registrations, estimate)
        self._runner = Runner(queue, workers, estimate, affinity, mending, errands)
        rousing.serve(Calls(queue, table, held), workers)
        workers.serve(queue, table, held, rousing, registrations, self._runner.work)
        mending.serve(queue, table, held, workers, rousing, registrations)
        self._registrations = registrations
        oldest = self._oldest = OldestWait(queue, table, workers, clock)
        self._requests: Asked = Requests(rousing, queue, deadlines, errands)
        stand_in = StandIn(queue, table, held, registrations, deadlines, timer)
        #: As `StandIn.serve`.
        self.stands_in_for = stand_in.serve
        self._watchdog = Watchdog(
            Stalls(held, workers, estimate, table, queue, timer),
            stand_in,
            Saturation(saturation, queue, held, workers, timer, oldest),
            workers,
            mending,
            rousing,
        )
        #: As `RunQueue.forget`.
        self.forget: Callable[[Task], None] = queue.forget
        #: Whether a parked connection is run when its peer resets it, though nothing is read.
        self.tells_resets = not poller.needs_rearm
        self._inspection = self.parts.inspection(queue, table, held, workers, timer, mending)

    # ---- a task comes and goes ---------------------------------------------------------

    def add(self, *tasks: Task) -> None:
        """As `RunQueue.add`."""
        self._estimate.introduce(tasks)
        self._queue.add(tasks)

    def add_uncounted(self, task: Task) -> None:
        """Takes a task that is not a connection, and is left out of the figures.

        Raises:
            RuntimeError: as for `add`.
        """
        with self._lock:
            self._table.do_not_count(task)
        self.add(task)

    def has(self, task: Task) -> bool:
        """Whether it was added, and is not forgotten yet."""
        return self._table.has(task)

    def tasks(self) -> list[Task]:
        with self._lock:
            return self._table.all()

    def replace(self, task: Task, successor: Task) -> None:
        """Another task takes over a descriptor and runs next. Thread: the task's owner."""
        self._queue.replace(task, successor)

    def release(self, task: Task) -> None:
        """The caller takes the task's descriptor over. The task stays, to be run once more.
        Thread: any, while no step of the task that uses the descriptor is under way."""
        self._queue.release(task)

    def runs(self, task: Task) -> bool:
        """Whether a thread is in a step of this task, or was a moment ago."""
        return self._workers.run(task)

    # ---- its descriptor -----------------------------------------------------------------

    def attach(self, task: Task) -> None:
        """As `Registrations.attach`."""
        self._registrations.attach(task)

    def detach(self, task: Task) -> None:
        """As `Registrations.detach`."""
        self._registrations.detach(task)

    def watch_writes(self, task: Task) -> None:
        """From now on its write edges are reported, too. Thread: the task's owner."""
        self._registrations.watch_writes(task)

    # ---- it is run ------------------------------------------------------------------------

    def make_ready(self, task: Task) -> None:
        """Runs the task soon, without an event of its descriptor. Ignored once the task is over."""
        self._requests.make_ready(task)

    def make_all_ready(self) -> None:
        """`make_ready` of every task, waking one thread for all of them."""
        self._queue.make_all_ready()

    def start(self, timer: Timer) -> None:
        """Has a thread of the pool call the target, which must not block, when the timer is due."""
        self._requests.start(timer)

    def cancel(self, timer: Timer) -> None:
        self._requests.cancel(timer)

    def soon(self, call: Callable[[], object]) -> None:
        """Has the listener's thread or one of the pool call it, the first that is free: for code
        that must not wait. Thread: any, wherever it was interrupted."""
        self._errands.leave(call)

    # ---- the pool -------------------------------------------------------------------------

    def counts(self) -> tuple[int, int, int]:
        """Threads, busy threads, ready tasks that no thread runs yet. O(1), without the lock:
        approximate while they change."""
        return self._workers.count, self._workers.busy(), self._queue.waiting()

    def oldest_wait(self) -> float:
        """Seconds that the oldest ready connection has waited for a thread; without the lock."""
        return self._oldest.seconds()

    def attended(self) -> bool:
        """Whether a thread has a permit: it polls, or will after its callback, unless the watchdog
        gives the permit to another. A hint: without the lock."""
        return self._permits.are_held()

    def running(self) -> list[Running]:
        """As `Workers.running`."""
        return self._workers.running()

    def threads(self) -> list[threading.Thread]:
        return self._workers.threads()

    def reinforce(self) -> None:
        """Starts a thread beyond the bound if a ready task finds none (in a stop)."""
        self._workers.reinforce()

    def interrupted(self) -> None:
        """Code of the library that called the scheduler was interrupted: repairs what it left."""
        self._mending.make_good()

    def close(self) -> None:
        """No task will be added any more; threads end when the last task has."""
        with self._lock:
            over = self._queue.close()
        if over:
            self._workers.dismiss()

    def abandon(self, gone: Gone) -> list[Task]:
        """In a forked child: no thread of the pool is left; `gone` is asked instead.

        Returns:
            The tasks, which are the parent's.
        """
        for worker in self._workers.all():
            worker.permit = False
        self._queue.clear()
        self._runner.abandon(gone)
        self._requests = gone
        return self._table.all()

    # ---- the watchdog: the listener's thread -----------------------------------------------

    def use_alarm(self, alarm: Alarm | None) -> None:
        """What wakes the watchdog from now on; `None`: `ring`. Thread: the listener's."""
        with self._lock:
            self._watchdog_timer.use(alarm)

    def tend(self) -> float:
        """One look of the watchdog; it polls as well if no thread holds a permit.

        Returns:
            Seconds until the next look; `FOREVER`: when `ring` is called, or, if
            `stand_in_fileno` is not `None`, when that is readable.

        Thread: the listener's alone.
        """
        self._errands.run()
        self._inspection.before_look()
        return self._inspection.after_look(self._watchdog.look())

    def stand_in_fileno(self) -> int | None:
        """What the listener's thread waits for beside its bell. Thread: the listener's."""
        return self._watchdog.stand_in_fileno()
