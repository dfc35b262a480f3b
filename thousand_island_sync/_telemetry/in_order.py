"""Events of a thread that must not wait for receivers, sent in order on a thread that may.

The listener's thread is the pool's watchdog. If it waited in a receiver, no thread would take the
permit from a callback that blocks, and one such callback would stop all connections.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any

from .._base import waits
from .._base.own_threads import Teller


class InOrder:
    """Tells one after the other, on a thread that is there while there is anything to tell.

    Args:
        emit: tells one; called with what `tell` was given.
        context: what it runs in a copy of.
        name: the thread's.
    """

    def __init__(self, emit: Callable[..., None], context: Context, name: str) -> None:
        self._emit = emit
        self._context = context
        self._name = name
        self._untold: deque[tuple[Any, ...]] = deque()
        self._may_tell = deque([None], maxlen=1)  # taken by the one who does
        self._teller: Teller | None = None

    def tell(self, *what: Any) -> None:
        """Returns at once. Thread: one of the library's."""
        self._untold.append(what)
        self._start_teller()

    def _start_teller(self) -> None:
        if not self._untold:
            return
        try:
            self._may_tell.pop()
        except IndexError:
            return  # the thread that tells will find it
        try:
            self._teller = Teller(self._tell_all, self._context.copy(), self._name, [])
        except BaseException:
            self._may_tell.append(None)
            raise

    def _tell_all(self) -> None:
        waits.this_thread_is(waits.OwnThread())
        try:
            while self._untold:
                self._emit(*self._untold.popleft())
        finally:
            self._may_tell.append(None)
            self._start_teller()  # what came meanwhile

    def wait(self, until: float, blocked: Callable[[int], bool]) -> bool:
        """As `Teller.wait`, for all that was told so far."""
        waited_for = None
        while (teller := self._teller) is not None and teller is not waited_for:
            if not teller.wait(until, blocked):
                return False
            waited_for = teller
        return True
