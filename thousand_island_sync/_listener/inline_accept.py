"""Inline accept: while a thread of the pool is at hand, it takes the clients in itself.

The facts. Where the GIL lets one thread run at a time, an acceptor and a handler that work
at once stop each other at every system call: a connection for each request cost 290 us that
way, half of it switches of threads (2.9 a connection), and 146 us with both on one thread
(0.3 a connection).

Our decision: a listening socket is also a task of the scheduler, run like a connection when
clients come, between callbacks. Acceptors are there for all that a pool cannot do, or must
not wait for. They have the socket again

1. while no thread of the pool looks at what comes: all of them are in callbacks that wait;
2. where anybody listens to what accepting tells: a receiver may take its time;
3. at the limit of connections, where waiting for room, or refusing, is their business;
4. after an error of accept(2), which they count, and pause for.

Each time an acceptor has taken clients in, it offers the socket to the pool again. What has
come meanwhile is looked at then; no edge is relied on from before.

The listening socket does not go the way of descriptors that tasks own: the listener closes it,
on any thread. So all that touches the socket is done with this object's lock held, and after
`close` nothing is.

    APART --offer--> POOL --an error, no place--> ACCEPTORS --offer--> POOL
    any --a break, or the poller is full--> APART

Whether it is over is no state of these: `close` says so without the lock, if the pool does not
give it back in time, and nothing that is under way may take that back.
"""

from __future__ import annotations

from collections import Counter
from enum import Enum
from typing import Protocol

from .._base.clock import now
from .._base.locks import lock
from .._scheduler.task import AGAIN, DONE, PARK, Task
from ..transports.base import ListenSocket
from .accept_turns import SharedWakeUp
from .acceptor_events import somebody_listens
from .admission import Admission, Rest

#: What broke so often is closed for the pool.
_BREAKS = 10


class State(Enum):
    """Who accepts the clients of a listening socket."""

    APART = "acceptors, and the scheduler does not know the task"
    ACCEPTORS = "acceptors, and the scheduler knows the task"
    POOL = "the pool"


class Scheduler(Protocol):
    """What inline accept needs of the scheduler."""

    def attended(self) -> bool: ...
    def has(self, task: Task) -> bool: ...
    def add_uncounted(self, task: Task) -> None: ...
    def make_ready(self, task: Task) -> None: ...
    def forget(self, task: Task) -> None: ...


class InlineAccept:
    """One listening socket, for the pool.

    Args:
        listener: it.
        admission: for its clients.
        scheduler: the pool's.
    """

    def __init__(self, listener: ListenSocket, admission: Admission, scheduler: Scheduler) -> None:
        self._task = _ListenTask(listener.socket.fileno(), self)
        self._entrance = admission.entrance(listener.socket)
        self._limit = admission.limit
        self._scheduler = scheduler
        self._lock = lock("inline.accept")
        self._state = State.APART
        self._over = False
        self._number = 0  # in whose name: the acceptor's that offered it
        self._taken: Counter[int] = Counter()  # acceptor -> clients, before it was asked
        self._breaks = 0  # how often it broke
        #: Rung when acceptors shall look again whether they have it.
        self.wake_up = SharedWakeUp()

    def attended(self) -> bool:
        """Whether the pool sees to it. Thread: any; true of a moment ago."""
        return self._has_pool() and not self._over and self._scheduler.attended()

    def _has_pool(self) -> bool:
        return self._state is State.POOL

    def look_again(self) -> None:
        """Acceptors look again whether they have it. Thread: any."""
        self.wake_up.wake()

    def count(self, number: int) -> int:
        """How many were taken in an acceptor's name since this was asked last."""
        with self._lock:
            self._taken[self._number] += self._entrance.count()
            return self._taken.pop(number, 0)

    def offer(self, number: int) -> None:
        """Gives it to the pool, if that can have it. Thread: acceptor `number`'s."""
        # First without the lock: it is asked after each client that an acceptor takes.
        if self._has_pool() or somebody_listens() or not self._limit.has_room():
            return
        if not self._scheduler.attended():
            return
        with self._lock:
            before = self._state
            if self._over or self._has_pool():
                return
            self._taken[self._number] += self._entrance.count()
            self._number = number
            self._entrance.in_the_name_of(number)
            self._state = State.POOL
            # Either way it is run once, and looks at what came before the poller watched.
            if before is State.ACCEPTORS:
                self._scheduler.make_ready(self._task)
                return
            try:
                self._scheduler.add_uncounted(self._task)
            except RuntimeError:  # the server has stopped
                self._over = True
            if self._over:  # `close` could not wait, and may have forgotten it before it was added
                self._scheduler.forget(self._task)

    def run(self) -> int:
        """Takes all who wait; what concerns more than them goes to the acceptors. Receivers are
        called, if at all, without the lock. Thread: the pool's."""
        with self._lock:
            if self._over:
                return DONE
            if self._task.unregistered:
                self._task.unregistered = False
                self._scheduler.forget(self._task)
                self._pass_on(State.APART)
                return DONE
            if self._state is not State.POOL:
                return PARK
            rest = self._entrance.take()
        # From here on `close` need not wait: the listening socket is touched no more.
        self._entrance.hand_over()
        if rest is Rest.MORE:
            return AGAIN
        if rest is not Rest.NOBODY:
            self._pass_on(State.ACCEPTORS)  # an error that is not one client's alone they meet, too
        return PARK

    def _pass_on(self, state: State) -> None:
        self._state = state
        self.wake_up.wake()

    def close(self, deadline: float) -> None:
        """The listening socket is about to be closed. Thread: any; may be called again.

        Args:
            deadline: until when the pool is waited for, which may be taking clients in.
        """
        held = self._lock.acquire(timeout=max(0.0, deadline - now()))
        self._over = True
        if held:
            self._lock.release()
        self._scheduler.forget(self._task)
        self.wake_up.wake()
        self.wake_up.release()

    def given_back(self) -> None:
        """Whoever offered it was interrupted. Thread: an acceptor's."""
        with self._lock:
            known = self._scheduler.has(self._task)
            self._state = State.ACCEPTORS if known else State.APART
        self.wake_up.wake()

    def broke(self) -> None:
        """A bug of ours, or an interruption: acceptors have it until the next offer, or, if that
        comes again and again, for good. Thread: the pool's."""
        self._breaks += 1
        if self._breaks >= _BREAKS:
            self._over = True
        self._task.unregistered = False
        self._scheduler.forget(self._task)
        self._entrance.rescue()
        self._pass_on(State.APART)


class _ListenTask(Task):
    """What the scheduler runs: the listening socket's descriptor, and that there is no callback
    of the user's in it."""

    __slots__ = ("_inline", "unregistered")

    def __init__(self, fd: int, inline: InlineAccept) -> None:
        super().__init__(fd)
        self._inline = inline
        self.write_edges = False
        # The poller had no room for it. A fact of its own beside the state: it is noted under
        # the scheduler's lock, where that of inline accept must not be waited for.
        self.unregistered = False

    def run(self) -> int:
        self.no_sample = True
        return self._inline.run()

    def broke(self) -> None:
        self._inline.broke()

    def unwatched(self, error: OSError) -> None:
        """Acceptors have it until the next offer."""
        self.unregistered = True

    def stop_begins(self) -> None:
        pass  # it is closed by then
