"""Which descriptors have room to write, apart from the scheduler's own poller.

The facts. A connection may be in a callback while bytes of it wait to be sent. So its registration
in the scheduler's poller, which says when to run it, cannot also say when to send for it. An epoll
or kqueue instance is itself a descriptor that can be polled, and is readable while it has events.

So the descriptors that wait for room are in an instance of their own, and that instance is in the
scheduler's poller, as one descriptor. It reports edges, and reports a descriptor that is put in
again at once if there is room.
"""

from __future__ import annotations

import select
from typing import Any, Protocol

from .._base import descriptors

#: Events of one poll.
_MOST = 256


class WritePoller(Protocol):
    """Thread: any."""

    def fileno(self) -> int:
        """Readable while there are events; -1: a thread must call `ready` now and then."""

    def watch(self, fd: int, *, read: bool) -> None:
        """Watches for room; reports it at once if there is some. `read`: watches for bytes instead.

        Raises:
            OSError: there is no room for it.
        """

    def forget(self, fd: int) -> None:
        """Unknown descriptors are ignored."""

    def ready(self) -> list[int]:
        """Those with room, with an error, or closed by the peer in both directions. Never waits."""

    def lose(self) -> None:
        """Its number may be another file's by now, so it is not closed."""

    def close(self) -> None: ...


#: Lost instances: kept for ever, as the collector would close their numbers.
_lost: list[Any] = []


class EpollWrites:
    """epoll(7)."""

    def __init__(self) -> None:
        with descriptors.thread.no_fork:
            self._epoll = select.epoll()
            descriptors.hold(self)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def watch(self, fd: int, *, read: bool) -> None:
        bits = select.EPOLLET | (select.EPOLLIN if read else select.EPOLLOUT)
        try:
            self._epoll.register(fd, bits)
        except FileExistsError:
            self._epoll.modify(fd, bits)

    def forget(self, fd: int) -> None:
        try:
            self._epoll.unregister(fd)
        except (OSError, ValueError):
            pass  # not there, or closed

    def ready(self) -> list[int]:
        return [fd for fd, _ in self._epoll.poll(0, _MOST)]

    def lose(self) -> None:
        descriptors.let_go(self)
        _lost.append(self._epoll)

    def close(self) -> None:
        with descriptors.thread.no_fork:
            self._epoll.close()

    def abandon(self) -> None:
        """As `descriptors.Holder`: what is registered stays so in the parent."""
        self._epoll.close()


class KqueueWrites:
    """kqueue(2); none is inherited over a fork."""

    def __init__(self, module: Any = select) -> None:
        self._module = module
        self._kqueue = module.kqueue()

    def _change(self, fd: int, filter_: int, flags: int) -> None:
        self._kqueue.control([self._module.kevent(fd, filter=filter_, flags=flags)], 0, 0)

    def fileno(self) -> int:
        return int(self._kqueue.fileno())

    def watch(self, fd: int, *, read: bool) -> None:
        flags = self._module.KQ_EV_ADD | self._module.KQ_EV_CLEAR
        wanted, other = self._module.KQ_FILTER_WRITE, self._module.KQ_FILTER_READ
        if read:
            wanted, other = other, wanted
        self._remove(fd, other)
        self._change(fd, wanted, flags)

    def forget(self, fd: int) -> None:
        self._remove(fd, self._module.KQ_FILTER_WRITE)
        self._remove(fd, self._module.KQ_FILTER_READ)

    def _remove(self, fd: int, filter_: int) -> None:
        try:
            self._change(fd, filter_, self._module.KQ_EV_DELETE)
        except (OSError, ValueError):
            pass  # not there, or closed

    def ready(self) -> list[int]:
        # Each of the two filters may report the same descriptor.
        found = {int(event.ident): None for event in self._kqueue.control(None, _MOST, 0)}
        return list(found)

    def lose(self) -> None:
        _lost.append(self._kqueue)

    def close(self) -> None:
        self._kqueue.close()


class LookedAt:
    """Without epoll and kqueue: the driver calls poll(2) every few milliseconds."""

    def __init__(self) -> None:
        self._watched: dict[int, bool] = {}

    def fileno(self) -> int:
        return -1

    def watch(self, fd: int, *, read: bool) -> None:
        self._watched[fd] = read

    def forget(self, fd: int) -> None:
        self._watched.pop(fd, None)

    def ready(self) -> list[int]:
        poller = select.poll()
        for fd, read in list(self._watched.items()):
            poller.register(fd, select.POLLIN if read else select.POLLOUT)
        return [fd for fd, _ in poller.poll(0)]

    def lose(self) -> None:
        pass  # it has none

    def close(self) -> None:
        self._watched.clear()


def new_write_poller() -> WritePoller:
    """The best that this platform has."""
    if hasattr(select, "epoll"):
        return EpollWrites()
    if hasattr(select, "kqueue"):
        return KqueueWrites()
    return LookedAt()
