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

from .queue import Queue
from .task import AGAIN, PARK, Task
from .tendency import HAND_OVER_COST
from .worker import Worker

#: Seconds that a thread stays without bytes.
STAY_S = 0.004
#: Below this share of stays that end with bytes, one in `_TRY_EVERY` is tried.
_PAYS, _TRY_EVERY = 0.5, 32
_WEIGHT = 1 / 16
#: Looks in a row that found one and the same connection ready and no other.
ALONE = 64


class Wanted:
    """Whether a thread that stays has something better to do: asked after each callback, by
    threads that all want the GIL for it. In Python it took them 4 % of their rate, so its twin
    is a part of that of `stay`."""

    __slots__ = ("pool", "quick", "task", "worker")

    def __init__(self, pool: Queue, worker: Worker, task: Task) -> None:
        self.pool, self.worker, self.task = pool, worker, task
        self.quick = False  # a callback did not block after all

    def __call__(self, duration: float) -> bool:
        """Args: duration: seconds that the callback took."""
        self.worker.turn += 1
        if duration < HAND_OVER_COST:
            self.quick = True
            return True
        # As `_wanted`, without the lock too, written out.
        pool = self.pool
        if not pool._holders or not self.task.blocks or pool._closing:
            return True
        return not pool._idle and pool._count >= pool._bound


class Staying(Queue):
    """Serving one connection as a thread per connection would, for a while."""

    __slots__ = ()

    def _stay(self, worker: Worker, task: Task) -> int:
        """Goes on with a task that was run without a permit and would be parked; the
        verdict that ends it. Thread: the worker's own."""
        if not task.may_stay() or not self._begin_stay(task):
            return PARK
        wanted = Wanted(self, worker, task)
        verdict, came = task.stay(STAY_S, wanted)
        with self._lock:
            self._stay_pays += (came - self._stay_pays) * _WEIGHT
            if wanted.quick:
                task.average = self.tendency.learn(task.average, 0.0, 0.0)
                task.blocks = task.average > HAND_OVER_COST
        if came:
            task.sampled = False  # the next run is measured: does it still block?
        if verdict == PARK:
            self._back_into_the_poller(task)
        return verdict

    def _begin_stay(self, task: Task) -> bool:
        with self._lock:
            if not task.sampled or self._wanted():
                return False
            self._stays += 1
            if self._stay_pays < _PAYS and self._stays % _TRY_EVERY:
                return False
        self.detach(task)
        return True

    def _back_into_the_poller(self, task: Task) -> None:
        # `_settle` would do it with the lock held, and the call drops the GIL.
        try:
            self._register(task)
            task.attached = True
        except OSError:
            pass  # it will do it after all

    def _stay_alone(self, worker: Worker) -> None:
        """Stays with the only connection that has said anything for a while. Thread: the
        worker's own, with a permit, when it has run what was ready."""
        with self._lock:
            self._alone = 0
            parked = worker.parked
            task = parked[0] if len(parked) == 1 else None
            if task is None or task.fd != self._last_found or task.marked:
                return
            if self._permits > 1 or self._wanted() or not task.may_stay():
                return
            worker.task = task
            parked.clear()
        self.detach(task)
        self._hand_over(worker)
        heir = self._heir()
        turn = heir.turn if heir is not None else 0

        def wanted(duration: float) -> bool:
            worker.turn += 1
            return heir is None or heir is not self._heir() or heir.turn != turn or self._wanted()

        verdict, came = task.stay(STAY_S, wanted)
        while verdict == PARK and came and not wanted(0.0):
            verdict, came = task.stay(STAY_S, wanted)
        if verdict == PARK:
            self._back_into_the_poller(task)
        self._put_away(worker, task, verdict)

    def _heir(self) -> Worker | None:
        """Who holds the permit; without the lock, a hint."""
        for holder in self._holders:
            return holder
        return None

    def _put_away(self, worker: Worker, task: Task, verdict: int) -> None:
        """What a thread without a permit has run goes where its verdict says; the thread takes a
        free permit, or calls who shall run what is ready. Thread: the worker's own."""
        with self._rousing, self._lock:
            worker.task = None
            if verdict == PARK:
                worker.parked.append(task)
            self._settle(worker)
            if verdict == AGAIN:
                self._ready.append(task)
            if self._free and not worker.permit:
                self._grant(worker)
            elif self._ready:
                self._call_somebody()

    def _wanted(self) -> bool:
        """Whether the thread has something better to do; without the lock, a hint."""
        spare = bool(self._idle) or self._count < self._bound
        return not spare or not self._holders or self._closing
