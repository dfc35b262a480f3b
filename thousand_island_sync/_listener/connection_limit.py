"""How many connections there are, which, and whether there is room for one more.

A place is reserved before a client becomes a connection, so the limit holds exactly and an
`accept` that finds nobody counts as nothing. The two edges of the limit are told in order, each
once: whoever makes one queues it, and one thread at a time tells what is queued, without the lock.
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
    """What came of waiting at the limit."""

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
        self._may_tell = deque([None], maxlen=1)  # taken by the one who does

    def add(self, reached: bool, active: int, acceptor_id: int) -> None:
        """To be told by the next `tell`. Thread: any, with the limit's lock."""
        self._untold.append((reached, active, acceptor_id))

    def tell(self) -> None:
        """Tells what is not told yet: receivers are called. Thread: any, without a lock."""
        while self._untold:
            try:
                self._may_tell.pop()
            except IndexError:
                return  # whoever tells comes to it
            try:
                if self._untold:  # he may have come to it by now
                    self._tell(*self._untold.popleft())
            finally:
                self._may_tell.append(None)


class ConnectionLimit:
    """Counts; any thread may call anything.

    Args:
        limit: open connections at once.
        patience: seconds that clients wait for room.
        tell: as for `Edges`.
        times: what that patience goes by.

    Attributes:
        edges: of the limit, as far as they are to be told.
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
        # Nothing is counted twice, whatever is interrupted: places by those who have them,
        # connections as they are. Whether its handler was made.
        self._reserved = 0
        self._known: dict[Counted, bool] = {}
        self._reached = False
        # Listening descriptor -> since when clients wait for room there.
        self._waiting_since: dict[int, float] = {}
        self._waiters = 0
        self._few = -1  # so few are left that the stop goes on
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
        """Whether somebody has a place for a client that is not counted yet."""
        with self._lock:
            return self._reserved > 0

    def _free(self) -> int:
        return self._limit - self._reserved - len(self._known)

    def places(self) -> Places:
        """For one who accepts clients."""
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
        """Its handler could not be made, or nobody could be found who runs it."""
        self.ended(connection, rejected=True)

    def count_rejected(self) -> None:
        """A client was refused."""
        with self._lock:
            self.rejected += 1

    def count_probe(self) -> None:
        """One ended before its first byte."""
        with self._lock:
            self.probes += 1

    def ended(self, connection: Counted, *, rejected: bool = False) -> None:
        while True:
            with self._lock:
                if connection not in self._known:
                    return  # it was told before, by one who was interrupted
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
                # The edge is told before the connection is gone: a stop waits for that.
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
        """At the limit, with a client waiting. The time counts from when the first
        acceptor saw one wait, and anew whenever a place became free meanwhile.

        Args:
            listener: whose clients wait: its descriptor.
            over: whether to end it.
            somebody_waits: whether one does still. Another acceptor may have turned them
                away since this one saw it, and the time of the next would count from now.

        Returns:
            `Room.NONE` to one acceptor only: who waits is its to turn away.
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
        """Seconds that one wait lasts: in real time all that is left."""
        if self._times is not REAL:
            return min(left, self._times.look_s)
        return None if left == FOREVER else left

    def nobody_waits(self, listener: int) -> None:
        """Those who waited have been taken out of the backlog."""
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
        Thread: the stop's; woken for each end, it would be half of what a stop costs."""
        with self._lock:
            self._few = excluded()
            if self.active <= self._few:
                return
            try:
                self._changed.wait(None if timeout == FOREVER else timeout)
            finally:
                self._few = -1


class Places:
    """What one who accepts clients has reserved, and has neither used nor given back yet. It
    stays here if he is interrupted. A part of the limit, under its lock. Thread: his."""

    __slots__ = ("_limit", "count")

    def __init__(self, limit: ConnectionLimit) -> None:
        self._limit = limit
        self.count = 0

    def reserve(self, most: int = 1) -> bool:
        """Takes so many places, or one where few are left: others shall not find none because
        of what will be given back. `False` at the limit."""
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
        """All of them: they became no connections."""
        limit = self._limit
        with limit._lock:
            limit._reserved -= self.count
            self.count = 0
            if limit._waiters:
                limit._changed.notify_all()

    def become(self, acceptor_id: int, connections: Sequence[Counted]) -> bool:
        """They are these connections now, and what is left of them is given back. Whether the
        limit is reached by that: its edges are to be told, then."""
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
