"""Who runs what: run permits, the ready queue, the pool of threads, the stall watch.

The facts. Between callbacks a connection needs no thread, only a place in the
poller. A callback that does not block is cheapest when it runs straight from the
poll loop, as on an event loop: handing each event to another thread costs a GIL
hand-over, about half as much again as the whole request. But a callback that blocks
on the poll loop stops everybody.

What others do. Event loops forbid blocking. Thread pools pay a hand-over for each
event. Leader/followers pools do, too: the leader always gives its place away first.

Our decision: *run permits*. A permit is the right to take work: to poll, and to run
connections off the ready queue. There are as many as threads can run Python at once:
one with the GIL, the CPU count without. A thread keeps its permit from callback to
callback, and gives it away before it waits, in one of three ways:

1. It is about to wait in a call of ours (`_waits.give_way`): exact, and free of cost
   when nothing blocks.
2. Its connection *tends* to block (`_tendency`): it gives the permit away before the
   callback starts.
3. The stall watch finds it in one callback at two looks in a row, and takes it; at
   five, if the processor was busy meanwhile, or the thread only wants one. It looks
   every 2 ms while callbacks run, every 8 ms where nothing has blocked for a while, and
   not at all on an idle server.

A thread that gave its permit away finishes its callback without one. A permit that
is given away goes to the idle thread that slept last (its cache is warm) or to a new
one. At the bound it lies free: the listener's thread stands in (`tend`), polls and
keeps the deadlines, but runs nothing; the first thread to finish takes it up.

Nothing depends on permits being exclusive. They decide how many threads take work,
not who may touch what. What keeps two threads out of one connection is ownership:
`task.owned` is true from the moment a task is put into the ready queue until the
thread that ran it parks it, and changes only under the lock. An event for an owned
task sets `marked`, and a marked task is not parked but run again. Clearing `marked`
just before a run is safe without the lock: whatever set it happened before the run
looks at the descriptor.

Only the owner closes a descriptor, after `forget` has taken it out of the poller and
out of `_tasks`. A poll that was already under way may still report the number, now
perhaps another task's: that one gets a run for nothing, which every task bears.

No callback, receiver or log handler is ever called with the lock held.
"""

from __future__ import annotations

import logging
from threading import get_native_id
from time import perf_counter, process_time, thread_time

from . import _waits
from ._clock import FOREVER
from ._pool import Worker
from ._staying import ALONE, Staying
from ._task import AGAIN, Task
from ._tendency import HAND_OVER_COST, SAMPLE_EVERY, voluntary_switches, wants_processor

#: Seconds between two looks of the stall watch: where it has reason to suspect anything,
#: and where nothing has blocked for a while. Each look costs two thread switches; at the
#: short interval that was a tenth of the CPU of a server under PINGs.
TICK, CALM_TICK = 0.002, 0.008
#: Looks that found tasks run and none that stood still, until it is calm. A look that found
#: none run counts so many back: under single requests with pauses between, it is never calm.
_CALM_LOOKS, _PAUSE_LOOKS = 25, 5
SAMPLE_SHIFT = SAMPLE_EVERY.bit_length() - 1
#: Looks at one callback after which its permit is taken though the processor is busy.
_BUSY_LOOKS = 4
#: Between two looks while a ready connection waits for a thread.
_SATURATED_TICK = 0.01

_log = logging.getLogger("thousand_island_sync")


