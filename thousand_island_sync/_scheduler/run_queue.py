"""The run queue: what makes a task ready, and what parks it again.

See the essay in `scheduler`. Every change of a task's ownership is here, under the lock: it
becomes owned when it is put into the queue, and parked in `settle`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from .._base.compiled import native
from .deadlines import Deadlines
from .poller import HANGUP, REFUSED, WRITE, EpollPoller, Events, Poller
from .registrations import Registrations
from .rousing import Calls, Rousing
from .states import MARKED, OWNED, PARKED
from .task import Task
from .task_table import TaskTable
from .watchdog_timer import WatchdogTimer
from .worker import Worker

#: After so many polls in a row that found the same task and no other, that task is "alone".
ALONE = 64
#: Tasks that a thread runs between two polls; the second, where other threads poll, too.
_BATCH, _SHARED_BATCH = 64, 4


class PythonRunQueue:
    """The fields of a `RunQueue` that each look needs; `_native.RunQueue` is its equal in C, and
    has `look`, which does as `RunQueue.look_the_long_way` does, with an `EpollPoller`.

    Attributes:
        _tasks: all, by their descriptors.
        _epoll: the poller, if the C may poll it.
        _unlooked: tasks that were run since the last look.
        _last_found: the descriptor that the last look made ready.
        _alone: looks in a row that found that one and nothing else.
        sleepers: threads that wait in the poller.
    """

    __slots__ = (
        *("_alone", "_batch", "_deadlines", "_epoll", "_last_found", "_ready", "_tasks"),
        *("_unlooked", "_watchdog_timer", "lock", "sleepers"),
    )

    def __init__(
        self, lock: Any, tasks: list[Task | None], deadlines: Deadlines, watchdog: WatchdogTimer
    ) -> None:
        self.lock = lock
        self._ready: deque[Task] = deque()
        self._tasks, self._deadlines, self._watchdog_timer = tasks, deadlines, watchdog
        self._epoll: EpollPoller | None = None
        self._last_found = -1
        self._alone = self._batch = self._unlooked = self.sleepers = 0


if TYPE_CHECKING:
    RunQueueCore = PythonRunQueue
else:
    RunQueueCore = getattr(native, "RunQueue", PythonRunQueue)


class RunQueue(RunQueueCore):
    """The ready tasks, and the poller that reports the others. The lock guards everything here,
    except taking a ready task.

    Args:
        rousing: wakes a thread for what is put in; its lock guards all of this.
        deadlines: when parked tasks are run without an event.
    """

    __slots__ = ("_poller", "_registrations", "_rousing", "_table", "run_again", "take")

    def __init__(
        self,
        poller: Poller,
        table: TaskTable,
        rousing: Rousing,
        registrations: Registrations,
        deadlines: Deadlines,
        watchdog_timer: WatchdogTimer,
    ) -> None:
        super().__init__(rousing.lock, table.by_fd, deadlines, watchdog_timer)
        self._poller = poller
        self._table = table
        if type(poller) is EpollPoller:
            self._epoll = poller
        self._rousing = rousing
        self._registrations = registrations
        self._batch = _BATCH
        #: Takes the next task; IndexError if there is none. Thread: one with a permit.
        self.take: Callable[[], Task] = self._ready.popleft
        #: Puts a taken task at the end. Thread: the one that took it.
        self.run_again: Callable[[Task], None] = self._ready.append

    def share(self) -> None:
        """Several threads take tasks at once, so each takes few. Call it before all else."""
        self._batch = _SHARED_BATCH

    # ---- tasks come and go ----------------------------------------------------------

    def put(self, calls: Calls, tasks: tuple[Task, ...]) -> None:
        """They are run soon, by the thread that is called for it. With the lock."""
        for task in tasks:
            task.ownership = OWNED
        self._ready.extend(tasks)
        calls.somebody()

    def add(self, tasks: tuple[Task, ...]) -> None:
        """Takes new tasks; they are run as soon as a thread is free. They are not in the
        poller yet: a connection that ends in its first run never is.

        Raises:
            RuntimeError: there is no thread and none can be started, or the queue is closed.
                None of them was run, nor will be.
        """
        rousing, table = self._rousing, self._table
        try:
            with self.lock:
                closing = table.closing
                if not closing:
                    table.add(tasks)
                    self.put(rousing.calls, tasks)
        except BaseException:
            rousing.broken_off()
            raise
        if closing:
            raise RuntimeError("the server has stopped")
        # As `with rousing` does; but this tells whether a thread could be started.
        if rousing.calls.pending and not rousing.rouse(tasks):
            raise RuntimeError("no handler thread can be started")

    def make_ready(self, calls: Calls, task: Task) -> None:
        """Runs it soon, without an event, unless it is over. With the lock."""
        if task.ownership != PARKED:
            task.ownership = MARKED
        elif self._table.has(task):
            self.put(calls, (task,))

    def make_all_ready(self) -> None:
        """The same of every task, waking one thread for all of them."""
        with self._rousing as calls, self.lock:
            self._run_parked(mark=True)
            if self._ready:
                calls.somebody()

    def _run_parked(self, mark: bool) -> None:
        """With the lock; the caller sees to it that a thread comes."""
        for task in self._table.each():
            if task.ownership == PARKED:
                task.ownership = OWNED
                self._ready.append(task)
            elif mark:
                task.ownership = MARKED

    def forget(self, task: Task) -> None:
        """Removes a task, before its descriptor is closed. Thread: its owner, or one that knows
        that the task's next run will touch nothing."""
        if task.attached:
            self._poller.unregister(task.fd)
        try:
            with self.lock:
                task.attached = False
                self._table.remove(task)
                if task.timer is not None:
                    self._deadlines.drop(task)
                over = self._table.closing and self._table.is_over()
        except BaseException:
            self._rousing.broken_off()
            raise
        if over:
            self._rousing.dismiss()

    def replace(self, task: Task, successor: Task) -> None:
        """Another task takes over a descriptor and runs next. Thread: the task's owner."""
        with self._rousing as calls, self.lock:
            successor.attached, task.attached = task.attached, False
            self._deadlines.drop(task)
            self._table.replace(task, successor)
            self.put(calls, (successor,))

    def release(self, task: Task) -> None:
        """The caller takes the task's descriptor over. The task stays, to be run once more.
        Thread: any, while no step of the task that uses the descriptor is under way."""
        with self.lock:
            attached, task.attached = task.attached, False
            fd = task.fd
            self._table.take_descriptor(task)
        if attached:
            self._poller.unregister(fd)

    def take_back(self, tasks: tuple[Task, ...]) -> bool:
        """With the lock: takes tasks out. `False`: one of them was run, or there are none."""
        if any(task not in self._ready for task in tasks):
            return False  # a thread has run it
        for task in tasks:
            self._ready.remove(task)
            self._table.remove(task)
        return bool(tasks)

    # ---- asking: without the lock, a hint ---------------------------------------------

    def has_ready(self) -> bool:
        return bool(self._ready)

    def waiting(self) -> int:
        """Connections among the ready tasks; approximate while another task is run."""
        return max(0, len(self._ready) - self._table.owned_but_uncounted())

    # ---- from an event to the queue ----------------------------------------------------

    def look_the_long_way(self, worker: Worker) -> bool:
        """Polls, unless there is enough to run; waits only if nothing is ready. Fires due timers.
        `False`: the worker must not poll, as it has lost its permit, or all tasks are over."""
        if self._table.closing and self._table.is_over():
            return False
        # If every task hands its permit off, each poll would cost a GIL switch.
        if self._ready and self._unlooked < self._batch:
            return True
        with self.lock:
            self.settle(worker)
            if not worker.permit:
                return False
            # This thread settled what is ready; or others put it there, and woke nobody, as a
            # thread with a permit was about to poll.
            at_once = self._ready or (self._table.closing and self._table.is_over())
            timeout = 0.0 if at_once else self._deadlines.left()
            if timeout and self._watchdog_timer.state == 2:  # MAY_STOP
                self._watchdog_timer.disarm()
            # From here on a thread that makes a task ready finds a sleeper, and wakes it: the
            # poller keeps a wake-up that comes before the poll.
            worker.looking = True
            self._unlooked = 0
            self.sleepers += 1
        events: Events = []
        try:
            events = self._poller.poll(timeout)
        finally:
            self.absorb(events, worker)
        return True

    if TYPE_CHECKING or RunQueueCore is PythonRunQueue:
        look = look_the_long_way

    def poll_once(self) -> None:
        """Polls without waiting: the listener's thread, and a look in C that has found more to do.

        Raises:
            OSError, ValueError: the poller was just closed.
        """
        self.absorb(self._poller.poll(0), None)

    def absorb(self, events: Events, worker: Worker | None) -> None:
        """Puts what an event or a timer made ready into the queue. `worker` polled, and will run
        one of the tasks; `None`: the listener's thread polled."""
        deadlines, timer = self._deadlines, self._watchdog_timer
        with self.lock:
            if worker is not None:
                worker.looking = False
                self.sleepers -= 1
            self._take_in(events)
            if deadlines.are_due():
                self._fire()
            due = bool(deadlines.calls)
            # Before any of it is run, the watchdog must be looking, or its timer set.
            ring = not timer.state and bool(self._ready or due)
            if ring:
                ring = timer.begin(by_alarm=worker is not None)
            # Several permits: others may sleep while there is work for more than this thread.
            wake = self.sleepers > 0 and len(self._ready) > (worker is not None)
        if ring:
            timer.ring()
        if wake:
            self._poller.wake()
        if due:
            deadlines.call_due()

    def _take_in(self, events: Events) -> None:
        """With the lock: what a look has found."""
        ready, tasks, hang_up, write = self._ready, self._tasks, HANGUP, WRITE
        found = -1
        for fd, bits in events:
            task = tasks[fd] if fd < len(tasks) else None
            if task is None:
                continue  # the wake-up, or a task that was forgotten during the poll
            if bits & hang_up:
                task.hung_up = task.alert = True
                if bits & REFUSED:
                    task.unwatched(self._registrations.refusal(task))
            if task.ownership:  # not PARKED
                task.ownership = MARKED  # its thread may have received before this: run it again
            elif bits != write or task.wants_write:  # else: room to send that nobody waits for
                task.ownership = 1  # OWNED
                ready.append(task)
                found = fd
        alone = found == self._last_found and found >= 0 and len(events) == 1
        self._alone = self._alone + 1 if alone else 0
        self._last_found = found

    def _fire(self) -> None:
        """With the lock: makes those ready whose deadline has passed."""
        for task in self._deadlines.fire():
            task.ownership = OWNED
            self._ready.append(task)

    # ---- a batch, and back ---------------------------------------------------------------

    def begin_batch(self, worker: Worker) -> int:
        """How many tasks the worker may run until the next poll."""
        count = min(len(self._ready), self._batch)
        if count and worker.permit and not self._watchdog_timer.state:
            self._watchdog_timer.begin_now()
        return count

    def end_batch(self) -> bool:
        """The next poll must not be skipped. Whether one task has been alone for a while."""
        self._unlooked = self._batch
        return self._alone >= ALONE

    def take_alone(self, worker: Worker) -> Task | None:
        """With the lock: the task that is alone, if the worker has run no other since. `settle`
        parks it, unless the worker clears its list of parked tasks."""
        self._alone = 0
        task = worker.parked[0] if len(worker.parked) == 1 else None
        if task is None or task.fd != self._last_found or task.ownership == MARKED:
            return None
        return task

    def settle(self, worker: Worker) -> None:
        """With the lock: parks what the worker has run. Marked tasks become ready again; a caller
        that will not run them calls another thread."""
        parked, ready, rearm = worker.parked, self._ready, self._poller.needs_rearm
        while parked:
            task = parked.popleft()
            if task.ownership == 2:  # MARKED
                ready.append(task)
                continue
            # From now on an event finds it parked, and puts it into the queue.
            task.ownership = 0  # PARKED
            if rearm or not task.attached or task.deadline < task.timer_at:
                self._await(task)

    def ran_one(self) -> None:
        """One was run without a permit. The count is approximate: it only tells when to poll."""
        self._unlooked += 1

    def _await(self, task: Task) -> None:
        """With the lock: what a parked task still needs."""
        if task.deadline < task.timer_at and self._deadlines.set(task) and self.sleepers > 0:
            self._poller.wake()  # the thread that polls may have to wait less long
        if self._poller.needs_rearm or not task.attached:
            self._put_back(task)

    def _put_back(self, task: Task) -> None:
        """With the lock: a descriptor that was detached, or that the poller took out itself."""
        if task.fd < 0 or not self._table.has(task):
            return  # it gave its descriptor away, or was forgotten since it ran
        try:
            self._registrations.put_back(task)
        except OSError as error:
            # No event will be reported for it, so its next run is its last. Else it would park
            # again, and be run again, for as long as the poller has no room.
            task.unwatched(error)
            task.ownership = OWNED
            self._ready.append(task)

    def close(self) -> bool:
        """With the lock: as `TaskTable.close`. From now on each look checks whether all is over."""
        self._epoll = None
        return self._table.close()

    # ---- mending, checking, a fork -----------------------------------------------------

    def snapshot(self) -> list[Task] | None:
        """With the lock: what is ready. `None`: another thread took a task meanwhile (which needs
        no lock, and without the GIL may happen in the middle of this)."""
        try:
            return list(self._ready)
        except RuntimeError:
            return None

    def put_lost(self, tasks: Iterable[Task]) -> None:
        """With the lock: they are owned, and were in no queue."""
        self._ready.extend(tasks)

    def look_at_all(self, sleepers: int) -> None:
        """With the lock: every parked task is run, and has its timer set anew after that.
        `sleepers`: the true number of threads that wait in the poller."""
        self.sleepers = sleepers
        self._unlooked = 0  # run what is ready first: the next poll may fail like the last
        self._deadlines.drop_all(self._table.each())
        self._run_parked(mark=False)

    def clear(self) -> None:
        """In a forked child: what is ready is the parent's."""
        self._ready.clear()
