"""Changes of a server's status: how they are asked for, made and waited for.

See the essay of `changes`.
"""

from __future__ import annotations

import contextlib
import contextvars
import sys
import threading
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any

from .. import events
from .._base import locks, waits
from .._base.clock import FOREVER, now
from .._base.latch import Latch
from .._base.listen_errors import no_thread
from .._base.own_threads import Launched, launch
from .._connection.task import ConnectionTask
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

    def outcome(self) -> Any:
        """What came of it, told if there is something to tell: what `work` returned, or raised.
        Thread: who asked, once it is done."""
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback leads to this frame: a circle that holds it all
        if not self.left:
            self.tell()
        return self.result

    def is_or_may_be_made(self) -> bool:
        """Whether it was made, or will be unless `begin` is called first."""
        return self.result is not None or not self.done.is_open

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
        by_us: whether its thread is one of the library's.
    """

    __slots__ = ("by_us", "context", "task", "waits")

    def __init__(self) -> None:
        self.task = waits.current_task()
        self.by_us = waits.current_worker() is not None
        self.context = contextvars.copy_context()
        self.waits = True

    def leave(self) -> None:
        """It waits no more."""
        self.waits = False


class Asking:
    """Who asks for changes of one server, and may wait for them. Thread: any.

    Args:
        name: prefix of the names of threads.
    """

    def __init__(self, name: str) -> None:
        self._name = f"{name}-change"
        self._waiting: dict[int, None] = {}  # threads that wait for a change
        self._undone: deque[Change] = deque()  # asked for where no thread could be started

    def blocked(self, ident: int) -> bool:
        """Whether a thread waits for a change, which so must not wait for it."""
        return ident in self._waiting

    def ask(self, change: Change, *, until: float = FOREVER, named: str = "") -> bool:
        """Has a change made and waits for it; where the thread must not wait, it is begun.

        Args:
            change: which.
            until: how long to wait, on the monotonic clock.
            named: what it is called in the error where no thread can be started; a change
                without a name is made all the same.

        Returns:
            Whether it is made.

        Raises:
            ThousandIslandError: no thread can be started (`ListenError` for a resume).
        """
        try:
            may_wait = self.may_wait(sys._getframe(1))
            if not may_wait:
                change.leave()
            try:
                change.launch(self._name)
            except RuntimeError as error:
                if named:
                    raise no_thread(named, error) from error
                self._undone.append(change)
            if may_wait:
                while self._undone:
                    self._undone.popleft().run()
                return self._wait_for(change, until)
            return False
        except BaseException:
            change.leave()
            raise

    def make(self, change: Change, until: float) -> None:
        """Has one made that nobody has asked for, and waits for it so long.

        Raises:
            RuntimeError: no thread can be started.
        """
        change.launch(self._name)
        self._wait_for(change, until)

    def _wait_for(self, change: Change, until: float) -> bool:
        me = threading.get_ident()
        self._waiting[me] = None
        try:
            waits.before_wait()
            return change.wait(until)
        finally:
            self._waiting.pop(me, None)

    def may_wait(self, frame: FrameType | None) -> bool:
        """Whether a call may wait for a change. By the stack, not by a flag: an interrupt could
        leave that set.

        Args:
            frame: the caller's.
        """
        worker = waits.current_worker()
        users_code = worker is None or isinstance(worker.task, ConnectionTask)
        while frame is not None:
            if frame.f_code is _ASKING and frame.f_locals.get("self") is self:
                return False
            users_code = users_code or frame.f_code is _EMITTING
            frame = frame.f_back
        return users_code and not locks.holds_any()


_EMITTING = events.emit.__code__
#: On the stack while a change is waited for; not while it is told of: it is made then.
_ASKING = Asking.ask.__code__
