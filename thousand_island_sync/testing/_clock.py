"""`Clock`: time that passes only when a test says so.

The deadlines of a server's connections are numbers on this clock. They are larger than all times of
the real clock, so the scheduler takes them for a far future. `advance` has what is due run, and
waits until that is over. So there is no second scheduler here. Calls that wait, in callbacks and
elsewhere, check the clock every few milliseconds.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable
from threading import get_ident
from typing import Any

from .._base import descriptors, waits
from .._base.clock import FOREVER, REAL, Times, now
from .._base.options import is_milliseconds
from .._connection.states import CLOSED
from .._connection.task import ConnectionTask
from .._scheduler.states import PARKED
from .._scheduler.timers import Timer, Timers
from .._server import orphans

#: Seconds at which such a clock begins: no machine is up for 34 years.
_BEGIN = float(1 << 30)
#: Seconds. Sums of times are rounded, so what is due within this is due.
_ROUNDED = 2e-5
#: Real seconds: between two checks of the clock; for the server to receive what has come, before
#: the time passes; for callbacks that are due.
_LOOK_S, _CALM_S, _MOST_S = 0.005, 0.5, 10.0
#: After so many repetitions at one time, what is due again waits for a later time.
_MOST_AT_ONCE = 100


class _ClockTimes(Times):
    """The clock, as the connections of a server use it.

    Attributes:
        waiting: the threads that wait: until when, and in which connection's callback, if in one.
        timers: the timers that are not due yet.
    """

    __slots__ = ("_lock", "_now", "timers", "waiting")

    def __init__(self) -> None:
        super().__init__(self.read, now, _LOOK_S)
        self._now = _BEGIN
        self._lock = threading.Lock()
        self.timers = Timers()
        self.waiting: dict[int, tuple[float, object]] = {}

    def read(self) -> float:
        return self._now

    def set(self, when: float) -> None:
        self._now = max(self._now, when)

    def begins(self, deadline: float) -> None:
        self.waiting[get_ident()] = deadline, waits.current_task()

    def is_over(self) -> None:
        self.waiting.pop(get_ident(), None)

    def acquire(self, lock: Any, deadline: float) -> bool:
        try:
            while not lock.acquire(timeout=min(self.left(deadline), self.look_s)):
                if self.left(deadline) <= 0:
                    return False
                self.begins(deadline)
            return True
        finally:
            self.is_over()

    def pool(self, scheduler: Any) -> Any:
        return _Pool(self, scheduler)

    # ---- its timers -----------------------------------------------------------------

    def start(self, timer: Timer) -> None:
        with self._lock:
            self.timers.put(timer)

    def cancel(self, timer: Timer) -> None:
        with self._lock:
            self.timers.cancel(timer)

    def next(self) -> float:
        """When the next one is due."""
        with self._lock:
            return self.timers.next()

    def call_due(self) -> None:
        """Calls those that are due."""
        with self._lock:
            due = self.timers.due(self._now + _ROUNDED)
        for call in due:
            call()


class _Pool:
    """A scheduler, whose timers for connections are the clock's."""

    def __init__(self, times: _ClockTimes, scheduler: Any) -> None:
        self.start: Callable[[Timer], None] = times.start
        self.cancel: Callable[[Timer], None] = times.cancel
        self._scheduler = scheduler

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)


