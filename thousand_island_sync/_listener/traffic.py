"""How many bytes the connections of a run have received and sent, those that have ended included.

The facts. Each connection counts its own bytes, on its own thread, at the cost of one addition. A
common total would need a lock for each message. The sum over open connections, plus that of ended
ones, is wrong by a connection that ends in between: it is counted twice, or not at all. And a total
that falls is taken for a restart (Prometheus, `rate`).

Our decision. For each connection it is noted how much of it is in the totals already. A walk over
the connections, once a second at most, adds what has come since. A connection that ends adds its
rest, under the same lock under which it is removed. So each total is one number, which only grows.
If nobody reads the totals, an end costs two additions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from typing import Any

from .._base.clock import FOREVER, Clock, now
from .._base.locks import holds_any, lock, owns
from .._stream.duplex import Duplex

#: Seconds between two walks, and connections that one of them looks at with the lock.
_APART_S = 1.0
_AT_ONCE = 64
#: Seconds between two tries to get that lock, and how many. It is held for a moment.
_A_MOMENT_S, _TRIES = 0.0005, 200
#: Of a connection: bytes received, bytes sent. They never fall.
Bytes = tuple[int, int]


def bytes_of(connection: Any) -> Bytes:
    """Its payload, as its `Socket` counts it: over TLS before it is encrypted, and after it was
    decrypted; what waits in its send buffer is sent. Thread: any."""
    stream: Duplex | None = connection.machine.stream
    if stream is None:
        return 0, 0  # it ended before it had one
    writer = stream.writer
    sent = writer.bytes_sent if writer.buffer is None else writer.counts()[0]
    return stream.reader.bytes_received, sent


class Traffic:
    """Of one run.

    Args:
        connections: gives those that are open, each once.
        is_open: whether one is; it is not any more, under the same lock, before it `ends`.
        their_lock: that lock; it is reentrant.
        measure: what one has received and sent so far. Thread: any.
        clock: seconds.

    Attributes:
        received, sent: bytes, of those that are open at the last walk. They never fall.
    """

    __slots__ = (
        *("_clock", "_connections", "_counted", "_is_open", "_lock", "_measure", "_walked"),
        *("_walking", "received", "sent"),
    )

    def __init__(
        self,
        connections: Callable[[], Iterable[Any]],
        is_open: Callable[[Any], bool],
        their_lock: Any,
        measure: Callable[[Any], Bytes] = bytes_of,
        clock: Clock = now,
    ) -> None:
        self._connections = connections
        self._is_open = is_open
        self._lock = their_lock
        self._measure = measure
        self._clock = clock
        self._walking = lock("traffic.walk")
        self._counted: dict[Any, Bytes] = {}  # of those that are open, what is in the totals
        self._walked = -FOREVER
        self.received = 0
        self.sent = 0

    def ends(self, connection: Any) -> None:
        """Adds the rest of a connection that was just removed. With the lock; once."""
        # As `_ends`, without its calls and tuples: short connections pay for this.
        stream = connection.machine.stream
        if stream is None or self._counted:
            self._ends(connection)
            return
        writer = stream.writer
        if writer.buffer is not None:
            self._ends(connection)
            return
        self.received += stream.reader.bytes_received
        self.sent += writer.bytes_sent

    def _ends(self, connection: Any) -> None:
        has, before = self._measure(connection), self._counted.pop(connection, (0, 0))
        self.received += has[0] - before[0]
        self.sent += has[1] - before[1]

    def look(self) -> None:
        """Walks over the open connections, unless that was done within a second, or this thread was
        interrupted while it holds a lock. Thread: any."""
        if not self._is_fresh() and not holds_any():
            _take(self._walking, self._walk)

    def _is_fresh(self) -> bool:
        return self._clock() - self._walked < _APART_S

    def _walk(self) -> None:
        if self._is_fresh():
            return  # another thread has just done it
        began, those = self._clock(), iter(self._connections())
        while batch := list(islice(those, _AT_ONCE)):
            # The lock is released between batches, so that an end does not wait for the whole walk.
            if not _take(self._lock, partial(self._add, batch)):
                return
        self._walked = began

    def _add(self, batch: list[Any]) -> None:
        counted = self._counted
        for connection in batch:
            if not self._is_open(connection):
                continue  # it has added its rest itself
            before, has = counted.get(connection, (0, 0)), self._measure(connection)
            if has != before:
                counted[connection] = has
                self.received += has[0] - before[0]
                self.sent += has[1] - before[1]


def _take(one: Any, call: Callable[[], None]) -> bool:
    """Makes the call with a lock, if that becomes free soon. It must not wait for the lock, which
    ranks before turns that this thread may hold."""
    for _ in range(_TRIES):
        taken = False
        try:
            taken = one.acquire(False)
            if taken:
                call()
                return True
        finally:
            # Ctrl-C may have come after it was acquired and before that was noted.
            if taken or owns(one):
                one.release()
        time.sleep(_A_MOMENT_S)
    return False
