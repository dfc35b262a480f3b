"""Inline accept: while a thread of the pool polls, it accepts the clients, too.

The facts. With the GIL, an acceptor and a handler that work at once stop each other at every
system call: a connection for each request cost 290 us that way, half of it thread switches
(2.9 for a connection), and 146 us with both on one thread (0.3 switches for a connection).

Our decision: a listening socket is also a task of the scheduler, run like a connection when
clients come, between callbacks. Acceptors do all that the pool cannot do, or must not wait
for. They get the socket back

1. while no thread of the pool polls, as all of them are in callbacks that wait;
2. if receivers are connected to the events of accepting: a receiver may take long;
3. at the limit of connections: acceptors wait for room, and refuse clients;
4. after an error of accept(2): acceptors count these, and pause.

Each time an acceptor has accepted clients, it offers the socket to the pool again. The pool
then tries to accept at once, as an earlier edge may have been lost.

The task does not own the listening socket: the listener closes it, on any thread. So all code
that uses the socket holds this object's lock, and after `close` no code uses it.

    APART --offer--> POOL --an error, no place--> ACCEPTORS --offer--> POOL
    any --a break, or the poller is full--> APART

`_over` is not one of these states: `close` sets it without the lock if the pool does not give the
socket back in time, and code that is under way must not reset it.
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

#: After so many exceptions the pool does not accept any more.
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
        listener: the socket.
        admission: admits its clients.
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
        self._number = 0  # the acceptor that offered it, in whose name the pool accepts
        self._taken: Counter[int] = Counter()  # acceptor -> clients, since the last `count`
        self._breaks = 0  # calls of `broke`
        #: Rung when acceptors shall check again whether they have the socket.
        self.wake_up = SharedWakeUp()

    def attended(self) -> bool:
        """Whether the pool accepts its clients. Thread: any; it may just have changed."""
        return self._has_pool() and not self._over and self._scheduler.attended()

    def _has_pool(self) -> bool:
        return self._state is State.POOL

    def look_again(self) -> None:
        """Has acceptors check again whether they have the socket. Thread: any."""
        self.wake_up.wake()

    def count(self, number: int) -> int:
        """How many clients the pool took in an acceptor's name since the last call."""
        with self._lock:
            self._taken[self._number] += self._entrance.count()
            return self._taken.pop(number, 0)

    def offer(self, number: int) -> None:
        """Gives the socket to the pool, if that may accept now. Thread: acceptor `number`'s."""
        # First without the lock: this is called after each client that an acceptor takes.
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
            # Either way the task runs once, and accepts what came before the poller watched.
            if before is State.ACCEPTORS:
                self._scheduler.make_ready(self._task)
                return
            try:
                self._scheduler.add_uncounted(self._task)
            except RuntimeError:  # the server has stopped
                self._over = True
            if self._over:  # `close` could not wait, and may have called `forget` before the `add`
                self._scheduler.forget(self._task)

    def run(self) -> int:
        """Accepts all waiting clients; passes errors and the limit on to the acceptors. Receivers
        are called, if at all, without the lock. Thread: the pool's."""
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
        # From here on `close` need not wait: the listening socket is not used any more.
        self._entrance.hand_over()
        if rest is Rest.MORE:
            return AGAIN
        if rest is not Rest.NOBODY:
            self._pass_on(State.ACCEPTORS)  # they get the error, too, unless it was one client's
        return PARK

    def _pass_on(self, state: State) -> None:
        self._state = state
        self.wake_up.wake()

    def close(self, deadline: float) -> None:
        """The listening socket is about to be closed. Thread: any; may be called again.

        Args:
            deadline: until when to wait for the pool, which may be accepting.
        """
        held = self._lock.acquire(timeout=max(0.0, deadline - now()))
        self._over = True
        if held:
            self._lock.release()
        self._scheduler.forget(self._task)
        self.wake_up.wake()
        self.wake_up.release()

    def given_back(self) -> None:
        """The acceptor that offered it was interrupted. Thread: that acceptor's."""
        with self._lock:
            known = self._scheduler.has(self._task)
            self._state = State.ACCEPTORS if known else State.APART
        self.wake_up.wake()

    def broke(self) -> None:
        """A bug of the library, or an interruption: acceptors have the socket until the next offer;
        for good, if that happens again and again. Thread: the pool's."""
        self._breaks += 1
        if self._breaks >= _BREAKS:
            self._over = True
        self._task.unregistered = False
        self._scheduler.forget(self._task)
        self._entrance.rescue()
        self._pass_on(State.APART)


class _ListenTask(Task):
    """The listening socket, as the scheduler runs it. Its steps run no callback."""

    __slots__ = ("_inline", "unregistered")

    def __init__(self, fd: int, inline: InlineAccept) -> None:
        super().__init__(fd)
        self._inline = inline
        self.write_edges = False
        # The poller had no room for it. This is not a state: it is set under the scheduler's lock,
        # where a thread must not wait for the lock of inline accept.
        self.unregistered = False

    def run(self) -> int:
        self.no_sample = True
        return self._inline.run()

    def broke(self) -> None:
        self._inline.broke()

    def unwatched(self, error: OSError) -> None:
        """Acceptors have the socket until the next offer."""
        self.unregistered = True

    def stop_begins(self) -> None:
        pass  # the listening socket is closed by then
