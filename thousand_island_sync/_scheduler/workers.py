"""The threads of the pool: how one begins, rests and ends. See the essay in `scheduler`."""

from __future__ import annotations

import threading

from .._base.starting import start
from .._base.supervised import say
from .pool import Pool
from .task import Task
from .worker import Worker

#: A thread that had nothing to do for this long ends.
_IDLE_S = 30.0


def _tell_of_the_loss() -> None:
    say(
        "somebody else closed the descriptor that this server waits with; it goes on with a new"
        " one. Look for a close of a number that is not the closer's own",
        None,
    )


class Workers(Pool):
    """The pool's threads; as many as are needed, up to the bound."""

    __slots__ = ()

    def _work(self, worker: Worker) -> None:
        """The life of a pool thread."""
        raise NotImplementedError

    def close(self) -> None:
        """No task will be added any more; threads end when the last task has."""
        with self._lock:
            self._closing = True
            last = not self._tasks
        if last:
            self._dismiss()

    def _employ(self) -> Worker | None:
        if self._idle:
            worker = self._idle.pop()
        elif self._count < self._bound:
            worker = Worker(self)
            self._made += 1
            name = f"{self._name}-handler-{self._made}"
            self._threads[worker] = threading.Thread(
                target=self._work, args=(worker,), name=name, daemon=True
            )
            self._count += 1
        else:
            return None
        self._grant(worker)
        return worker

    def _wake(self, heir: Worker, tasks: tuple[Task, ...] = ()) -> bool:
        if heir.turn:
            heir.ring()
            return True
        heir.turn = 1
        with self._lock:
            thread = self._threads.get(heir)
        if thread is None:
            return True  # it was given up meanwhile
        try:
            start(thread)
        except RuntimeError:  # "can't start new thread": that is the bound, then
            with self._lock:
                if self._threads.pop(heir, None) is not None:
                    self._count -= 1
                if heir.permit:
                    self._revoke(heir)
                # In the same moment, or the listener's thread sees them, and tries as well.
                taken_back = not self._count and self._take_back(tasks)
            if not self._standing_in:  # else it would ring for itself, and never wait
                self._ring()
            return not taken_back
        self._ring()  # for the watch, if it dies before its first step
        return True

    def _take_back(self, tasks: tuple[Task, ...]) -> bool:
        """With the lock, of tasks that no thread will run. Whether none has, and there are any."""
        if any(task not in self._ready for task in tasks):
            return False  # one that has come and gone
        for task in tasks:
            self._ready.remove(task)
            del self._tasks[task.fd]
        return bool(tasks)

    def _enlist(self, worker: Worker) -> None:
        """The first that its thread does. It is listed, unless it took so long to start that it
        was taken for lost."""
        with self._lock:
            if worker not in self._threads:
                self._threads[worker] = threading.current_thread()
                self._count = len(self._threads)

    def _rest(self, worker: Worker) -> bool:
        """Waits for a permit, or finds a task it may run without; False: it shall end."""
        with self._rousing, self._lock:
            self._settle(worker)  # its permit may have been taken since its last task
            granted = worker.permit
            if granted:
                return True
            if self._closing and not self._tasks:
                return False
            if self._free:
                self._grant(worker)
                return True
            if self._ready:
                if not self._sample_mask:
                    return True  # where callbacks tend to block it takes one more as it is
                self._call_somebody()
            self._idle.append(worker)
        rung = worker.bell.acquire(timeout=_IDLE_S)
        if rung and worker.permit:
            return True
        with self._lock:
            if worker in self._idle:
                self._idle.remove(worker)
                return rung
        return True

    def _leave(self, worker: Worker) -> None:
        with self._rousing, self._lock:
            if worker in self._idle:
                self._idle.remove(worker)
            if worker.permit:
                self._give_up(worker)
            self._settle(worker)
            if self._ready:
                self._call_somebody()
            if self._threads.pop(worker, None) is not None:
                self._count -= 1
            last = self._closing and not self._count and not self._tasks
            others = self._closing and self._sleepers > 0
        if last:
            self._close_poller()
        elif others:
            self._poller.wake()  # each that leaves wakes the next

    def _dismiss(self) -> None:
        """Nothing is left to do: every thread may end, the last closes the poller."""
        with self._lock:
            workers, sleepers = list(self._threads), self._sleepers
        for worker in workers:
            worker.ring()
        if not workers:
            self._close_poller()
        for _ in range(sleepers):
            self._poller.wake()

    def _close_poller(self) -> None:
        self._poller.close()  # twice is no harm, not at all would be

    def _register(self, task: Task) -> None:
        poller = self._poller
        # One that is rearmed after each event is then told what to watch for.
        write = task.wants_write if poller.needs_rearm else task.write_edges
        try:
            poller.register(task.fd, write=write)
        except OSError:
            if not self._renew_poller():
                raise
            poller.register(task.fd, write=write)
            task.attached = True

    def _renew_poller(self) -> bool:
        """Where its descriptor was lost, all tasks are put into the new one as they park next,
        which the watch has them do. Thread: any, with the lock or without."""
        with self._lock:
            if not self._poller.renew():
                return False
            for task in self._tasks.values():
                task.attached = False
            self._broken = True
        self.soon(_tell_of_the_loss)
        return True
