"""Code of the user's in the middle of ours: run on the thread that has a lock, as the collector
runs a `__del__` and the interpreter a signal's handler there, but at every point in turn."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import thousand_island_sync
from thousand_island_sync._base import locks

_PACKAGE = str(Path(thousand_island_sync.__file__).parent)
#: The locks themselves, and what only the tests run.
_NOT = {
    str(Path(_PACKAGE) / name)
    for name in ("_base/locks.py", "_server/checked.py", "_base/reports.py")
}


class _Here(threading.local):
    interrupting = False


class Interrupter:
    """Interrupts whoever has a lock of ours: at each line of Python once with each call, and
    wherever one was taken or is about to be given back, in C, too, with each call.

    Args:
        calls: what is called, by name.
        times: how often at one point.
    """

    def __init__(self, calls: dict[str, Callable[[], object]], times: int = 1) -> None:
        self.call(calls)
        self._times = times
        self._here = _Here()
        self._counts: dict[tuple[Any, ...], int] = {}
        #: (file, line) of each line at which somebody was interrupted; locks, by name.
        self.lines: set[tuple[str, int]] = set()
        self.locks: set[str] = set()
        self.errors: list[BaseException] = []
        self.made = 0

    def call(self, calls: dict[str, Callable[[], object]]) -> None:
        """From now on these. None at first: so the threads of a server can be started under it."""
        self._calls, self._names = calls, list(calls)

    def _interrupt(self, name: str) -> None:
        here = self._here
        here.interrupting = True
        try:
            self._calls[name]()
            self.made += 1
        except BaseException as error:
            self.errors.append(error)
        finally:
            here.interrupting = False

    def _may(self, *point: Any) -> bool:
        count = self._counts.get(point, 0)
        self._counts[point] = count + 1
        return count < self._times

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        file = frame.f_code.co_filename
        if self._here.interrupting or not file.startswith(_PACKAGE) or file in _NOT:
            return None
        if event == "line" and locks.held_here():
            for name in self._names:
                if self._may(file, frame.f_lineno, name):
                    self.lines.add((file, frame.f_lineno))
                    self._interrupt(name)
        return self._trace

    def _disturb(self, one: Any, what: int) -> None:
        if self._here.interrupting:
            return
        lock = locks.held_here()[-1]
        self.locks.add(lock)
        for name in self._names:
            if self._may(lock, what, name):
                self._interrupt(name)
                return

    @contextlib.contextmanager
    def everywhere(self) -> Iterator[None]:
        """On this thread, and on those that are started meanwhile."""
        before, of_threads, disturb = sys.gettrace(), threading.gettrace(), locks.disturb
        threading.settrace(self._trace)
        locks.disturb = self._disturb  # type: ignore[assignment]
        sys.settrace(self._trace)
        try:
            yield
        finally:
            sys.settrace(before)
            locks.disturb = disturb  # type: ignore[assignment]
            threading.settrace(of_threads)  # type: ignore[arg-type]
