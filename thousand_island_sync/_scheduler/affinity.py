"""A thread that stays with the connection it has just served.

The facts. Where callbacks block, each request is served by a thread without a permit.
If that thread parks the connection, the thread that polls gets the next request, and must
wake another thread to poll before it runs the callback. That is one thread switch more
than a thread per connection needs. Worse, these switches follow one another: with
fifty clients that chain is the limit, not the processor.

Our decision. Such a thread waits in the kernel for its connection's next bytes, with
the descriptor out of the poller: exactly what a thread per connection does. But it
only *stays*: for `STAY_S` without bytes, while the pool has threads to spare and
another thread polls, and only where it pays, that is, while most stays end with bytes.
A connection whose client pauses for a second between requests is parked at once. The first
callback that does not block ends the stay: threads that delay each other over the GIL
look as if they blocked, and would never stop looking so.

If only one connection has received anything for a while, a thread stays with that one,
too, blocking or not, and another thread polls: two system calls a message instead of three.
The stay ends when the polling thread finds work, for then both would want the GIL.

A thread that stays cannot be called back. So no thread stays with a connection that has
had messages from others. What else they may ask of it (to end, to stop) waits for `STAY_S`
at most.
"""

from __future__ import annotations

from .blocking_estimate import BlockingEstimate
from .permits import Permits
from .registrations import Registrations
from .run_queue import RunQueue
from .task import PARK, Task
from .task_table import TaskTable
from .tendency import HAND_OFF_COST
from .worker import Worker
from .workers import Workers

#: Seconds that a thread stays without bytes.
STAY_S = 0.004
#: If fewer stays than this share end with bytes, only one in `_TRY_EVERY` is tried.
_PAYS, _TRY_EVERY = 0.5, 32
_WEIGHT = 1 / 16


class Wanted:
    """Whether a thread that stays is needed elsewhere. It is called after each callback, by
    threads that all want the GIL, so it does little."""

    __slots__ = ("affinity", "quick", "task", "worker")

    def __init__(self, affinity: Affinity, worker: Worker, task: Task) -> None:
        self.affinity, self.worker, self.task = affinity, worker, task
        self.quick = False  # whether a callback did not block

    def __call__(self, duration: float) -> bool:
        """Args: duration: seconds that the callback took."""
        self.worker.stayed += 1
        if duration < HAND_OFF_COST:
            self.quick = True
            return True
        return not self.task.classified.blocks or self.affinity.wanted()


class Affinity:
    """Serving one connection as a thread per connection would, for a while."""

    __slots__ = (
        "_estimate",
        "_permits",
        "_queue",
        "_registrations",
        "_share",
        "_stays",
        "_table",
        "_workers",
    )

    def __init__(
        self,
        queue: RunQueue,
        table: TaskTable,
        permits: Permits,
        workers: Workers,
        registrations: Registrations,
        estimate: BlockingEstimate,
    ) -> None:
        self._queue = queue
        self._table = table
        self._permits = permits
        self._workers = workers
        self._registrations = registrations
        self._estimate = estimate
        self._stays = 0  # how often a thread might have stayed
        self._share = 1.0  # of the stays, those that brought bytes

    def go_on(self, worker: Worker, task: Task) -> int:
        """Stays with a task that was run without a permit and would be parked. Returns the
        last verdict. Thread: the worker's own."""
        if not task.may_stay() or not self._begin_stay(task):
            return PARK
        wanted = Wanted(self, worker, task)
        verdict, came = task.stay(STAY_S, wanted)
        with self._queue.lock:
            self._share += (came - self._share) * _WEIGHT
            if wanted.quick:
                self._estimate.was_quick(task)
        if came:
            self._estimate.measure_next(task)  # does it still block?
        if verdict == PARK:
            self._back_into_the_poller(task)
        return verdict

    def _begin_stay(self, task: Task) -> bool:
        with self._queue.lock:
            if not task.classified.measured or self.wanted():
                return False
            self._stays += 1
            if self._share < _PAYS and self._stays % _TRY_EVERY:
                return False
        self._registrations.detach(task)
        return True

    def _back_into_the_poller(self, task: Task) -> None:
        # `settle` would do it with the lock held, and the call drops the GIL.
        try:
            self._registrations.attach(task)
        except OSError:
            pass  # then `settle` tries again, and ends the task if that fails

    def stay_alone(self, worker: Worker) -> tuple[Task, int] | None:
        """Stays with the task that is alone (`run_queue.ALONE`). Returns it, and its last verdict;
        `None`: it does not pay. Thread: the worker's own, which has run what was ready; it comes
        with a permit, and returns without."""
        with self._queue.lock:
            task = self._queue.take_alone(worker)
            if task is None or not self._permits.is_one() or self.wanted() or not task.may_stay():
                return None
            worker.task = task
            worker.parked.clear()
        self._registrations.detach(task)
        self._permits.hand_off(worker)
        heir = self._permits.heir()
        turn = heir.turn if heir is not None else 0

        def wanted(duration: float) -> bool:
            worker.stayed += 1
            if heir is None or self._permits.heir() is not heir or heir.turn != turn:
                return True  # no thread polls, or the one that does has found work
            return self._is_missed()

        verdict, came = task.stay(STAY_S, wanted)
        while verdict == PARK and came and not wanted(0.0):
            verdict, came = task.stay(STAY_S, wanted)
        if verdict == PARK:
            self._back_into_the_poller(task)
        return task, verdict

    def wanted(self) -> bool:
        """Whether a thread that stays is needed elsewhere; without the lock, a hint."""
        return not self._permits.are_held() or self._is_missed()

    def _is_missed(self) -> bool:
        """The same, if another thread polls."""
        return self._table.closing or (self._workers.at_bound() and not self._permits.resting())
