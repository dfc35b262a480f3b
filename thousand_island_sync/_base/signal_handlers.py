"""Signals that are written to a descriptor while a server runs, and a child that has none of it.

A signal that arrives just before the main thread begins to wait would be noticed only
when the wait ends; so the interpreter writes it to a descriptor that the wait includes
(`signal.set_wakeup_fd`), and the handlers themselves do nothing.

A forked child inherits both, and that descriptor is the parent's: a signal to the child
would be the parent's as well, and end nothing in the child. So there all is as it was
before, from the first moment on: signals wait over the fork.
"""

from __future__ import annotations

import signal
import socket
import weakref
from collections.abc import Iterable
from typing import Any

from . import descriptors, fork
from .sigpipe import NOSIGNAL

_active: weakref.WeakSet[NotedSignals] = weakref.WeakSet()
_mask: set[int] | None = None  # of the thread that forks


class NotedSignals:
    """A context manager, on the main thread.

    Args:
        numbers: signals that get a handler, which counts; others that have one are noted as well.

    Attributes:
        handled: by number, how often that handler ran: what found no room among the bytes counts,
            too.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self._numbers = tuple(numbers)
        self._before: dict[int, Any] = {}
        self._descriptor = -1
        self._active = False
        self.handled = dict.fromkeys(self._numbers, 0)
        with descriptors.thread.no_fork:
            self._ours, self._theirs = socket.socketpair()
            descriptors.hold(self)

    def __enter__(self) -> NotedSignals:
        try:
            self._begin()
        except BaseException:  # Ctrl-C: nobody would restore anything
            self.__exit__()
            raise
        return self

    def _begin(self) -> None:
        self._ours.setblocking(False)
        self._theirs.setblocking(False)
        _active.add(self)
        self._active = True
        self._descriptor = signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
        for number in self._numbers:
            self._before[number] = signal.getsignal(number)
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: object) -> None:
        self.handled[number] += 1
        self.note(b"\0")  # no signal's number; there was no room for that one, perhaps

    def __exit__(self, *exc: object) -> None:
        try:
            self.restore()
        finally:
            with descriptors.thread.no_fork:
                self.abandon()

    def restore(self) -> None:
        """All is as it was before. Thread: the main one."""
        if not self._active:
            return
        self._active = False
        _active.discard(self)
        try:
            # Before the handlers: Ctrl-C may raise again as soon as it has its own.
            signal.set_wakeup_fd(self._descriptor)
        finally:
            self._restore_handlers()

    def _restore_handlers(self) -> None:
        if not self._before:
            return
        number, handler = self._before.popitem()
        try:
            # `None`: it was not set by Python, which cannot set it again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        finally:
            self._restore_handlers()

    def abandon(self) -> None:
        """As `descriptors.Holder`."""
        self._ours.close()
        self._theirs.close()

    def fileno(self) -> int:
        """Is readable when something was noted."""
        return self._ours.fileno()

    def note(self, what: bytes) -> None:
        """As a signal is noted. Thread: any."""
        try:
            self._theirs.send(what, NOSIGNAL)
        except OSError:
            pass  # nobody listens any more, or plenty is noted

    def noted(self) -> bytes:
        """A byte for each signal, its number, and what `note` was given.

        Raises:
            OSError: it is over.
        """
        return self._ours.recv(4096)


# ---- at a fork --------------------------------------------------------------


def _hold_signals() -> None:
    global _mask
    _mask = None
    if _active and hasattr(signal, "pthread_sigmask"):
        _mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def _let_signals_come() -> None:
    global _mask
    mask, _mask = _mask, None
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _restore_in_child() -> None:
    for noted in list(_active):
        noted.restore()
    _let_signals_come()


fork.at_fork(before=_hold_signals, in_parent=_let_signals_come, in_child=_restore_in_child)
