"""Threads that are kept for connections whose peers read.

The facts. A send that finds no room in the buffers holds its thread, and its connection may be
ended only when its peer has taken nothing for a second. So a crowd of peers that do not read holds
the whole pool for a second, then the next part of the crowd does, and so on. The connections of
peers that read wait in the ready queue meanwhile, among thousands.

What others do. Thread pools have nothing; nginx and event loops hold no thread in a send.

Our decision. Once half of the pool waits in sends, a connection gets a thread by what its peer has
taken, as the kernel tells (`Peer`):

- READS. The peer has taken all that was sent to it. Its connection always gets a thread, and is not
  asked about again until it fills the kernel's buffer: peers that read do not pay for a crowd.
- NEW. Nothing was sent to the peer yet, so nothing is known. Such connections, with those that wait
  in sends, may use seven eighths of the pool. The latest comes first: the clients of the others
  have waited too long already.
- SLOW. The peer leaves bytes in the kernel's buffer. Such connections may use half of the pool.

A connection that gets no thread is *held back*: what comes for it stays in the kernel (`deaf`), as
it does while bytes wait in its send buffer.

Peers in the crowd may each take a little all the time, and hold their threads for an hour. So for
each second in which a connection is held back, NEW ones get one more thread of those that are kept,
except for the last, and SLOW ones get four more, up to seven eighths; until the crowd is over. SLOW
ones come one after the other: each of them ends a connection whose peer takes nothing
(`UnsentTotal`), whose thread the next one would get at once. Without a pause between them the whole
crowd would be ended in a second, and no peer be served meanwhile.

Every second NEW one is the one that was held back for longest: else it would get no turn while
others come. Once no more than a quarter of the pool waits in sends, a callback that has done
something else for a second is not counted any more: it has nothing to do with slow readers.

A connection that is held back is not run to check whether that still holds: two thousand of them
would be in the ready queue each second, before connections with a request. Instead a timer checks
them, some at a time, all within a fifth of a second. It makes those ready that may have a thread,
those whose peer has taken everything, and those that were chosen and never came. At most eight
chosen ones are ready at once; each that comes has the next one made ready. So few of the crowd are
ever before a connection with a request in the queue, however many threads become free at once.
Should the timer be lost, the next call of any method starts another one; and each connection that
is held back is run after ten seconds at the least, spread over ten more.

Until half of the pool waits, this costs nothing: the hot path is left by `alert`, which all
connections get when it begins. A pool of fewer than sixteen threads keeps none.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from enum import Enum
from socket import socket
from typing import Any, Protocol

from .._base.clock import FOREVER, Clock
from .._base.fast_enum import FastEnum
from .._base.locks import lock
from .._base.queued import queued
from .._scheduler.task import Task
from .._scheduler.timers import Timer
from .._stream.duplex import Duplex

#: Seconds in which the kernel is asked about all peers that are held back; how many in a row, as
#: the thread serves no connection meanwhile; and the least time between two rows.
_LOOK_S = 0.2
_LOOKED_AT = 64
_LEAST_S = 0.02
#: Chosen connections that are in the ready queue at once.
_CALLED_AT_ONCE = 8
#: Seconds after which a look that was not made is taken for lost.
_LOST_S = 1.0
#: Seconds after which a connection that is held back is run; up to twice as many, by its number.
_LOOKS_HIMSELF_S = 10.0
#: Seconds for which a callback counts that does not wait in a send.
_COUNTS_S = 1.0
#: Seconds with a connection held back until there is one thread more for such: in that time a
#: connection whose peer takes nothing can be ended.
_MORE_S = 1.0
#: Seconds from one SLOW connection that gets a thread though half of the pool waits, to the next:
#: each has to end another connection, which frees a thread.
_OVER_S = 0.25
#: The least half of a pool: so one kept thread may go to NEW connections, and one never does.
_LEAST_HALF = 8


class HeldBack(Protocol):
    """What the reserve needs of a connection's task."""

    alert: bool
    hung_up: bool

    @property
    def stopping(self) -> bool: ...
    def look_again(self) -> None: ...


class Peer(Enum):
    """What is known of a peer."""

    READS = "it has taken all that was sent to it"
    NEW = "nothing was sent to it"
    SLOW = "it leaves bytes in the kernel's buffer"


class Level(FastEnum):
    """What there is to do, by how many callbacks wait in sends."""

    AT_REST = "nothing"
    COUNTING = "somebody waits: it is noted who, and until when that counts"
    ARMED = "half of the pool waits: threads go by what peers have taken"


AT_REST, COUNTING, ARMED = Level.AT_REST, Level.COUNTING, Level.ARMED

