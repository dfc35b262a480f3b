"""Threads that survive every exception until their work is over.

The facts. An exception can come to a thread between any two bytecodes (another thread raises it
there, memory runs out): also inside of an `except` block, and before the thread has entered its
first `try`. And no code is told when a thread ends.

Our decision: an exception of the work is logged, and the work begins again on the same thread; at
once, or after a pause if it raises again and again. If that is interrupted, too, the thread starts
its successor as its last act. `start` returns only when the thread has come so far that it can do
that. And code that needs the thread checks that it is alive (`ensure`): the pool's threads ring for
the listener's thread, and that one checks the pool's.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable

from . import locks
from .clock import now
from .latch import Latch
from .starting import start

_log = logging.getLogger("thousand_island_sync")

#: So many times within so many seconds work is begun again at once.
_AT_ONCE, _WITHIN_S = 10, 60.0
#: The pause after that, in seconds, twice as long each time.
_FIRST_PAUSE_S = 0.05
#: Seconds between two looks at whether a thread that starts has died of it.
_LOOK_S = 0.05


def say(what: str, error: BaseException | None) -> None:
    """Logs a line, even if a logging handler raises. Thread: any, without a lock of the library."""
    try:
        _log.error("%s, on thread %s", what, threading.current_thread().name, exc_info=error)
    except BaseException:
        pass  # a second exception must not keep us from going on


class BackOff:
    """How long to wait before what has failed is tried again.

    Args:
        longest: the longest pause, in seconds.
    """

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._failures: deque[float] = deque(maxlen=_AT_ONCE + 1)
        self._pause = 0.0

    def failed(self) -> float:
        """It has failed once more: seconds to wait."""
        time_now = now()
        self._failures.append(time_now)
        often = len(self._failures) > _AT_ONCE and time_now - self._failures[0] < _WITHIN_S
        if not often:
            self._pause = 0.0
        else:
            self._pause = min(max(2 * self._pause, _FIRST_PAUSE_S), self._longest)
        return self._pause


class Supervised:
    """A thread, see above.

    Args:
        work: returns when it is over; whenever it raises it is begun anew.
        name: the thread's.
        raised: is told what it raised, logs it, and may wait before it is begun anew.
    """

    def __init__(
        self,
        work: Callable[[], None],
        name: str,
        raised: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._work = work
        self.name = name
        self._raised = raised or self._goes_on
        self._back_off = BackOff(1.0)
        self._over = False
        self._up = Latch()
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None
        self._may_start = deque([None])  # taken by the one who starts a successor
        self._fate: dict[str, bool] = {}  # "begins": decided once, by who is first to ask

    @property
    def ident(self) -> int | None:
        """As a thread's."""
        thread = self._thread
        return None if thread is None else thread.ident

    def is_alive(self) -> bool:
        thread = self._thread
        return thread is not None and thread.is_alive()

    def join(self, timeout: float | None = None) -> None:
        thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def wait(self, until: float, blocked: Callable[[int], bool]) -> bool:
        """Whether it has ended, or waits for the caller and so is not waited for.

        Args:
            until: how long to wait, on the monotonic clock.
            blocked: whether a thread waits for the caller.
        """
        while self.is_alive() and not self.waits_for_caller(blocked):
            left = until - now()
            if left <= 0:
                return False
            self.join(min(left, 0.05))
        return True

    def waits_for_caller(self, blocked: Callable[[int], bool]) -> bool:
        """Whether it is the calling thread, or waits for that one."""
        ident = self.ident
        return ident == threading.get_ident() or blocked(ident or 0)

    def start(self) -> None:
        """Returns when the thread has come so far that it cannot end unnoticed.

        Raises:
            RuntimeError: no thread can be started.
        """
        while True:
            thread = self._launch()
            while not self._up.wait(_LOOK_S):
                if not thread.is_alive():
                    break  # something was raised there before its first step
            else:
                return

    def give_up(self) -> bool:
        """Whether the work has not begun, and never will, as `start` was interrupted. If the thread
        does begin later, it ends at once."""
        return not self._fate.setdefault("begins", False)

    def ensure(self) -> None:
        """Starts another thread if it has died. Thread: any."""
        thread = self._thread
        if thread is None or self._over or thread.is_alive() or not self._up.is_open:
            return
        if os.getpid() != self._pid:
            return  # a forked child, where it never was
        try:
            self._may_start.pop()
        except IndexError:
            return  # another thread does it at this moment
        try:
            if not (self._over or self.is_alive()):
                self._succeed()
        finally:
            self._may_start.append(None)

    def _launch(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        start(thread)
        return thread

    def _run(self) -> None:
        # By the thread itself: the starting thread may be interrupted before it could.
        self._thread = threading.current_thread()
        if not self._fate.setdefault("begins", True):
            return
        try:
            self._up.open()
            while not self._over:
                try:
                    self._work()
                    self._over = True
                except BaseException as error:
                    locks.release_all()
                    self._raised(error)
        finally:
            if not self._over:
                locks.release_all()
                self._succeed()

    def _succeed(self) -> None:
        say(f"the thread {self.name} has died, and another takes over", None)
        try:
            self._launch()
        except RuntimeError as error:
            say(f"no other thread {self.name} can be started now", error)

    def _goes_on(self, error: BaseException) -> None:
        say(f"the thread {self.name} was interrupted, and goes on", error)
        pause = self._back_off.failed()
        if pause:
            time.sleep(pause)
