"""All tasks of a scheduler, by their descriptors."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from .states import PARKED
from .task import Task

#: Of tasks whose descriptor is somebody else's: numbers that no descriptor has.
_without_descriptor = itertools.count(-2, -1)


class TaskTable:
    """Changes under the scheduler's lock; asking is a hint without it."""

    __slots__ = ("_uncounted", "by_fd", "closing")

    def __init__(self) -> None:
        #: For the run queue, which adds new ones and finds there what an event is for.
        self.by_fd: dict[int, Task] = {}
        self._uncounted: list[Task] = []  # those that are no connections
        #: None will be added any more.
        self.closing = False

    def do_not_count(self, task: Task) -> None:
        """It is no connection that waits when it is ready, from now on."""
        if task not in self._uncounted:
            self._uncounted.append(task)

    def remove(self, task: Task) -> None:
        """Harmless if it is not there."""
        by_fd, fd = self.by_fd, task.fd
        if by_fd.get(fd) is task:
            del by_fd[fd]
        if task in self._uncounted:
            self._uncounted.remove(task)

    def replace(self, task: Task, successor: Task) -> None:
        self.by_fd[task.fd] = successor

    def take_descriptor(self, task: Task) -> None:
        """The task stays, without one."""
        if self.by_fd.get(task.fd) is task:
            # No call in these, at which a signal's handler might raise, once it is begun.
            before, other = task.fd, next(_without_descriptor)
            self.by_fd[other] = task
            task.fd = other
            del self.by_fd[before]

    def has(self, task: Task) -> bool:
        """Whether it was added, and not removed yet."""
        return self.by_fd.get(task.fd) is task

    def all(self) -> list[Task]:
        return list(self.by_fd.values())

    def each(self) -> Iterable[Task]:
        """The same without a copy, under the lock."""
        return self.by_fd.values()

    def is_empty(self) -> bool:
        return not self.by_fd

    def is_over(self) -> bool:
        """Whether there is none, nor will be."""
        return self.closing and not self.by_fd

    def close(self) -> bool:
        """None will be added any more. Whether it is over."""
        self.closing = True
        return not self.by_fd

    def counted(self, tasks: list[Task]) -> list[Task]:
        """Those of them that are connections."""
        uncounted = self._uncounted
        return [task for task in tasks if task not in uncounted] if uncounted else tasks

    def owned_but_uncounted(self) -> int:
        """How many of the tasks that are run, or ready, are no connections."""
        return sum(task.ownership != PARKED for task in self._uncounted)
