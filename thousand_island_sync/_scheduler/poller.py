"""Which descriptors are ready: epoll, kqueue, and a portable fallback.

Facts. epoll and kqueue can report *edges*: a descriptor that was registered once is
reported when something arrives, and not again for what is merely still there. That
saves the re-arming call of `EPOLLONESHOT` for every message, and asks one thing of
the reader: read until nothing is left (a short read proves that), or read again
without an event. Data and the end of the stream can arrive as one edge with no
second to follow, so the events carry `HANGUP` beside `READ`. Registration from one
thread takes effect inside another thread's running `poll()`. Closing a registered
descriptor gives no event, and while a forked child holds a copy it goes on giving
events that cannot be unregistered any more: unregister first, then close.

A descriptor that is registered for writing too is ready at once. That makes
registering a new connection its own wake-up, with no second system call. The
scheduler ignores the later write edges unless somebody waits for one.

The fallback is level-triggered (`select`, `poll`): what is ready would be reported
for ever. So it takes a descriptor out when it reports it, and `rearm` puts it back.
`select.poll` also ignores what is registered while it waits; changes are therefore
queued, and a wake-up descriptor brings the waiting thread back to apply them.

All pollers report epoll's own bits, so that the common one translates nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import selectors
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from .._base import descriptors
from .._base.clock import FOREVER, wait_time
from .._base.locks import turn
from .._base.wake_up import WakeUp

READ = 0x001
WRITE = 0x004
#: ERR, HUP and RDHUP: a short read does not mean "nothing more" after one of these.
HANGUP = 0x008 | 0x010 | 0x2000
#: Beside `HANGUP`: the poller does not watch this descriptor any more; `refusal` says why.
REFUSED = 0x1_0000
#: Events of one poll: what is handled before the next. It also keeps the array small.
MOST = 64

Events = list[tuple[int, int]]


@contextlib.contextmanager
def _closed_if_it_fails(wake_up: WakeUp) -> Iterator[None]:
    try:
        yield
    except BaseException:
        wake_up.close()
        raise


class Poller(Protocol):
    """What the scheduler needs. Any thread may call anything."""

    #: Whether a parked descriptor must be put back with `rearm`.
    needs_rearm: bool

    def fileno(self) -> int | None:
        """A descriptor that is readable when `poll` has something; `None`: there is none."""

    def register(self, fd: int, *, write: bool) -> None:
        """Watches for reading and hang-ups; with `write` it is reported at once."""

    def rearm(self, fd: int, *, write: bool) -> None:
        """Puts a descriptor back that was reported."""

    def modify(self, fd: int, *, write: bool) -> None:
        """Changes whether writability is watched."""

    def unregister(self, fd: int) -> None:
        """Takes it out; unknown descriptors are ignored."""

    def poll(self, timeout: float) -> Events:
        """Ready descriptors and their bits, waiting at most `timeout` seconds."""

    def refusal(self, fd: int) -> OSError:
        """Why a descriptor was reported with `REFUSED`."""

    def wake(self) -> None:
        """Ends one thread's running `poll`."""

    def renew(self) -> bool:
        """Opens a new poller if other code has closed the descriptor of this one by its number.
        Whether that was so: then nothing is registered any more."""

    def close(self) -> None: ...


class _AtOnce:
    """What is registered is watched at once, or refused at once."""

    needs_rearm = False

    def refusal(self, fd: int) -> OSError:
        return OSError(errno.EBADF, f"descriptor {fd} was never reported as refused")

    def renew(self) -> bool:
        return False


#: epoll objects whose numbers may belong to other files by now: kept for ever, as the collector
#: would close those.
_lost: list[Any] = []


