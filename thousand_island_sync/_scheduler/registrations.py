"""Which descriptors are in the poller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .poller import Poller
from .task import Task


class Registrations:
    """Puts a task's descriptor into the poller and takes it out.

    Args:
        poller: reports ready descriptors.
        lock: the scheduler's.
        lost: called when the poller had lost its own descriptor and has opened a new one, with
            nothing registered; with the lock or without.
    """

    __slots__ = ("_lock", "_lost", "_poller")

    def __init__(self, poller: Poller, lock: Any, lost: Callable[[], None]) -> None:
        self._poller = poller
        self._lock = lock
        self._lost = lost

    def attach(self, task: Task) -> None:
        """Puts a task's descriptor in. Thread: the task's owner.

        Raises:
            OSError: the poller has no room for it.
        """
        poller = self._poller
        # A poller that needs `rearm` learns then what to watch for.
        write = task.wants_write if poller.needs_rearm else task.write_edges
        try:
            poller.register(task.fd, write=write)
        except OSError:
            if not self.renew():
                raise
            poller.register(task.fd, write=write)
        task.attached = True  # last: an exception may have come before it was registered

    def detach(self, task: Task) -> None:
        """Takes it out until it is parked again: its thread waits for it in the kernel, and no
        other shall be woken. Thread: any that uses it."""
        with self._lock:
            attached, task.attached = task.attached, False
        if attached:
            self._poller.unregister(task.fd)

    def take_out(self, fd: int) -> None:
        """Thread: any, with the lock or without."""
        self._poller.unregister(fd)

    def put_back(self, task: Task) -> None:
        """Attaches a detached task, or rearms it after an event. With the lock, so that no
        `detach` comes in between.

        Raises:
            OSError: as for `attach`; the descriptor is not watched.
        """
        if (task.deaf or not task.reads) and self._poller.needs_rearm:
            return
        try:
            if not task.attached:
                self.attach(task)
            else:
                self._poller.rearm(task.fd, write=task.wants_write)
        except OSError:
            task.attached = False
            raise

    def refusal(self, task: Task) -> OSError:
        """Why a poller that registers late, on the thread that polls, could not watch it."""
        task.attached = False
        return self._poller.refusal(task.fd)

    def watch_writes(self, task: Task) -> None:
        """From now on its write edges are reported, too. Thread: the task's owner."""
        task.write_edges = True
        if task.attached and not self._poller.needs_rearm:
            self._poller.modify(task.fd, write=True)

    def renew(self) -> bool:
        """If the poller has lost its descriptor, it opens a new one, and the tasks are registered
        as they park next. Thread: any, with the lock or without."""
        with self._lock:
            if not self._poller.renew():
                return False
            self._lost()
        return True

    def wake(self, times: int = 1) -> None:
        """Makes so many threads return from the poller. Thread: any."""
        for _ in range(times):
            self._poller.wake()

    def fileno(self) -> int | None:
        """A descriptor that is readable while the poller has events, if there is one."""
        try:
            return self._poller.fileno()
        except ValueError:
            return None  # the last thread has just left, and closed it

    def close(self) -> None:
        self._poller.close()  # it may be called twice
