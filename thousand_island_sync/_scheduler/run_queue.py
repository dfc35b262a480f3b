"""The run queue: what makes a task ready, and what parks it again.

See the essay in `scheduler`. Every change of a task's ownership is here, under the lock: it
becomes owned when it is put into the queue, and is given up in `settle`.
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

#: Looks in a row that found one and the same task ready and no other, until it is alone.
ALONE = 64
#: Tasks that a thread runs between two looks; where other threads look, too.
_BATCH, _SHARED_BATCH = 64, 4


class PythonRunQueue:
    """The fields of a `RunQueue` that each look needs; `_native.RunQueue` is its equal in C, and
    has `look`, which does as `RunQueue.look_the_long_way` does, with an `EpollPoller`.

    Attributes:
        _tasks: all, by their descriptors.
        _epoll: the poller, where the C shall ask it.
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
    """What is ready, and the poller that tells of the rest. All is guarded by the lock, but for
    taking from what is ready.

    Args:
        rousing: wakes who comes for what is put in; its lock guards all of this.
        deadlines: when parked tasks are run though nothing came.
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
        #: Takes the next task; raises IndexError: there is none. Thread: one with a permit.
        self.take: Callable[[], Task] = self._ready.popleft
        #: Puts back what it took, last. Thread: the same, which goes on with it.
        self.run_again: Callable[[Task], None] = self._ready.append

    def share(self) -> None:
        """Several threads take from it at once: each takes little. Before any other call."""
        self._batch = _SHARED_BATCH

    # ---- tasks come and go ----------------------------------------------------------

    def put(self, calls: Calls, tasks: tuple[Task, ...]) -> None:
        """They are run soon, by whoever is called for it. With the lock."""
        for task in tasks:
            task.ownership = OWNED
        self._ready.extend(tasks)
        calls.somebody()

    def add(self, tasks: tuple[Task, ...]) -> None:
        """Takes new tasks; they are run as soon as a thread comes to them. Not in the poller
        yet: what comes and goes in one run never is.

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
        # As `with rousing` does; but here it is heard whether a thread could be started.
        if rousing.calls.pending and not rousing.rouse(tasks):
            raise RuntimeError("no handler thread can be started")

    def make_ready(self, calls: Calls, task: Task) -> None:
        """Runs it soon, whatever its descriptor does, unless it is over. With the lock."""
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
        """With the lock, for one who sees that somebody comes."""
        for task in self._table.each():
            if task.ownership == PARKED:
                task.ownership = OWNED
                self._ready.append(task)
            elif mark:
                task.ownership = MARKED

    def forget(self, task: Task) -> None:
        """The last word of a task, before its descriptor is closed. Thread: its owner, or
        whoever knows that its next run will touch nothing."""
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
        """The task's descriptor is somebody else's from now on. The task stays, to be run once
        more. Thread: any, and no step of it is under way that uses the descriptor."""
        with self.lock:
            attached, task.attached = task.attached, False
            fd = task.fd
            self._table.take_descriptor(task)
        if attached:
            self._poller.unregister(fd)

    def take_back(self, tasks: tuple[Task, ...]) -> bool:
        """With the lock, of tasks that no thread will run. Whether none has, and there are any."""
        if any(task not in self._ready for task in tasks):
            return False  # one that has come and gone
        for task in tasks:
            self._ready.remove(task)
            self._table.remove(task)
        return bool(tasks)

    # ---- asking: without the lock, a hint ---------------------------------------------

    def has_ready(self) -> bool:
        return bool(self._ready)

    def waiting(self) -> int:
        """Connections among the ready tasks; about, while another task is run."""
        return max(0, len(self._ready) - self._table.owned_but_uncounted())

    # ---- from an event to the queue ----------------------------------------------------

    def look_the_long_way(self, worker: Worker) -> bool:
        """Polls, unless there is enough to run; waits only when nothing is ready. Fires the timers
        that are due. `False`: the permit was taken a moment ago, and the worker must not look; or
        all is over."""
        if self._table.closing and self._table.is_over():
            return False
        # Where every task makes way for the next, each look would cost a GIL switch.
        if self._ready and self._unlooked < self._batch:
            return True
        with self.lock:
            self.settle(worker)
            if not worker.permit:
                return False
            # What is ready, this thread put there itself as it settled; or others did, who called
            # nobody, since a thread with a permit was about to look.
            at_once = self._ready or (self._table.closing and self._table.is_over())
            timeout = 0.0 if at_once else self._deadlines.left()
            if timeout and self._watchdog_timer.state == 2:  # MAY_STOP
                self._watchdog_timer.disarm()
            # From here on whoever makes something ready finds a sleeper, and wakes it: the poller
            # keeps a wake-up that comes before the poll.
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
        """Looks without waiting: the listener's thread, and a look in C that has found more to do.

        Raises:
            OSError, ValueError: the poller was just closed.
        """
        self.absorb(self._poller.poll(0), None)

    def absorb(self, events: Events, worker: Worker | None) -> None:
        """Puts what an event or a timer made ready into the queue. `worker` is who looked, and will
        run one of them; `None`: the listener's thread."""
        deadlines, timer = self._deadlines, self._watchdog_timer
        with self.lock:
            if worker is not None:
                worker.looking = False
                self.sleepers -= 1
            self._take_in(events)
            if deadlines.are_due():
                self._fire()
            due = bool(deadlines.calls)
            # The watchdog looks, or its alarm is set, before anything of it is run.
            ring = not timer.state and bool(self._ready or due)
            if ring:
                ring = timer.begin(by_alarm=worker is not None)
            # Without the GIL others may sleep while there is work for several.
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
                continue  # the wake-up, or just forgotten
            if bits & hang_up:
                task.hung_up = task.alert = True
                if bits & REFUSED:
                    task.unwatched(self._registrations.refusal(task))
            if task.ownership:  # not PARKED
                task.ownership = MARKED  # its thread may have looked already: it runs again
            elif bits != write or task.wants_write:  # else it is room that nobody waits for
                task.ownership = 1  # OWNED
                ready.append(task)
                found = fd
        alone = found == self._last_found and found >= 0 and len(events) == 1
        self._alone = self._alone + 1 if alone else 0
        self._last_found = found

    def _fire(self) -> None:
        """With the lock: runs those whose deadline is over."""
        for task in self._deadlines.fire():
            task.ownership = OWNED
            self._ready.append(task)

    # ---- a batch, and back ---------------------------------------------------------------

    def begin_batch(self, worker: Worker) -> int:
        """How many tasks the worker may run until the next look."""
        count = min(len(self._ready), self._batch)
        if count and worker.permit and not self._watchdog_timer.state:
            self._watchdog_timer.begin_now()
        return count

    def end_batch(self) -> bool:
        """The next thing is a look. Whether one task has been alone for a while."""
        self._unlooked = self._batch
        return self._alone >= ALONE

    def take_alone(self, worker: Worker) -> Task | None:
        """With the lock: the only task that was ready for a while, if it is all that the worker
        has run since. It is settled with the others unless the worker clears what it has parked."""
        self._alone = 0
        task = worker.parked[0] if len(worker.parked) == 1 else None
        if task is None or task.fd != self._last_found or task.ownership == MARKED:
            return None
        return task

    def settle(self, worker: Worker) -> None:
        """With the lock: parks what the worker has run. What was marked goes on; who will not run
        it then calls somebody."""
        parked, ready, rearm = worker.parked, self._ready, self._poller.needs_rearm
        while parked:
            task = parked.popleft()
            if task.ownership == 2:  # MARKED
                ready.append(task)
                continue
            # A mark that comes from now on finds it parked, and puts it into the queue.
            task.ownership = 0  # PARKED
            if rearm or not task.attached or task.deadline < task.timer_at:
                self._await(task)

    def ran_one(self) -> None:
        """One was run without a permit; about: it only says when to look again."""
        self._unlooked += 1

    def _await(self, task: Task) -> None:
        """With the lock: what a parked task still needs."""
        if task.deadline < task.timer_at and self._deadlines.set(task) and self.sleepers > 0:
            self._poller.wake()  # who sleeps may have to wake sooner
        if self._poller.needs_rearm or not task.attached:
            self._put_back(task)

    def _put_back(self, task: Task) -> None:
        """With the lock: a descriptor that was taken out, or must always be put back."""
        if task.fd < 0 or not self._table.has(task):
            return  # it has none any more, or was forgotten since it ran
        try:
            self._registrations.put_back(task)
        except OSError as error:
            # Nobody will see what comes for it, so its next run is its last. Else it would park
            # again, and be run again, for as long as the poller has no room.
            task.unwatched(error)
            task.ownership = OWNED
            self._ready.append(task)

    def close(self) -> bool:
        """With the lock: as `TaskTable.close`. From now on a look asks whether it is over."""
        self._epoll = None
        return self._table.close()

    # ---- mending, checking, a fork -----------------------------------------------------

    def snapshot(self) -> list[Task] | None:
        """With the lock: what is ready. `None`: it was changed meanwhile, as others take from it
        without the lock, and without the GIL that happens in the middle of this."""
        try:
            return list(self._ready)
        except RuntimeError:
            return None

    def put_lost(self, tasks: Iterable[Task]) -> None:
        """With the lock: they are owned, and nobody had them."""
        self._ready.extend(tasks)

    def look_at_all(self, sleepers: int) -> None:
        """With the lock: every parked task is run, and has its timer set anew after that.
        `sleepers`: threads that wait in the poller, whatever was counted."""
        self.sleepers = sleepers
        self._unlooked = 0  # what is ready goes first: the next look may fail as the last
        self._deadlines.drop_all(self._table.each())
        self._run_parked(mark=False)

    def clear(self) -> None:
        """In a forked child: what is ready is the parent's."""
        self._ready.clear()
