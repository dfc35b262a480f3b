"""Waiting: what a thread of the pool does before it, and waiting for a descriptor.

The scheduler puts each of its workers here for its thread; every wait of ours
calls `before_wait` first. On any other thread that is one attribute look-up.
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
    """What the scheduler leaves here: the worker of this thread."""

    permit: bool
    waited: bool

    @property
    def task(self) -> object: ...

    def hand_off(self) -> None: ...


class OwnThread:
    """A thread of ours that is none of the pool's, as it is seen here. `task` is the connection
    that it is just making, in a receiver perhaps: a stop that is called from there must not wait
    for that."""

    permit = False
    waited = False
    task: object = None

    def hand_off(self) -> None:
        pass


class _Here(threading.local):
    worker: HoldsPermit | None = None


_here = _Here()


def this_thread_is(worker: HoldsPermit | None) -> None:
    """Names the calling thread's worker (`None`: it is none any more)."""
    _here.worker = worker
    fork.this_thread_is_ours(worker is not None)


def forget_all() -> None:
    """In a forked child: no thread has a worker."""
    global _here
    _here = _Here()


def current_worker() -> HoldsPermit | None:
    """The calling thread's worker, or `None`: it is none of ours."""
    return _here.worker


def current_task() -> object:
    """What the calling thread's worker runs at this moment, or `None`."""
    worker = _here.worker
    return None if worker is None else worker.task


def look_again() -> None:
    """What the calling thread runs shall see, once its callback returns, that there is more to
    look at."""
    task = current_task()
    if task is not None:
        task.alert = True  # type: ignore[attr-defined]


@waits
def before_wait() -> None:
    """Called before every wait of ours: hands the thread's permit off if it has one, and notes that
    the callback has waited in a call of ours."""
    worker = _here.worker
    if worker is not None:
        worker.waited = True
        if worker.permit:
            worker.hand_off()


def hand_off() -> None:
    """Called before a callback that is classified as blocking: hands the permit off, as
    `before_wait` does, but this is no wait of ours."""
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
