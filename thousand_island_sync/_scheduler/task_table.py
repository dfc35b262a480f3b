"""All tasks of a scheduler, by their descriptors."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from .states import PARKED
from .task import Task

#: Keys of tasks that gave their descriptor away: negative, so no descriptor has them.
_without_descriptor = itertools.count(-2, -1)


class TaskTable:
    """Changed under the scheduler's lock; a question without it is a hint."""

    __slots__ = ("_count", "_elsewhere", "_uncounted", "by_fd", "closing")

    def __init__(self) -> None:
        #: For the run queue, which finds the task of an event here. A list: a dictionary takes 53
        #: bytes for each of 10,000.
        self.by_fd: list[Task | None] = []
        self._count = 0  # tasks in `by_fd`
        self._elsewhere: dict[int, Task] = {}  # tasks without a descriptor, by a negative number
        self._uncounted: list[Task] = []  # tasks that are not connections
        #: No task will be added any more.
        self.closing = False

    def do_not_count(self, task: Task) -> None:
        """From now on the figures leave it out, as it is not a connection."""
        if task not in self._uncounted:
            self._uncounted.append(task)

    # In these methods no call at which a signal handler might raise comes between two changes, and
    # memory is allocated before the first change. So an exception leaves no half of a change.

    def add(self, tasks: Iterable[Task]) -> None:
        by_fd = self.by_fd
        for task in tasks:
            fd = task.fd
            if 0 <= fd < len(by_fd) and by_fd[fd] is None:  # as `_enter`, without a call
                self._count += 1
                by_fd[fd] = task
            else:
                self._enter(fd, task)

    def _enter(self, fd: int, task: Task) -> None:
        if fd < 0:
            self._elsewhere[fd] = task
            return
        by_fd = self.by_fd
        if fd >= len(by_fd):
            by_fd.extend([None] * (fd + 1 - len(by_fd)))
        if by_fd[fd] is None:
            self._count += 1
        by_fd[fd] = task

    def remove(self, task: Task) -> None:
        """Harmless if it is not there."""
        fd, by_fd = task.fd, self.by_fd
        if fd < 0:
            if self._elsewhere.get(fd) is task:
                del self._elsewhere[fd]
        elif fd < len(by_fd) and by_fd[fd] is task:
            self._count -= 1
            by_fd[fd] = None
        if task in self._uncounted:
            self._uncounted.remove(task)

    def recount(self) -> None:
        """After an exception that may have come between two changes."""
        self._count = len(self.by_fd) - self.by_fd.count(None)

    def replace(self, task: Task, successor: Task) -> None:
        self._enter(task.fd, successor)

    def take_descriptor(self, task: Task) -> None:
        """The task stays, without a descriptor."""
        if task.fd >= 0 and self.has(task):
            before, other, count = task.fd, next(_without_descriptor), self._count - 1
            self._elsewhere[other] = task
            task.fd = other
            self.by_fd[before] = None
            self._count = count

    def has(self, task: Task) -> bool:
        """Whether it was added, and not removed yet."""
        fd, by_fd = task.fd, self.by_fd
        if fd < 0:
            return self._elsewhere.get(fd) is task
        return fd < len(by_fd) and by_fd[fd] is task

    def all(self) -> list[Task]:
        return [*filter(None, self.by_fd), *self._elsewhere.values()]

    def each(self) -> Iterable[Task]:
        """As `all`, without a copy; under the lock."""
        return itertools.chain(filter(None, self.by_fd), self._elsewhere.values())

    def is_empty(self) -> bool:
        return not (self._count or self._elsewhere)

    def is_over(self) -> bool:
        """Whether there is no task, and none will be added."""
        return self.closing and self.is_empty()

    def close(self) -> bool:
        """No task will be added any more. Whether all are over."""
        self.closing = True
        return self.is_empty()

    def counted(self, tasks: list[Task]) -> list[Task]:
        """Those of them that are connections."""
        uncounted = self._uncounted
        return [task for task in tasks if task not in uncounted] if uncounted else tasks

    def owned_but_uncounted(self) -> int:
        """How many of the tasks that are run, or ready, are no connections."""
        return sum(task.ownership != PARKED for task in self._uncounted)
