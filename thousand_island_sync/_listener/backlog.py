"""Clients that are taken out of a backlog all at once: at the limit, and before a listener closes.

Those for whom there is a place are connections like any others, and the rest are refused. Nobody
learns of it before all have been taken: who is refused and comes back at once would be refused
without having waited. Then it is told, and receivers may wait; none holds up those who come after.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from typing import Any

from .._base import descriptors, waits
from .._base.own_threads import launch
from .._connection.task import ConnectionTask
from .admission import Admission

#: Threads that go on with a backlog while receivers wait.
_HELPERS = 16


class Backlog:
    """Whom `take` took: counted or refused, and nobody was told of any yet.

    Args:
        admission: theirs.
        acceptor_id: in whose name.
        name: prefix of the threads that help.
    """

    def __init__(self, admission: Admission, acceptor_id: int, name: str) -> None:
        self._admission = admission
        self._acceptor_id = acceptor_id
        self._name = f"{name}-backlog"
        self._admitted: deque[tuple[socket.socket, ConnectionTask]] = deque()
        self._refused: deque[Any] = deque()  # their addresses
        self._helpers = 0

    def __bool__(self) -> bool:
        return bool(self._admitted or self._refused)

    def take(self, listener: socket.socket, most: int) -> bool:
        """Accepts those who wait, so many at most. Calls nothing of the user's.

        Returns:
            Whether there may be more.
        """
        limit, places = self._admission.limit, self._admission.limit.places()
        refused: list[tuple[socket.socket, Any]] = []
        try:
            for _ in range(most):
                with descriptors.thread.no_fork:
                    sock, address = descriptors.accept(listener)
                # Asked for each: while this goes on there may be room again.
                if not places.reserve():
                    refused.append((sock, address))
                    continue
                connection = self._admission.make(sock, address, self._acceptor_id)
                places.become(self._acceptor_id, [connection])
                self._admitted.append((sock, connection))
            return True
        except OSError:
            # As a rule nobody waits any more. Out of descriptors: there will be some
            # again, and whose turn is next meets the error if not.
            return False
        finally:
            places.give_back()
            limit.nobody_waits(listener.fileno())
            for sock, address in refused:
                limit.count_rejected()
                descriptors.close(sock)
                self._refused.append(address)

    def settle(self) -> None:
        """Those for whom there is room are introduced; of the others it is told. Thread: one of
        ours, as receivers may take their time."""
        own = waits.current_worker()
        waits.this_thread_is(_Introducer(self))
        try:
            while self:
                self._settle_one()
        finally:
            waits.this_thread_is(own)

    def _settle_one(self) -> None:
        """Several threads may do it at once."""
        with contextlib.suppress(IndexError):
            _, connection = self._admitted.popleft()
            self._admission.introduce(connection, 0)
            return
        with contextlib.suppress(IndexError):
            self._admission.events.refused(self._acceptor_id, self._refused.popleft())

    def go_on_elsewhere(self) -> None:
        """A receiver is about to wait, perhaps for those who come after it."""
        if self and self._helpers < _HELPERS:
            self._helpers += 1
            with contextlib.suppress(RuntimeError):
                launch(self.settle, self._name)

    def cut(self) -> None:
        """A stop's time is up, and a receiver still holds up those who come after it."""
        for sock, _ in list(self._admitted):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


class _Introducer(waits.OwnThread):
    """The thread that settles a backlog, which is its permit to go on with."""

    permit = True

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog

    def hand_off(self) -> None:
        self._backlog.go_on_elsewhere()
