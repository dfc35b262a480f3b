"""A listening socket, shared by its acceptors, the pool and the thread that closes it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from enum import Enum

from .._base import waits
from .._base.latch import Latch
from .._base.locks import lock
from .._base.wake_up import WakeUp
from ..transports.base import ListenSocket
from .accept_turns import ClientWait, Turn
from .admission import Admission
from .inline_accept import InlineAccept, Scheduler


class SharedSocket:
    """One listening socket, with what its threads need to share it.

    Args:
        listener: the socket.
        admission: admits its clients.
        scheduler: the pool's.

    Attributes:
        socket: accepts without waiting.
        turn: the turn to accept, among the acceptors.
        inline: for the pool. `None` without the GIL: then acceptors do all of it.
    """

    def __init__(self, listener: ListenSocket, admission: Admission, scheduler: Scheduler) -> None:
        self.socket: socket.socket = listener.socket
        self.turn = Turn()
        alone = not self.turn.shared
        self.inline = InlineAccept(listener, admission, scheduler) if alone else None

    def fileno(self) -> int:
        """Its descriptor."""
        return self.socket.fileno()

    def clients(self, wake_up: WakeUp) -> ClientWait:
        """What an acceptor waits for."""
        return ClientWait(self.socket, wake_up, exclusive=self.turn.shared)

    def somebody_waits(self) -> bool:
        """Whether a client waits, at this moment."""
        fd = self.fileno()
        return fd >= 0 and waits.wait_for(fd, write=False, timeout=0)

    def look_again(self) -> None:
        """Has acceptors check whether the pool still accepts. Thread: any."""
        if self.inline is not None:
            self.inline.look_again()

    def close_inline(self, deadline: float) -> None:
        """The pool does not use it any more; see `InlineAccept.close`."""
        if self.inline is not None:
            self.inline.close(deadline)


class _Using(Enum):
    """What an acceptor does with the listening socket."""

    ASIDE = "it does not touch it, and looks at this before it does"
    TOUCHING = "it may touch it"
    ENDING = "it shall end, and may touch it until it has looked"
    RELEASED = "it shall end, and touches it no more"


class Use:
    """An acceptor's use of the listening socket. The thread that closes the socket calls `end`,
    and waits for `released`. Thread: `end` and the attributes, any; all else, the acceptor's.

    Attributes:
        released: opened when the acceptor does not use the socket any more: it may be closed.
        reason: why the acceptor is to end.
    """

    def __init__(self) -> None:
        self._lock = lock("acceptor")
        self._state = _Using.ASIDE
        self.released = Latch()
        self.reason = "shutdown"

    @property
    def over(self) -> bool:
        """Whether it is to end. The acceptor checks this before each use of the socket."""
        return self._state in (_Using.ENDING, _Using.RELEASED)

    def end(self, reason: str) -> None:
        """Tells the acceptor to end; the caller wakes its thread."""
        with self._lock:
            if not self.over:
                self.reason = reason
            aside = self._state in (_Using.ASIDE, _Using.RELEASED)
            self._state = _Using.RELEASED if aside else _Using.ENDING
        if aside:
            self.released.open()

    def begin(self) -> None:
        """From now on the acceptor may use the socket, and checks `over` before."""
        with self._lock:
            if self._state is _Using.ASIDE:
                self._state = _Using.TOUCHING

    def end_use(self) -> None:
        """It does not use the socket any more, for a while or for good."""
        with self._lock:
            over = self.over
            self._state = _Using.RELEASED if over else _Using.ASIDE
        if over:
            self.released.open()

    @contextlib.contextmanager
    def put_off(self) -> Iterator[None]:
        """It does not use the socket meanwhile."""
        self.end_use()
        try:
            yield
        finally:
            self.begin()
