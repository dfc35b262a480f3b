"""Debug mode (`THOUSAND_ISLAND_DEBUG=1`): a scheduler and connections that check themselves.

The faults of a scheduler are silent. A lost wake-up is a client that waits; two owners are
a byte in the wrong place, once a week; a permit that is counted twice is a slow server. So
in this mode every rule of the essay in `_scheduler.scheduler` that can be checked is checked:

- no thread runs a connection that another thread runs, or that is not owned, or that has ended;
- a connection's state moves along its table;
- permits are neither lost nor made; a holder is listed once, and a resting thread holds none;
- what is in the ready queue is owned, and is there once;
- a parked connection whose descriptor has bytes is run within a second;
- what is ready does not wait while a permit is free and a thread could take it;
- the watchdog does not sleep while a thread with a permit runs anything;
- the bytes that wait in all send buffers are the total, and so are the threads that wait in sends;
- bytes that wait to be sent are watched for room, or a waiting thread has the turn to send;
- threads wait for room to send in callbacks only: between them waiting bytes hold no thread;
- connections are held back only while callbacks of others hold threads in sends;
- a connection's descriptor is the same file at its end as at its begin: no other code closed it.

What is found is kept in `_reports.violations`, and logged as critical once no lock is held. The
listener's thread looks every 20 ms, idle or not, and each step costs some checks more: this
is for tests, and for hunting. It is decided when a server is started.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from typing import Any

from .._base.clock import now
from .._base.locks import nothing_held
from .._base.reports import report, tell
from .._connection.callbacks import Callbacks
from .._connection.closing import Closing
from .._connection.environment import Environment
from .._connection.machine import Machine, PythonMachine
from .._connection.states import TRANSITIONS, State
from .._connection.task import ConnectionTask
from .._scheduler.mending import Mending
from .._scheduler.permits import Permits
from .._scheduler.run_queue import RunQueue
from .._scheduler.scheduler import NoInspection, Parts, Scheduler
from .._scheduler.states import PARKED
from .._scheduler.task import Task
from .._scheduler.task_table import TaskTable
from .._scheduler.watchdog_timer import SLEEPS, WatchdogTimer
from .._scheduler.worker import Worker
from .._scheduler.workers import Workers
from .._stream.reader import Reader
from .._stream.states import GIVEN_AWAY
from .checked_sends import ForgottenSends
from .checked_waits import watch_waits

_LOOK_S = 0.02
#: What was seen waiting for this long, in at least so many looks, has been forgotten.
_PATIENCE_S, _PATIENT_LOOKS = 1.0, 5


def disturb() -> None:
    """Called where a thread hands something over; tests give way here, now and then."""


def _identity(fd: int) -> tuple[int, int] | None:
    """Tells one open file from all others; `None`: the descriptor is closed."""
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino


class _CheckedCallbacks(Callbacks):
    """Checks that user code runs without a lock of the library."""

    __slots__ = ()

    def make(self, env: Environment, reader: Reader) -> None:
        nothing_held("a handler's __init__")
        super().make(env, reader)

    def call(self, name: str, callback: Callable[..., Any], *arguments: Any) -> object:
        nothing_held(name)
        return super().call(name, callback, *arguments)


class _CheckedClosing(Closing):
    """The descriptor is what it was."""

    __slots__ = ()

    def let_go(self, is_shown: bool) -> None:
        task = self.task
        assert isinstance(task, CheckedConnection)
        client = task.client
        fd = client.sock.fileno()
        found, gone = _identity(fd), client.closed
        super().let_go(is_shown)
        if not gone and self.stream.state not in GIVEN_AWAY and not task.watch.is_still(found):
            report(
                f"connection {client.id} ends, and its descriptor {fd} is another one's by now or"
                " closed: somebody has made a socket.socket(fileno=...) of it without detach(),"
                " and closed that"
            )


#: Where a machine keeps its state.
_state: Any = vars(PythonMachine)["state"]


class _CheckedMachine(Machine):
    """It moves along the table only. (The C stores where it parks and runs, and does not ask.)"""

    __slots__ = ()

    callbacks_cls = _CheckedCallbacks

    def closing(self, kind: type[Closing] = _CheckedClosing) -> Closing:
        return super().closing(kind)

    @property
    def state(self) -> State:
        found: State = _state.__get__(self)
        return found

    @state.setter
    def state(self, after: State) -> None:
        try:
            before = self.state
        except AttributeError:  # it is being made
            before = after
        # An interrupted connection becomes CLOSED from any state.
        if after not in (before, State.CLOSED) and after not in TRANSITIONS[before]:
            report(f"a connection goes from {before.name} to {after.name}")
        _state.__set__(self, after)


class _Watch:
    """What is known of a connection that is watched."""

    __slots__ = ("_identity", "_inside", "runs")

    def __init__(self, fd: int) -> None:
        self._inside = threading.Lock()
        self._identity = _identity(fd)
        self.runs = 0

    def enter(self, connection: CheckedConnection) -> bool:
        """Before a step; whether no other thread is in one: then `leave` follows it."""
        self.runs += 1
        alone = self._inside.acquire(blocking=False)
        if not alone:
            report(f"connection {connection.id} has two owners")
        if connection.ownership == PARKED:
            report(f"connection {connection.id} is run, and nobody owns it")
        for fault in [*connection.env.unsent.faults(), *connection.env.reserve.faults()]:
            report(fault)
        if connection.machine.state is State.CLOSED:
            report(f"connection {connection.id} is run after its end")
        tell()
        return alone

    def leave(self) -> None:
        self._inside.release()

    def is_still(self, identity: tuple[int, int] | None) -> bool:
        """Whether that is the open file which the descriptor was at the connection's begin."""
        return identity == self._identity


