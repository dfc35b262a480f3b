"""What is done after an unexpected exception: the scheduler's books are rebuilt.

The facts. An exception can come between any two steps of the library: another thread raises it
there (`PyThreadState_SetAsyncExc`), memory runs out, other code has closed a descriptor by
mistake, a signal handler raises while the main thread posts a message. Then what the lock guards
is half changed: a permit has left one thread and reached no other, a task was taken off the queue
and no thread has it, an edge of the poller was lost and is not reported again.

Our decision: no step undoes itself. The thread that meets such an exception ends the task that it
runs, which costs one connection at most. Then it rebuilds all books from facts that cannot be half
changed: which threads live, what each runs, and each thread's flag whether it holds a permit. A
task that is owned and found nowhere is put into the queue again; every parked task is run once, as
its edge may have been lost; every thread that rests checks for work. This is slow, one look at
every connection, but always safe. If the rebuilding is interrupted as well (`needed` is still
set), the watchdog does it, and it looks for threads that have died.

An owned task is in the queue, or its worker runs it, or has it in its list of tasks to park; except
for a moment while it goes from one to the other. In that moment the worker's `task` is `None`, and
each task that it takes raises its `turn`. So if another worker was in such a moment, or its `turn`
has changed, the search proves nothing, and is repeated at the next look.
"""

from __future__ import annotations

import threading

from .._base import locks, waits
from .._base.supervised import say
from .errands import Errands
from .permits import Permits
from .registrations import Registrations
from .rousing import Rousing
from .run_queue import RunQueue
from .states import PARKED
from .task import Task
from .task_table import TaskTable
from .watchdog_timer import WatchdogTimer
from .worker import Worker
from .workers import Workers


def _tell_of_the_loss() -> None:
    say(
        "another part of the program closed the descriptor that this server polls with; the server"
        " goes on with a new one. Look for code that closes a descriptor which is not its own",
        None,
    )


class Mending:
    """Repairs what an exception has interrupted. Thread: any, without the lock, unless it says so.

    Args:
        watchdog_timer: rings for the watchdog, which does it if this thread cannot.
        errands: for what is logged once no lock is held.
    """

    __slots__ = (
        "_errands",
        "_permits",
        "_queue",
        "_registrations",
        "_rousing",
        "_table",
        "_watchdog_timer",
        "_workers",
        "needed",
    )

    def __init__(self, watchdog_timer: WatchdogTimer, errands: Errands) -> None:
        self._watchdog_timer = watchdog_timer
        self._errands = errands
        #: Something was interrupted, and the watchdog is to repair it.
        self.needed = False
        self._queue: RunQueue
        self._table: TaskTable
        self._permits: Permits
        self._workers: Workers
        self._rousing: Rousing
        self._registrations: Registrations

    def serve(
        self,
        queue: RunQueue,
        table: TaskTable,
        permits: Permits,
        workers: Workers,
        rousing: Rousing,
        registrations: Registrations,
    ) -> None:
        """The parts whose books it rebuilds. Before any other call."""
        self._queue, self._table, self._permits = queue, table, permits
        self._workers, self._rousing = workers, rousing
        self._registrations = registrations

    # ---- the thread that met the exception ------------------------------------------------------

    def recover(self, worker: Worker, error: BaseException) -> None:
        """Code of the library raised, or an asynchronous exception came. Thread: the worker's."""
        locks.release_all()
        self.needed = True
        if isinstance(error, OSError):
            self._registrations.renew()
        self._stop_short(worker)
        self.make_good()
        self._permits.hand_off(worker)  # a logging handler may take its time
        self._break_off(worker, error)

    def make_good(self) -> None:
        """An exception has interrupted code of the library that may have called the
        scheduler."""
        self.needed = True
        try:
            self._watchdog_timer.ring()
        finally:
            self.put_right()

    def poller_was_lost(self) -> None:
        """There is a new poller, with nothing registered. With the lock."""
        for task in self._table.each():
            task.attached = False
        self.needed = True
        self._errands.leave(_tell_of_the_loss)

    def _stop_short(self, worker: Worker) -> None:
        """Afterwards `worker.task` is the task in whose step it was interrupted, or `None`."""
        with self._rousing.lock:
            worker.looking = False
            self._permits.rise(worker)
            ready = self._queue.snapshot() or []
            if worker.task in worker.parked or worker.task in ready:
                worker.task = None  # its step was complete

    def _break_off(self, worker: Worker, error: BaseException | None) -> None:
        """Ends the connection in whose step the worker was interrupted. Until then the task stays
        the worker's, so that `_find_the_lost` does not queue it."""
        task = worker.task
        if task is None:
            say("a thread of the pool was interrupted, and goes on", error)
            return
        say(
            "an unexpected exception ends a connection; it is a bug in thousand_island_sync, or"
            " another thread raised it here",
            error,
        )
        try:
            task.broke()
        except BaseException as another:
            say("another exception, while that connection ended", another)
        worker.task = None

    # ---- the books ------------------------------------------------------------------------

    def put_right(self) -> None:
        """Repairs what an exception has left half done."""
        self._bury_the_dead()
        calls = self._rousing.calls
        with self._rousing.lock:
            all_found = self._find_the_lost()
            self._table.recount()
            workers = self._workers.all()
            self._workers.recount()
            self._permits.true_up(workers)
            sleepers = sum(worker.looking for worker in workers)
            self._queue.look_at_all(sleepers)
            self._watchdog_timer.looks(again=True)  # the ring follows below
            if self._queue.has_ready():
                calls.somebody()
        for worker in workers:
            worker.ring()
        self._registrations.wake(sleepers)
        self._rousing.wake_called()
        if all_found:
            self.needed = False
        self._watchdog_timer.ring()

    def _bury_the_dead(self) -> None:
        seem_dead = self._workers.that_seem_dead()
        # Without the scheduler's lock: `enumerate` takes the standard library's, and a thread
        # that was interrupted with that one may wait for the scheduler's. A thread that is just
        # starting does not count as alive for a moment, but is listed there.
        listed = set(threading.enumerate()) if seem_dead else set()
        with self._rousing.lock:
            dead = self._workers.take_out_the_dead(
                [one for one, thread in seem_dead.items() if thread not in listed],
                self._rousing.calls,
            )
            # With the same hold of the lock: others read the books, too.
            self._workers.recount()
            self._permits.true_up(self._workers.all())
        for worker in dead:
            say("a thread of the pool has died, and another takes over", None)
            self._stop_short(worker)
            self._break_off(worker, None)

    def _find_the_lost(self) -> bool:
        """With the lock: puts tasks into the queue that are owned and found nowhere. `False`: some
        may be lost, or another thread may just be taking them."""
        owned = [task for task in self._table.each() if task.ownership != PARKED]
        me = waits.current_worker()
        workers = [(worker, worker.turns()) for worker in self._workers.all()]
        ready = self._queue.snapshot()
        if ready is None:
            return False
        here: set[Task] = set(ready)
        sure = True
        for worker, _ in workers:
            task = worker.task
            here.update(worker.parked)
            if task is not None:
                here.add(task)
            elif not worker.looking and not self._permits.rests(worker) and worker is not me:
                sure = False  # it may be taking a task (this thread is not)
        lost = [task for task in owned if task not in here]
        sure = sure and all(worker.turns() == turns for worker, turns in workers)
        if sure:
            self._queue.put_lost(lost)
        return sure or not lost
