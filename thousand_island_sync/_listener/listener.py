"""The listening sockets, their acceptors, and the thread that watches over both.

Opening, suspending and resuming happen on the thread that asks for it; the listener's
own thread is the scheduler's stall watch, and looks whether all acceptors live.
Acceptors are woken by a bell they poll beside the listener, never by `shutdown` on it:
that would end it for every process that shares it.
"""

from __future__ import annotations

import errno
import select
import threading
import time
from collections.abc import Callable
from typing import Any

from .._base import addresses, waits
from .._base.clock import now, wait_time
from .._base.listen_errors import listen_error
from .._base.locks import lock
from .._base.supervised import Supervised, say
from .._base.wake_up import WakeUp
from .._scheduler import alarm as _alarm
from .._scheduler.alarm import Alarm, alarm_if_there_is_one
from .._scheduler.scheduler import Scheduler
from ..errors import ThousandIslandError
from ..transports.base import ListenSocket, Transport
from .accept_turns import SharedBell, Turn
from .acceptor import Acceptor
from .admission import Admission, Crowd
from .inline_accept import InlineAccept

#: Between two times that it is told that no acceptor serves, in seconds.
_TOLD_S = 60.0
#: Between two looks at whether all acceptors live, in seconds.
_LOOK_S = 1.0
#: Seconds that closing waits for acceptors that are in a receiver.
_RECEIVERS_S = 0.1


