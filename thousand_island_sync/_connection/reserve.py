"""Threads that are kept for those who read.

The facts. A send that finds no room in the buffers holds its thread, and its connection cannot be
ended before its peer has taken nothing for a second. So a crowd of peers that do not read holds the
whole pool for a second, then the next part of the crowd does, and so on; those who read are among
the thousands that are ready meanwhile.

What others do. Thread pools have nothing; nginx and event loops hold no thread in a send.

Our decision. Once half of the pool waits in sends, threads go to connections by what their peers
have taken, as the kernel tells. Whose peer has taken all that was sent to it gets one, always, and
is not asked about again until it fills the kernel's buffer: those who read pay for no crowd. To
whom nothing was sent yet, nobody knows: they get seven eighths of the pool, with those who wait,
the latest first, as the others have waited too long for their clients already. Whose peer leaves
bytes in the kernel's buffer gets one of the half. Until then what comes for it stays in the kernel
(`deaf`), as it does while bytes wait here.

Those who wait in sends may take a little all the time, and be there for an hour. So for each second
that somebody is held back there is one thread more for new ones, of those that are kept, but for
the last, and four more for the others, up to seven eighths; till the crowd is over. They come one
after the other: each of them ends somebody who takes nothing (`UnsentTotal`), whose thread would
be the next one's at once, and a crowd would be ended in a second, with nobody served meanwhile.

Every other of the new ones is the one that was held back for longest: else it would never come, as
long as others do. Once no more than a quarter of the pool waits in sends, a callback that has done
something else for a second counts no more: it is no matter of slow readers.

Whoever is held back is not run to see whether that still holds: two thousand of them would stand
in the queue each second, before those who have sent something. A timer looks for all of them, five
times a second, some at a time, and calls whom it concerns: who may come in, whose peer has taken
everything, who was chosen and never came. And of those who are chosen no more than eight are ready
at once; each that comes has the next one called. So few of the crowd stand before whoever has
something to say, however many threads come free at once, and only for the first time it says
something. Should the timer be lost, whoever does anything here starts another one; and each of
them looks himself after ten seconds, not all at once.

Nobody pays for it before: the hot path is left by `alert`, which all of them get when it begins.
A pool of less than sixteen threads has none to keep.
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

#: Seconds in which all peers who are held back are asked about; how many in a row, as nobody is
#: served meanwhile; and at the least between two rows, however many there are.
_LOOK_S = 0.2
_LOOKED_AT = 64
_LEAST_S = 0.02
#: Of those who are chosen, in the queue at once.
_CALLED_AT_ONCE = 8
#: Seconds after which a look that was not made is none that comes late.
_LOST_S = 1.0
#: Seconds after which whoever is held back looks himself; up to twice as many, by his number.
_LOOKS_HIMSELF_S = 10.0
#: Seconds for which a callback counts that does not wait in a send.
_COUNTS_S = 1.0
#: Seconds for which somebody is held back until there is one thread more for them: in that time
#: whoever takes nothing can be ended.
_MORE_S = 1.0
#: Seconds from one of the others who comes though half of the pool waits, to the next: each has to
#: end somebody, who gives a thread back.
_OVER_S = 0.25
#: Of the pool: one kept thread is for new ones in the end, another never.
_LEAST_HALF = 8


class HeldBack(Protocol):
    """What it needs of a connection's task."""

    alert: bool
    hung_up: bool

    @property
    def stopping(self) -> bool: ...
    def look_again(self) -> None: ...


class Peer(Enum):
    """What is known of one."""

    READS = "it has taken all that was sent to it"
    NEW = "nothing was sent to it"
    SLOW = "it leaves bytes in the kernel's buffer"


class Level(FastEnum):
    """What there is to do, by how many callbacks wait in sends."""

    AT_REST = "nothing"
    COUNTING = "somebody waits: it is noted who, and until when that counts"
    ARMED = "half of the pool waits: threads go by what peers have taken"


AT_REST, COUNTING, ARMED = Level.AT_REST, Level.COUNTING, Level.ARMED

