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
2. Its connection *tends* to block, or to compute for long (`tendency`): it gives the permit
   away before the callback starts.
3. The stall watch finds it in one callback at two looks in a row, and takes it; at
   five, if the processor was busy meanwhile, or the thread only wants one. It looks
   every 2 ms while callbacks run, every 8 ms where nothing has blocked for a while, and
   not at all on an idle server, nor where requests come one by one and are quick: an
   alarm that would wake it is stopped when they are over (`_scheduler.alarm`). Who runs what is
   ready, whatever made it so, sees first that the watch looks or the alarm is set.

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

from threading import get_native_id
from time import perf_counter, process_time, thread_time

from .._base import locks
from .._base import waits as _waits
from .staying import ALONE
from .task import AGAIN, Task
from .tendency import HAND_OVER_COST, LONG, SAMPLE_EVERY, voluntary_switches
from .watch import Watch
from .worker import Worker

SAMPLE_SHIFT = SAMPLE_EVERY.bit_length() - 1


class Scheduler(Watch):
    """See the module's essay. Every method may be called from any thread unless it says so."""

    def _work(self, worker: Worker) -> None:
        """The life of a pool thread."""
        try:
            self._enlist(worker)
            _waits.this_thread_is(worker)
            worker.native_id = get_native_id()
            while True:
                try:
                    self._serve(worker)
                    break
                except BaseException as error:
                    self._recover(worker, error)
        finally:
            locks.release_all()
            self._leave(worker)

    def _serve(self, worker: Worker) -> None:
        """Until the thread shall end."""
        while worker.permit or self._rest(worker):
            if self._closing and not self._tasks:
                break
            # Where every task makes way for the next, each look would cost a GIL switch.
            look = not self._ready or self._unlooked >= self._batch
            if look and worker.permit and not self._look(worker):
                continue
            if self._left_over:
                self._do_left_over()
            self._run_batch(worker)

    def _run_batch(self, worker: Worker) -> None:
        """The hot path: runs what is ready now, at most 64, then it is time to look again.

        Each line here is paid for every message. So what shall be parked is collected,
        and settled with the lock taken once: nobody else looks at events meanwhile, or
        settles it for us when taking the permit. Without the GIL others do look, and
        the batches are short.
        """
        ready = self._ready
        take, park, mask = ready.popleft, worker.parked.append, self._sample_mask
        count = min(len(ready), self._batch)
        if count and worker.permit and not self._watching:
            self._be_watched()
        for _ in range(count):
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
                worker.task = None
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
        self._unlooked += 1  # about: it only says when to look again
        self._put_away(worker, task, verdict)

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
        worked = thread_time() - thread
        if task.blocks and worked >= LONG:
            task.sampled, task.doubtful = True, False
        # Its waits in calls of ours were handed over for exactly.
        elif not worker.waited and not task.no_sample:
            at_least = at_most = 0.0
            waits = voluntary_switches() - switches
            if waits:
                wall = perf_counter() - wall
                at_least = wall - (process_time() - process)
                at_most = wall - worked
            with self._lock:
                task.average = self.tendency.learn(task.average, at_least, at_most, waits)
                task.blocks = task.average > HAND_OVER_COST
                task.doubtful = at_least <= HAND_OVER_COST
                task.sampled = True
                self._sample_as_needed()
        return verdict
