"""Exceptions of receivers: logged with a traceback once, counted afterwards.

A receiver stays connected whatever it raises: one wrong name must not end all telemetry. A receiver
that fails at every event would fill the log. So for each type of exception there is one traceback,
and then at most one line a minute, which says how often it came again.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from inspect import ismethod
from typing import Any

from .._base import waits
from .._base.clock import Clock, now
from .._base.locks import lock

Receiver = Callable[..., Any]

#: Seconds between two lines about one receiver and one type of exception.
_QUIET_S = 60.0

_log = logging.getLogger("thousand_island_sync")


def reference(receiver: Receiver) -> weakref.ref[Receiver] | None:
    """`None` if there can be none; then it was not connected weakly either."""
    try:
        return weakref.WeakMethod(receiver) if ismethod(receiver) else weakref.ref(receiver)
    except TypeError:
        return None


class _Failure:
    """One receiver's failures of one type."""

    __slots__ = ("_held", "_ref", "again", "told_at")

    def __init__(self, receiver: Receiver, told_at: float) -> None:
        self._ref = reference(receiver)
        self._held = receiver if self._ref is None else None
        self.told_at = told_at
        self.again = 0

    def is_of(self, receiver: Receiver) -> bool:
        """An id is given again once its first owner has gone."""
        return _is_same(self._held if self._ref is None else self._ref(), receiver)

    def has_gone(self) -> bool:
        return self._ref is not None and self._ref() is None


class ReceiverFailures:
    """Those of one event's receivers. Thread: any.

    Args:
        event: its dotted name.
        clock: tests inject one.
    """

    def __init__(self, event: str, clock: Clock = now) -> None:
        self._event = event
        self._clock = clock
        # Reentrant: the collector may run a `__del__` in here that meets another failure.
        self._lock = lock("events.failures")
        self._known: dict[tuple[object, type], _Failure] = {}

    def note(self, receiver: Receiver, error: BaseException) -> None:
        """Logs it, or counts it."""
        kind = type(error)
        first, again = self._count(receiver, kind)
        if first:
            _log_failure(
                error,
                "a receiver of %s raised; it stays connected: %r",
                self._event,
                receiver,
            )
        elif again:
            _log_failure(
                None,
                "a receiver of %s raised %s %d more times: %r",
                self._event,
                kind.__name__,
                again,
                receiver,
            )

    def _count(self, receiver: Receiver, kind: type) -> tuple[bool, int]:
        """Whether it is the first; how many to tell of now."""
        key, time_now = (_id_of(receiver), kind), self._clock()
        with self._lock:
            known = self._known.get(key)
            if known is None or not known.is_of(receiver):
                self._forget(lambda failure: failure.has_gone())
                self._known[key] = _Failure(receiver, time_now)
                return True, 0
            known.again += 1
            if time_now - known.told_at < _QUIET_S:
                return False, 0
            known.told_at = time_now
            again, known.again = known.again, 0
            return False, again

    def forget(self, receiver: Receiver) -> None:
        """It was disconnected; should it come back, it begins anew."""
        with self._lock:
            self._forget(lambda failure: failure.is_of(receiver))

    def _forget(self, which: Callable[[_Failure], bool]) -> None:
        self._known = {key: one for key, one in self._known.items() if not which(one)}


def _log_failure(error: BaseException | None, what: str, *arguments: object) -> None:
    """A handler or filter of the log's may raise as well, and then nothing can be told; on a
    thread of the library that never leads any further."""
    try:
        _log.error(what, *arguments, exc_info=error)
    except BaseException as another:
        if not isinstance(another, Exception) and waits.current_worker() is None:
            raise


def _is_same(one: Receiver | None, other: Receiver) -> bool:
    """By identity: a receiver may have an `__eq__` of its own."""
    if ismethod(one) and ismethod(other):
        return one.__self__ is other.__self__ and one.__func__ is other.__func__
    return one is other


def _id_of(receiver: Receiver) -> object:
    if ismethod(receiver):
        return id(receiver.__self__), id(receiver.__func__)
    return id(receiver)
