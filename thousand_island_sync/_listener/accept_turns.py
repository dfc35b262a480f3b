"""What acceptors wait for: their turn, clients, and the wake-up that ends them.

With the GIL, which lets one thread run at a time, the acceptors of one listener take turns:
one waits for clients and accepts them, the others wait for the turn and cost nothing. If all
ten waited for clients, each would wake for one of ten that come at once, and delay the other
acceptors and the handlers: twice the CPU for a connection. An acceptor that is about to wait
for something else, or to call a receiver, gives its turn away first.

Without the GIL all acceptors wait for clients, and EPOLLEXCLUSIVE keeps them from waking
for the same one. That would be wrong with turns: of several epoll instances only the one
that was woken knows of the client, and its acceptor may not be the one with the next turn.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator
from typing import Any

from .._base import descriptors, locks, waits
from .._base.clock import FOREVER
from .._base.wake_up import WakeUp
from .._scheduler.permits import default_permits


class SharedWakeUp(WakeUp):
    """Ends the acceptors of one listener. Its last holder closes it, as a stop may leave an
    acceptor behind that is in a receiver."""

    def __init__(self) -> None:
        self._holding = locks.lock("wake_up.holders")
        self._holders: set[object] = {self}
        super().__init__()

    def hold(self, who: object) -> None:
        with self._holding:
            self._holders.add(who)

    def release(self, who: object | None = None) -> None:
        """One holder fewer: `who`; `None`: its creator. It may be called twice."""
        with self._holding:
            self._holders.discard(self if who is None else who)
            last = not self._holders
        if last:
            self.close()


class Turn:
    """Whose turn it is among the acceptors of one listener."""

    def __init__(self, shared: bool | None = None) -> None:
        self.shared = default_permits() > 1 if shared is None else shared
        self._lock = locks.lock("acceptors.turn")

    def __enter__(self) -> None:
        if not self.shared:
            self._lock.acquire()

    def __exit__(self, *exc: object) -> None:
        if not self.shared:
            self._lock.release()

    def let_go(self) -> None:
        """Releases it, if this thread has it: for a thread that an exception ends."""
        locks.release_all()

    @contextlib.contextmanager
    def given_away(self) -> Iterator[None]:
        """Another acceptor may have it meanwhile. Thread: the one with the turn."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()


class ClientWait:
    """Waits until a client comes or the wake-up rings.

    Args:
        exclusive: other acceptors wait at the same time, and only one shall wake for a client.
    """

    def __init__(self, listener: socket.socket, wake_up: WakeUp, *, exclusive: bool) -> None:
        self._listener = listener
        self._wake_up = wake_up
        self._epoll: Any = None
        if hasattr(select, "EPOLLEXCLUSIVE"):
            try:
                with descriptors.thread.no_fork:
                    self._epoll = select.epoll()
                    descriptors.hold(self)
            except OSError:
                return  # no descriptor is free at this moment; poll(2) needs none
            how = select.EPOLLIN | (select.EPOLLEXCLUSIVE if exclusive else 0)
            try:
                self._epoll.register(listener.fileno(), how)
                self._epoll.register(wake_up.fileno(), select.EPOLLIN)
            except BaseException:
                self.__exit__()
                raise

    def wait(self) -> None:
        if self._epoll is not None:
            self._epoll.poll(-1, 2)
        else:
            waits.wait_for(
                self._listener.fileno(),
                write=False,
                timeout=FOREVER,
                also=self._wake_up.fileno(),
            )

    def __enter__(self) -> ClientWait:
        return self

    def __exit__(self, *exc: object) -> None:
        with descriptors.thread.no_fork:
            self.abandon()

    def abandon(self) -> None:
        """As `descriptors.Holder`."""
        if self._epoll is not None:
            self._epoll.close()
