"""Acceptor threads: wait for a client, find it a place, hand it to the scheduler.

Nothing here ends an acceptor but its bell. EINVAL from accept(2) means that the
listener was shut down, or that the client has already gone; so no errno decides. An
error that concerns one client is reported and forgotten. Where the machine is out of
something (EMFILE, ENFILE, ENOBUFS, ENOMEM) the next attempt would fail as well: the
waiting client is turned away with a descriptor kept spare for that, and all acceptors
pause.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from typing import Any

from .. import events
from .._base import descriptors, waits
from .._base.clock import FOREVER, now, now_ns
from .._base.latch import Latch
from .._base.locks import lock
from .._base.supervised import BackOff, say
from ..transports.base import ListenSocket
from .accept_turns import ClientWait, SharedBell, Turn
from .admission import Admission, accepts_of, somebody_listens
from .connection_limit import InHand, Room
from .inline_accept import InlineAccept

_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
#: Seconds that acceptors pause when the machine is out of something.
_PAUSE_S = 0.1
#: The longest pause of an acceptor that died of the same again and again, and how long one that
#: was started again must live until it is taken for one that serves, in seconds.
_LONGEST_S, _LIVES_S = 5.0, 1.0
#: That many failures in a row, and every further one is followed by a pause.
_FAILURES_IN_A_ROW = 10


class Acceptor:
    """One acceptor; `run` is its thread's.

    Attributes:
        over: it shall end, and touches the listening socket no more once it has looked.
        released: it touches the listening socket no more: that may be closed.
        gone: it has ended, and the event of that is told.
    """

    def __init__(
        self,
        number: int,
        listener: ListenSocket,
        admission: Admission,
        bell: SharedBell,
        turn: Turn,
        inline: InlineAccept | None = None,
    ) -> None:
        self._turn = turn
        self.inline = inline
        self.number = number
        self._listener = listener.socket
        self._accepts = accepts_of(listener.socket)
        self._admission = admission
        self.bell = bell
        self.over = False
        self.reason = "shutdown"
        self.released, self.gone = Latch(), Latch()
        self._touching = lock("acceptor")  # guards the two below
        self._aside = True  # it is where it does not touch the listening socket
        self._accepted = 0
        self._failures = 0
        self._hand = InHand()
        self._back_off = BackOff(_LONGEST_S)
        self._begun: float | None = None  # when it was started again after a pause
        self._pausing = False

    def bells(self) -> list[SharedBell]:
        """What its thread waits for, and so holds."""
        return [self.bell] if self.inline is None else [self.bell, self.inline.gate]

    def end(self, reason: str) -> None:
        """It shall end. Thread: any; the bell is for the caller to ring."""
        with self._touching:
            if not self.over:
                self.reason, self.over = reason, True
            aside = self._aside
        if aside:
            self.released.open()

    def _step_aside(self) -> None:
        with self._touching:
            self._aside = True
            over = self.over
        if over:
            self.released.open()

    def _step_back(self) -> None:
        """From now on `over` is to be looked at before the listening socket is touched."""
        with self._touching:
            self._aside = False

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Around what may call receivers: neither other acceptors nor who closes the listening
        socket wait for those."""
        with self._turn.given_away():
            self._step_aside()
            try:
                yield
            finally:
                self._step_back()

    def run(self) -> None:
        """Thread: the acceptor's own."""
        server, started = self._admission.server, now_ns()
        waits.this_thread_is(waits.OwnThread())
        self._tell(events.acceptor_start, server, {})
        try:
            self._step_back()
            if not self.over:
                self._accept_clients()
        finally:
            self._turn.let_go()
            self._step_aside()
            self._tell(
                events.acceptor_shutdown,
                server,
                {"duration_ns": now_ns() - started, "accepted": self._all_accepted()},
                {"reason": self.reason},
            )

    def died(self, error: BaseException, alone: Callable[[], None]) -> None:
        """What `run` raised. Returns when it shall be started again: at once, or after a while
        where it died again and again.

        Args:
            error: of what.
            alone: called when it does not serve for a while.

        Thread: the acceptor's own.
        """
        say("an acceptor died and is started again", error)
        self._turn.let_go()
        self._admission.scheduler.interrupted()
        if self.inline is not None:
            self.inline.given_back()
        self._admission.rescue(self._hand, self.number)
        self._admission.tell_accept_error(error, self.number)
        pause = 0.0 if self.over else self._back_off.failed()
        if not pause:
            return
        self._pausing, self._begun = True, None
        try:
            alone()
            self._pause(pause)
        finally:
            self._pausing, self._begun = False, now()

    def serves(self) -> bool:
        """Whether it accepts, and does not just die again and again. Thread: any."""
        if self._pausing:
            return False
        return self._begun is None or now() - self._begun >= _LIVES_S

    def _all_accepted(self) -> int:
        """What the pool took in its name, too."""
        return self._accepted + self._admission.accepted_by(self.number)

    def _accept_clients(self) -> None:
        turn = self._turn
        with ClientWait(self._listener, self.bell, exclusive=turn.shared) as clients, turn:
            while not self.over:
                if self._pool_attends():
                    self._rest()
                    continue
                asked = now_ns()
                clients.wait()
                if self.over or self._pool_attends() or not self._may_accept():
                    continue
                if somebody_listens():
                    self._accept(asked)
                else:
                    self._accept_batch()
                if self.inline is not None:
                    self.inline.offer(self.number)

    def _pool_attends(self) -> bool:
        return self.inline is not None and self.inline.attended()

    def _rest(self) -> None:
        """Until the pool does not accept any more. With the turn: others rest too."""
        assert self.inline is not None
        gate = self.inline.gate
        waits.wait_for(gate.fileno(), write=False, timeout=FOREVER, also=self.bell.fileno())
        gate.clear()

    def _tell(
        self,
        signal: Any,
        server: Any,
        measurements: dict[str, Any],
        more: dict[str, Any] | None = None,
    ) -> None:
        if signal.receivers:
            metadata = {"acceptor_id": self.number, **(more or {})}
            events.emit(signal, server, measurements, metadata)

    def _may_accept(self) -> bool:
        """Reserves a place, waiting at the limit; `False`: look again."""
        admission = self._admission
        pause = admission.paused_until - now()
        if pause <= 0 and admission.limit.reserve(self._hand):
            return True
        with self._turn.given_away():
            room = self._find_room(pause)
        if room is Room.FREE:
            return admission.limit.reserve(self._hand)
        if room is Room.NONE:
            self._turn_all_away()
        return False

    def _find_room(self, pause: float) -> Room:
        admission = self._admission
        if pause > 0:
            self._pause(pause)
            return Room.LOOK_AGAIN
        return admission.limit.wait_for_room(
            self._listener.fileno(), admission.patience, lambda: self.over, self._somebody_waits
        )

    def _turn_all_away(self) -> None:
        """They have waited long enough."""
        more = True
        while more and not self.over:
            crowd, more = self._admission.take_crowd(self.number, self._listener)
            with self._telling():
                crowd.settle()

    def _somebody_waits(self) -> bool:
        fd = self._listener.fileno()
        return fd >= 0 and waits.wait_for(fd, write=False, timeout=0)

    def _accept(self, asked: int) -> None:
        admission = self._admission
        try:
            with descriptors.thread.no_fork:
                sock, address = self._accepts(self._hand.socks)
        except BlockingIOError:  # another acceptor was quicker
            admission.limit.cancel(self._hand)
            return
        except OSError as error:
            admission.limit.cancel(self._hand)
            self._failed(error)
            return
        self._failures = 0
        self._accepted += 1
        waited = now_ns() - asked
        connection = admission.admit(self.number, sock, address, self._hand)
        with self._telling():
            admission.introduce(connection, waited)
        self._hand.clear()

    def _accept_batch(self) -> None:
        """Nobody listens to events, and a place is reserved."""
        taken, error = self._admission.take(self._accepts, self.number, self._hand)
        self._accepted += len(taken)
        if taken:
            self._failures = 0
            self._step_aside()  # what starts no thread waits for nobody, and keeps its turn
            self._admission.settle(self._hand)
            self._step_back()
        if isinstance(error, OSError) and not isinstance(error, BlockingIOError):
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        admission = self._admission
        if self.over:
            return
        exhausted = error.errno in _EXHAUSTED
        if exhausted:  # whose turn is next must know
            admission.paused_until = now() + _PAUSE_S
        with self._telling():
            admission.tell_accept_error(error, self.number)
        self._failures += 1
        if exhausted:
            self._turn_one_away()
        if exhausted or self._failures > _FAILURES_IN_A_ROW:
            with self._turn.given_away():
                self._pause(_PAUSE_S)

    def _turn_one_away(self) -> None:
        if not self.over:  # after receivers were told
            self._admission.turn_one_away(self._listener)

    def _pause(self, limit: float) -> None:
        waits.wait_for(self.bell.fileno(), write=False, timeout=limit)
