"""Waiting: what a thread of the pool does before it, and waiting for a descriptor.

The scheduler sets each of its workers here for its thread; every wait in the library
calls `before_wait` first. On any other thread that costs one attribute look-up.
"""

from __future__ import annotations

import select
import selectors
import sys
import threading
from typing import Protocol

from . import fork
from .clock import FOREVER, LONGEST_WAIT, now, wait_time
from .locks import waits


class HoldsPermit(Protocol):
    """The worker of this thread, which the scheduler sets."""

    permit: bool
    waited: bool

    @property
    def task(self) -> object: ...

    def hand_off(self) -> None: ...


class OwnThread:
    """A thread of the library that is not in the pool. `task` is the connection that it is just
    making, perhaps in a receiver: a stop that is called there must not wait for that
    connection."""

    permit = False
    waited = False
    task: object = None

    def hand_off(self) -> None:
        pass


class _Here(threading.local):
    worker: HoldsPermit | None = None


_here = _Here()


def this_thread_is(worker: HoldsPermit | None) -> None:
    """Sets the calling thread's worker; `None`: it has none any more."""
    _here.worker = worker
    fork.this_thread_is_ours(worker is not None)


def forget_all() -> None:
    """In a forked child: no thread has a worker."""
    global _here
    _here = _Here()


def current_worker() -> HoldsPermit | None:
    """The calling thread's worker; `None`: it is not a thread of the library."""
    return _here.worker


def current_task() -> object:
    """What the calling thread's worker runs at this moment, or `None`."""
    worker = _here.worker
    return None if worker is None else worker.task


def look_again() -> None:
    """Sets `alert` of the task that the calling thread runs: its next step looks at everything."""
    task = current_task()
    if task is not None:
        task.alert = True  # type: ignore[attr-defined]


@waits
def before_wait() -> None:
    """Called before every wait in the library: hands the thread's permit off if it has one, and
    notes that the callback has waited in a call of the library."""
    worker = _here.worker
    if worker is not None:
        worker.waited = True
        if worker.permit:
            worker.hand_off()


def hand_off() -> None:
    """Called before a callback that is classified as blocking: hands the permit off as
    `before_wait` does, but notes no wait."""
    worker = _here.worker
    if worker is not None and worker.permit:
        worker.hand_off()


@waits
def wait_for(fd: int, *, write: bool | None, timeout: float, also: int | None = None) -> bool:
    """Waits until a descriptor is readable (or writable), or `also` is readable.

    Args:
        fd: the descriptor; a hang-up or an error on it counts as ready.
        write: wait for writability instead of readability; `None`: for neither.
        timeout: seconds, or `FOREVER`.
        also: a second descriptor whose readability ends the wait.

    Returns:
        `False` if the time ran out.
    """
    if timeout <= LONGEST_WAIT or timeout == FOREVER:
        return _wait_once(fd, write, wait_time(timeout), also)
    deadline = now() + timeout
    while timeout > 0:
        if _wait_once(fd, write, wait_time(timeout), also):
            return True
        timeout = deadline - now()
    return False


def _wait_once(fd: int, write: bool | None, timeout: float | None, also: int | None) -> bool:
    if hasattr(select, "poll"):
        poller = select.poll()
        wanted = 0 if write is None else select.POLLOUT if write else select.POLLIN
        poller.register(fd, wanted)
        if also is not None:
            poller.register(also, select.POLLIN)
        # Rounded up by poll itself: it never returns before the time.
        return bool(poller.poll(None if timeout is None else timeout * 1000))
    with selectors.DefaultSelector() as selector:
        if write is not None:
            selector.register(fd, selectors.EVENT_WRITE if write else selectors.EVENT_READ)
        if also is not None:
            selector.register(also, selectors.EVENT_READ)
        return bool(selector.select(timeout))


def hung_up(fd: int) -> bool:
    """Whether a descriptor is closed both ways, where POLLHUP means that: elsewhere than on Linux
    half of it does (poll(2))."""
    return condition(fd)[1]


def condition(fd: int) -> tuple[bool, bool]:
    """Whether a descriptor has failed, which poll(2) only tells of, and whether it has hung up."""
    poller = select.poll()
    poller.register(fd, 0)
    bits = sum(bits for _, bits in poller.poll(0))
    on_linux = sys.platform.startswith("linux")
    return bool(bits & select.POLLERR), on_linux and bool(bits & select.POLLHUP)