class CheckedConnection(ConnectionTask):
    """A connection that only its owner may run."""

    __slots__ = ("watch",)

    machine_cls = _CheckedMachine

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.watch = _Watch(self.fd)
        watch_waits(self.env.unsent)

    def run(self) -> int:
        alone = self.watch.enter(self)
        try:
            return super().run()
        finally:
            if alone:
                self.watch.leave()

    def stay(self, timeout: float, wanted: Callable[[float], bool]) -> tuple[int, bool]:
        alone = self.watch.enter(self)
        try:
            if self.attached:
                report(f"connection {self.id} is stayed with, and is in the poller as well")
                tell()
            return super().stay(timeout, wanted)
        finally:
            if alone:
                self.watch.leave()


# ---- the scheduler: where something is handed over -------------------------------


class CheckedQueue(RunQueue):
    """A run queue that has its books checked as it parks."""

    __slots__ = ("check",)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        #: Called with the lock.
        self.check: Callable[[], None] = lambda: None

    def forget(self, task: Task) -> None:
        disturb()
        super().forget(task)
        disturb()

    #: The hooks are in what the long way calls.
    look = RunQueue.look_the_long_way

    def absorb(self, events: Any, worker: Worker | None) -> None:
        disturb()
        super().absorb(events, worker)
        disturb()

    def settle(self, worker: Worker) -> None:
        disturb()
        super().settle(worker)
        self.check()


class CheckedPermits(Permits):
    __slots__ = ()

    def hand_off(self, worker: Worker) -> None:
        disturb()
        super().hand_off(worker)
        disturb()


class CheckedWorkers(Workers):
    __slots__ = ()

    def wake(self, worker: Worker, tasks: tuple[Task, ...] = ()) -> bool:
        disturb()
        return super().wake(worker, tasks)

    def put_away(self, worker: Worker, task: Task, verdict: int) -> None:
        disturb()
        super().put_away(worker, task, verdict)


# ---- the scheduler: what must hold ---------------------------------------------------


