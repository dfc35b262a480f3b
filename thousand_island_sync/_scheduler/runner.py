"""The life of a thread of the pool: it polls, runs what is ready, rests. The essay is in
`scheduler`."""

from __future__ import annotations

from threading import get_native_id
from typing import TYPE_CHECKING, Protocol

from .._base import locks
from .._base import waits as _waits
from .._base.compiled import native
from .blocking_estimate import BlockingEstimate
from .errands import Errands
from .run_queue import RunQueue
from .task import AGAIN, Task
from .worker import Worker

#: What a batch returns, beside a verdict: one task was alone for a while.
STAYS = 3


class Threads(Protocol):
    """What a thread asks of all of them: `Workers`."""

    def enlist(self, worker: Worker) -> None: ...
    def rest(self, worker: Worker, tends_to_block: bool) -> bool: ...
    def are_done(self) -> bool: ...
    def put_away(self, worker: Worker, task: Task, verdict: int) -> None: ...
    def leave(self, worker: Worker) -> None: ...


class Stays(Protocol):
    """Has a thread stay with a task, if that pays: `Affinity`."""

    def go_on(self, worker: Worker, task: Task) -> int: ...
    def stay_alone(self, worker: Worker) -> tuple[Task, int] | None: ...


class Recovers(Protocol):
    """What is done after an exception: `Mending`."""

    def recover(self, worker: Worker, error: BaseException) -> None: ...


class ComesBackTo(Threads, Stays, Recovers, Protocol):
    """All that a thread comes back to after a callback."""


class PythonRunner:
    """The fields of a `Runner` that each batch needs; `_native.Runner` is its equal in C, and has
    `run_batch`, which does as `Runner.run_each` does."""

    __slots__ = ("_estimate", "_queue")

    def __init__(self, queue: RunQueue, estimate: BlockingEstimate) -> None:
        self._queue = queue
        self._estimate = estimate


if TYPE_CHECKING:
    RunnerCore = PythonRunner
else:
    RunnerCore = getattr(native, "Runner", PythonRunner)


class Runner(RunnerCore):
    """What each thread does, with its worker."""

    __slots__ = ("_affinity", "_errands", "_mending", "_workers")

    def __init__(
        self,
        queue: RunQueue,
        workers: Threads,
        estimate: BlockingEstimate,
        affinity: Stays,
        mending: Recovers,
        errands: Errands,
    ) -> None:
        super().__init__(queue, estimate)
        self._workers = workers
        self._affinity = affinity
        self._mending = mending
        self._errands = errands

    def work(self, worker: Worker) -> None:
        """The life of a pool thread."""
        try:
            self._workers.enlist(worker)
            _waits.this_thread_is(worker)
            worker.native_id = get_native_id()
            while True:
                try:
                    self._serve(worker)
                    break
                except BaseException as error:
                    self._mending.recover(worker, error)
        finally:
            locks.release_all()
            try:
                self._workers.leave(worker)
            except BaseException:
                # An asynchronous exception, perhaps with a lock held: do again what it interrupted.
                locks.release_all()
                self._workers.leave(worker)
                raise

    def _serve(self, worker: Worker) -> None:
        """Polls, runs and rests until the thread is to end."""
        queue, errands = self._queue, self._errands
        while True:
            if worker.permit:
                if not queue.look(worker):
                    if self._workers.are_done():
                        return
                    continue  # the permit was taken
            elif not self._workers.rest(worker, self._estimate.looks_at_each()):
                return
            if errands.left:
                errands.run()
            left = self.run_batch(worker)
            if left is not None:
                self._after_batch(worker, left)

    def run_each(self, worker: Worker) -> int | None:
        """The hot path: runs what is ready now, at most 64 tasks, before the next poll.

        Each line here is paid for every message. So the tasks to be parked are collected, and
        `settle` parks them together, with the lock taken once. That is safe: with one permit no
        other thread polls meanwhile, and a thread that takes the permit settles them first.
        With several permits others do poll, so the batches are short.

        Returns:
            The verdict on the worker's task, if the run ended without the permit; `STAYS`; `None`:
            there is nothing left to do before the next poll.
        """
        queue, estimate = self._queue, self._estimate
        take, park, mask = queue.take, worker.parked.append, estimate.sample_mask
        for _ in range(queue.begin_batch(worker)):
            try:
                task = take()
            except IndexError:  # another thread was quicker
                break
            task.ownership = 1  # OWNED: an event from now on marks it, to be run again
            worker.task = task
            worker.turn = turn = worker.turn + 1
            if turn & mask and not task.classified.blocks:
                verdict = task.run()
            else:
                verdict = estimate.run(worker, task)
            if worker.permit:
                worker.task = None
                if not verdict:  # PARK
                    park(task)
                elif verdict == AGAIN:
                    queue.run_again(task)
                continue
            worker.task = task  # another may have been set meanwhile
            return verdict
        worker.task = None
        return STAYS if queue.end_batch() else None

    if TYPE_CHECKING or RunnerCore is PythonRunner:
        run_batch = run_each

    def _after_batch(self, worker: Worker, left: int) -> None:
        """What a batch has left to do; `left` as it returned it."""
        if left == STAYS:  # the thread may stay with that task
            stayed = self._affinity.stay_alone(worker)
            if stayed is not None:
                self._workers.put_away(worker, *stayed)
            return
        # Without the permit the thread takes no more work as it is.
        task: Task = worker.task  # type: ignore[assignment]
        if not left and task.classified.blocks:
            left = self._affinity.go_on(worker, task)
        self._queue.ran_one()
        self._workers.put_away(worker, task, left)

    def abandon(self, gone: ComesBackTo) -> None:
        """In a forked child: `gone` stands in for what a thread comes back to."""
        self._workers = self._affinity = self._mending = gone
