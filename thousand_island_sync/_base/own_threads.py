"""Threads for one job of the library, so that no Ctrl-C and no receiver can interrupt it.

Ctrl-C is raised between any two bytecodes of the main thread. So a server is opened and closed on
another thread; the main thread only waits for that, and may be interrupted at any point. An
interrupt in `Thread.start` itself would leave a thread in `threading.enumerate` that never ran. So
`Thread.start` is called by a bare thread (`_thread`), whose start is one call into C.
"""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable
from contextvars import Context

from . import fork, locks, waits
from .clock import now
from .latch import Latch


class Launched:
    """A thread that was made for one job."""

    __slots__ = ("thread",)

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None

    def has_ended(self) -> bool:
        """Whether it has begun, and is over."""
        thread = self.thread
        return thread is not None and thread.ident is not None and not thread.is_alive()


def launch(job: Callable[[], None], name: str) -> Launched:
    """Runs `job` on a daemon thread of this name. Thread: any, signal handlers included.

    Raises:
        RuntimeError: no thread can be started.
    """
    launched = Launched()
    _thread.start_new_thread(_begin, (job, name, launched))
    return launched


def _begin(job: Callable[[], None], name: str, launched: Launched) -> None:
    thread = threading.Thread(target=_run, args=(job,), name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:  # this one is there
        job()
    else:
        launched.thread = thread


def _run(job: Callable[[], None]) -> None:
    fork.this_thread_is_ours()
    try:
        job()
    finally:
        locks.release_all()


class Teller:
    """Calls receivers, on a thread of its own: the thread that waits for them may stop waiting.

    Args:
        job: what to do.
        context: what it runs in: the one of the call that this is part of.
        name: the thread's.
        raised: gets what a receiver raised that is for the program (see `events.emit`).
    """

    def __init__(
        self, job: Callable[[], None], context: Context, name: str, raised: list[BaseException]
    ) -> None:
        self._job = job
        self._context = context
        self._ident: int | None = None
        self._done = Latch()
        self._raised = raised
        try:
            launch(self._run, name)
        except RuntimeError:
            self._run()

    def _run(self) -> None:
        before = waits.current_worker()
        self._ident = threading.get_ident()
        try:
            self._context.run(self._job)
        except BaseException as error:
            self._raised.append(error)
        finally:
            waits.this_thread_is(before)
            self._done.open()

    def wait(self, until: float, blocked: Callable[[int], bool]) -> bool:
        """Whether it is through, or waits itself for the caller.

        Args:
            until: how long to wait, on the monotonic clock.
            blocked: whether a thread waits for the caller.
        """
        while not self._done.wait(min(0.05, until - now())):
            if self._ident is not None and blocked(self._ident):
                return True
            if now() >= until:
                return False
        return True
