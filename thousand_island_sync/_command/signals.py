"""Signals of the command line, but for SIGHUP: what they do before it serves, and afterwards.

While it imports, SIGTERM ends it as Ctrl-C does: there is nobody to wait for. (As process 1 of a
container it would not end it at all, without a handler.) Once it has served they change nothing any
more. Signals that mean something to a server with several processes never end or stop this one.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any

from .._base import fork

_log = logging.getLogger("thousand_island_sync")

_ENDS = (signal.SIGTERM, signal.SIGINT)
#: Is it a terminal's, and would stop the process.
_WORKERS = tuple(getattr(signal, name) for name in ("SIGTTIN", "SIGTTOU") if hasattr(signal, name))
_IGNORED = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))


_active: set[Signals] = set()


class EndedEarly(BaseException):
    """A signal that ends it, before it served."""


class Signals:
    """A context manager; what has a handler already keeps it. Thread: any; does nothing on
    another one than the main one."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._are_heeded = False
        self._ended_by: int | None = None

    def __enter__(self) -> Signals:
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in _IGNORED:
            self._ignore(number)
        for number in _ENDS:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                self._set(number, self._end)
        _active.add(self)
        return self

    def will_serve(self) -> None:
        """Before anything is imported. (What only prints leaves a terminal its signals.)"""
        if self._before:
            for number in _WORKERS:
                self._ignore(number)

    def _ignore(self, number: int) -> None:
        # Not SIG_IGN: that one would be inherited by programs that are started.
        if signal.getsignal(number) is signal.SIG_DFL:
            self._set(number, _ignore)

    def _set(self, number: int, handler: Callable[..., object]) -> None:
        self._before[number] = signal.signal(number, handler)

    def _end(self, number: int, frame: object) -> None:
        if not self._are_heeded:
            self._ended_by = number
            raise EndedEarly(number)

    def raise_again(self) -> None:
        """Where something that was imported, or a `__del__`, has swallowed it.

        Raises:
            EndedEarly: one has come.
        """
        if self._ended_by is not None:
            raise EndedEarly(self._ended_by)

    def are_heeded(self) -> None:
        """The servers end by them now. Afterwards the exit code is known: they change nothing."""
        self._are_heeded = True

    def restore(self) -> None:
        """Restores everything, except what other code has set since."""
        _active.discard(self)
        while self._before:
            number, handler = self._before.popitem()
            if signal.getsignal(number) in (_ignore, self._end):
                signal.signal(number, handler)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.restore()


def _restore_in_child() -> None:
    for one in list(_active):
        one.restore()


fork.at_fork(in_child=_restore_in_child)


def _ignore(number: int, frame: object) -> None: ...


def calls() -> dict[int, Callable[[], object]]:
    """What the signals that are no end call, while it serves."""
    return {number: partial(_warn, number) for number in _WORKERS}


def _warn(number: int) -> None:
    _log.warning(
        "%s: changes the number of worker processes, and this server is one process: nothing is"
        " done",
        signal.Signals(number).name,
    )