class EpollPoller(_AtOnce):
    """Edge-triggered epoll(7). No `poll` is lost: the wake-up is an edge as well."""

    def __init__(self) -> None:
        self._read = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
        self._both = self._read | select.EPOLLOUT
        self._wake_up = WakeUp()
        with _closed_if_it_fails(self._wake_up):
            with descriptors.thread.no_fork:
                self._epoll = select.epoll()
                descriptors.hold(self)
            # Never read: each write to it is a new edge.
            self._epoll.register(self._wake_up.fileno(), select.EPOLLIN | select.EPOLLET)
            self._poll = self._epoll.poll
            self.fileno = self._epoll.fileno
            self.wake = self._wake_up.wake

    def register(self, fd: int, *, write: bool) -> None:
        try:
            self._epoll.register(fd, self._both if write else self._read)
        except FileExistsError:  # a thread was interrupted before it could unregister it
            self.modify(fd, write=write)

    def modify(self, fd: int, *, write: bool) -> None:
        self._epoll.modify(fd, self._both if write else self._read)

    rearm = modify

    def unregister(self, fd: int) -> None:
        try:
            self._epoll.unregister(fd)
        except (OSError, ValueError):
            pass  # not registered, or the poller is closed

    def poll(self, timeout: float) -> Events:
        return self._poll(wait_time(timeout), MOST)

    def renew(self) -> bool:
        try:
            self._epoll.poll(0, 1)
            return False
        except ValueError:
            return False  # this class closed it
        except OSError as error:
            if error.errno not in (errno.EBADF, errno.EINVAL):
                return False
        with descriptors.thread.no_fork:
            fresh = select.epoll()
            _lost.append(self._epoll)
            self._epoll, self._poll, self.fileno = fresh, fresh.poll, fresh.fileno
        fresh.register(self._wake_up.fileno(), select.EPOLLIN | select.EPOLLET)
        return True

    def close(self) -> None:
        try:
            with descriptors.thread.no_fork:
                self._epoll.close()
        finally:
            self._wake_up.close()

    def abandon(self) -> None:
        """As `descriptors.Holder`: what is registered stays so in the parent."""
        self._epoll.close()


class KqueuePoller(_AtOnce):
    """kqueue(2) with EV_CLEAR, its name for edge-triggered (BSD, macOS).

    Args:
        module: the `select` module; tests on Linux give a stand-in.
    """

    def __init__(self, module: Any = select) -> None:
        self._module = module
        self._wake_up = WakeUp()
        with _closed_if_it_fails(self._wake_up):
            self._kqueue = module.kqueue()
            self._change(self._wake_up.fileno(), module.KQ_FILTER_READ, add=True)

    def fileno(self) -> int | None:
        return int(self._kqueue.fileno())

    def _change(self, fd: int, filter_: int, *, add: bool) -> None:
        flags = self._module.KQ_EV_ADD | self._module.KQ_EV_CLEAR
        if not add:
            flags = self._module.KQ_EV_DELETE
        event = self._module.kevent(fd, filter=filter_, flags=flags)
        self._kqueue.control([event], 0, 0)

    def register(self, fd: int, *, write: bool) -> None:
        self._change(fd, self._module.KQ_FILTER_READ, add=True)
        if write:
            self._change(fd, self._module.KQ_FILTER_WRITE, add=True)

    def modify(self, fd: int, *, write: bool) -> None:
        try:
            self._change(fd, self._module.KQ_FILTER_WRITE, add=write)
        except OSError:
            if write:
                raise
            # It was not watched for writing.

    rearm = modify

    def unregister(self, fd: int) -> None:
        for filter_ in (self._module.KQ_FILTER_READ, self._module.KQ_FILTER_WRITE):
            try:
                self._change(fd, filter_, add=False)
            except (OSError, ValueError):
                pass

    def poll(self, timeout: float) -> Events:
        found = self._kqueue.control(None, MOST, wait_time(timeout))
        events: Events = []
        for event in found:
            bits = WRITE if event.filter == self._module.KQ_FILTER_WRITE else READ
            if event.flags & self._module.KQ_EV_EOF:
                bits |= HANGUP
            events.append((event.ident, bits))
        return events

    def wake(self) -> None:
        self._wake_up.wake()

    def close(self) -> None:
        self._kqueue.close()
        self._wake_up.close()


