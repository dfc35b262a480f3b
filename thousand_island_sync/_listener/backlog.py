"""Clients that are taken out of a backlog all at once: at the limit, and before a listener closes.

Clients with a place become connections like any others, and the rest are refused. No socket is
closed, and no event emitted, before all are taken: else a client that is refused and comes back at
once would be refused without having waited. Then the events follow; if a receiver waits, another
thread goes on with the clients after it.
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
    """The clients that `take` took: counted or refused, and no event was emitted yet.

    Args:
        admission: admits them.
        acceptor_id: the acceptor in whose name.
        name: prefix of the names of helper threads.
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
        """Accepts the waiting clients, so many at most. Runs no user code.

        Returns:
            Whether there may be more.
        """
        limit, places = self._admission.limit, self._admission.limit.places()
        refused: list[tuple[socket.socket, Any]] = []
        try:
            for _ in range(most):
                with descriptors.thread.no_fork:
                    sock, address = descriptors.accept(listener)
                # One by one: places may become free meanwhile.
                if not places.reserve():
                    refused.append((sock, address))
                    continue
                connection = self._admission.make(sock, address, self._acceptor_id)
                places.become(self._acceptor_id, [connection])
                self._admitted.append((sock, connection))
            return True
        except OSError:
            # As a rule no client waits any more. If the process is out of descriptors, the next
            # acceptor gets the same error, and reports it.
            return False
        finally:
            places.give_back()
            limit.nobody_waits(listener.fileno())
            for sock, address in refused:
                limit.count_rejected()
                descriptors.close(sock)
                self._refused.append(address)

    def settle(self) -> None:
        """Hands the admitted over, and emits the events of the refused. Thread: one of the
        library's, as receivers may take long."""
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
        """A receiver is about to wait, perhaps for a client that comes after: a helper goes on."""
        if self and self._helpers < _HELPERS:
            self._helpers += 1
            with contextlib.suppress(RuntimeError):
                launch(self.settle, self._name)

    def cut(self) -> None:
        """A stop has run out of time while a receiver delays the clients after it: cuts those."""
        for sock, _ in list(self._admitted):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


class _Introducer(waits.OwnThread):
    """The thread that settles a backlog. Its "permit" is the right to go on with the backlog."""

    permit = True

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog

    def hand_off(self) -> None:
        self._backlog.go_on_elsewhere()
