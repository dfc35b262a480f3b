"""How many connections there are, which, and whether there is room for one more.

A place is reserved before a client becomes a connection, so the limit holds exactly, and an
`accept` that finds no client counts as nothing. The two edges of the limit (reached, cleared) are
told in order, each once: the thread that makes one queues it, and one thread at a time calls the
receivers, without the lock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

from .._base.clock import FOREVER, REAL, Times
from .._base.locks import lock
from .._connection.client import Client
from .traffic import Traffic


class Room(Enum):
    """The result of waiting at the limit."""

    FREE = "there is room"
    NONE = "the clients have waited for long enough"
    LOOK_AGAIN = "somebody else served or refused them, or the acceptor shall end"


class Counted(Protocol):
    """A connection, as far as it is counted."""

    @property
    def client(self) -> Client: ...


class Edges:
    """Tells that the limit is reached, and that it is cleared, in the order in which it was.

    Args:
        tell: called with `True` when the last place is taken and with `False` when one is free
            again, how many connections are open, and the acceptor's id.
    """

    __slots__ = ("_may_tell", "_tell", "_untold")

    def __init__(self, tell: Callable[[bool, int, int], None]) -> None:
        self._tell = tell
        self._untold: deque[tuple[bool, int, int]] = deque()
        self._may_tell = deque([None], maxlen=1)  # a token: its holder tells

    def add(self, reached: bool, active: int, acceptor_id: int) -> None:
        """Queues an edge for the next `tell`. Thread: any, with the limit's lock."""
        self._untold.append((reached, active, acceptor_id))

    def tell(self) -> None:
        """Tells the queued edges: receivers are called. Thread: any, without a lock."""
        while self._untold:
            try:
                self._may_tell.pop()
            except IndexError:
                return  # the thread that has the token tells it
            try:
                if self._untold:  # that thread may have told it by now
                    self._tell(*self._untold.popleft())
            finally:
                self._may_tell.append(None)


