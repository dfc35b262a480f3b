"""The send buffers of all connections of a run: how much waits in them, how many threads wait for
room, and which peer has taken nothing for longest.

One lock guards the books of all of them, so that the sum is the total at any moment. It is taken
only if a kernel buffer is full.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from .._base import waits
from .._base.clock import FOREVER, Clock, Times
from .._base.locks import lock, owns
from .states import MAY_SEND

if TYPE_CHECKING:
    from .._base.wake_up import WakeUp
    from .send_buffer import SendBuffer

#: Seconds for which a peer must have taken nothing before its connection is ended to free its
#: thread or its memory for others.
SLOW_S = 1.0
#: Peers that are checked, one after the other, to find the slowest.
_CANDIDATES = 8
#: Send buffers that are checked in a row: the thread serves no connection meanwhile.
_LOOKED_AT = 32
#: In a stop: seconds without a byte taken, after which a connection ends.
_STOP_S = 2.0
#: Seconds in which a crowd that waits in sends can be ended, one after the other. The crowd came at
#: once, so all of it is slow enough at once; if all ended at once, the next connections to get
#: their threads would all send at once, too.
_CROWD_S = 1.0
#: In a smaller crowd each takes as long as in one of this size. In a pool too small to keep threads
#: for peers that read (`_connection.reserve`), all end at once: those peers wait behind the crowd.
_LEAST_CROWD, _LEAST_HALF = 64, 8
#: Seconds in which the threads that lack room in the total check for it, one after the other.
_ROOM_S = 0.25


class Limits(Protocol):
    """The limits of `UnsentTotal`."""

    @property
    def max_unsent(self) -> int: ...
    @property
    def max_unsent_total(self) -> int: ...
    @property
    def most_senders(self) -> int: ...
    @property
    def send_timeout(self) -> float: ...


class Driver(Protocol):
    """Sends what waits as peers make room."""

    def watch(self, buffer: SendBuffer, fd: int, *, read: bool) -> None:
        """Bytes wait in it for room, or for bytes that TLS must `read` first. Ignored if the buffer
        has failed: the number may be another file's by then. Thread: any."""

    def unwatch(self, buffer: SendBuffer, fd: int) -> None:
        """Nothing waits any more, or the descriptor is about to close. Thread: any."""

    def watches(self, buffer: SendBuffer) -> bool:
        """Whether it was told that bytes wait in it. Thread: any."""

    def close(self) -> None:
        """Nothing is sent any more."""


class NoDriver:
    """A driver that sends nothing."""

    def watch(self, buffer: SendBuffer, fd: int, *, read: bool) -> None:
        pass

    def unwatch(self, buffer: SendBuffer, fd: int) -> None:
        pass

    def watches(self, buffer: SendBuffer) -> bool:
        return False

    def close(self) -> None:
        pass


def _tell_nobody(task: object) -> None:
    pass


