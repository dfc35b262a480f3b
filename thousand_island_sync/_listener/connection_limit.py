"""How many connections there are, which, and whether there is room for one more.

A place is reserved before `accept` and becomes a connection afterwards, so the limit
holds exactly and an `accept` that finds nobody counts as nothing. The two edges of the
limit are told in order, each once: whoever makes one queues it, and one thread at a
time tells what is queued, without the lock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Protocol

from .._base.clock import FOREVER, now
from .._base.locks import lock


class Room(Enum):
    """What came of waiting at the limit."""

    FREE = "there is room"
    NONE = "the clients have waited for long enough"
    LOOK_AGAIN = "somebody else served or refused them, or the acceptor shall end"


class Counted(Protocol):
    """A connection, as far as it is counted."""

    acceptor_id: int


class InHand:
    """What somebody who accepts clients has reserved, accepted and made, and not handed over yet.
    It stays here if he is interrupted."""

    __slots__ = ("connections", "places", "socks")

    def __init__(self) -> None:
        self.places = 0
        self.socks: list[Any] = []
        self.connections: list[Any] = []

    def clear(self) -> None:
        """All has been handed over."""
        self.socks, self.connections = [], []


class ConnectionLimit:
    """Counts; any thread may call anything.

    Args:
        limit: open connections at once.
        edge: told when the last place is taken (`True`) and when one is free again,
            with how many are open and the acceptor's id.
    """

    def __init__(self, limit: int, edge: Callable[[bool, int, int], None]) -> None:
        self._limit = limit
        self._edge = edge
        self._lock = lock("connection.limit")
        self._changed = threading.Condition(self._lock)
        # Nothing is counted twice, whatever is interrupted: places by him who has them in hand,
        # connections as they are. Whether its handler was made.
        self._pending = 0  # places that are no connections yet
        self._others = InHand()
        self._known: dict[Counted, bool] = {}
        self._at_limit = False
        self.edges: deque[tuple[bool, int, int]] = deque()  # not told yet
        self._telling = False
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

    def _free(self) -> int:
        return self._limit - self._pending - len(self._known)

    def reserve(self, hand: InHand | None = None) -> bool:
        """Takes a place; `False` at the limit."""
        hand = hand or self._others
        with self._lock:
            if self._free() <= 0:
                return False
            self._pending += 1
            hand.places += 1
            return True

    def reserve_some(self, most: int, hand: InHand) -> bool:
        """Takes several places, or one where few are left: others shall not find none because
        of what will be given back. `False` at the limit."""
        with self._lock:
            free = self._limit - self._pending - len(self._known)
            taken = most if free >= 2 * most else min(1, free)
            if taken <= 0:
                return False
            self._pending += taken
            hand.places += taken
            return True

    def has_room(self) -> bool:
        with self._lock:
            return self._free() > 0

    def cancel(self, hand: InHand | None = None) -> None:
        """Gives back places that became no connections: all in hand, or one of the others'."""
        with self._lock:
            if hand is None:
                hand, places = self._others, 1
            else:
                places = hand.places
            self._pending -= places
            hand.places -= places
            if self._waiters:
                self._changed.notify_all()

    def admit(
        self,
        acceptor_id: int,
        connections: Sequence[Counted],
        hand: InHand | None = None,
        *,
        all_: bool = False,
    ) -> None:
        """Reserved places are connections now. `tell_edges` is to follow, before they run. `all_`:
        places in hand that are left are given back."""
        hand, count = hand or self._others, len(connections)
        with self._lock:
            known = self._known
            for connection in connections:
                known[connection] = False
            if all_ and hand.places > count:
                count = hand.places
                if self._waiters:
                    self._changed.notify_all()
            self._pending -= count
            hand.places -= count
            active = len(known)
            if active > self.peak:
                self.peak = active
            if active >= self._limit and not self._at_limit:
                self._at_limit = True
                self.edges.append((True, active, acceptor_id))

    def knows(self, connection: Counted) -> bool:
        """Whether it is counted."""
        return connection in self._known

    def opened(self, connection: Counted) -> None:
        """Its handler was made."""
        with self._lock:
            self._known[connection] = True
            self.accepted += 1

    def refused(self, connection: Counted) -> None:
        """Its handler could not be made."""
        self.ended(connection, rejected=True)

    def count_rejected(self) -> None:
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
                if not self._at_limit:
                    self.rejected += rejected
                    del self._known[connection]
                    if self._waiting_since:
                        self._waiting_since.clear()
                    if self._waiters or len(self._known) <= self._few:
                        self._changed.notify_all()
                    return
                # The edge is told before the connection is gone: a stop waits for that.
                self._at_limit = False
                self.edges.append((False, self.active - 1, connection.acceptor_id))
            self.tell_edges()

    def tell_edges(self) -> None:
        """Tells of the limit what is not told yet: receivers are called."""
        while self.edges:
            with self._lock:
                if self._telling or not self.edges:
                    return
                self._telling = True
                edge = self.edges.popleft()
            try:
                self._edge(*edge)
            finally:
                with self._lock:
                    self._telling = False

    # ---- waiting --------------------------------------------------------------

    def wait_for_room(
        self,
        listener: int,
        patience: float,
        over: Callable[[], bool],
        somebody_waits: Callable[[], bool],
    ) -> Room:
        """At the limit, with a client waiting. The time counts from when the first
        acceptor saw one wait, and anew whenever a place became free meanwhile.

        Args:
            listener: whose clients wait: its descriptor.
            patience: for how many seconds.
            over: whether to end it.
            somebody_waits: whether one does still. Another acceptor may have turned them
                away since this one saw it, and the time of the next would count from now.

        Returns:
            `Room.NONE` to one acceptor only: who waits is its to turn away.
        """
        with self._lock:
            since = self._waiting_since.setdefault(listener, now())
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
                    left = since + patience - now()
                    if not here or left <= 0:
                        self._counts_anew(listener)
                        return Room.NONE if here else Room.LOOK_AGAIN
                    self._changed.wait(None if left == FOREVER else left)
                return Room.LOOK_AGAIN
            finally:
                self._waiters -= 1

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

    def snapshot(self) -> list[Counted]:
        """Thread: any, wherever it was interrupted."""
        while True:
            try:
                return [one for one, opened in self._known.items() if opened]
            except RuntimeError:  # it was changed meanwhile
                continue
