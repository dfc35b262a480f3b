"""A limit on lines of one kind in a second; then the number of those that were left out.

A peer can cause a hundred thousand lines a second. To log all of them would fill the disk, and
hide all other lines.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, Protocol

from .._base import fork
from .._base.clock import Clock, now

#: Lines of one kind within any second.
MOST = 10
_SECOND = 1.0


class Timer(Protocol):
    """What `later` gives."""

    def cancel(self) -> None: ...


def _on_a_thread(delay: float, action: Callable[[], None]) -> Timer:
    timer = threading.Timer(delay, action)
    timer.name, timer.daemon = "thousand-island-log", True
    timer.start()
    return timer


class LineLimit:
    """Counts lines by their kind. Any thread may ask; nothing is told under its lock.

    Args:
        tell: called as `tell(kind, count)` for what was left out, once a second at most.
        lock: a re-entrant one: a line of a signal handler's may come amid another.
        clock: monotonic seconds.
        later: `later(seconds, action)` calls `action` then, and gives what cancels it; it may
            raise RuntimeError (no thread can be started).
    """

    def __init__(
        self,
        tell: Callable[[Any, int], None],
        lock: Any,
        clock: Clock = now,
        later: Callable[[float, Callable[[], None]], Timer] = _on_a_thread,
    ) -> None:
        self._tell = tell
        self._lock = lock
        self._clock = clock
        self._later = later
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._forks = fork.forks
        self._written: dict[Hashable, deque[float]] = {}
        self._left_out: dict[Hashable, int] = {}
        self._scheduled = False  # a timer will tell it
        self._timer: Timer | None = None

    def admits(self, kind: Hashable) -> bool:
        """Whether a line of this kind is to be written."""
        with self._lock:
            if fork.forks != self._forks:
                self._begin_anew()  # a forked child has no thread that would tell
            written = self._written.setdefault(kind, deque(maxlen=MOST))
            time_now = self._clock()
            admitted = len(written) < MOST or time_now - written[0] >= _SECOND
            if admitted:
                written.append(time_now)
            else:
                self._left_out[kind] = self._left_out.get(kind, 0) + 1
            untold = bool(self._left_out) and not self._scheduled
            if untold and not admitted:
                self._scheduled = True
        if untold and admitted:
            self.flush()  # there was no thread that could have
        elif untold:
            self._schedule_flush()
        return admitted

    def _schedule_flush(self) -> None:
        try:
            timer = self._later(_SECOND, self.flush)
        except RuntimeError:
            self._scheduled = False  # with the next line that is written
            return
        with self._lock:
            if self._scheduled:
                self._timer = timer
                return
        timer.cancel()  # it was told meanwhile

    def close(self) -> None:
        """Tells what was left out; then each kind begins anew."""
        with self._lock:
            self._written.clear()
        self.flush()

    def flush(self) -> None:
        """Tells what was left out so far."""
        with self._lock:
            left_out, self._left_out = self._left_out, {}
            timer, self._timer = self._timer, None
            self._scheduled = False
        if timer is not None:
            timer.cancel()
        for kind, count in left_out.items():
            self._tell(kind, count)