#: What is found, with the lock: level before -> level after. Where nothing is said, it stays.
#: A callback holds a thread; none does.
ON_SOMEBODY: dict[Level, Level] = {AT_REST: COUNTING}
ON_NOBODY: dict[Level, Level] = {COUNTING: AT_REST}
#: Half of the pool waits in sends; no more than a quarter does, and nobody is held back.
ON_HALF: dict[Level, Level] = {AT_REST: ARMED, COUNTING: ARMED}
ON_CROWD_OVER: dict[Level, Level] = {ARMED: COUNTING}


def looks_himself(number: int) -> float:
    """Seconds after which the one with this number does."""
    return _LOOKS_HIMSELF_S * (1 + number % 64 / 64)


def _start_nothing(timer: Timer) -> None:
    pass


def peer_of(stream: Duplex) -> Peer:
    """Where the system does not tell, whoever never filled the kernel's buffer reads."""
    if not stream.writer.counts()[1]:
        return Peer.NEW  # of a handshake something may lie there
    held = queued(stream.sock)
    if held or (held is None and stream.writer.buffer is not None):
        return Peer.SLOW
    return Peer.READS


class Reserve:
    """Of one run. Thread: any, unless it says so.

    Args:
        most_senders: half of the pool.
        clock: gives seconds.

    Attributes:
        level: what there is to do; steps of connections go by it, without the lock.
        everybody: gives all tasks there are.
        start: calls the target of a timer in time.
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
        # Whose callbacks hold threads, and until when that counts: in a send, always.
        self._inside: dict[Any, float] = {}
        self._called: set[Any] = set()  # of those: who has not come yet
        self._held: dict[Peer, dict[HeldBack, socket]] = {Peer.SLOW: {}, Peer.NEW: {}}
        self._more, self._most_more = 0, most_senders // 4 - 1
        self._missed: list[Any] = []  # who was called and did not come
        self._to_look_at: list[tuple[HeldBack, socket]] = []
        self._looks, self._next_look = 0, -FOREVER
        self._next_more = self._next_over = 0.0
        self.level: Level = AT_REST
        self._oldest_next = False
        self.everybody: Callable[[], Iterable[Task]] = tuple
        self.start: Callable[[Timer], None] = _start_nothing

    def begins_to_wait(self, task: Any) -> None:
        """Its callback waits for room. Thread: the task's."""
        task.alert = True  # its next step tells that this is over
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
        """With the lock. Whether that changed it."""
        before, self.level = self.level, moves.get(self.level, self.level)
        return self.level is not before

    def holds(self, task: HeldBack, stream: Duplex, parks: bool) -> bool:
        """Whether nothing may be delivered to it now. Thread: its owner's, between callbacks.

        Args:
            task: it.
            stream: the same.
            parks: nothing is about to be.
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
        """No callback of it holds a thread; or it has ended. Whether it is held back: it is not."""
        with self._lock:
            if not self._leaves(task):
                return False  # it is one of those that read, of whom there are many
            chosen = self._choose()
        self._look_again(*chosen)
        return False

    def _leaves(self, task: Any, stays_in: object = None) -> bool:
        """With the lock: as `leaves`, but that it keeps its place in one row. Whether it was known
        anywhere."""
        known = self._inside.pop(task, None) is not None
        self._called.discard(task)  # of those inside
        for held in self._held.values():
            if task in held:
                known = True
                if held is not stays_in:
                    del held[task]
        return known

    def _most(self, peer: Peer) -> int:
        """With the lock: how many may be inside, for one of those to come in."""
        most = self._limits[Peer.NEW]
        if peer is Peer.NEW:
            return most + self._more
        return min(most, self._limits[Peer.SLOW] + 4 * self._more)

    def _may_come(self, count: int) -> bool:
        """With the lock: whether one of the slow may, beside so many; the next one later, then."""
        if count >= self._limits[Peer.SLOW]:
            time_now = self._clock()
            if time_now < self._next_over:
                return False
            self._next_over = time_now + _OVER_S
        return True

    def _choose(self) -> tuple[list[HeldBack], Timer | None]:
        """With the lock: for whom there is room by now; and the next look, if it has no timer."""
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
        # Or another one takes its place.
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
        """They are run, and judged anew. Without the lock."""
        if timer is not None:
            self.start(timer)
        for one in chosen:
            one.look_again()

    def _look(self, number: int) -> None:
        """The timer's; one that was taken for lost does nothing. Thread: one of the pool."""
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
        """With the lock: who was chosen and never came, and once the crowd is over who does
        something else."""
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