class SelectorPoller:
    """The portable fallback: any level-triggered selector of the standard library.

    One thread at a time is in `select`; the changes that others make are queued for it.
    """

    needs_rearm = True

    def __init__(
        self, selector: Callable[[], selectors.BaseSelector] = selectors.DefaultSelector
    ) -> None:
        self._wake_up = WakeUp()
        with _closed_if_it_fails(self._wake_up):
            with descriptors.thread.no_fork:
                self._selector = selector()
                descriptors.hold(self)
            self._selector.register(self._wake_up.fileno(), selectors.EVENT_READ)
        self._changes: deque[tuple[int, int]] = deque()  # (descriptor, bits; 0: take out)
        self._refused: list[int] = []  # to be reported
        self._why: dict[int, OSError] = {}
        self._turn = turn("poller.turn")
        self._closed = False

    def fileno(self) -> int | None:
        return None

    def register(self, fd: int, *, write: bool) -> None:
        self._changes.append((fd, READ | WRITE if write else READ))
        self._wake_up.wake()

    modify = register
    rearm = register

    def unregister(self, fd: int) -> None:
        self._changes.append((fd, 0))
        self._wake_up.wake()

    def _apply_changes(self) -> None:
        while self._changes:
            fd, bits = self._changes.popleft()
            known = self._selector.get_map()
            if fd in known:
                self._selector.unregister(fd)
            if bits:
                wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if bits & WRITE else 0)
                try:
                    self._selector.register(fd, wanted)
                except (OSError, ValueError) as error:
                    # It may have been closed since: then its removal follows in the queue.
                    if all(later != fd for later, _ in list(self._changes)):
                        self._refuse(fd, error)

    def _refuse(self, fd: int, error: OSError | ValueError) -> None:
        if not isinstance(error, OSError):  # select(2) takes none above 1,023
            error = OSError(errno.EMFILE, str(error))
        self._why[fd] = error
        self._refused.append(fd)

    def refusal(self, fd: int) -> OSError:
        """Why a descriptor was reported with `REFUSED`."""
        return self._why.pop(fd, OSError(errno.EBADF, os.strerror(errno.EBADF)))

    def poll(self, timeout: float) -> Events:
        if timeout == 0:
            mine = self._turn.acquire(blocking=False)
        else:
            mine = self._turn.acquire(timeout=-1 if timeout == FOREVER else timeout)
        if not mine:
            return []
        try:
            if self._closed:
                return []
            self._apply_changes()
            found = self._select(0 if self._refused else wait_time(timeout))
            refused, self._refused = self._refused, []
            return [*found, *((fd, HANGUP | REFUSED) for fd in refused)]
        finally:
            self._turn.release()

    def _select(self, timeout: float | None) -> Events:
        events: Events = []
        try:
            ready = self._selector.select(timeout)
        except OSError as error:  # select(2) and a descriptor closed while it waited
            self._look_for_the_closed(error)
            return events
        for key, mask in ready:
            if key.fd == self._wake_up.fileno():
                self._wake_up.clear()
                continue
            self._selector.unregister(key.fd)
            bits = (READ if mask & selectors.EVENT_READ else 0) | (
                WRITE if mask & selectors.EVENT_WRITE else 0
            )
            # No HANGUP: an end of stream is still readable when it is put back.
            events.append((key.fd, bits))
        return events

    def _look_for_the_closed(self, error: OSError) -> None:
        """Takes closed descriptors out: else `select` would fail for ever, and report nothing."""
        for fd in [key.fd for key in self._selector.get_map().values()]:
            try:
                os.fstat(fd)
            except OSError:
                if fd == self._wake_up.fileno():
                    raise error from None
                self._selector.unregister(fd)
                self._refuse(fd, error)

    def wake(self) -> None:
        self._wake_up.wake()

    def renew(self) -> bool:
        return False  # `_select` takes closed descriptors out instead

    def close(self) -> None:
        self._wake_up.wake()
        with self._turn:
            self._closed = True
            with descriptors.thread.no_fork:
                self._selector.close()
            self._wake_up.close()

    def abandon(self) -> None:
        """As `descriptors.Holder`."""
        self._turn = turn("poller.turn")
        if not self._closed:
            self._closed = True
            self._selector.close()


def new_poller() -> Poller:
    """The best that this platform has."""
    if hasattr(select, "epoll"):
        return EpollPoller()
    if hasattr(select, "kqueue"):
        return KqueuePoller()
    return SelectorPoller()