class ConnectionLimit:
    """Counts connections and places. Thread: any.

    Args:
        limit: open connections at once.
        patience: seconds that clients wait for room.
        tell: as for `Edges`.
        times: the clock of `patience`.

    Attributes:
        edges: the edges of the limit that are to be told.
        traffic: the bytes of all that were counted here.
    """

    def __init__(
        self,
        limit: int,
        patience: float,
        tell: Callable[[bool, int, int], None],
        times: Times = REAL,
    ) -> None:
        self._limit = limit
        self._times = times
        self._patience = patience
        self.edges = Edges(tell)
        self._lock = lock("connection.limit")
        self.traffic = Traffic(self.snapshot, self.knows, self._lock)
        self._changed = threading.Condition(self._lock)
        # Nothing is counted twice after an interruption: each `Places` knows how many of these are
        # its own, and connections are counted as members of the dictionary.
        self._reserved = 0
        self._known: dict[Counted, bool] = {}  # -> whether its handler was made
        self._reached = False
        # Listening descriptor -> since when clients wait for room there.
        self._waiting_since: dict[int, float] = {}
        self._waiters = 0
        self._few = -1  # a stop waits until no more than so many are left
        self.peak = 0
        self.accepted = 0
        self.rejected = 0
        self.probes = 0

    # ---- places ---------------------------------------------------------------

    @property
    def active(self) -> int:
        """Open connections."""
        return len(self._known)

    @property
    def is_reached(self) -> bool:
        """Whether there is no room for one more. A hint: without the lock."""
        return len(self._known) >= self._limit

    def has_room(self) -> bool:
        with self._lock:
            return self._free() > 0

    def is_accepting(self) -> bool:
        """Whether a place is reserved for a client that is not a connection yet."""
        with self._lock:
            return self._reserved > 0

    def _free(self) -> int:
        return self._limit - self._reserved - len(self._known)

    def places(self) -> Places:
        """For one thread that accepts clients."""
        return Places(self)

    # ---- connections ------------------------------------------------------------

    def knows(self, connection: Counted) -> bool:
        """Whether it is counted."""
        return connection in self._known

    def opened(self, connection: Counted) -> None:
        """Its handler was made."""
        with self._lock:
            self._known[connection] = True
            self.accepted += 1

    def refused(self, connection: Counted) -> None:
        """Its handler could not be made, or there is no thread to run it."""
        self.ended(connection, rejected=True)

    def count_rejected(self) -> None:
        """A client was refused."""
        with self._lock:
            self.rejected += 1

    def count_probe(self) -> None:
        """A connection ended before its first byte."""
        with self._lock:
            self.probes += 1

    def ended(self, connection: Counted, *, rejected: bool = False) -> None:
        while True:
            with self._lock:
                if connection not in self._known:
                    return  # a thread that was interrupted has done this before
                if not self._reached:
                    if rejected:
                        self.rejected += 1
                    del self._known[connection]
                    self.traffic.ends(connection)
                    if self._waiting_since:
                        self._waiting_since.clear()
                    if self._waiters or len(self._known) <= self._few:
                        self._changed.notify_all()
                    return
                # Tell the edge before the connection is removed: a stop waits for the removal.
                self._reached = False
                self.edges.add(False, self.active - 1, connection.client.acceptor_id)
            self.edges.tell()

    def snapshot(self) -> list[Counted]:
        """Those whose handler was made. Thread: any, wherever it was interrupted."""
        while True:
            try:
                return [one for one, opened in self._known.items() if opened]
            except RuntimeError:  # it was changed meanwhile
                continue

    def everybody(self) -> list[Counted]:
        """All that are counted. Thread: the only one of a forked child."""
        return list(self._known)

    # ---- waiting --------------------------------------------------------------

    def wait_for_room(
        self, listener: int, over: Callable[[], bool], somebody_waits: Callable[[], bool]
    ) -> Room:
        """Waits at the limit, with a client in the backlog. The time counts from when the
        first acceptor saw a client wait, and starts again whenever a place becomes free.

        Args:
            listener: the descriptor of the listening socket.
            over: whether the acceptor is to end.
            somebody_waits: whether a client still waits. Another acceptor may have refused
                the clients since, and for the next one the time begins now.

        Returns:
            `Room.NONE` to one acceptor only, which then refuses the waiting clients.
        """
        with self._lock:
            since = self._waiting_since.setdefault(listener, self._times.clock())
        here = somebody_waits()
        with self._lock:
            self._waiters += 1
            try:
                while not over():
                    if self._free() > 0:
                        self._counts_anew(listener)
                        return Room.FREE
                    if self._waiting_since.get(listener) != since:
                        return Room.LOOK_AGAIN
                    left = self._times.left(since + self._patience)
                    if not here or left <= 0:
                        self._counts_anew(listener)
                        return Room.NONE if here else Room.LOOK_AGAIN
                    self._times.begins(since + self._patience)
                    self._changed.wait(self._slice(left))
                return Room.LOOK_AGAIN
            finally:
                self._waiters -= 1
                self._times.is_over()

    def _slice(self, left: float) -> float | None:
        """Seconds of one wait; in real time all that is left."""
        if self._times is not REAL:
            return min(left, self._times.look_s)
        return None if left == FOREVER else left

    def nobody_waits(self, listener: int) -> None:
        """The waiting clients were taken out of the backlog."""
        with self._lock:
            self._counts_anew(listener)

    def _counts_anew(self, listener: int) -> None:
        self._waiting_since.pop(listener, None)
        self._changed.notify_all()

    def wake_all(self) -> None:
        with self._lock:
            self._changed.notify_all()

    def gone(self, excluded: Callable[[], int]) -> bool:
        """Whether at most `excluded()` connections are left."""
        with self._lock:
            return self.active <= excluded()

    def wait_for_change(self, excluded: Callable[[], int], timeout: float) -> None:
        """Waits until at most `excluded()` are left, `wake_all`, or for `timeout` seconds.
        Thread: the stop's; if each end woke it, that would be half of a stop's cost."""
        with self._lock:
            self._few = excluded()
            if self.active <= self._few:
                return
            try:
                self._changed.wait(None if timeout == FOREVER else timeout)
            finally:
                self._few = -1


class Places:
    """The places that one accepting thread has reserved, and neither used nor given back yet; kept
    here if the thread is interrupted. A part of the limit, under its lock. Thread: that one."""

    __slots__ = ("_limit", "count")

    def __init__(self, limit: ConnectionLimit) -> None:
        self._limit = limit
        self.count = 0

    def reserve(self, most: int = 1) -> bool:
        """Takes so many places; but only one if few are left, so that others find some meanwhile.
        `False` at the limit."""
        limit = self._limit
        with limit._lock:
            free = limit._free()
            taken = most if free >= 2 * most else min(1, free)
            if taken <= 0:
                return False
            limit._reserved += taken
            self.count += taken
            return True

    def give_back(self) -> None:
        """Gives all of them back."""
        limit = self._limit
        with limit._lock:
            limit._reserved -= self.count
            self.count = 0
            if limit._waiters:
                limit._changed.notify_all()

    def become(self, acceptor_id: int, connections: Sequence[Counted]) -> bool:
        """Turns places into these connections, and gives the rest back. Whether that reached the
        limit: then the caller has the edges told."""
        limit = self._limit
        with limit._lock:
            known = limit._known
            for connection in connections:
                known[connection] = False
            if limit._waiters and self.count > len(connections):
                limit._changed.notify_all()
            limit._reserved -= self.count
            self.count = 0
            active = len(known)
            if active > limit.peak:
                limit.peak = active
            if active < limit._limit or limit._reached:
                return False
            limit._reached = True
            limit.edges.add(True, active, acceptor_id)
            return True
