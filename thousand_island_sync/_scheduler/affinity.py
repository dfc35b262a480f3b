"""A thread that stays with the connection it has just served.

The facts. Where callbacks block, each request is served by a thread without a permit.
Parking its connection then means that the next request comes to whoever polls, who
wakes another thread to poll before it runs the callback. That is a thread switch more
than a thread per connection pays, and worse, these switches follow one another: with
fifty clients that chain is the limit, not the processor.

Our decision. Such a thread waits in the kernel for its connection's next bytes, with
the descriptor out of the poller: exactly what a thread per connection does. But it
only *stays*: for `STAY_S` without bytes, while the pool has threads to spare and
somebody else polls, and only where it pays, that is, while most stays end with bytes.
Clients that think for a second between requests are parked at once. The first callback
that does not block after all ends it: threads that hold each other up over the GIL
look as if they blocked, and would never get out of that by themselves.

And where for a while nobody but one connection has said anything, a thread stays with it,
too, blocking or not, and another one polls: two system calls a message instead of three.
It ends when that thread finds anything to do, for then two of them would want the GIL.

A thread that stays cannot be called back. So a connection that others have sent
messages to is never stayed with, and what else they may ask of it (an end, a stop)
waits for `STAY_S` at most.
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
#: Below this share of stays that end with bytes, one in `_TRY_EVERY` is tried.
_PAYS, _TRY_EVERY = 0.5, 32
_WEIGHT = 1 / 16


class Wanted:
    """Whether a thread that stays has something better to do: asked after each callback, by
    threads that all want the GIL for it, so it asks little."""

    __slots__ = ("affinity", "quick", "task", "worker")

    def __init__(self, affinity: Affinity, worker: Worker, task: Task) -> None:
        self.affinity, self.worker, self.task = affinity, worker, task
        self.quick = False  # a callback did not block after all

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
        """Goes on with a task that was run without a permit and would be parked; the
        verdict that ends it. Thread: the worker's own."""
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
            pass  # it will do it after all

    def stay_alone(self, worker: Worker) -> tuple[Task, int] | None:
        """Stays with the only connection that has said anything for a while; that, and the verdict
        that ends it. `None`: it does not pay. Thread: the worker's own, with a permit, when it has
        run what was ready; then without."""
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
                return True  # nobody polls, or who does has found something
            return self._is_missed()

        verdict, came = task.stay(STAY_S, wanted)
        while verdict == PARK and came and not wanted(0.0):
            verdict, came = task.stay(STAY_S, wanted)
        if verdict == PARK:
            self._back_into_the_poller(task)
        return task, verdict

    def wanted(self) -> bool:
        """Whether the thread has something better to do; without the lock, a hint."""
        return not self._permits.are_held() or self._is_missed()

    def _is_missed(self) -> bool:
        """The same, where somebody polls."""
        return self._table.closing or (self._workers.at_bound() and not self._permits.resting())
