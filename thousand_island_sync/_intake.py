"""What accepted clients go through, whoever accepts them: a place, a connection, the pool.

Where the machine is out of descriptors, the client that waits is turned away with one that
is kept spare for that.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from typing import Any

from . import _addresses, _waits, events
from ._clock import now_ns
from ._connection import Lifecycle
from ._environment import Environment
from ._locks import lock
from ._registry import Registry, Room
from ._scheduler import Scheduler
from .errors import ConnectionOverflow
from .transports._base import ListenSocket, Transport

_LINUX = sys.platform.startswith("linux")
#: Clients that are taken, without looking for anything else, before their connections run.
BATCH = 32
#: Clients that are refused at the same time: as many as a backlog of the usual length holds.
_REFUSED_AT_ONCE = 1_024


def somebody_listens() -> bool:
    """Whether accepting may call a receiver."""
    return bool(
        events.acceptor_accept.receivers
        or events.acceptor_limit_reached.receivers
        or events.acceptor_spawn_error.receivers
        or events.acceptor_accept_error.receivers
    )


def accepts_of(listener: socket.socket) -> Callable[[], tuple[socket.socket, Any]]:
    """`listener.accept`, but that one asks for family and type, and makes an enumeration of
    each, for every client: a tenth of what Python does for one."""
    accept = getattr(listener, "_accept", None) if type(listener) is socket.socket else None
    if accept is None:
        return listener.accept
    kind = int(listener.family), int(listener.type), listener.proto

    def accept_one() -> tuple[socket.socket, Any]:
        fd, address = accept()
        return socket.socket(*kind, fileno=fd), address

    return accept_one


class Intake:
    """What the acceptors of one run share."""

    def __init__(
        self,
        *,
        server: Any,
        env: Environment,
        registry: Registry,
        scheduler: Scheduler,
        transport: Callable[[], Transport],
        patience: float,
        connection_cls: type[Lifecycle],
    ) -> None:
        self.server = server
        self.env = env
        self.registry = registry
        self.scheduler = scheduler
        self.transport = transport
        self.patience = patience
        self._connection_cls = connection_cls
        self._spare_lock = lock("intake.spare")
        self._spare: int | None = None
        self.paused_until = 0.0
        # What the pool took in an acceptor's name: acceptor -> clients.
        self._counting = lock("intake.count")
        self._taken: dict[int, int] = {}
        self.keep_spare()

    def keep_spare(self) -> None:
        with self._spare_lock:
            if self._spare is None:
                try:
                    self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
                except OSError:
                    pass  # the next time

    def drop_spare(self) -> None:
        with self._spare_lock:
            if self._spare is not None:
                os.close(self._spare)
                self._spare = None

    def turn_one_away(self, listener: socket.socket) -> None:
        """Out of descriptors: the spare one's place is enough to accept and close."""
        self.keep_spare()  # another thread may have taken its place the last time
        with self._spare_lock:
            if self._spare is None:
                return
            os.close(self._spare)
            self._spare = None
            try:
                listener.accept()[0].close()
            except OSError:
                pass
        self.keep_spare()

    def count(self, acceptor_id: int, clients: int) -> None:
        """Thread: the pool's, which takes them in an acceptor's name."""
        with self._counting:
            self._taken[acceptor_id] = self._taken.get(acceptor_id, 0) + clients

    def accepted_by(self, acceptor_id: int) -> int:
        """What was counted for it so far; it begins anew."""
        with self._counting:
            return self._taken.pop(acceptor_id, 0)

    def _make(
        self, transport: Transport, acceptor_id: int, sock: socket.socket, address: Any
    ) -> Lifecycle:
        """An accepted client, for whom a place was reserved, becomes a connection."""
        if not _LINUX or sock.gettimeout() is not None:  # socket.setdefaulttimeout
            sock.settimeout(None)
        address = _addresses.sharing_host(address)
        return self._connection_cls(self.env, transport, sock, address, acceptor_id)

    def take(
        self, accept: Callable[[], tuple[socket.socket, Any]], acceptor_id: int, *, reserved: bool
    ) -> tuple[int, OSError | Room | None]:
        """Takes in those who wait, `BATCH` at most, and hands them over at once: each hand-over
        is a switch of threads, and each look at who waits is one more call.

        Args:
            accept: as `accepts_of` gives it.
            acceptor_id: in whose name.
            reserved: a place for the first one is, and nobody listens to events.

        Returns:
            How many, and what ended it: what `accept` raised (BlockingIOError: nobody waits
            any more), `Room.NONE` (no place, or somebody listens to events), `None`.
        """
        if not reserved and somebody_listens():
            return 0, Room.NONE
        transport, registry = self.transport(), self.registry
        connections: list[Lifecycle] = []
        places = int(reserved)
        try:
            while len(connections) < BATCH:
                if not places:
                    places = registry.reserve_some(BATCH - len(connections))
                    if not places:
                        return len(connections), Room.NONE
                try:
                    sock, address = accept()
                except OSError as error:
                    # Its traceback leads to who gets it: a circle that holds all of them.
                    return len(connections), error.with_traceback(None)
                connections.append(self._make(transport, acceptor_id, sock, address))
                places -= 1
            return len(connections), None
        finally:
            if places:
                registry.cancel(places)
            if connections:
                registry.admit(acceptor_id, len(connections))
                self.hand_over(connections)

    def hand_over(self, connections: list[Lifecycle]) -> None:
        """They are run from now on."""
        try:
            self.scheduler.add(*connections)
        except Exception as error:
            for connection in connections:
                connection._sock.close()
                self._refuse(connection, error)

    def _refuse(self, connection: Lifecycle, error: BaseException) -> None:
        self.tell_spawn_error(error, connection._acceptor_id, connection.peer_address)
        self.registry.refused(connection)

    def spawn(self, acceptor_id: int, sock: socket.socket, address: Any, waited_ns: int) -> None:
        """Hands over one that was accepted already; the receivers of the event are told first."""
        started = now_ns()
        connection = self._make(self.transport(), acceptor_id, sock, address)
        self.registry.admit(acceptor_id)
        worker = _waits.current_worker()
        if isinstance(worker, _waits.OwnThread):
            worker.task = connection
        try:
            if events.acceptor_accept.receivers:
                host, port = _addresses.remote(address)
                events.emit(
                    events.acceptor_accept,
                    self.server,
                    {"wait_time_ns": waited_ns, "startup_time_ns": now_ns() - started},
                    {
                        "acceptor_id": acceptor_id,
                        "connection_id": connection.id,
                        "remote_address": host,
                        "remote_port": port,
                    },
                )
            self.hand_over([connection])
        finally:
            if isinstance(worker, _waits.OwnThread):
                worker.task = None

    def turn_all_away(self, acceptor_id: int, listener: socket.socket) -> None:
        """At the limit, and those who wait have waited long enough. For who comes while
        this goes on there may be room again. Nobody learns of it before all have been taken
        from the backlog: who comes back at once would be refused without having waited."""
        while True:
            refused: list[tuple[socket.socket, Any]] = []
            try:
                while len(refused) < _REFUSED_AT_ONCE:
                    sock, address = listener.accept()
                    if self.registry.reserve():
                        self.spawn(acceptor_id, sock, address, 0)
                    else:
                        refused.append((sock, address))
            except OSError:
                # As a rule nobody waits any more. Out of descriptors: there will be some
                # again, and whose turn is next meets the error if not.
                return
            finally:
                self.registry.nobody_waits(listener.fileno())
                for sock, _ in refused:
                    self.registry.count_rejected()
                    sock.close()
                for _, address in refused:
                    self._tell_refused(acceptor_id, address)

    def _tell_refused(self, acceptor_id: int, address: Any) -> None:
        error = ConnectionOverflow(
            f"{_addresses.show(address)} was refused: max_connections are open; raise it,"
            " or max_connections_wait_ms"
        )
        self.tell_spawn_error(error, acceptor_id, address)

    def tell_spawn_error(self, error: BaseException, acceptor_id: int, address: Any) -> None:
        if events.acceptor_spawn_error.receivers:
            host, port = _addresses.remote(address)
            events.emit(
                events.acceptor_spawn_error,
                self.server,
                {"error": error},
                {"acceptor_id": acceptor_id, "remote_address": host, "remote_port": port},
            )

    def tell_accept_error(self, error: BaseException, acceptor_id: int) -> None:
        if events.acceptor_accept_error.receivers:
            events.emit(
                events.acceptor_accept_error,
                self.server,
                {"error": error},
                {"acceptor_id": acceptor_id},
            )

    def drain(self, listener: ListenSocket, most: int) -> None:
        """Before a listener closes: accepts what already waits in its backlog, once."""
        for _ in range(most):
            if not self.registry.reserve():
                self.turn_all_away(0, listener.socket)
                return
            try:
                sock, address = listener.socket.accept()
            except OSError:
                self.registry.cancel()
                return
            self.spawn(0, sock, address, 0)
