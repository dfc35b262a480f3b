"""The send buffers of all connections of a run: how much waits in them, who waits for room, and
which peer has taken nothing for longest.

One lock guards the books of all of them, so that the sum is the total at any moment. It is taken
where a kernel buffer is full, and by nobody else.
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

#: Seconds for which a peer must have taken nothing before its connection ends for others' sake.
SLOW_S = 1.0
#: Peers that are asked, one after the other, which of them is that one.
_CANDIDATES = 8
#: Those whose bytes wait that are looked at in a row: nobody is served meanwhile.
_LOOKED_AT = 32
#: Seconds without a byte taken, in a stop.
_STOP_S = 2.0
#: In which a crowd that waits in sends can be ended, one after the other. They came together, so
#: they are slow enough together; the next to get their threads would all send at once.
_CROWD_S = 1.0
#: Of a smaller crowd each takes as long as one of so many. In a pool that keeps no threads for
#: those who read (`_connection.reserve`), all end at once: who reads stands behind them there.
_LEAST_CROWD, _LEAST_HALF = 64, 8
#: In which those of a crowd that lack room of all look for it, one after the other.
_ROOM_S = 0.25


class Limits(Protocol):
    """Those of `UnsentTotal`."""

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
        """Something waits in it, for room, or for what TLS must `read` first. Ignored if it has
        failed: the number may be another's. Thread: any."""

    def unwatch(self, buffer: SendBuffer, fd: int) -> None:
        """Nothing does any more, or the descriptor goes. Thread: any."""

    def watches(self, buffer: SendBuffer) -> bool:
        """Whether something waits in it, as far as was said. Thread: any."""

    def close(self) -> None:
        """Nothing goes out any more."""


class NoDriver:
    """What waits would never go out, so nothing is kept."""

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
    """The books. Thread: any.

    Args:
        limits: of one connection and of all, in bytes; how many threads of the pool may wait in
            sends; seconds for which a peer may take nothing.
        clock: gives seconds.

    Attributes:
        lock: guards all of it, and all send buffers.
        bytes: how many wait, in all.
        claimed: how many more may, of those that are on their way now.
        driver: sends them.
        spare: memory of those that have gone, for those that come.
        waiting: told of the task whose callback waits for room, before each wait.
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
        self._part = 1.0  # of all, that a look comes to
        self._senders = 0
        self._nobody_before = self._next_of_crowd = 0.0
        self._stopping_since = FOREVER

    def go_by(self, times: Times) -> None:
        """Before the first connection; a stop goes by real time."""
        self.clock, self._real = times.clock, times.real

    def is_real(self) -> bool:
        """Whether its clock is that of the kernel's."""
        return self.clock is self._real

    def is_inside(self) -> bool:
        """Whether the calling thread was interrupted amid one of these calls."""
        return owns(self.lock)

    # ---- with the lock ----------------------------------------------------------

    def room(self) -> int:
        """Bytes that may be kept beyond those that are."""
        return max(0, self._most - self.bytes - self.claimed)

    def claim(self, buffer: SendBuffer, size: int) -> bool:
        """Room for so many bytes of who has the turn, instead of what was claimed before, whatever
        others keep meanwhile. Whether there is so much."""
        with self.lock:
            self.claimed -= buffer.claimed
            buffer.claimed = 0
            if size > buffer.room():
                return False
            self.claimed += size
            buffer.claimed = size
        return True

    def changed(self, buffer: SendBuffer, by: int) -> None:
        """So many bytes more wait in it, or less."""
        self.bytes += by
        if not self.bytes:
            self.spare.clear()
        if buffer.is_member():
            if buffer not in self._members:
                if buffer.waits:  # else a send waits, and says since when
                    buffer.taking.begins(self.clock())
                self._members[buffer] = None
        else:
            self._members.pop(buffer, None)
            if not self._members:
                self._to_look_at.clear()

    def leave(self, senders: int) -> None:
        """So many threads of the pool do not wait any more."""
        self._senders -= senders

    # ---- who waits ----------------------------------------------------------------

    def begins_to_wait(self, buffer: SendBuffer, again: bool) -> int:
        """A send waits for room; `again`: it has before. What `ends_to_wait` gets."""
        pooled, task = int(waits.current_worker() is not None), waits.current_task()
        if task is not None:
            self.waiting(task)
        with self.lock:
            if buffer.failure is not None:
                return 0  # nobody would count it out
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
            if buffer.failure is None:  # else they are counted out already
                self._senders -= pooled
                buffer.waiting.changed(-1, -pooled)
            self.changed(buffer, 0)

    def may_sleep(self, buffer: SendBuffer, bell: WakeUp) -> bool:
        """Whether nothing has happened that would have rung this bell, which from now on does."""
        with self.lock:
            buffer.waiting.hang_up(bell)
            return buffer.sends is MAY_SEND

    def crowded(self) -> bool:
        """Whether more threads of the pool wait in sends than may."""
        return self._senders > self._most_senders

    def until_look(self, number: int, lacks_room: bool) -> float:
        """Seconds after which the thread with this number looks for one to end: soon, where what
        is known may be old, but not all that wait at once. `lacks_room`: of all, too, which may
        come meanwhile, and wakes nobody."""
        next_end = max(self._nobody_before - self.clock(), self._next_of_crowd - self._real())
        turn = number % max(1, self._senders - self._most_senders) * self._each()
        return min(0.1, max(0.01, next_end)) + (turn % _ROOM_S if lacks_room else turn)

    def _each(self) -> float:
        """Seconds from one of a crowd that ends to the next."""
        if self._most_senders < _LEAST_HALF:
            return 0.0
        return _CROWD_S / max(_LEAST_CROWD, self._most_senders)

    def thin_out(self) -> None:
        """Ends the slowest, if more threads of the pool wait than may, and it is time for the next
        of them; and those before it who hold no thread, some at a time."""
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
        """A peer takes nothing from then on: whoever looks for the slowest looks early enough."""
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
        """Whose peer, as far as is known, has taken nothing for longest, and for long enough."""
        if time_now < self._nobody_before:
            return None
        with self.lock:
            slowest = min(self._members, key=lambda one: one.taking.stuck_since, default=None)
            if slowest is None or time_now - slowest.taking.stuck_since < SLOW_S:
                since = time_now if slowest is None else slowest.taking.stuck_since
                # A time is only ever looked at anew, never early; who comes later tells (`stuck`).
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
        """When the first peer will have taken nothing for too long, if it takes nothing."""
        with self.lock:
            waiting = [one.taking.since for one in self._members if one.waits]
        since = min(waiting, default=FOREVER)
        end = since + self._send_timeout
        # The difference of what is rounded must not be less.
        return end if not end - since < self._send_timeout else math.nextafter(end, FOREVER)

    def look_at_all(self) -> None:
        """Ends those whose peer took nothing in time. Thread: any."""
        with self.lock:
            members = list(self._members)
        self._look_at(members)

    def look_at_next(self) -> float:
        """The same for the next of them. When to look again; `FOREVER`: nothing waits. Thread: the
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
        """Seconds between two looks at the same one."""
        return min(0.25, max(0.005, self._send_timeout / 8))

    # ---- checking, and a fork ---------------------------------------------------------

    def faults(self) -> list[str]:
        """What does not hold."""
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
        """In a forked child: what waits is the parent's, and nobody sends here. A thread that is
        not there may have had the lock."""
        self.lock = lock("socket.unsent")
        self.driver = NoDriver()
        self.waiting = _tell_nobody
        self._members.clear()
        self._to_look_at.clear()
        self.bytes = self.claimed = self._senders = self._most = self.most_each = 0
