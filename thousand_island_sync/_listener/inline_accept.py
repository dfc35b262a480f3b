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
"""

from __future__ import annotations

from .._base.clock import now
from .._base.locks import lock
from .._scheduler.task import AGAIN, DONE, PARK, Task
from ..transports.base import ListenSocket
from .accept_turns import SharedBell
from .admission import Admission, accepts_of, somebody_listens
from .connection_limit import InHand

#: What broke so often is closed for the pool.
_BREAKS = 10


class InlineAccept(Task):
    """One listening socket, for the pool.

    Args:
        listener: it.
        admission: for its clients.
    """

    __slots__ = (
        "_accepts",
        "_added",
        "_admission",
        "_breaks",
        "_closed",
        "_hand",
        "_homeless",
        "_inside",
        "_lock",
        "_number",
        "gate",
        "over",
    )

    def __init__(self, listener: ListenSocket, admission: Admission) -> None:
        super().__init__(listener.socket.fileno())
        self.write_edges = False
        self._accepts = accepts_of(listener.socket)
        self._admission = admission
        self._lock = lock("inline.accept")
        self._hand = InHand()
        self._breaks = 0  # how often it broke
        self._inside = False  # the pool has it
        self._added = self._closed = False
        self._homeless = False  # the poller had no room for it
        self._number = 0
        self.over = False
        #: Rung when acceptors shall look again whether they have it.
        self.gate = SharedBell()

    def attended(self) -> bool:
        """Whether the pool sees to it. Thread: any; true of a moment ago."""
        return self._inside and self._admission.scheduler.attended()

    def offer(self, number: int) -> None:
        """Gives it to the pool, if that can have it. Thread: acceptor `number`'s."""
        admission = self._admission
        if self._inside or somebody_listens() or not admission.limit.has_room():
            return
        if not admission.scheduler.attended():
            return
        with self._lock:
            if self.over:
                return
            self._inside, self._number = True, number
            added, self._added = self._added, True
            if added:
                admission.scheduler.make_ready(self)
                return
            try:
                admission.scheduler.add_door(self)
            except RuntimeError:  # the server has stopped
                self.over, self._inside = True, False
            if self.over:  # `close` could not wait, and may have forgotten it before it was added
                admission.scheduler.forget(self)

    def run(self) -> int:
        """Thread: the pool's. Takes all who wait; what concerns more than them goes to the
        acceptors. Receivers are called, if at all, without the lock."""
        self.no_sample = True
        admission = self._admission
        with self._lock:
            if self.over:
                return DONE
            if self._homeless:
                self._homeless = self._added = False
                admission.scheduler.forget(self)
                self._pass_on()
                return DONE
            if not self._inside:
                return PARK
            number = self._number
            taken, end = admission.take(self._accepts, number, self._hand)
        admission.count(number, len(taken))
        admission.settle(self._hand)
        if end is None:
            return AGAIN
        if not isinstance(end, BlockingIOError):
            self._pass_on()  # an error that is not one client's alone they meet as well
        return PARK

    def _pass_on(self) -> None:
        self._inside = False
        self.gate.wake()

    def close(self, deadline: float) -> None:
        """The listening socket is about to be closed. Thread: any; may be called again.

        Args:
            deadline: until when the pool is waited for, which may be taking clients in.
        """
        held = self._lock.acquire(timeout=max(0.0, deadline - now()))
        closed, self._closed = self._closed, True
        self.over, self._inside = True, False
        if held:
            self._lock.release()
        self._admission.scheduler.forget(self)
        self.gate.wake()
        if not closed:
            self.gate.release()

    def given_back(self) -> None:
        """Whoever offered it was interrupted. Thread: an acceptor's."""
        with self._lock:
            self._inside, self._added = False, self._admission.scheduler.has(self)
        self.gate.wake()

    def broke(self) -> None:
        """A bug of ours, or an interruption: acceptors have it until the next offer, or, if that
        comes again and again, for good."""
        self._breaks += 1
        if self._breaks >= _BREAKS:
            self.over = True
        self._added = self._homeless = False
        self._admission.scheduler.forget(self)
        self._admission.rescue(self._hand, self._number)
        self._pass_on()

    def unwatched(self, error: OSError) -> None:
        """Acceptors have it until the next offer."""
        self._homeless = True

    def stop_begins(self) -> None:
        pass  # it is closed by then