class Clock:
    """A clock that stands still, for `serve(..., clock=Clock())`: all time-outs of that server use
    it, except those of handshakes and stops, which use real time. Servers may share one.

    Thread: any.
    """

    def __init__(self) -> None:
        self._times = _ClockTimes()
        self._advancing = threading.Lock()

    def __repr__(self) -> str:
        return f"<Clock {self.now_ms:g} ms>"

    @property
    def now_ms(self) -> float:
        """Milliseconds that `advance` has passed so far."""
        return round((self._times.read() - _BEGIN) * 1000, 2)

    def advance(self, ms: float) -> None:
        """Lets time pass; everything that becomes due happens, at its time and in order.

        First the server receives what clients have sent until now: a client that has just connected
        is accepted, and its bytes are delivered. What waits to be sent is sent as far as there is
        room.

        Args:
            ms: milliseconds.

        Returns:
            `None`, when the callbacks that became due have returned, or wait on this clock for a
            later time.

        Raises:
            ValueError: `ms` is not a number of milliseconds, 0 or more.
            AssertionError: a callback that became due has not returned within 10 s.

        Thread: any, except in callbacks of that server.
        """
        if not is_milliseconds(ms):
            raise ValueError(f"advance: got {ms!r}, takes milliseconds, 0 or more")
        times = self._times
        with self._advancing:
            _until(self._all_is_calm, _CALM_S)
            for run in self._runs():
                run.unsent.look_at_all()  # notes which peers have taken something until now
            target, again = times.read() + ms / 1000, 0
            while (due := self._next_due(again >= _MOST_AT_ONCE)) <= target + _ROUNDED:
                again = 0 if due > times.read() else again + 1
                times.set(due)
                self._run_what_is_due()
            times.set(target)

    def _next_due(self, later: bool) -> float:
        """When something is due next; `later`: later than now."""
        after = self._times.read() if later else 0.0
        waiting = [deadline for deadline, _ in list(self._times.waiting.values())]
        parked = [task.deadline for task in self._connections() if task.deadline >= _BEGIN]
        unsent = [run.unsent.next_end() for run in self._runs()]
        every = [self._times.next(), *waiting, *parked, *unsent]
        return min((one for one in every if one > after), default=FOREVER)

    def _run_what_is_due(self) -> None:
        times = self._times
        time_now = times.read() + _ROUNDED
        connections = self._connections()
        due_waits = {
            thread: entry for thread, entry in list(times.waiting.items()) if entry[0] <= time_now
        }
        due = {task for _, task in due_waits.values()}
        # Connections that run something else already are not waited for.
        at_work = {task for task in connections if task.ownership != PARKED and task not in due}
        times.call_due()
        for run in self._runs():
            run.unsent.look_at_all()
        for task in connections:
            if task.deadline <= time_now and task.ownership == PARKED:
                task.look_again()

        def over() -> bool:
            if any(times.waiting.get(thread) == entry for thread, entry in due_waits.items()):
                return False
            return all(task in at_work or self._rests(task) for task in connections)

        if not _until(over, _MOST_S):
            raise AssertionError(
                f"advance: at {self.now_ms:g} ms a callback became due that has not returned within"
                f" {_MOST_S:g} s of real time"
            )

    # ---- what the servers do ------------------------------------------------------------

    def _runs(self) -> list[Any]:
        runs = [run for run in orphans.runs() if run.times is self._times]
        return [run for run in runs if hasattr(run, "listener")]  # else it is not open yet

    def _connections(self) -> list[ConnectionTask]:
        return [task for run in self._runs() for task in _connections_of(run)]

    def _rests(self, task: ConnectionTask) -> bool:
        """Whether it is parked, has ended, or waits in a callback for a time that has not come."""
        if task.machine.state is CLOSED or task.ownership == PARKED:
            return True
        time_now = self._times.read() + _ROUNDED
        waiting = list(self._times.waiting.values())
        return any(whose is task and deadline > time_now for deadline, whose in waiting)

    def _all_is_calm(self) -> bool:
        """Whether all clients that have connected are connections, and their bytes were received.

        It checks the stages in the order in which a client passes them: one that has gone on
        meanwhile is found at a later stage.
        """
        return all(self._is_calm(run) for run in self._runs())

    def _is_calm(self, run: Any) -> bool:
        limit = run.limit
        if limit.has_room() and _any(select.POLLIN, descriptors.listening()):
            return False
        if limit.is_accepting():
            return False
        active, connections = limit.active, _connections_of(run)
        if active > len(connections):
            return False
        reading = {id(whose) for _, whose in list(self._times.waiting.values())}
        numbers = [task.fd for task in connections if task.machine.listens or id(task) in reading]
        if _any(select.POLLIN, numbers):
            return False
        # Bytes that wait to be sent must lack room: else a peer would be timed for bytes that were
        # not sent to it yet.
        sending = [task.fd for task in connections if _sends(task)]
        return not _any(select.POLLOUT, sending) and all(self._rests(task) for task in connections)


def _connections_of(run: Any) -> list[ConnectionTask]:
    return [task for task in run.scheduler.tasks() if isinstance(task, ConnectionTask)]


def _sends(task: ConnectionTask) -> bool:
    """Whether bytes wait to be sent, or a thread waits for room."""
    stream = task.machine.stream
    buffer = None if stream is None else stream.writer.buffer
    return buffer is not None and buffer.is_member() and buffer.failure is None


def _any(ready: int, numbers: list[int]) -> bool:
    """Whether one of the descriptors is ready for that."""
    poller = select.poll()
    for number in numbers:
        if number >= 0:
            poller.register(number, ready)
    return any(bits & ready for _, bits in poller.poll(0))


def _until(condition: Callable[[], bool], timeout: float) -> bool:
    """Whether the condition comes true within so many seconds."""
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.001)
    return True


def times_of(clock: Clock | None) -> Times:
    """A clock as a server uses it; `None`: the real one."""
    return REAL if clock is None else clock._times
