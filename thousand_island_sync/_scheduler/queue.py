"""The ready queue: what makes a task ready, and what parks it again.

See the essay in `_scheduler.scheduler`. Every change of a task's ownership is here, under the
lock: it becomes owned when it is put into the queue, and is given up in `_settle`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

from .._base.clock import FOREVER
from .._base.locks import if_free
from . import alarm as _alarm
from .alarm import Alarm
from .poller import HANGUP, REFUSED, WRITE, Events
from .task import Task
from .tendency import HAND_OVER_COST
from .timers import Timer
from .worker import Worker
from .workers import Workers

#: Of tasks whose descriptor is somebody else's: numbers that no descriptor has.
_without_descriptor = itertools.count(-2, -1)


class Queue(Workers):
    """What others ask of the scheduler, and the way from an event to the queue and back."""

    __slots__ = ()

    def add(self, *tasks: Task) -> None:
        """Takes new tasks; they are run as soon as a thread comes to them. Not in the poller
        yet: what comes and goes in one run never is.

        Raises:
            RuntimeError: the pool has no thread and none can be started, or it is closed.
                None of them was run, nor will be.
        """
        average = self.tendency.average
        for task in tasks:
            task.average = average
            task.blocks = average > HAND_OVER_COST
        try:
            with self._lock:
                closing = self._closing
                if not closing:
                    for task in tasks:
                        self._tasks[task.fd] = task
                    self._enqueue(*tasks)
        except BaseException:
            self._make_good()
            raise
        if closing:
            raise RuntimeError("the server has stopped")
        if (self._called or self._wakes or self._nobody) and not self._rouse(tasks):
            raise RuntimeError("no handler thread can be started")

    def add_door(self, door: Task) -> None:
        """Takes a task that is no connection, and is not counted as one that waits.

        Raises:
            RuntimeError: as for `add`.
        """
        with self._lock:
            if door not in self._doors:
                self._doors.append(door)
        self.add(door)

    def attach(self, task: Task) -> None:
        """Puts a task's descriptor into the poller. Thread: the task's owner.

        Raises:
            OSError: the poller has no room for it.
        """
        self._register(task)
        task.attached = True

    def make_ready(self, task: Task) -> None:
        """Runs the task soon, whatever its descriptor does. Ignored once it is over."""
        if not self._if_free(lambda: self._make_ready(task)):
            self.soon(functools.partial(self.make_ready, task))

    def _make_ready(self, task: Task) -> None:
        if task.owned:
            task.marked = True
        elif self._tasks.get(task.fd) is task:
            self._enqueue(task)

    def _if_free(self, change: Callable[[], None]) -> bool:
        """As `_locks.if_free`, and wakes whoever was called."""
        try:
            changed = if_free(self._lock, change)
            if changed:
                self._rouse_no_new_one()
            return changed
        except BaseException:
            self._make_good()
            raise

    def make_all_ready(self) -> None:
        """`make_ready` of every task, waking one thread for all of them."""
        with self._rousing, self._lock:
            self._mark_all()
            if self._ready:
                self._call_somebody()

    def _mark_all(self) -> None:
        """With the lock, by one who sees that somebody comes."""
        for task in self._tasks.values():
            if task.owned:
                task.marked = True
            else:
                task.owned = True
                self._ready.append(task)

    def start(self, timer: Timer) -> None:
        """Calls its target, which must be quick, on a thread of the pool in time."""
        if not self._if_free(lambda: self._start(timer)):
            self.soon(functools.partial(self.start, timer))

    def _start(self, timer: Timer) -> None:
        self._timers.put(timer)
        if self._note_timer(timer.when):
            self._wakes = True
        elif not self._holders:
            self._nobody = True

    def cancel(self, timer: Timer) -> None:
        call = timer.target  # it ends without the lock: with it ends what is the user's
        with self._lock:
            self._timers.cancel(timer)
        del call

    def detach(self, task: Task) -> None:
        """Takes a task's descriptor out of the poller until it is parked again, so that
        what its own thread waits for does not wake another. Thread: any that uses it."""
        with self._lock:
            attached, task.attached = task.attached, False
        if attached:
            self._poller.unregister(task.fd)

    def forget(self, task: Task) -> None:
        """The last word of a task, before its descriptor is closed. Thread: its owner, or
        whoever knows that its next run will touch nothing."""
        if task.attached:
            self._poller.unregister(task.fd)
        try:
            with self._lock:
                task.attached = False
                if self._tasks.get(task.fd) is task:
                    del self._tasks[task.fd]
                if task in self._doors:
                    self._doors.remove(task)
                self._drop_timer(task)
                last = self._closing and not self._tasks
        except BaseException:
            self._make_good()
            raise
        if last:
            self._dismiss()

    def replace(self, task: Task, successor: Task) -> None:
        """Another task takes over a descriptor and runs next. Thread: the task's owner."""
        with self._rousing, self._lock:
            successor.attached, task.attached = task.attached, False
            self._drop_timer(task)
            self._tasks[task.fd] = successor
            self._enqueue(successor)

    def runs(self, task: Task) -> bool:
        """Whether a thread is in a step of this task, or was a moment ago. Thread: any."""
        with self._lock:
            return any(worker.task is task for worker in self._threads)

    def release(self, task: Task) -> None:
        """The task's descriptor is somebody else's from now on. The task stays, to be run once
        more. Thread: any, and no step of it is under way that uses the descriptor."""
        with self._lock:
            attached, task.attached = task.attached, False
            fd = task.fd
            if self._tasks.get(fd) is task:
                del self._tasks[fd]
                task.fd = next(_without_descriptor)
                self._tasks[task.fd] = task
        if attached:
            self._poller.unregister(fd)

    def _drop_timer(self, task: Task) -> None:
        """With the lock: a task that is over must not be held by its timer."""
        if task.timer is not None:
            self._timers.cancel(task.timer)
            task.timer = None

    def watch_writes(self, task: Task) -> None:
        """Write edges, too, from now on. Thread: the task's owner."""
        task.write_edges = True
        if task.attached and not self._poller.needs_rearm:
            self._poller.modify(task.fd, write=True)

    def has(self, task: Task) -> bool:
        """Whether it was added, and is not forgotten yet."""
        return self._tasks.get(task.fd) is task

    def tasks(self) -> list[Task]:
        with self._lock:
            return list(self._tasks.values())

    # ---- from an event to the queue -------------------------------------------

    def _look(self, worker: Worker) -> bool:
        """Polls; waits only when nothing is ready. Fires the timers that are due.

        `False`: the permit was taken a moment ago, and the worker must not look.
        """
        with self._lock:
            self._settle(worker)
            if not worker.permit:
                return False
            if self._ready or (self._closing and not self._tasks):
                timeout = 0.0
            else:
                timeout = self._next_timer
                if timeout != FOREVER:
                    timeout = max(0.0, timeout - self._clock())
                if timeout and self._alarm_may_stop:
                    self._stop_alarm()
            worker.looking = True
            self._unlooked = 0
            self._sleepers += 1
        events: Events = []
        try:
            events = self._poller.poll(timeout)
        finally:
            self._absorb(events, worker)
        return True

    def _be_watched(self) -> None:
        """What is ready came after the look, or there was none, as before a server's first task."""
        with self._lock:
            ring, self._watching = not self._watching, True
        if ring:
            self._ring()

    def _absorb(self, events: Events, worker: Worker | None) -> None:
        """Puts what an event or a timer made ready into the queue.

        `worker` is who looked, and will run one of them; `None`: the listener's thread.
        """
        ready = self._ready
        with self._lock:
            if worker is not None:
                worker.looking = False
                self._sleepers -= 1
            find, hang_up, write = self._tasks.get, HANGUP, WRITE
            found = -1
            for fd, bits in events:
                task = find(fd)
                if task is None:
                    continue  # the wake-up, or just forgotten
                if bits & hang_up:
                    task.hung_up = task.alert = True
                    if bits & REFUSED:
                        self._refused(task)
                if task.owned:
                    task.marked = True
                elif bits != write or task.wants_write:
                    task.owned = True
                    ready.append(task)
                    found = fd
            alone = found == self._last_found and found >= 0 and len(events) == 1
            self._alone = self._alone + 1 if alone else 0
            self._last_found = found
            if self._next_timer != FOREVER and self._next_timer <= self._clock():
                self._fire()
            ring = bool(ready or self._due) and not self._watching
            if ring:
                self._watching = True
                ring = worker is None or not self._set_alarm()
            # Without the GIL others may sleep while there is work for several.
            wake = self._sleepers > 0 and len(ready) > (worker is not None)
        if ring:
            self._ring()
        if wake:
            self._poller.wake()
        if self._due:
            self._call_due()

    def _call_due(self) -> None:
        """Without the lock. One that was left over by a thread that broke off is called, too."""
        while True:
            try:
                call = self._due.popleft()
            except IndexError:
                return
            call()

    def _set_alarm(self) -> bool:
        """With the lock: the watch will look in a moment. False: somebody must ring."""
        alarm = self._alarm
        if alarm is None:
            return False
        time_now, before = self._clock(), self._alarm_set_at
        self._alarm_set_at = time_now
        # With one permit, the thread that waits again is the only one that took anything.
        alone = self._permits == 1 and not self._saturated
        self._alarm_may_stop = alone and time_now - before >= _alarm.SPARSE_S
        alarm.set(_alarm.TICK)
        return True

    def _stop_alarm(self) -> None:
        """With the lock: what began is over, and nobody has to look."""
        self._alarm_may_stop = self._watching = False
        if self._alarm is not None:
            self._alarm.stop()

    def use_alarm(self, alarm: Alarm | None) -> None:
        """Sets it from now on; `None`: rings. Thread: the listener's, which waits for it."""
        with self._lock:
            self._alarm, self._alarm_may_stop = alarm, False

    def _fire(self) -> None:
        """With the lock. A deadline that was moved meanwhile goes back to sleep."""
        time_now = self._clock()
        for target in self._timers.due(time_now):
            if not isinstance(target, Task):
                self._due.append(target)
                continue
            target.timer, target.timer_at = None, FOREVER
            if target.owned:
                continue  # it looks at its deadlines itself when it parks
            if target.deadline > time_now:
                self._arm(target)
            else:
                target.owned = True
                self._ready.append(target)
        self._next_timer = self._timers.next()

    def _arm(self, task: Task) -> bool:
        """With the lock: sets the task's timer to its deadline. Whether to wake a sleeper."""
        if task.timer is not None:
            self._timers.cancel(task.timer)
        task.timer = self._timers.add(task.deadline, task, ordered=False)
        task.timer_at = task.deadline
        return self._note_timer(task.deadline)

    def _note_timer(self, when: float) -> bool:
        if when >= self._next_timer:
            return False
        self._next_timer = when
        return self._sleepers > 0

    # ---- and back -------------------------------------------------------------

    def _settle(self, worker: Worker) -> None:
        """With the lock: parks what the worker has run. What was marked goes on; who will not run
        it then calls somebody."""
        parked, ready, rearm = worker.parked, self._ready, self._poller.needs_rearm
        while parked:
            task = parked.popleft()
            if task.marked:
                ready.append(task)
                continue
            task.owned = False
            if task.deadline < task.timer_at and self._arm(task):
                self._poller.wake()
            if rearm or not task.attached:
                self._put_back(task)

    def _put_back(self, task: Task) -> None:
        """With the lock: a descriptor that was taken out, or must always be put back."""
        if task.fd < 0 or self._tasks.get(task.fd) is not task:
            return  # it has none any more, or was forgotten since it ran
        try:
            if not task.attached:
                self._register(task)
                task.attached = True  # not before: if that is broken off, nobody watches it
            else:
                self._poller.rearm(task.fd, write=task.wants_write)
        except OSError as error:
            task.attached = False
            self._no_room(task, error)

    def _refused(self, task: Task) -> None:
        """With the lock: a poller that puts descriptors back on the thread that polls could not."""
        task.attached = False
        task.unwatched(self._poller.refusal(task.fd))

    def _no_room(self, task: Task, error: OSError) -> None:
        """With the lock: nobody will see what comes for it, so its next run is its last. Else it
        would park again, and be run again, for as long as the poller has no room."""
        task.unwatched(error)
        task.owned = True
        self._ready.append(task)
