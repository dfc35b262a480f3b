"""What was asked of a server: a change of its status, and who asked for a stop."""

from __future__ import annotations

import contextlib
import contextvars
from collections import deque
from collections.abc import Callable
from typing import Any

from .._base import waits
from .._base.clock import now
from .._base.latch import Latch
from .._base.own_threads import Launched, launch
from ..errors import ThousandIslandError

Tell = Callable[[], None]


#: Seconds between two looks whether the thread of a change is there still.
_LOOK_S = 1.0


class Change:
    """One change that was asked for.

    Args:
        work: makes it.
    """

    __slots__ = ("_begun", "_launched", "_telling", "_work", "done", "error", "left", "result")

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._begun = deque([False])
        self._telling: deque[Tell] = deque()
        self._launched: Launched | None = None
        self.done = Latch()
        self.left = False
        self.result: Any = None
        self.error: BaseException | None = None

    def launch(self, name: str) -> None:
        """Has it made on a thread of this name. Raises RuntimeError: none can be started."""
        self._launched = launch(self.run, name)

    def wait(self, until: float) -> bool:
        """Whether it is made, waiting as long as that on the monotonic clock. One whose thread
        was ended by an exception from elsewhere is over with an error."""
        while not self.done.wait(min(_LOOK_S, until - now())):
            if now() >= until:
                return False
            if self._launched is not None and self._launched.has_ended() and not self.done.is_open:
                self.error = ThousandIslandError("an exception has ended the thread that made it")
                self.done.open()
        return True

    def run(self) -> None:
        """Thread: the one made for it, or the one that asked, where none can be made."""
        before = waits.current_worker()
        try:
            if self.begin():
                waits.this_thread_is(waits.OwnThread())
                self.result = self._work()
        except BaseException as error:
            self.error = error
        finally:
            self.done.open()
            if self.left:
                self.tell()
            waits.this_thread_is(before)

    def begin(self) -> bool:
        """`True` to one caller only, who makes it or sees to it that nobody does."""
        try:
            self._begun.pop()
        except IndexError:
            return False
        return True

    def then(self, tell: Tell) -> None:
        """There is something to tell of it."""
        self._telling.append(tell)

    def tell(self) -> None:
        """Tells it, once. Thread: who asked, or else who made it."""
        with contextlib.suppress(IndexError):
            tell = self._telling.popleft()
            tell()

    def leave(self) -> None:
        """Who asked for it does not wait for it, or was interrupted."""
        self.left = True
        if self.done.is_open and self._telling:
            with contextlib.suppress(RuntimeError):
                launch(self.tell, "thousand-island-events")


class Caller:
    """Who asked for a stop.

    Attributes:
        task: what its thread runs, which is not waited for while it waits.
        waits: whether it does still.
        by_us: its thread is one of ours.
    """

    __slots__ = ("by_us", "context", "task", "waits")

    def __init__(self) -> None:
        self.task = waits.current_task()
        self.by_us = waits.current_worker() is not None
        self.context = contextvars.copy_context()
        self.waits = True