#: What is found, with the lock: level before -> level after. A level that is missing stays.
#: A callback holds a thread; no callback does.
ON_SOMEBODY: dict[Level, Level] = {AT_REST: COUNTING}
ON_NOBODY: dict[Level, Level] = {COUNTING: AT_REST}
#: Half of the pool waits in sends; no more than a quarter does, and nobody is held back.
ON_HALF: dict[Level, Level] = {AT_REST: ARMED, COUNTING: ARMED}
ON_CROWD_OVER: dict[Level, Level] = {ARMED: COUNTING}


def looks_himself(number: int) -> float:
    """Seconds after which the connection with this number is run, if it is held back."""
    return _LOOKS_HIMSELF_S * (1 + number % 64 / 64)


def _start_nothing(timer: Timer) -> None:
    pass


def peer_of(stream: Duplex) -> Peer:
    """If the system does not tell: a peer reads if its kernel buffer here was never full."""
    if not stream.writer.counts()[1]:
        return Peer.NEW  # the kernel's buffer may have bytes, but only of a handshake
    held = queued(stream.sock)
    if held or (held is None and stream.writer.buffer is not None):
        return Peer.SLOW
    return Peer.READS


class Reserve:
    """The reserve of one run. Thread: any, unless it says so.

    Args:
        most_senders: half of the pool.
        clock: gives seconds.

    Attributes:
        level: what there is to do; steps of connections go by it, without the lock.
        everybody: gives all tasks.
        start: starts a timer.
    """

    __slots__ = (
        "_called",
        "_clock",
        "_held",
        "_inside",
        "_limits",
        "_lock",
        "_looks",
        "_missed",
        "_more",
        "_most_more",
        "_next_look",
        "_next_more",
        "_next_over",
        "_oldest_next",
        "_to_look_at",
        "everybody",
        "level",
        "start",
    )

    def __init__(self, most_senders: int, clock: Clock) -> None:
        self._clock = clock
        self._lock = lock("reserve")
        self._limits = {Peer.SLOW: most_senders, Peer.NEW: most_senders * 7 // 4}
        # Tasks whose callbacks hold threads, and until when each counts: in a send, always.
        self._inside: dict[Any, float] = {}
        self._called: set[Any] = set()  # of those: chosen, made ready, and not run yet
        self._held: dict[Peer, dict[HeldBack, socket]] = {Peer.SLOW: {}, Peer.NEW: {}}
        self._more, self._most_more = 0, most_senders // 4 - 1
        self._missed: list[Any] = []  # chosen, made ready, and not run in time
        self._to_look_at: list[tuple[HeldBack, socket]] = []
        self._looks, self._next_look = 0, -FOREVER
        self._next_more = self._next_over = 0.0
        self.level: Level = AT_REST
        self._oldest_next = False
        self.everybody: Callable[[], Iterable[Task]] = tuple
        self.start: Callable[[Timer], None] = _start_nothing

    def begins_to_wait(self, task: Any) -> None:
        """Its callback waits for room. Thread: the task's."""
        task.alert = True  # so that its next step reports that this is over
        with self._lock:
            self._inside[task] = FOREVER
            half = self._limits[Peer.SLOW]
            begins = len(self._inside) >= half >= _LEAST_HALF and self._change_level(ON_HALF)
            chosen = self._choose()
        if begins:
            for one in self.everybody():
                one.alert = True
        self._look_again(*chosen)

    def _change_level(self, moves: dict[Level, Level]) -> bool:
        """With the lock. Whether that changed the level."""
        before, self.level = self.level, moves.get(self.level, self.level)
        return self.level is not before

    def holds(self, task: HeldBack, stream: Duplex, parks: bool) -> bool:
        """Whether nothing may be delivered to it now. Thread: its owner's, between callbacks.

        Args:
            task: the connection's.
            stream: the same.
            parks: it is about to park, so nothing would be delivered.
        """
        if parks:
            return self._is_held(task) if self.level is ARMED else self.leaves(task)
        if self.level is not ARMED or task.hung_up or task.stopping:
            return self.leaves(task)
        peer = peer_of(stream)
        if peer is not Peer.READS:
            task.alert = True
        with self._lock:
            called = task in self._called
            known = self._leaves(task, self._held.get(peer))
            if peer is Peer.READS and not known:
                return False
            count = len(self._inside)
            holds = peer is not Peer.READS and count >= self._most(peer)
            if peer is Peer.SLOW and not (holds or called):
                holds = not self._may_come(count)
            if holds:
                if not any(self._held.values()):
                    self._next_more = self._clock() + _MORE_S
                self._held[peer].setdefault(task, stream.sock)
            elif peer is not Peer.READS:
                self._held[peer].pop(task, None)
                self._inside[task] = self._clock() + _COUNTS_S
            chosen = self._choose()
        self._look_again(*chosen)
        return holds

    def _is_held(self, task: HeldBack) -> bool:
        with self._lock:
            if task in self._called or any(task in held for held in self._held.values()):
                return True
        return self.leaves(task)

    def leaves(self, task: Any) -> bool:
        """No callback of it holds a thread any more, or it has ended. Always returns `False`."""
        with self._lock:
            if not self._leaves(task):
                return False  # its peer reads, as most do
            chosen = self._choose()
        self._look_again(*chosen)
        return False

    def _leaves(self, task: Any, stays_in: object = None) -> bool:
        """With the lock: as `leaves`, but it stays in the row `stays_in`. Whether it was known
        anywhere."""
        known = self._inside.pop(task, None) is not None
        self._called.discard(task)  # a subset of `_inside`
        for held in self._held.values():
            if task in held:
                known = True
                if held is not stays_in:
                    del held[task]
        return known

    def _most(self, peer: Peer) -> int:
        """With the lock: one of those may come in while fewer than so many are inside."""
        most = self._limits[Peer.NEW]
        if peer is Peer.NEW:
            return most + self._more
        return min(most, self._limits[Peer.SLOW] + 4 * self._more)

    def _may_come(self, count: int) -> bool:
        """With the lock: whether a SLOW one may come in, with so many inside. After one beyond
        half of the pool, the next has to wait for `_OVER_S`."""
        if count >= self._limits[Peer.SLOW]:
            time_now = self._clock()
            if time_now < self._next_over:
                return False
            self._next_over = time_now + _OVER_S
        return True

    def _choose(self) -> tuple[list[HeldBack], Timer | None]:
        """With the lock: the connections for which there is room now; and the timer of the next
        look, if there is none yet.

        A chosen connection counts as inside at once, before it is run: else another would take
        its place.
        """
        chosen: list[HeldBack] = []
        new, slow, time_now = self._held[Peer.NEW], self._held[Peer.SLOW], self._clock()
        if self.level is ARMED:
            self._count_no_more(time_now)
        count, called = len(self._inside), len(self._called)
        if not (new or slow):
            self._next_more = time_now + _MORE_S
        elif time_now >= self._next_more:
            self._more += self._more < self._most_more
            self._next_more = time_now + _MORE_S
        most = min(count + _CALLED_AT_ONCE - called, self._most(Peer.NEW))
        while new and count + len(chosen) < most:
            chosen.append(first := next(iter(new) if self._oldest_next else reversed(new)))
            del new[first]
            self._oldest_next = not self._oldest_next
        most = min(most, self._most(Peer.SLOW))
        while slow and count + len(chosen) < most:
            if not self._may_come(count + len(chosen)):
                break
            chosen.append(first := next(iter(slow)))
            del slow[first]
        self._inside.update(dict.fromkeys(chosen, time_now + _COUNTS_S))
        self._called.update(chosen)
        few = not (new or slow) and count <= self._limits[Peer.SLOW] // 2
        if few and self._change_level(ON_CROWD_OVER):
            self._more, self._to_look_at = 0, []
        self._change_level(ON_SOMEBODY if self._inside else ON_NOBODY)
        timer = None
        concerns = new or slow or self._called or self._missed
        if concerns and time_now >= self._next_look + _LOST_S:
            shorter = max(_LEAST_S, _LOOK_S * _LOOKED_AT / max(1, len(slow)))
            self._looks, self._next_look = self._looks + 1, time_now + min(_LOOK_S, shorter)
            timer = Timer(self._next_look, target=functools.partial(self._look, self._looks))
        return chosen, timer

    def _look_again(self, chosen: list[HeldBack], timer: Timer | None) -> None:
        """They are run, and call `holds` again. Without the lock."""
        if timer is not None:
            self.start(timer)
        for one in chosen:
            one.look_again()

    def _look(self, number: int) -> None:
        """The timer is due; one that was taken for lost does nothing. Thread: one of the pool."""
        with self._lock:
            if number != self._looks:
                return
            self._next_look = -FOREVER
            chosen, timer = self._choose()
            missed, self._missed = self._missed, []
            slow = self._held[Peer.SLOW]
            if not self._to_look_at:
                self._to_look_at = [*reversed(slow.items())]
            asked_about = self._to_look_at[-_LOOKED_AT:]
            del self._to_look_at[-_LOOKED_AT:]
            asked_about = [one for one in asked_about if one[0] in slow]
        self._look_again(chosen + missed, timer)
        for one, sock in asked_about:
            if queued(sock) == 0:
                one.look_again()

    def _count_no_more(self, time_now: float) -> None:
        """With the lock: removes those that were chosen and never came, and once the crowd is over
        those whose callbacks do something else than send."""
        senders = sum(until == FOREVER for until in self._inside.values())
        over = senders <= self._limits[Peer.SLOW] // 2
        for one in [one for one, until in self._inside.items() if until <= time_now]:
            if one in self._called:
                self._called.discard(one)
                self._missed.append(one)
                del self._inside[one]
            elif over:
                del self._inside[one]

    def faults(self) -> list[str]:
        """What does not hold."""
        with self._lock:
            held = sum(map(len, self._held.values()))
            if held and not (self.level is ARMED and self._inside):
                return [f"{held} connections are held back, and no callback holds a thread"]
        return []
