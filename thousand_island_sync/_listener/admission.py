"""Admission: the steps from a client to a connection, for an acceptor or the pool.

An acceptor and inline accept each have an `Entrance`, and do the same: they reserve a place, accept
the client, make a connection, count it, and give it to the pool. The entrance keeps what was begun:
if its thread is interrupted at any point, `rescue` goes on, so that no client is lost, counted
twice or left without an owner. (`Backlog` accepts before it reserves: it must refuse the rest.)
"""

from __future__ import annotations

import functools
import socket
import sys
from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol

from .._base import descriptors, waits
from .._connection.environment import Environment
from .._connection.task import ConnectionTask
from ..transports.base import Transport
from .acceptor_events import AcceptorEvents, somebody_listens
from .connection_limit import ConnectionLimit

_LINUX = sys.platform.startswith("linux")
#: Clients that are accepted in a row before their connections run.
BATCH = 32

#: As `_accepts_of` returns it: also appends the socket to the list.
Accepts = Callable[[list[socket.socket]], tuple[socket.socket, Any]]


def _accepts_of(listener: socket.socket) -> Accepts:
    """A faster `listener.accept`: that one asks for family and type, and makes an enumeration
    member of each, for every client: a tenth of what Python does for a client."""
    accept = getattr(listener, "_accept", None) if type(listener) is socket.socket else None
    if accept is None:
        return functools.partial(descriptors.accept, listener)
    kind = int(listener.family), int(listener.type), listener.proto
    return descriptors.accepting(accept, kind)


class Rest(Enum):
    """Why no more clients were taken in, if there was no error."""

    NOBODY = "nobody waits any more"
    NO_PLACE = "there is no place, or somebody listens to what accepting tells"
    MORE = "it is enough for once: perhaps more of them wait"


class Pool(Protocol):
    """What admission needs of the scheduler."""

    def add(self, *tasks: ConnectionTask) -> None: ...
    def has(self, task: ConnectionTask) -> bool: ...
    def interrupted(self) -> None: ...


class CurrentTransport(Protocol):
    """Has the transport for new connections."""

    current: Transport


class Admission:
    """What all acceptors, and the pool, share for one run. Thread: any.

    Args:
        env: what its connections share.
        transport: has the transport for new connections.
        connection_cls: makes connections.
        limit: counts them.
        pool: runs them.
        events: emits their events.
    """

    def __init__(
        self,
        env: Environment,
        transport: CurrentTransport,
        connection_cls: type[ConnectionTask],
        limit: ConnectionLimit,
        pool: Pool,
        events: AcceptorEvents,
    ) -> None:
        self._env = env
        self._transport = transport
        self._connection_cls = connection_cls
        self._pool = pool
        self.limit = limit
        self.events = events

    def entrance(self, listener: socket.socket, acceptor_id: int = 0) -> Entrance:
        """A new entrance, for the clients of this listening socket."""
        return Entrance(self, self._pool, listener, acceptor_id)

    def make(self, sock: socket.socket, address: Any, acceptor_id: int) -> ConnectionTask:
        """An accepted client becomes a connection; it is not counted yet."""
        if not _LINUX or sock.gettimeout() is not None:  # socket.setdefaulttimeout
            sock.settimeout(None)
        # Read after the accept: a client that connects after a reload gets the new options.
        cls = self._connection_cls
        return cls(self._env, self._transport.current, sock, address, acceptor_id)

    def runs(self, connection: ConnectionTask) -> bool:
        """Whether it was handed over, and has not ended."""
        return self._pool.has(connection)

    def interrupted(self) -> None:
        """The accepting thread was interrupted, perhaps in a hand-over."""
        self._pool.interrupted()

    def hand_over(self, connection: ConnectionTask) -> None:
        """It is counted, and is run from now on."""
        try:
            self._pool.add(connection)
        except Exception as error:
            self.turn_away([connection], error)

    def turn_away(self, connections: list[ConnectionTask], error: BaseException) -> None:
        """Refuses connections that are counted, as no thread can run them."""
        for connection in connections:
            self.limit.refused(connection)
            connection.broke()
            self.events.spawn_error(
                error, connection.client.acceptor_id, connection.client.peer_address
            )

    def refused(self, connection: ConnectionTask, error: BaseException) -> None:
        """Its handler could not be made. Thread: the pool's."""
        self.events.spawn_error(
            error, connection.client.acceptor_id, connection.client.peer_address
        )
        self.limit.refused(connection)

    def introduce(self, connection: ConnectionTask, waited_ns: int) -> None:
        """Hands over a connection that is counted; receivers get its event first. Thread: one of
        the library's, so that a stop which a receiver calls does not wait for this connection."""
        worker = waits.current_worker()
        if isinstance(worker, waits.OwnThread):
            worker.task = connection
        try:
            self.limit.edges.tell()
            self.events.accepted(connection, waited_ns)
            self.hand_over(connection)
        finally:
            if isinstance(worker, waits.OwnThread):
                worker.task = None


