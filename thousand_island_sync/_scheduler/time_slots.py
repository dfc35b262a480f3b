"""Tasks whose deadline is far away, by the quarter of a second in which it lies.

Thousands of connections wait for a minute each, and a heap entry for every one of them would be a
tenth of an idle connection's memory. All tasks of one slot share one entry, which fires when the
slot begins. Until then a task costs one element of a list.

Not locked: the scheduler's lock guards it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .task import Task
    from .timers import Timer, Timers

#: How far a deadline must be away, and how long a slot is, in seconds.
FAR_S, _LONG_S = 2.0, 0.25


class TimeSlot:
    """The tasks of one slot, in no order; `begins`: when its timer fires."""

    __slots__ = ("begins", "tasks", "timer")

    def __init__(self, begins: float) -> None:
        self.begins = begins
        self.tasks: list[Task] = []
        self.timer: Timer | None = None


class TimeSlots:
    """The slots that have tasks.

    Args:
        timers: the heap.
    """

    __slots__ = ("_by_begin", "_timers")

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._by_begin: dict[float, TimeSlot] = {}

    def put(self, task: Task) -> float:
        """Puts a task into a slot that is in none. Returns when the slot begins, which is not after
        the task's deadline."""
        begins = task.deadline // _LONG_S * _LONG_S
        slot = self._by_begin.get(begins)
        if slot is None:
            slot = self._by_begin[begins] = TimeSlot(begins)
            slot.timer = self._timers.add(begins, slot, ordered=False)
        task.timer, task.place = slot, len(slot.tasks)
        slot.tasks.append(task)
        return begins

    def remove(self, task: Task, slot: TimeSlot) -> None:
        """Takes a task out; the last one of the list gets its place. Harmless if it is not in."""
        if self._by_begin.get(slot.begins) is not slot:
            return
        last = slot.tasks.pop()
        if last is not task:
            slot.tasks[task.place] = last
            last.place = task.place
        if not slot.tasks:
            del self._by_begin[slot.begins]
            if slot.timer is not None:
                self._timers.cancel(slot.timer)

    def take(self, slot: TimeSlot) -> list[Task]:
        """Removes a slot that begins now, and returns its tasks."""
        del self._by_begin[slot.begins]
        return slot.tasks

    def clear(self) -> None:
        """Takes all out."""
        for slot in self._by_begin.values():
            if slot.timer is not None:
                self._timers.cancel(slot.timer)
        self._by_begin.clear()
