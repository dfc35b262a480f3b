"""The listening sockets, their acceptors, and the thread that watches over both.

Opening, suspending and resuming happen on the thread that asks for it; the listener's
own thread restarts acceptors that have died and is the scheduler's stall watch.
Acceptors are woken by a bell they poll beside the listener, never by `shutdown` on it:
that would end it for every process that shares it.
"""

from __future__ import annotations

import logging
import select
import threading
import time
from collections.abc import Callable
from typing import Any

from . import _addresses, _alarm, _waits
from ._accept_turns import SharedBell, Turn
from ._acceptor import Acceptor
from ._alarm import Alarm, alarm_if_there_is_one
from ._clock import now, wait_time
from ._door import Door
from ._intake import Intake
from ._listen_errors import listen_error
from ._locks import lock
from ._poller import WakeUp
from ._scheduler import Scheduler
from .errors import ThousandIslandError
from .transports._base import ListenSocket, Transport

#: Acceptors that die are started again, but not more often than this, within so many seconds.
_RESTARTS, _RESTARTS_WITHIN_S = 100, 60.0
#: Seconds until that is tried again where no thread could be started.
_RETRY_S = 0.1

_log = logging.getLogger("thousand_island_sync")


class Listener:
    """One run's listening side.

    Args:
        count: listening sockets to open.
        num_acceptors: threads that accept, shared out over them.
        name: prefix of the threads' names.
        blocked: threads that wait for the caller, and so must not be waited for.
    """

    def __init__(
        self, *, count: int, num_acceptors: int, name: str, blocked: Callable[[], set[int]]
    ) -> None:
        self._count = count
        self._num_acceptors = num_acceptors
        self._name = name
        self._blocked = blocked
        self._sockets: list[ListenSocket] = []
        self._acceptors: list[Acceptor] = []
        self._threads: dict[Acceptor, threading.Thread] = {}
        self._restarts = 0
        self._restarts_since = now()
        self._dead: list[Acceptor] = []
        self._acceptors_bell: SharedBell | None = None
        self._lock = lock("listener")  # guards the acceptors
        self._bell = WakeUp()
        self._alarm: Alarm | None = None
        self._doors: list[Door] = []
        self._over = False
        self._thread: threading.Thread | None = None
        self.address: Any = None
        self.intake: Intake
        self.scheduler: Scheduler

    # ---- opening and closing --------------------------------------------------

    def open(self, transport: Transport, port: int) -> None:
        """Binds and listens; nothing is left behind if that fails.

        Raises:
            ListenError: the address cannot be had.
        """
        try:
            self._sockets = transport.listen(port, self._count)
        except OSError as error:
            raise listen_error(error, transport.options.get("host", ""), port) from error
        self.address = _addresses.pair(self._sockets[0].address)

    def start_acceptors(self) -> None:
        """Raises RuntimeError: no thread can be started."""
        bell = self._acceptors_bell = SharedBell()
        turns = [Turn() for _ in self._sockets]
        # Where threads do run at once, a pool of several has better things to do.
        self._doors = [] if turns[0].shared else [Door(s, self.intake) for s in self._sockets]
        for index in range(self._num_acceptors):
            which = index % len(self._sockets)
            acceptor = Acceptor(
                index + 1,
                self._sockets[which],
                self.intake,
                bell,
                turns[which],
                self._doors[which] if self._doors else None,
            )
            with self._lock:
                self._acceptors.append(acceptor)
            self._start_acceptor(acceptor)

    def _start_acceptor(self, acceptor: Acceptor) -> None:
        thread = threading.Thread(
            target=self._run_acceptor,
            args=(acceptor,),
            name=f"{self._name}-acceptor-{acceptor.number}",
            daemon=True,
        )
        bells = [acceptor.bell, *([acceptor.door.gate] if acceptor.door else [])]
        for bell in bells:
            bell.hold()
        with self._lock:
            self._threads[acceptor] = thread
        try:
            thread.start()
        except BaseException:
            for bell in bells:
                bell.release()
            raise

    def _run_acceptor(self, acceptor: Acceptor) -> None:
        try:
            acceptor.run()
        except BaseException as error:
            _log.exception("an acceptor died and is started again")
            self.intake.tell_accept_error(error, acceptor.number)
            # By name: its thread may look alive to whoever the bell wakes.
            with self._lock:
                self._dead.append(acceptor)
            self._bell.ring()
        finally:
            acceptor.bell.release()
            if acceptor.door is not None:
                acceptor.door.gate.release()

    def close(self, reason: str, deadline: float) -> None:
        """Stops accepting: acceptors end, the backlog is drained, the sockets close.

        Args:
            reason: what `acceptor.shutdown` tells.
            deadline: when to stop waiting for acceptors; one that is in a receiver
                touches the listening socket no more.
        """
        with self._lock:
            acceptors, self._acceptors = self._acceptors, []
        for acceptor in acceptors:
            acceptor.reason = reason
            acceptor.over = True
        bell, self._acceptors_bell = self._acceptors_bell, None
        if bell is not None:
            bell.ring()
        doors, self._doors = self._doors, []
        for door in doors:
            door.close(deadline)
        self.intake.registry.wake_all()
        for acceptor in acceptors:
            self._join(self._threads.pop(acceptor), deadline)
        for sock in self._sockets:
            sock.hide()
            if not sock.inherited:
                self.intake.drain(sock, self._backlog())
            sock.close()
        self._sockets = []
        self.address = None
        if bell is not None:
            bell.release()

    def _backlog(self) -> int:
        return int(self.intake.transport().options.get("backlog", 1024))

    def _join(self, thread: threading.Thread, deadline: float) -> None:
        """Waits for a thread's end; not for one that waits for us."""
        if thread is threading.current_thread() or thread.ident is None:
            return
        _waits.give_way()
        while thread.is_alive():
            left = deadline - now()
            if left <= 0 or thread.ident in self._blocked():
                return
            thread.join(min(left, 0.05))

    # ---- the listener's thread ------------------------------------------------

    def start_thread(self) -> None:
        """Raises RuntimeError: it cannot be started."""
        self._thread = threading.Thread(
            target=self._watch, name=f"{self._name}-listener", daemon=True
        )
        self._thread.start()

    def ring(self) -> None:
        """Wakes the listener's thread. Thread: any."""
        self._bell.ring()

    def stop_thread(self, deadline: float) -> None:
        self._over = True
        self._bell.ring()
        thread = self._thread
        if thread is None:
            self._bell.close()
        else:
            self._join(thread, deadline)

    def _watch(self) -> None:
        _waits.this_thread_is(_waits.OwnThread())
        self._alarm = alarm_if_there_is_one()
        self.scheduler.use_alarm(self._alarm)
        try:
            while not self._over:
                timeout = self.scheduler.tend()
                if not self.scheduler.attended():
                    for door in self._doors:
                        door.gate.ring()  # no thread of the pool sees to them
                if self._dead:
                    self._supervise()
                    if self._dead:
                        timeout = min(timeout, _RETRY_S)
                if timeout and not self._over:
                    self._wait(timeout)
            self.scheduler.tend()  # what is over now is told
        finally:
            self._bell.close()
            self.scheduler.use_alarm(None)
            if self._alarm is not None:
                self._alarm.close()

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
        self._bell.hush()
        if self._alarm is not None:
            self._alarm.hush()

    def _supervise(self) -> None:
        """Starts acceptors again that have died."""
        with self._lock:
            dead, self._dead = self._dead, []
        if now() - self._restarts_since > _RESTARTS_WITHIN_S:
            self._restarts, self._restarts_since = 0, now()
        for acceptor in dead:
            if acceptor.over or self._over:
                continue
            if self._restarts >= _RESTARTS:
                self._give_up(acceptor)
                continue
            self._restarts += 1
            try:
                self._start_acceptor(acceptor)
            except RuntimeError:  # no thread now; a later look tries again
                with self._lock:
                    self._dead.append(acceptor)

    def _give_up(self, acceptor: Acceptor) -> None:
        error = ThousandIslandError(
            f"acceptor {acceptor.number} is given up: acceptors died {_RESTARTS} times within"
            f" {_RESTARTS_WITHIN_S:g} s; what they died of was logged; suspend() and resume()"
            " start new ones"
        )
        _log.error("%s", error)
        self.intake.tell_accept_error(error, acceptor.number)
