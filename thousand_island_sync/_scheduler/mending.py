"""What is done after an exception that nobody expected: the scheduler's books are made true.

The facts. An exception can come between any two steps of ours: another thread raises it there
(`PyThreadState_SetAsyncExc`), memory runs out, a descriptor was closed by somebody else's
mistake, a handler of a signal raises while the main thread posts a message. What the lock
guards is then half changed: a permit that has left one thread and reached no other, a task
that was taken off the queue and is in nobody's hands, an edge of the poller that was reported
to no one and does not come again.

Our decision: no step undoes itself. Whoever meets such an exception breaks off what it runs,
which costs one connection at most, and has all books made anew, from what cannot be half done:
which threads live, what each runs, which of them know that they hold a permit. A task that is
owned and is nowhere is put into the queue again, every parked one is run once, for its edge may
have been lost, and every thread that rests looks at the world anew. It is slow, one look at
every connection, and never wrong to do. Where not even that comes to its end (`_broken` is
still set), the watchdog does it, and it looks for threads that have died.

A task that is owned is in the queue, or its worker runs it, or has it among those to be parked:
but for a moment while it goes from one to the other. A worker in that moment says so by running
nothing, and each task that it takes counts in its turn. So a search in which one of the others
was in such a moment, or took one, proves nothing, and is made again at the next look.
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
    """Makes good what was broken off. Thread: any, without the lock, unless it says so.

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
        #: Something was broken off, and the watchdog shall put it right.
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
        """Whose books it makes anew. Before any other call."""
        self._queue, self._table, self._permits = queue, table, permits
        self._workers, self._rousing = workers, rousing
        self._registrations = registrations

    # ---- who has met the exception ------------------------------------------------------

    def recover(self, worker: Worker, error: BaseException) -> None:
        """Something of ours raised, or an asynchronous exception came. Thread: the worker's."""
        locks.release_all()
        self.needed = True
        if isinstance(error, OSError):
            self._registrations.renew()
        self._stop_short(worker)
        self.make_good()
        self._permits.hand_off(worker)  # a handler of the log's may take its time
        self._break_off(worker, error)

    def make_good(self) -> None:
        """An exception has ended something of ours before its end, that may have asked for
        anything of the scheduler."""
        self.needed = True
        try:
            self._watchdog_timer.ring()
        finally:
            self.put_right()

    def poller_was_lost(self) -> None:
        """It is a new one, with nothing in it. With the lock."""
        for task in self._table.each():
            task.attached = False
        self.needed = True
        self._errands.leave(_tell_of_the_loss)

    def _stop_short(self, worker: Worker) -> None:
        """From now on its `task` is what it was stopped in, if it was stopped in any."""
        with self._rousing.lock:
            worker.looking = False
            self._permits.rise(worker)
            ready = self._queue.snapshot() or []
            if worker.task in worker.parked or worker.task in ready:
                worker.task = None  # it was done with it

    def _break_off(self, worker: Worker, error: BaseException | None) -> None:
        """What a worker ran when it was stopped costs its connection, and nothing else. It stays
        the worker's until then: nobody takes it for lost."""
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
        """Makes good what an exception has left half done."""
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
            self._watchdog_timer.looks(again=True)  # it is rung for
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
        # Without the lock: this one is the standard library's, and who was interrupted under it
        # may wait for ours. One that just starts is not alive for a moment, but listed.
        listed = set(threading.enumerate()) if seem_dead else set()
        with self._rousing.lock:
            dead = self._workers.take_out_the_dead(
                [one for one, thread in seem_dead.items() if thread not in listed],
                self._rousing.calls,
            )
            # In the same moment: others look at the books, too.
            self._workers.recount()
            self._permits.true_up(self._workers.all())
        for worker in dead:
            say("a thread of the pool has died, and another takes over", None)
            self._stop_short(worker)
            self._break_off(worker, None)

    def _find_the_lost(self) -> bool:
        """With the lock: puts tasks into the queue that are owned and nowhere. Whether there is
        none left; else somebody may just hold it in his hands."""
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
                sure = False  # but this thread knows of itself that it has nothing in its hands
        lost = [task for task in owned if task not in here]
        sure = sure and all(worker.turns() == turns for worker, turns in workers)
        if sure:
            self._queue.put_lost(lost)
        return sure or not lost
