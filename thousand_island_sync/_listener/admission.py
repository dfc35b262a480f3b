"""What accepted clients go through, whoever accepts them: a place, a connection, the pool.

At EMFILE the client that waits is turned away with a descriptor that is kept spare for it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from .. import events
from .._base import addresses, descriptors, waits
from .._base.clock import now_ns
from .._base.locks import lock
from .._base.own_threads import launch
from .._connection.connection import Lifecycle
from .._connection.environment import Environment
from .._scheduler.scheduler import Scheduler
from ..errors import ConnectionOverflow
from ..transports.base import ListenSocket, Transport
from .connection_limit import ConnectionLimit, InHand, Room

_LINUX = sys.platform.startswith("linux")
#: Clients that are taken, without looking for anything else, before their connections run.
BATCH = 32
#: Clients that are refused at the same time: as many as a backlog of the usual length holds.
_REFUSED_AT_ONCE = 1_024
#: Threads that go on with a crowd while receivers wait.
_HELPERS = 16


def somebody_listens() -> bool:
    """Whether accepting may call a receiver."""
    return bool(
        events.acceptor_accept.receivers
        or events.acceptor_limit_reached.receivers
        or events.acceptor_spawn_error.receivers
        or events.acceptor_accept_error.receivers
    )


#: As `accepts_of` gives it: it notes the socket in the list as well.
Accepts = Callable[[list[socket.socket]], tuple[socket.socket, Any]]


def accepts_of(listener: socket.socket) -> Accepts:
    """`listener.accept`, but that one asks for family and type, and makes an enumeration of
    each, for every client: a tenth of what Python does for one."""
    accept = getattr(listener, "_accept", None) if type(listener) is socket.socket else None
    if accept is None:
        return functools.partial(descriptors.accept, listener)
    kind = int(listener.family), int(listener.type), listener.proto
    return descriptors.accepting(accept, kind)


class Admission:
    """What the acceptors of one run share."""

    def __init__(
        self,
        *,
        server: Any,
        env: Environment,
        limit: ConnectionLimit,
        scheduler: Scheduler,
        transport: Callable[[], Transport],
        patience: float,
        connection_cls: type[Lifecycle],
    ) -> None:
        self.server = server
        self.env = env
        self.limit = limit
        self.scheduler = scheduler
        self.transport = transport
        self.patience = patience
        self._connection_cls = connection_cls
        self._spare_lock = lock("admission.spare")
        self._spare: int | None = None
        self.paused_until = 0.0
        # What the pool took in an acceptor's name: acceptor -> clients.
        self._counting = lock("admission.count")
        self._taken: dict[int, int] = {}

    def keep_spare(self) -> None:
        with self._spare_lock, descriptors.thread.no_fork:
            if self._spare is None:
                try:
                    self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
                except OSError:
                    return  # the next time
                descriptors.hold(self)

    def drop_spare(self) -> None:
        with self._spare_lock, descriptors.thread.no_fork:
            self.abandon()

    def abandon(self) -> None:
        """As `_descriptors.Holder`."""
        spare, self._spare = self._spare, None
        if spare is not None:
            os.close(spare)

    def turn_one_away(self, listener: socket.socket) -> None:
        """Out of descriptors: the spare one's place is enough to accept and close."""
        self.keep_spare()  # another thread may have taken its place the last time
        with self._spare_lock, descriptors.thread.no_fork:
            if self._spare is None:
                return
            self.abandon()
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
        address = addresses.sharing_host(address)
        return self._connection_cls(self.env, transport, sock, address, acceptor_id)

    def take(
        self, accept: Accepts, acceptor_id: int, hand: InHand
    ) -> tuple[list[Lifecycle], OSError | Room | None]:
        """Takes in those who wait, `BATCH` at most, for `settle` to hand over at once: each
        hand-over is a switch of threads, and each look at who waits is one more call. Calls
        nothing of the user's.

        Args:
            accept: as `accepts_of` gives it.
            acceptor_id: in whose name.
            hand: of whoever accepts. If a place is reserved, nobody listens to events.

        Returns:
            They, counted already, and what ended it: what `accept` raised (BlockingIOError:
            nobody waits any more), `Room.NONE` (no place, or somebody listens to events), `None`.
        """
        connections = hand.connections
        if not hand.places and somebody_listens():
            return connections, Room.NONE
        limit = self.limit
        end: OSError | Room | None = None
        with descriptors.thread.no_fork:
            for count in range(len(connections), BATCH):
                if hand.places == count and not limit.reserve_some(BATCH - count, hand):
                    end = Room.NONE
                    break
                try:
                    sock, address = accept(hand.socks)
                except OSError as error:
                    # Its traceback leads to who gets it: a circle that holds all of them.
                    end = error.with_traceback(None)
                    break
                # Asked after the accept: who connects after a reload has its options.
                transport = self.transport()
                connections.append(self._make(transport, acceptor_id, sock, address))
        if connections:
            limit.admit(acceptor_id, connections, hand, all_=True)
        elif hand.places:
            limit.cancel(hand)
        return connections, end

    def settle(self, hand: InHand) -> None:
        """What `take` took is run from now on."""
        if hand.connections:
            self.hand_over(hand.connections)
            hand.socks, hand.connections = [], []
        if self.limit.edges:
            self.limit.tell_edges()

    def rescue(self, hand: InHand, acceptor_id: int) -> None:
        """Whoever had this in hand was interrupted: what is not handed over yet is now."""
        self.limit.cancel(hand)
        has = self.scheduler.has
        made = {one._sock: one for one in hand.connections}
        for sock in hand.socks:
            connection = made.get(sock)
            if sock.fileno() < 0 or (connection is not None and has(connection)):
                continue
            if connection is None or not self.limit.knows(connection):
                try:
                    address = sock.getpeername()
                except OSError:  # the client has gone
                    descriptors.close(sock)
                    continue
                if not self.limit.reserve(hand):
                    descriptors.close(sock)
                    continue
                connection = self.admit(acceptor_id, sock, address, hand)
            self.hand_over([connection])
        hand.clear()

    def hand_over(self, connections: list[Lifecycle]) -> None:
        """They are run from now on."""
        try:
            self.scheduler.add(*connections)
        except Exception as error:
            for connection in connections:
                descriptors.close(connection._sock)
                self._refuse(connection, error)

    def _refuse(self, connection: Lifecycle, error: BaseException) -> None:
        self.tell_spawn_error(error, connection.acceptor_id, connection.peer_address)
        self.limit.refused(connection)

    def admit(
        self, acceptor_id: int, sock: socket.socket, address: Any, hand: InHand | None = None
    ) -> Lifecycle:
        """Who was accepted in a reserved place is a connection; `introduce` is to follow."""
        connection = self._make(self.transport(), acceptor_id, sock, address)
        if hand is not None:
            hand.connections.append(connection)
        self.limit.admit(acceptor_id, [connection], hand)
        return connection

    def introduce(self, connection: Lifecycle, waited_ns: int) -> None:
        """Hands over one that was admitted; the receivers of the event are told first."""
        worker = waits.current_worker()
        if isinstance(worker, waits.OwnThread):
            worker.task = connection
        try:
            self.limit.tell_edges()
            if events.acceptor_accept.receivers:
                host, port = addresses.remote(connection.peer_address)
                events.emit(
                    events.acceptor_accept,
                    self.server,
                    {
                        "wait_time_ns": waited_ns,
                        "startup_time_ns": now_ns() - connection.accepted_at_ns,
                    },
                    {
                        "acceptor_id": connection.acceptor_id,
                        "connection_id": connection.id,
                        "remote_address": host,
                        "remote_port": port,
                    },
                )
            self.hand_over([connection])
        finally:
            if isinstance(worker, waits.OwnThread):
                worker.task = None

    def take_crowd(self, acceptor_id: int, listener: socket.socket) -> tuple[Crowd, bool]:
        """At the limit, and those who wait have waited long enough. For who comes while
        this goes on there may be room again. Nobody learns of it before all have been taken
        from the backlog: who comes back at once would be refused without having waited.

        Returns:
            They, to be settled, and whether there may be more.
        """
        crowd = Crowd(self, acceptor_id)
        try:
            while len(crowd.refused) < _REFUSED_AT_ONCE:
                with descriptors.thread.no_fork:
                    sock, address = descriptors.accept(listener)
                crowd.add(sock, address, self.limit.reserve())
            return crowd, True
        except OSError:
            # As a rule nobody waits any more. Out of descriptors: there will be some
            # again, and whose turn is next meets the error if not.
            return crowd, False
        finally:
            self.limit.nobody_waits(listener.fileno())
            crowd.close_refused()

    def take_backlog(self, listener: ListenSocket, most: int, crowd: Crowd) -> None:
        """Before a listener closes: accepts what already waits in its backlog, once. Calls
        nothing of the user's."""
        for _ in range(most):
            reserved = self.limit.reserve()
            try:
                with descriptors.thread.no_fork:
                    sock, address = descriptors.accept(listener.socket)
            except OSError:
                if reserved:
                    self.limit.cancel()
                break
            crowd.add(sock, address, reserved)
        self.limit.nobody_waits(listener.socket.fileno())
        crowd.close_refused()

    def tell_refused(self, acceptor_id: int, address: Any) -> None:
        error = ConnectionOverflow(
            f"{addresses.show(address)} was refused: max_connections are open; raise it,"
            " or max_connections_wait_ms"
        )
        self.tell_spawn_error(error, acceptor_id, address)

    def tell_spawn_error(self, error: BaseException, acceptor_id: int, address: Any) -> None:
        if events.acceptor_spawn_error.receivers:
            host, port = addresses.remote(address)
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