class UnsentTotal:
    """The books of all send buffers. Thread: any.

    Args:
        limits: for one connection and for all, in bytes; how many threads of the pool may wait in
            sends; seconds for which a peer may take nothing.
        clock: gives seconds.

    Attributes:
        lock: guards all of it, and all send buffers.
        bytes: how many wait, in all buffers.
        claimed: bytes of room that are reserved for sends which are under way.
        driver: sends what waits.
        spare: memory of buffers that were emptied, for reuse.
        waiting: called with the task whose callback waits for room, before each wait.
    """

    __slots__ = (
        "_members",
        "_most",
        "_most_senders",
        "_next_of_crowd",
        "_nobody_before",
        "_part",
        "_real",
        "_send_timeout",
        "_senders",
        "_stopping_since",
        "_to_look_at",
        "bytes",
        "claimed",
        "clock",
        "driver",
        "lock",
        "most_each",
        "spare",
        "waiting",
    )

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self.most_each = limits.max_unsent
        self._most = limits.max_unsent_total
        self._most_senders = limits.most_senders
        self._send_timeout = limits.send_timeout
        self.clock = self._real = clock
        self.lock = lock("socket.unsent")
        self.bytes = self.claimed = 0
        self.spare: list[bytearray] = []
        self.driver: Driver = NoDriver()
        self.waiting: Callable[[object], None] = _tell_nobody
        self._members: dict[SendBuffer, None] = {}
        self._to_look_at: list[SendBuffer] = []
        self._part = 1.0  # the share of all buffers that one look checks
        self._senders = 0
        self._nobody_before = self._next_of_crowd = 0.0
        self._stopping_since = FOREVER

    def go_by(self, times: Times) -> None:
        """Sets the clocks, before the first connection; a stop uses real time."""
        self.clock, self._real = times.clock, times.real

    def is_real(self) -> bool:
        """Whether its clock is the real one, which the kernel uses."""
        return self.clock is self._real

    def is_inside(self) -> bool:
        """Whether the calling thread was interrupted inside of one of these calls."""
        return owns(self.lock)

    # ---- with the lock ----------------------------------------------------------

    def room(self) -> int:
        """How many more bytes may be kept."""
        return max(0, self._most - self.bytes - self.claimed)

    def claim(self, buffer: SendBuffer, size: int) -> bool:
        """Reserves room for so many bytes of the send that has the turn, instead of what it had
        reserved before: other threads cannot use that. Whether there is so much."""
        with self.lock:
            self.claimed -= buffer.claimed
            buffer.claimed = 0
            if size > buffer.room():
                return False
            self.claimed += size
            buffer.claimed = size
        return True

    def changed(self, buffer: SendBuffer, by: int) -> None:
        """So many more bytes wait in it or, if negative, fewer."""
        self.bytes += by
        if not self.bytes:
            self.spare.clear()
        if buffer.is_member():
            if buffer not in self._members:
                if buffer.waits:  # else a thread waits; `begins_to_wait` has noted since when
                    buffer.taking.begins(self.clock())
                self._members[buffer] = None
        else:
            self._members.pop(buffer, None)
            if not self._members:
                self._to_look_at.clear()

    def leave(self, senders: int) -> None:
        """So many threads of the pool do not wait in sends any more."""
        self._senders -= senders

    # ---- who waits ----------------------------------------------------------------

    def begins_to_wait(self, buffer: SendBuffer, again: bool) -> int:
        """A send waits for room; `again`: it has waited before. Returns the `pooled` of
        `ends_to_wait`."""
        pooled, task = int(waits.current_worker() is not None), waits.current_task()
        if task is not None:
            self.waiting(task)
        with self.lock:
            if buffer.failure is not None:
                return 0  # a failed buffer is not counted any more
            if not again and buffer not in self._members:
                buffer.taking.begins(self.clock())
        buffer.idle(self.clock())
        with self.lock:
            self._senders += pooled
            buffer.waiting.changed(1, pooled)
            self.changed(buffer, 0)
        return pooled

    def ends_to_wait(self, buffer: SendBuffer, pooled: int) -> None:
        with self.lock:
            if buffer.failure is None:  # else `fail` has taken them out of the count
                self._senders -= pooled
                buffer.waiting.changed(-1, -pooled)
            self.changed(buffer, 0)

    def may_sleep(self, buffer: SendBuffer, bell: WakeUp) -> bool:
        """Has this bell rung from now on. `False`: something that rings it has happened before."""
        with self.lock:
            buffer.waiting.hang_up(bell)
            return buffer.sends is MAY_SEND

    def crowded(self) -> bool:
        """Whether more threads of the pool wait in sends than may."""
        return self._senders > self._most_senders

    def until_look(self, number: int, lacks_room: bool) -> float:
        """Seconds after which the thread with this number calls `thin_out` again: soon, as what is
        known of peers may be old, but not all waiting threads at once. `lacks_room`: it also
        waits for room in the total, which may come without waking it."""
        next_end = max(self._nobody_before - self.clock(), self._next_of_crowd - self._real())
        turn = number % max(1, self._senders - self._most_senders) * self._each()
        return min(0.1, max(0.01, next_end)) + (turn % _ROOM_S if lacks_room else turn)

    def _each(self) -> float:
        """Seconds between the ends of two connections of a crowd."""
        if self._most_senders < _LEAST_HALF:
            return 0.0
        return _CROWD_S / max(_LEAST_CROWD, self._most_senders)

    def thin_out(self) -> None:
        """If more threads of the pool wait than may, and it is time for the next end, ends the
        slowest connection; if that holds no thread, the next slowest, up to a few."""
        if not self.crowded():
            return
        # By real time: a clock that stands still would have the rest of the crowd wait for it.
        time_now = self._real()
        with self.lock:
            if self.clock() < self._nobody_before or time_now < self._next_of_crowd:
                return
            self._next_of_crowd = time_now + self._each()
            senders = self._senders
        for _ in range(_CANDIDATES):
            if not self.end_slowest() or self._senders < senders:
                return
        self._next_of_crowd = time_now

    def stuck(self, since: float) -> None:
        """A peer takes nothing since then: `_nobody_before` must not skip its end."""
        if since + SLOW_S < self._nobody_before:
            with self.lock:
                self._nobody_before = min(self._nobody_before, since + SLOW_S)

    def end_slowest(self) -> bool:
        """Ends the connection whose peer has taken nothing for longest, if that is long enough.
        Whether there was one."""
        time_now = self.clock()
        for _ in range(_CANDIDATES):
            slowest = self._slowest(time_now)
            if slowest is None:
                return False
            slowest.idle(time_now)  # it may have taken something since
            stuck = time_now - slowest.taking.stuck_since
            if stuck >= SLOW_S:
                return slowest.end_as_stuck(stuck)
        return False

    def _slowest(self, time_now: float) -> SendBuffer | None:
        """The buffer whose peer has, as far as known, taken nothing for longest, if long enough."""
        if time_now < self._nobody_before:
            return None
        with self.lock:
            slowest = min(self._members, key=lambda one: one.taking.stuck_since, default=None)
            if slowest is None or time_now - slowest.taking.stuck_since < SLOW_S:
                since = time_now if slowest is None else slowest.taking.stuck_since
                # No peer can be slow enough before that: one that gets stuck later calls `stuck`.
                self._nobody_before = min(since + SLOW_S, time_now + SLOW_S)
                return None
        return slowest

    # ---- looking after them ---------------------------------------------------------

    def stop_begins(self) -> None:
        """From now on a peer may take nothing for two seconds only. Thread: a stop's."""
        if self.clock is not self._real:
            with self.lock:
                self.clock, self._nobody_before = self._real, 0.0
                for buffer in self._members:
                    buffer.taking.begins(self.clock())
        self._stopping_since = min(self._stopping_since, self.clock())

    def next_end(self) -> float:
        """When the first connection ends, if its peer takes nothing until then."""
        with self.lock:
            waiting = [one.taking.since for one in self._members if one.waits]
        since = min(waiting, default=FOREVER)
        end = since + self._send_timeout
        # Rounding must not make the difference smaller than the timeout.
        return end if not end - since < self._send_timeout else math.nextafter(end, FOREVER)

    def look_at_all(self) -> None:
        """Ends all connections whose peer took nothing in time. Thread: any."""
        with self.lock:
            members = list(self._members)
        self._look_at(members)

    def look_at_next(self) -> float:
        """The same for the next few. When to call it again; `FOREVER`: nothing waits. Thread: the
        driver's."""
        with self.lock:
            if not self._to_look_at:
                self._to_look_at = list(self._members)
                self._part = min(1.0, _LOOKED_AT / max(1, len(self._members)))
            found = self._to_look_at[-_LOOKED_AT:]
            del self._to_look_at[-_LOOKED_AT:]
        self._look_at(found)
        return self.clock() + self.tick() * self._part if self._members else FOREVER

    def _look_at(self, members: list[SendBuffer]) -> None:
        time_now, since = self.clock(), self._stopping_since
        for buffer in members:
            idle = buffer.idle(time_now)
            if not buffer.waits or buffer.failure is not None:
                continue
            in_stop = time_now - max(since, time_now - idle) if since != FOREVER else 0.0
            if idle >= self._send_timeout or in_stop >= _STOP_S:
                buffer.end_as_stuck(idle)

    def tick(self) -> float:
        """Seconds between two checks of the same buffer."""
        return min(0.25, max(0.005, self._send_timeout / 8))

    # ---- checking, and a fork ---------------------------------------------------------

    def faults(self) -> list[str]:
        """The errors that it finds in its books."""
        with self.lock:
            members = list(self._members)
            found = sum(one.size for one in members)
            senders = sum(one.waiting.pooled for one in members)
            if found == self.bytes and senders == self._senders:
                return []
            return [
                f"{self.bytes} bytes and {self._senders} threads wait to send in all, but"
                f" {found} and {senders} in the {len(members)} connections"
            ]

    def abandon(self) -> None:
        """In a forked child: what waits is the parent's, and no thread sends it here. The lock is
        new, as a thread that does not exist here may have held it."""
        self.lock = lock("socket.unsent")
        self.driver = NoDriver()
        self.waiting = _tell_nobody
        self._members.clear()
        self._to_look_at.clear()
        self.bytes = self.claimed = self._senders = self._most = self.most_each = 0
