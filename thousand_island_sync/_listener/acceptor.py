"""Acceptor threads: wait for a client, find it a place, hand it to the scheduler.

Only its wake-up ends an acceptor. EINVAL from accept(2) means that the listener was shut
down, or that the client has already disconnected; so no errno decides. An error that
concerns one client is reported, and the acceptor goes on. If the machine is out of
descriptors or memory (EMFILE, ENFILE, ENOBUFS, ENOMEM), the next attempt would fail as
well: the waiting client is turned away with a spare descriptor, and all acceptors pause.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from .._base import waits
from .._base.clock import FOREVER, now, now_ns
from .._base.latch import Latch
from .._base.spare import PAUSE_S, is_shortage
from .._base.supervised import BackOff, say
from .accept_turns import SharedWakeUp
from .acceptor_events import somebody_listens
from .admission import BATCH, Admission
from .backlog import Backlog
from .connection_limit import Room
from .shared_socket import SharedSocket, Use
from .shortage import Shortage

#: The longest pause of an acceptor that died again and again, and how long a restarted one must
#: live until it counts as serving, in seconds.
_LONGEST_S, _LIVES_S = 5.0, 1.0
#: After so many failures in a row each further one is followed by a pause.
_FAILURES_IN_A_ROW = 10
#: Clients that are refused at the same time: as many as a backlog of the usual length holds.
_REFUSED_AT_ONCE = 1_024


class Acceptor:
    """One acceptor; `run` is its thread's.

    Args:
        number: its number.
        shared: the listening socket, which it shares with other acceptors.
        admission: admits its clients.
        shortage: that of the run.
        wake_up: ends it.
        name: prefix of the names of threads.

    Attributes:
        use: whether it uses the listening socket, and whether it is to end.
        gone: opened when it has ended, after its event.
    """

    def __init__(
        self,
        number: int,
        shared: SharedSocket,
        admission: Admission,
        shortage: Shortage,
        wake_up: SharedWakeUp,
        name: str,
    ) -> None:
        self.number = number
        self.wake_up = wake_up
        self.use = Use()
        self.gone = Latch()
        self._shared = shared
        self._turn = shared.turn
        self._inline = shared.inline
        self._admission = admission
        self._entrance = admission.entrance(shared.socket, number)
        self._shortage = shortage
        self._name = name
        self._failures = 0
        self._back_off = BackOff(_LONGEST_S)
        self._serves_from = -FOREVER  # when it counts as serving; FOREVER while it pauses

    def wake_ups(self) -> list[SharedWakeUp]:
        """The wake-ups that its thread waits for, and so keeps open."""
        return [self.wake_up] if self._inline is None else [self.wake_up, self._inline.wake_up]

    def serves(self) -> bool:
        """`False` while it dies again and again. Thread: any."""
        return now() >= self._serves_from

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Around code that may call receivers: other acceptors need not wait for those, nor does
        the thread that closes the listening socket."""
        with self._turn.given_away(), self.use.put_off():
            yield

    # ---- its life ---------------------------------------------------------------

    def run(self) -> None:
        """Thread: the acceptor's own."""
        events, began = self._admission.events, now_ns()
        waits.this_thread_is(waits.OwnThread())
        events.started(self.number)
        try:
            self.use.begin()
            if not self.use.over:
                self._accept_clients()
        finally:
            self._turn.let_go()
            self.use.end_use()
            events.shut_down(self.number, began, self._all_accepted(), self.use.reason)

    def _all_accepted(self) -> int:
        """Its clients, including those that the pool accepted in its name."""
        inline = 0 if self._inline is None else self._inline.count(self.number)
        return self._entrance.count() + inline

    def died(self, error: BaseException, alone: Callable[[], None]) -> None:
        """`run` raised. Returns when it is to be restarted: at once, or after a pause if it died
        again and again.

        Args:
            error: what it raised.
            alone: called before a pause, in which it does not serve.

        Thread: the acceptor's own.
        """
        say("an acceptor died and is started again", error)
        self._turn.let_go()
        self._admission.interrupted()
        if self._inline is not None:
            self._inline.given_back()
        self._entrance.rescue()
        self._admission.events.accept_error(error, self.number)
        pause = 0.0 if self.use.over else self._back_off.failed()
        if not pause:
            return
        self._serves_from = FOREVER
        try:
            alone()
            self._pause(pause)
        finally:
            self._serves_from = now() + _LIVES_S

    def _accept_clients(self) -> None:
        turn, use = self._turn, self.use
        with self._shared.clients(self.wake_up) as clients, turn:
            while not use.over:
                if self._pool_attends():
                    self._wait_for_pool()
                    continue
                asked = now_ns()
                clients.wait()
                # The client that woke it may have been accepted by the pool or another acceptor.
                if use.over or self._pool_attends() or not self._may_accept():
                    continue
                self._accept(asked)
                if self._inline is not None:
                    self._inline.offer(self.number)

    # ---- while it has nothing to do -----------------------------------------------

    def _pool_attends(self) -> bool:
        return self._inline is not None and self._inline.attended()

    def _wait_for_pool(self) -> None:
        """Waits until the pool does not accept any more. It keeps the turn: others wait, too."""
        assert self._inline is not None
        wake_up = self._inline.wake_up
        waits.wait_for(wake_up.fileno(), write=False, timeout=FOREVER, also=self.wake_up.fileno())
        wake_up.clear()

    def _pause(self, limit: float) -> None:
        waits.wait_for(self.wake_up.fileno(), write=False, timeout=limit)

    # ---- accepting ----------------------------------------------------------------

    def _may_accept(self) -> bool:
        """Reserves a place, and waits for one at the limit; `False`: start over."""
        pause = self._shortage.left()
        if pause <= 0 and self._entrance.reserve():
            return True
        with self._turn.given_away():
            room = self._find_room(pause)
        if room is Room.FREE:
            return self._entrance.reserve()
        if room is Room.NONE:
            self._turn_all_away()
        return False

    def _find_room(self, pause: float) -> Room:
        if pause > 0:
            self._pause(pause)
            return Room.LOOK_AGAIN
        shared, use = self._shared, self.use
        return self._admission.limit.wait_for_room(
            shared.fileno(), lambda: use.over, shared.somebody_waits
        )

    def _turn_all_away(self) -> None:
        """Refuses all waiting clients: they have waited at the limit for long enough."""
        more = True
        while more and not self.use.over:
            backlog = Backlog(self._admission, self.number, self._name)
            more = backlog.take(self._shared.socket, _REFUSED_AT_ONCE)
            with self._telling():
                backlog.settle()

    def _accept(self, asked: int) -> None:
        """Accepts: a place is reserved, and a client may have come.

        Args:
            asked: when it began to wait, in nanoseconds.
        """
        entrance, told = self._entrance, somebody_listens()
        end = entrance.take(1 if told else BATCH)
        if entrance:
            self._failures = 0
            if told:
                waited = now_ns() - asked
                with self._telling():
                    entrance.introduce(waited)
            else:  # no receiver is called, so it keeps its turn
                with self.use.put_off():
                    entrance.hand_over()
        if isinstance(end, OSError):
            self._failed(end)

    def _failed(self, error: OSError) -> None:
        if self.use.over:
            return
        shortage = is_shortage(error)
        if shortage:  # before the turn is given away: the next acceptor must pause, too
            self._shortage.begins()
        with self._telling():
            self._admission.events.accept_error(error, self.number)
        self._failures += 1
        if shortage and not self.use.over:  # after receivers were told
            self._shortage.turn_one_away(self._shared.socket)
        if shortage or self._failures > _FAILURES_IN_A_ROW:
            with self._turn.given_away():
                self._pause(PAUSE_S)
