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
still set), the stall watch does it, and it looks for threads that have died.

A task that is owned is in the queue, or its worker runs it, or has it among those to be parked:
but for a moment while it goes from one to the other. A worker in that moment says so by running
nothing, and each task that it takes counts in its turn. So a search in which one of the others
was in such a moment, or took one, proves nothing, and is made again at the next look.
"""

from __future__ import annotations

import threading

from .._base import locks, waits
from .._base.clock import FOREVER
from .._base.supervised import say
from .staying import Staying
from .worker import Worker


class Mending(Staying):
    """Makes good what was broken off. Thread: any, without the lock, unless it says so."""

    __slots__ = ()

    def _recover(self, worker: Worker, error: BaseException) -> None:
        """Something of ours raised, or an asynchronous exception came. Thread: the worker's."""
        locks.release_all()
        self._broken = True
        self._unlooked = 0  # what is ready goes first: the next look may fail as well
        if isinstance(error, OSError):
            self._renew_poller()
        self._stop_short(worker)
        self._make_good()
        self._hand_over(worker)  # a handler of the log's may take its time
        self._break_off(worker, error)

    def _stop_short(self, worker: Worker) -> None:
        """From now on its `task` is what it was stopped in, if it was stopped in any."""
        with self._lock:
            worker.looking = False
            if worker in self._idle:
                self._idle.remove(worker)
            if worker.task in worker.parked or worker.task in self._ready:
                worker.task = None  # it was done with it

    def _break_off(self, worker: Worker, error: BaseException | None) -> None:
        """What a worker ran when it was stopped costs its connection, and nothing else. It stays
        the worker's until then: nobody takes it for lost."""
        task = worker.task
        if task is None:
            say("a thread of the pool was interrupted, and goes on", error)
            return
        say(
            "a connection broke off; this is a bug in thousand_island_sync, or an exception"
            " that another thread raised here",
            error,
        )
        try:
            task.broke()
        except BaseException as another:
            say("while breaking off", another)
        worker.task = None

    def _put_right(self) -> None:
        with self._lock:
            seem_dead = {one: self._threads[one] for one in self._threads if self._seems_dead(one)}
        # Without the lock: this one is the standard library's, and who was interrupted under it
        # may wait for ours. One that just starts is not alive for a moment, but listed.
        listed = set(threading.enumerate()) if seem_dead else set()
        with self._lock:
            dead = self._take_out_the_dead(
                [one for one, thread in seem_dead.items() if thread not in listed]
            )
        for worker in dead:
            say("a thread of the pool has died, and another takes over", None)
            self._stop_short(worker)
            self._break_off(worker, None)
        with self._lock:
            all_found = self._find_the_lost()
            self._true_up()
            self._look_at_all()
            workers, sleepers = list(self._threads), self._sleepers
            if self._ready:
                self._call_somebody()
        for worker in workers:
            worker.ring()
        for _ in range(sleepers):
            self._poller.wake()
        self._wake_called()
        if all_found:
            self._broken = False
        self._ring()

    def _seems_dead(self, worker: Worker) -> bool:
        """With the lock. One that was never started does not; one that just starts may, for a
        moment."""
        thread = self._threads.get(worker)
        return thread is not None and thread.ident is not None and not thread.is_alive()

    def _take_out_the_dead(self, dead: list[Worker]) -> list[Worker]:
        """With the lock: those of them who are there still. Who was employed and never started,
        because who would have done it was interrupted, goes as well; if it is started yet, it
        comes back (`_enlist`)."""
        dead = [worker for worker in dead if worker in self._threads]
        unborn = [
            worker
            for worker, thread in self._threads.items()
            if thread.ident is None and worker not in self._called
        ]
        for worker in [*dead, *unborn]:
            del self._threads[worker]
            worker.permit = False
            self._settle(worker)
        return dead

    def _find_the_lost(self) -> bool:
        """With the lock: puts tasks into the queue that are owned and nowhere. Whether there is
        none left; else somebody may just hold it in his hands."""
        owned = [task for task in self._tasks.values() if task.owned]
        resting, me = set(self._idle), waits.current_worker()
        workers = [(worker, worker.turn) for worker in self._threads]
        try:
            here = set(self._ready)
        except RuntimeError:  # without the GIL: another thread took one meanwhile
            return False
        sure = True
        for worker, _ in workers:
            task = worker.task
            here.update(worker.parked)
            if task is not None:
                here.add(task)
            elif not worker.looking and worker not in resting and worker is not me:
                sure = False  # but this thread knows of itself that it has nothing in its hands
        lost = [task for task in owned if task not in here]
        sure = sure and all(worker.turn == turn for worker, turn in workers)
        if sure:
            self._ready.extend(lost)
        return sure or not lost

    def _true_up(self) -> None:
        """With the lock: counts and lists, by what the threads know themselves."""
        workers = self._threads
        self._count = len(workers)
        self._holders = [worker for worker in workers if worker.permit]
        self._free = self._permits - len(self._holders)
        self._idle = [one for one in self._idle if one in workers and not one.permit]
        self._sleepers = sum(worker.looking for worker in workers)

    def _look_at_all(self) -> None:
        """With the lock: every parked task is run, and has its timer set anew after that."""
        for task in self._tasks.values():
            self._drop_timer(task)
            task.timer_at = FOREVER
            if not task.owned:
                task.owned = True
                self._ready.append(task)
        self._next_timer = self._timers.next()
        self._watching, self._alarm_may_stop = True, False  # it is rung for
