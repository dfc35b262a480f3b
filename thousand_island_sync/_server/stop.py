"""The stop of one run: step after step, within one deadline.

Each step may be begun again, and is marked when it is done. So if an asynchronous exception
interrupts a stop, the next call of `stop` finishes it. No step runs user code: receivers are called
by a thread of their own, for which the stop waits as long as there is time, as it does for
callbacks.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .. import events
from .._base import waits
from .._base.clock import FOREVER, now
from .._base.latch import Latch
from .._base.own_threads import Teller
from .._listener.backlog import Backlog
from .asked import Caller
from .drain import Drain
from .status import Turns

if TYPE_CHECKING:
    from .run import Run

#: What a stop may take beyond its timeout, in seconds, for cutting and joining.
GRACE_S = 0.35
#: Seconds that receivers hold up the stop's next steps.
_RECEIVERS_S = 0.1
#: Seconds that the pool's threads are waited for when their connections have gone.
_POOL_S = 2.0


class Stop:
    """Ends a run, once.

    Args:
        run: which.
        finished: called when nothing is left to do.
        blocked: whether a thread waits for the caller.

    Attributes:
        drain: what may go before it.
        over: opens when nothing is left to do.
    """

    def __init__(
        self, run: Run, finished: Callable[[], None], blocked: Callable[[int], bool]
    ) -> None:
        self._run = run
        self._finished = finished
        self._blocked = blocked
        self.drain = Drain(run)
        self._turns = Turns()
        self._deadlines = [FOREVER]
        self._callers: dict[int, object] = {}  # connections whose callbacks are in a stop
        self._caller = Caller()
        self._silent = False
        self._address: Any = None
        self._backlog: Backlog | None = None
        self._teller: Teller | None = None
        self._all_ended = True  # every connection by itself, as far as it has come
        self._steps = deque(
            [
                self._close_listener,
                self._tell,
                self._end_connections,
                self._wait_for_connections,
                self._end_threads,
                self._finished,
            ]
        )
        self.over = Latch()
        # A call of `stop` has returned since: what it was told is not told again.
        self._told = False
        # What a receiver raised that is for the program (see `events.emit`).
        self._raised: list[BaseException] = []

    # ---- asking for it ----------------------------------------------------------

    def take_part(self, deadline: float, caller: Caller) -> bool:
        """Does it, or waits until another thread has. Whether every connection ended by itself,
        and every event has been sent.

        Args:
            deadline: of the stop, on the monotonic clock; the earliest of all holds.
            caller: who asked for it. What its thread runs is not waited for while it waits.

        Thread: one that was made for it.
        """
        self._deadlines.append(deadline)
        task = caller.task
        if self._run.has(task):
            self._callers[id(task)] = task
        if not caller.waits:
            self.go_on_without(task)
        self._run.limit.wake_all()
        with self._turns:
            self._caller = caller
            self._take_steps()
        return self._all_ended

    def was_told(self, done: bool) -> None:
        """A call of `stop` returns; `done`: it is over. Raises what a receiver raised that is for
        the program. Thread: who asked for it."""
        self._told = True
        if done and self._raised:
            raise self._raised.pop()

    def result_to_tell(self) -> bool:
        """For a call of `stop` that finds it over: what came of it, if nobody was told yet."""
        return self._told or self._all_ended

    def go_on_without(self, task: object) -> None:
        """Who ran it does not wait any more. Thread: any."""
        self._callers.pop(id(task), None)

    def take_back(self) -> None:
        """A start failed half-way: as a stop whose time is up, and of which nobody is told.
        Thread: the one that started it."""
        self._silent = True
        self._deadlines.append(now())
        with self._turns:
            self._take_steps()

    def _take_steps(self) -> None:
        while self._steps:
            self._steps[0]()
            self._steps.popleft()
        self.over.open()

    # ---- the steps --------------------------------------------------------------

    def _deadline(self) -> float:
        return min(self._deadlines)

    def _last_moment(self) -> float:
        # A stop may have no deadline, and `Thread.join` takes no infinity (OverflowError).
        return min(self._deadline(), now() + 3600) + GRACE_S

    def _close_listener(self) -> None:
        listener = self._run.listener
        # It waits for acceptors, a second at most: the rest of the time is for connections.
        self._address = self._address or listener.address
        self._backlog = listener.close("shutdown", min(self._deadline(), now() + 1) + 0.2)

    def _tell(self) -> None:
        """Those who waited in the backlog, and the event: both call receivers."""
        assert self._backlog is not None
        told = events.listener_shutdown.receivers and self._address and not self._silent
        if self._teller is None and (told or self._backlog):
            name = f"{self._run.name}-stop-events"
            self._teller = Teller(self._tell_all, self._caller.context, name, self._raised)
        if self._teller is not None:
            until = min(now() + _RECEIVERS_S, self._last_moment() - GRACE_S / 2)
            self._teller.wait(until, self._blocked)

    def _tell_all(self) -> None:
        assert self._backlog is not None
        self._backlog.settle()
        if self._caller.by_us:
            waits.this_thread_is(waits.OwnThread())
        if self._address is not None and not self._silent:
            self._run.tell_shutdown(self._address)

    def _end_connections(self) -> None:
        self._run.end_connections()

    def _excluded(self) -> int:
        return len(self._callers)

    def _wait_for_connections(self) -> None:
        """Waits for callbacks, then cuts. In the second half of the time, extra threads run last
        callbacks that find every thread stuck."""
        limit, began = self._run.limit, now()
        while not limit.gone(self._excluded):
            left = self._deadline() - now()
            if left <= 0:
                self._all_ended = False
                self._cut()
                return
            # As much time is left as has gone by: the half. Last callbacks need threads, and those
            # that are there may be stuck until the end.
            until_half = left - (now() - began)
            if until_half <= 0:
                self._run.scheduler.reinforce()
            limit.wait_for_change(self._excluded, min(left, max(until_half / 2, 0.02)))

    def _cut(self) -> None:
        """Time is up: what is left loses its connection, and ends as soon as it can."""
        run = self._run
        if self._backlog is not None:
            self._backlog.cut()
        for connection in run.connections():
            if id(connection) not in self._callers:
                connection.cut_off()
        until = self._deadline() + GRACE_S / 2
        while now() < until and not run.limit.gone(self._excluded):
            run.scheduler.reinforce()
            run.limit.wait_for_change(self._excluded, 0.02)

    def _end_threads(self) -> None:
        run = self._run
        # In this order: what drives the sends is a task of the pool, and the listener's thread is
        # the pool's watchdog. Descriptors close last, when no thread can poll them.
        threads = run.scheduler.threads()  # before the first of them leaves
        run.close_outflow()
        run.scheduler.close()
        self._join_pool(threads)
        told = run.thread.stop(self._last_moment(), self._blocked)
        told = run.listener.leave(self._last_moment()) and told
        if self._teller is not None:
            told = self._teller.wait(self._last_moment(), self._blocked) and told
        told = run.all_told(self._last_moment()) and told
        told = self.drain.all_told(self._last_moment()) and told
        if not told:
            self._all_ended = False  # a receiver has not returned
        run.close_descriptors()

    def _join_pool(self, threads: list[threading.Thread]) -> None:
        """Waits for the pool's threads, but for those that run what is not waited for."""
        until = min(self._last_moment(), now() + _POOL_S)
        for thread in threads:
            while thread.is_alive() and now() < until and not self._run.limit.active:
                if self._blocked(thread.ident or 0):
                    break
                thread.join(min(0.05, max(0.0, until - now())))