class Inspection(NoInspection):
    """Looks for what a scheduler may have forgotten."""

    __slots__ = (
        "_head",
        "_looked_at",
        "_mending",
        "_permits",
        "_queue",
        "_sends",
        "_table",
        "_waiting",
        "_watchdog_timer",
        "_workers",
    )

    def __init__(
        self,
        queue: RunQueue,
        table: TaskTable,
        permits: Permits,
        workers: Workers,
        watchdog_timer: WatchdogTimer,
        mending: Mending,
    ) -> None:
        self._queue = queue
        self._table = table
        self._permits = permits
        self._workers = workers
        self._watchdog_timer = watchdog_timer
        self._mending = mending
        self._looked_at = 0.0
        # task -> (its runs, when it was first seen with bytes, how often it was)
        self._waiting: dict[Task, tuple[int, float, int]] = {}
        self._head: tuple[Task | None, float, int] = (None, 0.0, 0)
        self._sends = ForgottenSends((_PATIENCE_S, _PATIENT_LOOKS))
        if isinstance(queue, CheckedQueue):
            queue.check = self.check_books

    def check_books(self) -> None:
        """With the lock."""
        if self._mending.needed:
            return  # they are false for a moment, and made anew
        for fault in self._permits.faults():
            report(fault)
        ready = self._snapshot()
        if len({id(one) for one in ready}) != len(ready):
            report("a task is in the ready queue twice")
        if any(one.ownership == PARKED for one in ready):
            report("a task is in the ready queue, and nobody owns it")

    def _snapshot(self) -> list[Task]:
        """With the lock."""
        while True:
            ready = self._queue.snapshot()
            if ready is not None:
                return ready

    def before_look(self) -> None:
        with self._queue.lock:
            self._look_whether_anybody_watches()

    def after_look(self, timeout: float) -> float:
        if now() - self._looked_at >= _LOOK_S:
            self._looked_at = now()
            with self._queue.lock:
                self._look_for_the_forgotten()
                self.look_at_the_queue()
                tasks = self._table.all()
            self._sends.look(one for one in tasks if isinstance(one, CheckedConnection))
        tell()
        return min(timeout, _LOOK_S)

    def _look_whether_anybody_watches(self) -> None:
        """With the lock. This mode looks so often that a watchdog that sleeps is not missed."""
        holders = self._permits.holders()
        running = any(one.task is not None and not one.looking for one in holders)
        if running and self._watchdog_timer.state == SLEEPS:
            report("a thread with a permit runs a task, and the watchdog sleeps")

    def _look_for_the_forgotten(self) -> None:
        """With the lock, under which no parked descriptor can be closed."""
        parked = {
            task.fd: task
            for task in self._table.each()
            if isinstance(task, CheckedConnection)
            and task.ownership == PARKED
            and task.attached
            and task.machine.listens
        }
        before, self._waiting = self._waiting, {}
        if not parked:
            return
        poller = select.poll()
        for fd in parked:
            poller.register(fd, select.POLLIN)
        for fd, _ in poller.poll(0):
            task = parked[fd]
            runs, since, looks = before.get(task, (task.watch.runs, now(), 0))
            if runs != task.watch.runs:
                runs, since, looks = task.watch.runs, now(), 0
            self._waiting[task] = (runs, since, looks + 1)
            if looks >= _PATIENT_LOOKS and now() - since >= _PATIENCE_S:
                report(f"connection {task.id} has bytes that nobody was told of: a lost wake-up")

    def look_at_the_queue(self) -> None:
        """With the lock."""
        ready = self._snapshot()
        head = ready[0] if ready else None
        spare = self._permits.resting() > 0 or not self._workers.at_bound()
        known, since, looks = self._head
        if head is None or head is not known or not (self._permits.free and spare):
            self._head = (head, now(), 0)
            return
        self._head = (head, since, looks + 1)
        if looks >= _PATIENT_LOOKS and now() - since >= _PATIENCE_S:
            report("a ready task waits while a permit is free and a thread could take it")


class CheckedScheduler(Scheduler):
    """A scheduler that watches itself."""

    parts = Parts(
        queue=CheckedQueue,
        permits=CheckedPermits,
        workers=CheckedWorkers,
        inspection=Inspection,
    )

    def make_ready(self, task: Task) -> None:
        disturb()
        super().make_ready(task)
        disturb()