class Entrance:
    """The way in for the clients that one thread accepts of one listening socket. Thread: that.

    Args:
        admission: that of the run.
        pool: runs the connections.
        listener: accepts without waiting.
        acceptor_id: the acceptor in whose name it accepts.
    """

    __slots__ = (
        "_accept",
        "_acceptor_id",
        "_admission",
        "_connections",
        "_edges",
        "_places",
        "_pool",
        "_socks",
        "_taken",
        "_tells",
    )

    def __init__(
        self, admission: Admission, pool: Pool, listener: socket.socket, acceptor_id: int
    ) -> None:
        self._admission = admission
        self._pool = pool
        self._accept = _accepts_of(listener)
        self._acceptor_id = acceptor_id
        self._places = admission.limit.places()
        self._edges = admission.limit.edges
        self._tells = False  # an edge of the limit is to be told
        self._taken = 0
        # Accepted, and made, in the same order; not handed over yet.
        self._socks: list[socket.socket] = []
        self._connections: list[ConnectionTask] = []

    def __bool__(self) -> bool:
        """Whether clients were taken in, and not handed over yet."""
        return bool(self._connections)

    def count(self) -> int:
        """How many were taken in since the last call."""
        taken, self._taken = self._taken, 0
        return taken

    def in_the_name_of(self, acceptor_id: int) -> None:
        """Sets the acceptor in whose name the next clients are accepted."""
        self._acceptor_id = acceptor_id

    def reserve(self) -> bool:
        """Takes a place for the next client; `False` at the limit."""
        return self._places.reserve()

    def take(self, most: int = BATCH) -> Rest | OSError:
        """Takes waiting clients in, for `hand_over` or `introduce`. It takes several, as each
        hand-over is a thread switch, and each poll one more call. Runs no user code.

        Args:
            most: how many clients.

        Returns:
            Why no more were taken; the exception, if `accept` raised another than that no
            client waits.
        """
        places, connections, admission = self._places, self._connections, self._admission
        # An acceptor has reserved a place, and knows whether there are receivers. The pool checks
        # each time, as it must not wait for a receiver.
        if not places.count and somebody_listens():
            return Rest.NO_PLACE
        accept, make, number = self._accept, admission.make, self._acceptor_id
        end: Rest | OSError = Rest.MORE
        with descriptors.thread.no_fork:
            for count in range(len(connections), most):
                # Places for all that may come, with one hold of the lock; the rest is given back.
                if places.count == count and not places.reserve(most - count):
                    end = Rest.NO_PLACE
                    break
                try:
                    sock, address = accept(self._socks)
                except BlockingIOError:
                    end = Rest.NOBODY
                    break
                except OSError as error:
                    # Its traceback refers to this frame: a cycle that would keep all of this alive.
                    end = error.with_traceback(None)
                    break
                connections.append(make(sock, address, number))
        if connections:
            self._taken += len(connections)
            self._tells = places.become(number, connections)
        elif places.count:
            places.give_back()
        return end

    def hand_over(self) -> None:
        """What was taken in is run from now on. Receivers are called for the edges of the limit
        alone, and only if they were connected after `take`."""
        connections = self._connections
        if connections:
            try:
                self._pool.add(*connections)
            except Exception as error:
                self._admission.turn_away(connections, error)
            self._socks, self._connections = [], []
        if self._tells:
            self._tells = False
            self._edges.tell()

    def introduce(self, waited_ns: int) -> None:
        """As `hand_over`, one by one, after the receivers of each accept."""
        for connection in self._connections:
            self._admission.introduce(connection, waited_ns)
        self._socks, self._connections = [], []
        self._tells = False

    def rescue(self) -> None:
        """Its thread was interrupted: hands over what was not handed over."""
        admission, places = self._admission, self._places
        places.give_back()
        # The exception may have come anywhere: before a socket became a connection, before that
        # was counted, or after the pool got it, which may have ended it by now.
        made = {one.fd: one for one in self._connections}
        for sock in self._socks:
            connection = made.get(sock.fileno())
            if sock.fileno() < 0 or (connection is not None and admission.runs(connection)):
                continue
            if connection is None or not admission.limit.knows(connection):
                connection = self._make_again(sock)
            if connection is not None:
                admission.hand_over(connection)
        self._socks, self._connections = [], []
        self._edges.tell()

    def _make_again(self, sock: socket.socket) -> ConnectionTask | None:
        """A counted connection for a socket that has none; `None`: it was closed."""
        try:
            address = sock.getpeername()
        except OSError:  # the client has disconnected
            address = None
        if address is None or not self._places.reserve():
            descriptors.close(sock)
            return None
        connection = self._admission.make(sock, address, self._acceptor_id)
        self._connections.append(connection)
        self._places.become(self._acceptor_id, [connection])
        return connection
