"""The threads of the pool: how one begins, rests and ends. See the essay in `scheduler`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from .._base.starting import start
from .permits import Permits
from .registrations import Registrations
from .rousing import Calls, Rousing
from .run_queue import RunQueue
from .task import AGAIN, PARK, Task
from .task_table import TaskTable
from .watchdog_timer import WatchdogTimer
from .worker import Running, Worker

#: A thread that had nothing to do for this long ends.
_IDLE_S = 30.0


class Workers:
    """As many threads as are needed, up to the bound.

    Args:
        bound: the bound.
        name: prefix of the threads' names.
        watchdog_timer: rings for the watchdog.
    """

    __slots__ = (
        "_bound",
        "_lock",
        "_made",
        "_name",
        "_permits",
        "_queue",
        "_registrations",
        "_rousing",
        "_table",
        "_threads",
        "_trying",
        "_watchdog_timer",
        "_work",
        "count",
    )

    def __init__(self, bound: int, name: str, watchdog_timer: WatchdogTimer) -> None:
        self._bound = bound
        self._name = name
        self._watchdog_timer = watchdog_timer
        self._threads: dict[Worker, threading.Thread] = {}
        self._made = 0
        self._trying = False  # the listener's thread tries to start one; it looks again anyway
        #: Including those that are about to start.
        self.count = 0
        self._queue: RunQueue
        self._table: TaskTable
        self._permits: Permits
        self._rousing: Rousing
        self._registrations: Registrations
        self._work: Callable[[Worker], None]

    def serve(
        self,
        queue: RunQueue,
        table: TaskTable,
        permits: Permits,
        rousing: Rousing,
        registrations: Registrations,
        work: Callable[[Worker], None],
    ) -> None:
        """What they work on. Before any other call.

        Args:
            work: the life of a thread.
        """
        self._queue, self._table, self._permits = queue, table, permits
        self._rousing, self._lock = rousing, rousing.lock
        self._registrations = registrations
        self._work = work

    # ---- one begins -----------------------------------------------------------------

    def hire(self) -> Worker | None:
        """With the lock: one more, which `wake` starts; `None`: the pool is at its bound."""
        if self.count >= self._bound:
            return None
        worker = Worker(self._permits)
        self._made += 1
        name = f"{self._name}-handler-{self._made}"
        self._threads[worker] = threading.Thread(
            target=self._work, args=(worker,), name=name, daemon=True
        )
        self.count += 1
        return worker

    def wake(self, worker: Worker, tasks: tuple[Task, ...] = ()) -> bool:
        """Without the lock. `False`: the thread was new and could not be started, and as there is
        no other, `tasks`, which it was to run first, are out of the queue again."""
        if worker.turn:
            worker.ring()
            return True
        worker.turn = 1
        with self._lock:
            thread = self._threads.get(worker)
        if thread is None:
            return True  # it was given up meanwhile
        try:
            start(thread)
        except RuntimeError:  # "can't start new thread": take that for the bound
            with self._lock:
                self._strike_off(worker)
                self._permits.drop_unstarted(worker)
                # With the same hold of the lock: else the listener's thread sees them, and tries.
                taken_back = not self.count and self._queue.take_back(tasks)
            if not self._trying:  # else the listener's thread would ring for itself without end
                self._watchdog_timer.ring()
            return not taken_back
        self._watchdog_timer.ring()  # for the watchdog, if it dies before its first step
        return True

    def enlist(self, worker: Worker) -> None:
        """Its thread calls this first. It lists the worker again if the start took so long that
        the worker was struck off."""
        with self._lock:
            if worker not in self._threads:
                self._threads[worker] = threading.current_thread()
                self.count = len(self._threads)

    def reinforce(self) -> None:
        """Starts a thread beyond the bound if a ready task finds none (in a stop)."""
        with self._rousing as calls, self._lock:
            if self._queue.has_ready() and self._permits.are_all_free():
                self._bound = max(self._bound, self.count + 1)
                calls.heir()

    def try_again(self) -> None:
        """A thread that could not be started before may start now. Thread: the listener's, where
        it stands in."""
        self._trying = True
        try:
            with self._rousing as calls, self._lock:
                if self._queue.has_ready() and self._permits.free:
                    calls.heir(else_listener=False)  # the caller is that thread
        finally:
            self._trying = False

    # ---- it rests, and ends -----------------------------------------------------------

    def rest(self, worker: Worker, tends_to_block: bool) -> bool:
        """Waits for a permit, or finds a task to run without one. `False`: it is to end."""
        with self._rousing as calls, self._lock:
            self._queue.settle(worker)  # its permit may have been taken since its last task
            granted = worker.permit
            if granted:
                return True
            if self._table.is_over():
                return False
            if self._permits.take_free(worker):
                return True
            if self._queue.has_ready():
                if tends_to_block:
                    return True  # callbacks tend to block: it runs one more without a permit
                calls.somebody()
            self._permits.rest(worker)
        rung = worker.bell.acquire(timeout=_IDLE_S)
        if rung and worker.permit:
            return True
        with self._lock:
            rested = self._permits.rise(worker)
        return rung or not rested

    def put_away(self, worker: Worker, task: Task, verdict: int) -> None:
        """Parks or queues what a thread without a permit has run, by its verdict. The thread takes
        a free permit, or calls another to run what is ready. Thread: the worker's own."""
        with self._rousing as calls, self._lock:
            worker.task = None
            if verdict == PARK:
                worker.parked.append(task)
            self._queue.settle(worker)
            if verdict == AGAIN:
                self._queue.run_again(task)
            if not self._permits.take_free(worker) and self._queue.has_ready():
                calls.somebody()

    def leave(self, worker: Worker) -> None:
        """Thread: the worker's own, which ends."""
        with self._rousing as calls, self._lock:
            self._permits.rise(worker)
            if worker.permit:
                self._permits.give_up(calls, worker)
            self._queue.settle(worker)
            if self._queue.has_ready():
                calls.somebody()
            self._strike_off(worker)
            over = self._table.is_over()
            last = over and not self.count
            others = self._table.closing and self._queue.sleepers > 0
        if last:
            self._registrations.close()
        elif others:
            self._registrations.wake()  # each that leaves wakes the next

    def dismiss(self) -> None:
        """Nothing is left to do: every thread may end, the last closes the poller."""
        with self._lock:
            workers, sleepers = list(self._threads), self._queue.sleepers
        for worker in workers:
            worker.ring()
        if not workers:
            self._registrations.close()
        self._registrations.wake(sleepers)

    def _strike_off(self, worker: Worker) -> None:
        """With the lock."""
        if self._threads.pop(worker, None) is not None:
            self.count -= 1

    # ---- asking -------------------------------------------------------------------------

    def busy(self) -> int:
        """Threads that neither rest nor wait in the poller. Without the lock, a hint."""
        return max(0, self.count - self._permits.resting() - self._queue.sleepers)

    def at_bound(self) -> bool:
        """Whether no other may be hired. Without the lock, a hint."""
        return self.count >= self._bound

    def are_done(self) -> bool:
        """Whether all tasks are over and none will be added. Without the lock, a hint."""
        return self._table.closing and self._table.is_over()

    def threads(self) -> list[threading.Thread]:
        with self._lock:
            return list(self._threads.values())

    def all(self) -> list[Worker]:
        """With the lock."""
        return list(self._threads)

    def run(self, task: Task) -> bool:
        """Whether one of them is in a step of this task, or has just ended one. Thread: any."""
        with self._lock:
            return any(worker.task is task for worker in self._threads)

    def running(self) -> list[Running]:
        """What each of them runs. Thread: any; without the lock, a hint."""
        return [
            Running(thread.ident or 0, worker.turns(), task, worker.permit)
            for worker, thread in self._threads.copy().items()
            if (task := worker.task) is not None
        ]

    def turns(self) -> int:
        """With the lock: steps that the present threads have begun."""
        return sum(worker.turns() for worker in self._threads)

    # ---- the dead --------------------------------------------------------------------

    def seems_dead(self, worker: Worker) -> bool:
        """With the lock. A thread that was never started does not; one that is just starting may,
        for a moment."""
        thread = self._threads.get(worker)
        return thread is not None and thread.ident is not None and not thread.is_alive()

    def that_seem_dead(self) -> dict[Worker, threading.Thread]:
        with self._lock:
            return {one: self._threads[one] for one in self._threads if self.seems_dead(one)}

    def take_out_the_dead(self, dead: Iterable[Worker], calls: Calls) -> list[Worker]:
        """With the lock: those of `dead` that are still listed. Workers that got a permit and were
        never started, because the starting thread was interrupted, are struck off as well; if
        one does start later, `enlist` lists it again."""
        dead = [worker for worker in dead if worker in self._threads]
        never_started = [
            worker
            for worker, thread in self._threads.items()
            if thread.ident is None and not calls.has(worker)
        ]
        for worker in [*dead, *never_started]:
            self._queue.settle(worker)  # in debug mode it checks the books: do it while they hold
        for worker in [*dead, *never_started]:
            del self._threads[worker]
            worker.permit = False
        return dead

    def recount(self) -> None:
        """With the lock."""
        self.count = len(self._threads)