class Crowd:
    """Clients that were taken out of a backlog all at once: their connections are counted, and
    nobody was told of any yet.

    Args:
        admission: theirs.
        acceptor_id: in whose name.
    """

    def __init__(self, admission: Admission, acceptor_id: int) -> None:
        self._admission = admission
        self.acceptor_id = acceptor_id
        self._admitted: deque[Lifecycle] = deque()
        self._helpers = 0
        self.refused: deque[tuple[socket.socket, Any]] = deque()

    def add(self, sock: socket.socket, address: Any, reserved: bool) -> None:
        if reserved:
            self._admitted.append(self._admission.admit(self.acceptor_id, sock, address))
        else:
            self.refused.append((sock, address))

    def close_refused(self) -> None:
        for sock, _ in self.refused:
            self._admission.limit.count_rejected()
            descriptors.close(sock)

    def __bool__(self) -> bool:
        return bool(self._admitted or self.refused)

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
        with contextlib.suppress(IndexError):
            self._admission.introduce(self._admitted.popleft(), 0)
            return
        with contextlib.suppress(IndexError):
            self._admission.tell_refused(self.acceptor_id, self.refused.popleft()[1])

    def go_on_elsewhere(self) -> None:
        """A receiver is about to wait, perhaps for those who come after it."""
        if self and self._helpers < _HELPERS:
            self._helpers += 1
            with contextlib.suppress(RuntimeError):
                launch(self.settle, f"{self._admission.server.name}-backlog")

    def cut(self) -> None:
        """A stop's time is up, and a receiver still holds up those who come after it."""
        for connection in list(self._admitted):
            with contextlib.suppress(OSError):
                connection._sock.shutdown(socket.SHUT_RDWR)


class _Introducer(waits.OwnThread):
    """The thread that settles a crowd, which is its permit to go on with."""

    permit = True

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd

    def give_way(self) -> None:
        self._crowd.go_on_elsewhere()