class Scheduler(Staying):
    """See the module's essay. Every method may be called from any thread unless it says so."""

    def _work(self, worker: Worker) -> None:
        """The life of a pool thread."""
        _waits.this_thread_is(worker)
        worker.native_id = get_native_id()
        try:
            while True:
                if not worker.permit and not self._rest(worker):
                    break
                if self._closing and not self._tasks:
                    break
                # Where every task makes way for the next, each look would cost a GIL switch.
                look = not self._ready or self._unlooked >= self._batch
                if look and worker.permit and not self._look(worker):
                    continue
                try:
                    self._run_batch(worker)
                except BaseException:
                    self._run_broke(worker)
        finally:
            self._leave(worker)

    def _run_batch(self, worker: Worker) -> None:
        """The hot path: runs what is ready now, at most 64, then it is time to look again.

        Each line here is paid for every message. So what shall be parked is collected,
        and settled with the lock taken once: nobody else looks at events meanwhile, or
        settles it for us when taking the permit. Without the GIL others do look, and
        the batches are short.
        """
        ready = self._ready
        take, park, mask = ready.popleft, worker.parked.append, self._sample_mask
        for _ in range(min(len(ready), self._batch)):
            try:
                task = take()
            except IndexError:  # another thread was quicker
                break
            task.marked = False
            worker.task = task
            worker.turn = turn = worker.turn + 1
            if turn & mask and not task.blocks:
                verdict = task.run()
            else:
                verdict = self._run_measured(worker, task)
            if worker.permit:
                if not verdict:  # PARK
                    park(task)
                elif verdict == AGAIN:
                    ready.append(task)
                continue
            self._without_permit(worker, task, verdict)
            return
        worker.task = None
        self._unlooked = self._batch
        if self._alone >= ALONE:
            self._stay_alone(worker)

    def _without_permit(self, worker: Worker, task: Task, verdict: int) -> None:
        """After a run that ended without the permit: the thread takes no more work as it is."""
        if not verdict and task.blocks:
            verdict = self._stay(worker, task)
        if not verdict:
            worker.parked.append(task)
        elif verdict == AGAIN:
            self._ready.append(task)
        worker.task = None
        self._unlooked += 1  # about: it only says when to look again
        self._help(worker)

    def _run_measured(self, worker: Worker, task: Task) -> int:
        """Runs a task that tends to block without a permit, and measures it.

        The clocks of the process and the thread are system calls; they are asked only
        of a task that was seen to take long.
        """
        if not task.sampled and self.tendency.average > HAND_OVER_COST:
            task.average, task.blocks = self.tendency.average, True
        task.no_sample = worker.waited = False
        # Where the class tends to block, one in so many is measured in full all the same:
        # the connections that made it so may have gone, and nothing else would show it.
        if not task.blocks and (self._sample_mask or worker.turn & (SAMPLE_EVERY - 1)):
            # Not always the same place in a row of callbacks that repeats itself.
            worker.turn += worker.turn >> SAMPLE_SHIFT & 1
            switches, began = voluntary_switches(), perf_counter()
            verdict = task.run()
            long = perf_counter() - began > HAND_OVER_COST
            told = not worker.waited and not task.no_sample
            if long and told and voluntary_switches() != switches:
                # A suspect: its next run is measured, and others make way for it.
                task.blocks, task.sampled = True, False
            return verdict
        known = task.sampled and not task.doubtful
        if task.blocks and known and worker.turn & (SAMPLE_EVERY - 1):
            return task.run()
        switches = voluntary_switches()
        wall, process, thread = perf_counter(), process_time(), thread_time()
        verdict = task.run()
        # Its waits in calls of ours were handed over for exactly.
        if not worker.waited and not task.no_sample:
            at_least = at_most = 0.0
            waits = voluntary_switches() - switches
            if waits:
                wall = perf_counter() - wall
                at_least = wall - (process_time() - process)
                at_most = wall - (thread_time() - thread)
            with self._lock:
                task.average = self.tendency.learn(task.average, at_least, at_most, waits)
                task.blocks = task.average > HAND_OVER_COST
                task.doubtful = at_least <= HAND_OVER_COST
                task.sampled = True
                self._sample_as_needed()
        return verdict

    def _run_broke(self, worker: Worker) -> None:
        """A bug of ours or an asynchronous exception: one connection pays, no thread."""
        task, worker.task = worker.task, None
        _log.exception("a connection broke off; this is a bug in thousand_island_sync")
        if task is not None:
            try:
                task.broke()
            except BaseException:
                _log.exception("while breaking off")

    # ---- the listener's thread ------------------------------------------------

    def tend(self) -> float:
        """One look of the stall watch, and standing in where no thread holds a permit.

        Returns:
            Seconds until the next look; `FOREVER`: when `ring` is called, or, if
            `stand_in_fileno` is not `None`, when that is readable.

        Thread: the listener's alone.
        """
        heirs: list[Worker | None] = []
        idle = self._was_idle()
        with self._lock:
            # By `looking`, not by `task`: a task that was just taken off the queue is
            # nowhere to be seen until its worker has noted it.
            busy = stalled = False
            turns = 0
            for worker in list(self._holders):
                turns += worker.turn
                if worker.looking:
                    continue
                busy = True
                worker.looks = worker.looks + 1 if worker.turn == worker.seen else 0
                worker.seen = worker.turn
                task = worker.task  # once: it may finish at any moment
                if task is None or not worker.looks:
                    continue
                stalled = True
                # Where the processor was busy the callback may just be at work, or wait for
                # the GIL: another thread would only wait with it. Where others' processes
                # have the processors, so would one that wants one.
                blocked = idle and not wants_processor(worker.native_id)
                if blocked or worker.looks >= _BUSY_LOOKS:
                    self._revoke(worker)
                    if blocked:
                        self._suspect(task)
                    heirs.append(self._employ())
            crowd = self._busy() - len(self._holders)
            tasks = self._tasks.values()
            if self._trial.look(self._seen_at, self._seen_cpu, self._turns, crowd, tasks):
                self._sample_as_needed()
            standing_in = not self._holders and bool(self._tasks)
            quiet = not busy and turns == self._seen_turns and not self._ready
            # Where its class tends to block, every callback is looked at: see `_sample_mask`.
            if stalled or not self._sample_mask:
                self._calm = 0
            elif turns != self._seen_turns:
                self._calm = min(self._calm + 1, _CALM_LOOKS)
            else:
                self._calm = max(self._calm - _PAUSE_LOOKS, 0)
            self._seen_turns = turns
            self._watching = not quiet
            if quiet and self._trial.refute(self._seen_at):
                self._sample_as_needed()  # nobody looks again, and it holds on to its tasks
        for heir in heirs:
            if heir is not None:
                self._wake(heir)
        if standing_in:
            return self._stand_in()
        self._tell_saturation()
        if quiet:
            return FOREVER
        return TICK if self._calm < _CALM_LOOKS else CALM_TICK

    def _turns(self) -> int:
        """With the lock: tasks that the threads there are have run."""
        return sum(worker.turn for worker in self._threads)

    def _suspect(self, task: Task) -> None:
        """With the lock: a callback stands still, and it is not for want of a processor.

        It blocks, then, until its next run is measured; and so, for all that is known, do
        others of its class. Else each of a burst of them would be found out by itself, two
        looks later than the one before it.
        """
        task.blocks, task.sampled = True, False
        self.tendency.learn(0.0, TICK, TICK)
        self._trial.refute(self._seen_at)
        self._sample_as_needed()

    def _was_idle(self) -> bool:
        """Whether the process used less than half a processor since this was asked last."""
        wall, process = perf_counter(), process_time()
        idle = process - self._seen_cpu < (wall - self._seen_at) / 2
        self._seen_at, self._seen_cpu = wall, process
        return idle

    def stand_in_fileno(self) -> int | None:
        """What the listener's thread waits for beside its bell. Thread: the listener's."""
        with self._lock:
            if self._holders or not self._tasks:
                return None
        return self._poller_fileno()

    def _poller_fileno(self) -> int | None:
        try:
            return self._poller.fileno()
        except ValueError:  # as above
            return None

    def _stand_in(self) -> float:
        try:
            self._absorb(self._poller.poll(0), None)
        except (OSError, ValueError):
            return TICK  # the last thread has just left, and closed it
        with self._lock:
            # A thread that could not be started before may start now.
            heir = self._employ() if self._ready and self._free else None
        if heir is not None:
            self._wake(heir)
        self._tell_saturation()
        with self._lock:
            # Whoever says here that it watches must come back: nobody rings meanwhile.
            self._watching = bool(self._holders or self._ready)
            if self._watching:
                return TICK if self._holders else _SATURATED_TICK
            timer = self._next_timer
        if self._poller_fileno() is None:
            return _SATURATED_TICK
        return FOREVER if timer == FOREVER else max(TICK, timer - self._clock())

    def _tell_saturation(self) -> None:
        with self._lock:
            waiting = self._unserved()
            busy = self._busy()
            if self._saturated:
                # A thread that rests proves nothing while the one with the permit stands
                # still: what waits, waits for the next look to take it away.
                moving = not any(worker.looks for worker in self._holders)
                spare = moving and (bool(self._idle) or self._sleepers > 0)
                self._relief = self._relief + 1 if spare else 0
                if waiting and self._relief < 2:
                    return
                self._saturated, self._relief = False, 0
            elif waiting and self._free and not self._holders:
                self._saturated = True
            else:
                return
            saturated = self._saturated
        self._tell(saturated, busy, waiting)