class Listener:
    """One run's listening side.

    Args:
        count: listening sockets to open.
        num_acceptors: threads that accept, shared out over them.
        name: prefix of the threads' names.
        blocked: whether a thread waits for the caller, and so must not be waited for.
        nobody: told when no acceptor serves any more; all are tried again.
    """

    def __init__(
        self,
        *,
        count: int,
        num_acceptors: int,
        name: str,
        blocked: Callable[[int], bool],
        nobody: Callable[[ThousandIslandError], None],
    ) -> None:
        self._count = count
        self._num_acceptors = num_acceptors
        self._name = name
        self._blocked = blocked
        self._sockets: list[ListenSocket] = []
        self._acceptors: list[Acceptor] = []
        self._threads: dict[Acceptor, Supervised] = {}
        self._leaving: list[tuple[Acceptor, Supervised | None]] = []
        self._crowd: Crowd | None = None  # of a `close` that is under way
        self._nobody = nobody
        self._told_at = -_TOLD_S
        self._acceptors_bell: SharedBell | None = None
        self._lock = lock("listener")  # guards the acceptors
        self._bell: WakeUp
        self._alarm: Alarm | None = None
        self._inline_accepts: list[InlineAccept] = []
        self._over = False
        self._watched_at = 0.0
        self._first = True  # the listener's thread has not begun anew
        self._thread: Supervised | None = None
        self.address: Any = None
        self.admission: Admission
        self.scheduler: Scheduler

    # ---- opening and closing --------------------------------------------------

    def open_bell(self) -> None:
        """Raises OSError: no descriptor is free."""
        self._bell = WakeUp()
        self._alarm = alarm_if_there_is_one()

    def close_bell(self) -> None:
        bell: WakeUp | None = getattr(self, "_bell", None)
        if bell is not None:
            bell.close()
        alarm = self._alarm
        if alarm is not None:
            alarm.close()  # before it is forgotten: where that is interrupted, this comes again
            self._alarm = None

    def open(self, transport: Transport, port: int) -> None:
        """Binds and listens; nothing is left behind if that fails.

        Raises:
            ListenError: the address cannot be had, or no descriptor.
        """
        try:
            self._sockets = transport.listen(port, self._count)
        except (UnicodeError, OverflowError) as error:  # no name that could resolve
            refused = OSError(errno.EINVAL, str(error))
            raise listen_error(refused, transport.options.get("host", ""), port) from error
        except OSError as error:
            raise listen_error(error, transport.options.get("host", ""), port) from error
        self.address = addresses.pair(self._sockets[0].address)

    def start_acceptors(self) -> None:
        """If it fails, `close` takes back what was done.

        Raises:
            RuntimeError: no thread can be started.
            OSError: no descriptor is free.
        """
        bell = self._acceptors_bell = SharedBell()
        turns = [Turn() for _ in self._sockets]
        # Where threads do run at once, a pool of several has better things to do.
        for sock in self._sockets if not turns[0].shared else ():
            self._inline_accepts.append(InlineAccept(sock, self.admission))
        for index in range(self._num_acceptors):
            which = index % len(self._sockets)
            acceptor = Acceptor(
                index + 1,
                self._sockets[which],
                self.admission,
                bell,
                turns[which],
                self._inline_accepts[which] if self._inline_accepts else None,
            )
            with self._lock:
                self._acceptors.append(acceptor)
            self._start_acceptor(acceptor)

    def _start_acceptor(self, acceptor: Acceptor) -> None:
        thread = Supervised(
            lambda: self._run_acceptor(acceptor),
            f"{self._name}-acceptor-{acceptor.number}",
            lambda error: acceptor.died(error, self._one_less),
        )
        try:
            for bell in acceptor.bells():
                bell.hold(acceptor)
            with self._lock:
                self._threads[acceptor] = thread
            thread.start()
        except BaseException:
            if thread.ident is None:  # it was not that it had been started
                self._let_go(acceptor)
                with self._lock:
                    self._threads.pop(acceptor, None)
            raise

    def _let_go(self, acceptor: Acceptor) -> None:
        for bell in acceptor.bells():
            bell.release(acceptor)

    def _run_acceptor(self, acceptor: Acceptor) -> None:
        acceptor.run()
        acceptor.gone.open()
        self._let_go(acceptor)

    def close(self, reason: str, deadline: float) -> Crowd:
        """Stops accepting: acceptors end, the backlog is taken in, the sockets close. Calls
        nothing of the user's. What was broken off is finished by the next call.

        Args:
            reason: what `acceptor.shutdown` tells.
            deadline: when to stop waiting for acceptors; one that is in a receiver touches the
                listening socket no more, and is waited for hardly at all.

        Returns:
            Who waited in the backlog, to be settled.
        """
        with self._lock:
            acceptors = list(self._acceptors)
        for acceptor in acceptors:
            acceptor.end(reason)
        if self._acceptors_bell is not None:
            self._acceptors_bell.wake()
        for inline in self._inline_accepts:
            inline.close(deadline)
        self.admission.limit.wake_all()
        self._wait_for_release(acceptors, deadline)
        crowd = self._crowd = self._crowd or Crowd(self.admission, 0)
        for sock in list(self._sockets):
            sock.hide()
            if not sock.inherited:
                self.admission.take_backlog(sock, self._backlog(), crowd)
            sock.close()
            self._sockets.remove(sock)
        self.address = None
        self._inline_accepts.clear()
        with self._lock:
            gone, self._acceptors = self._acceptors, []
            self._leaving += [(one, self._threads.pop(one, None)) for one in gone]
        self._forget_the_gone()
        bell, self._acceptors_bell = self._acceptors_bell, None
        if bell is not None:
            bell.release()
        self._crowd = None
        return crowd

    def close_sockets(self) -> None:
        """Where no acceptor has begun."""
        while self._sockets:
            self._sockets.pop().close()
        self.address = None

    def _wait_for_release(self, acceptors: list[Acceptor], deadline: float) -> None:
        """Until none touches the listening sockets any more, and, as long as that is a matter of
        a moment, until they have ended."""
        for acceptor in acceptors:
            acceptor.released.wait(deadline - now())
        deadline = min(deadline, now() + _RECEIVERS_S)
        for acceptor in acceptors:
            thread = self._threads.get(acceptor)
            if thread is not None and thread.is_alive() and not self._waits_for_us(thread):
                acceptor.gone.wait(deadline - now())

    def acceptors_gone(self, until: float) -> bool:
        """Whether all that were closed have ended, but for those that wait for the caller."""
        everybody = True
        for _, thread in self._leaving:
            gone = thread is None or self._join(thread, until)
            everybody = gone and everybody
        self._forget_the_gone()
        return everybody

    def _forget_the_gone(self) -> None:
        for acceptor, thread in list(self._leaving):
            if thread is None or not thread.is_alive():
                self._let_go(acceptor)
                self._leaving.remove((acceptor, thread))

    def _backlog(self) -> int:
        return int(self.admission.transport().options.get("backlog", 1024))

    def _waits_for_us(self, thread: Supervised) -> bool:
        ident = thread.ident
        return ident == threading.get_ident() or self._blocked(ident or 0)

    def _join(self, thread: Supervised, deadline: float) -> bool:
        """Waits for a thread's end; not for one that waits for us. `False`: it has not ended."""
        while thread.is_alive() and not self._waits_for_us(thread):
            left = deadline - now()
            if left <= 0:
                return False
            thread.join(min(left, 0.05))
        return True

    # ---- the listener's thread ------------------------------------------------

    def start_thread(self) -> None:
        """Raises RuntimeError: it cannot be started."""
        thread = Supervised(self._watch, f"{self._name}-listener")
        thread.start()
        self._thread = thread

    def ring(self) -> None:
        """Wakes the listener's thread. Thread: any."""
        self._bell.wake()
        if self._thread is not None:
            self._thread.ensure()

    def stop_thread(self, deadline: float) -> bool:
        """`False`: it has not ended in time."""
        self._over = True
        thread = self._thread
        if thread is None:
            self.close_bell()
            return True
        self._bell.wake()
        return self._join(thread, deadline)

    def _watch(self) -> None:
        waits.this_thread_is(waits.OwnThread())
        self.scheduler.use_alarm(self._alarm)
        if not self._first:
            self.scheduler.interrupted()
        self._first = False
        try:
            while not self._over:
                timeout = self.scheduler.tend()
                if not self.scheduler.attended():
                    for inline in self._inline_accepts:
                        inline.gate.wake()  # no thread of the pool sees to them
                self._look_at_acceptors()
                if timeout and not self._over:
                    self._wait(timeout)
        finally:
            self.scheduler.use_alarm(None)  # who begins next rings instead
        self.scheduler.tend()  # what is over now is told
        self.close_bell()

    def _look_at_acceptors(self) -> None:
        """Once in a while, when it is awake."""
        if now() < self._watched_at + _LOOK_S:
            return
        self._watched_at = now()
        for thread in list(self._threads.values()):
            thread.ensure()

    def _wait(self, timeout: float) -> None:
        stand_in = self.scheduler.stand_in_fileno()
        if timeout <= _alarm.CALM_TICK and stand_in is None:
            # Ticking: the bell can wait for a tick, and sleeping is one call.
            time.sleep(timeout)
            return
        poller = select.poll()
        poller.register(self._bell.fileno(), select.POLLIN)
        if self._alarm is not None:
            poller.register(self._alarm.fileno(), select.POLLIN)
        if stand_in is not None:
            poller.register(stand_in, select.POLLIN)
        most = wait_time(timeout)
        poller.poll(None if most is None else most * 1000)
        self._bell.clear()
        if self._alarm is not None:
            self._alarm.hush()

    def _one_less(self) -> None:
        """An acceptor does not serve for a while. Thread: its own."""
        if self.serves() or now() < self._told_at + _TOLD_S:
            return
        self._told_at = now()
        error = ThousandIslandError(
            "no acceptor serves: each died again and again, of what was logged, so nobody is"
            " accepted; all are tried again every few seconds"
        )
        say(str(error), None)
        self._nobody(error)

    def serves(self) -> bool:
        """Whether an acceptor is there that does not just die again and again. Thread: any."""
        return any(acceptor.serves() for acceptor in list(self._acceptors))
