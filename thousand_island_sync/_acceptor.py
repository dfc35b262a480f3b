"""Acceptor threads: wait for a client, find it a place, hand it to the scheduler.

Nothing here ends an acceptor but its bell. EINVAL from accept(2) means that the
listener was shut down, or that the client has already gone; so no errno decides. An
error that concerns one client is reported and forgotten. Where the machine is out of
something (EMFILE, ENFILE, ENOBUFS, ENOMEM) the next attempt would fail as well: the
waiting client is turned away with a descriptor kept spare for that, and all acceptors
pause.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from . import _addresses, _waits, events
from ._accept_turns import ClientWait, SharedBell, Turn
from ._clock import now, now_ns
from ._connection import Lifecycle
from ._environment import Environment
from ._registry import Registry, Room
from ._scheduler import Scheduler
from .errors import ConnectionOverflow
from .transports._base import ListenSocket, Transport

_LINUX = sys.platform.startswith("linux")
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
#: Seconds that acceptors pause when the machine is out of something.
_PAUSE_S = 0.1
#: That many failures in a row, and every further one is followed by a pause.
_FAILURES_IN_A_ROW = 10


class Intake:
    """What the acceptors of one run share."""

    def __init__(
        self,
        *,
        server: Any,
        env: Environment,
        registry: Registry,
        scheduler: Scheduler,
        transport: Callable[[], Transport],
        patience: float,
        connection_cls: type[Lifecycle],
    ) -> None:
        self.server = server
        self.env = env
        self.registry = registry
        self.scheduler = scheduler
        self.transport = transport
        self.patience = patience
        self._connection_cls = connection_cls
        self._spare_lock = threading.Lock()
        self._spare: int | None = None
        self.paused_until = 0.0
        self.keep_spare()

    def keep_spare(self) -> None:
        with self._spare_lock:
            if self._spare is None:
                try:
                    self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
                except OSError:
                    pass  # the next time

    def drop_spare(self) -> None:
        with self._spare_lock:
            if self._spare is not None:
                os.close(self._spare)
                self._spare = None

    def turn_one_away(self, listener: socket.socket) -> None:
        """Out of descriptors: the spare one's place is enough to accept and close."""
        self.keep_spare()  # another thread may have taken its place the last time
        with self._spare_lock:
            if self._spare is None:
                return
            os.close(self._spare)
            self._spare = None
            try:
                listener.accept()[0].close()
            except OSError:
                pass
        self.keep_spare()

    def spawn(self, acceptor_id: int, sock: socket.socket, address: Any, waited_ns: int) -> None:
        """An accepted client, for whom a place was reserved, becomes a connection."""
        started = now_ns()
        if not _LINUX or sock.gettimeout() is not None:  # socket.setdefaulttimeout
            sock.settimeout(None)
        self.registry.admit(acceptor_id)
        connection = self._connection_cls(self.env, self.transport(), sock, address, acceptor_id)
        worker = _waits.current_worker()
        if isinstance(worker, Spawner):
            worker.task = connection
        try:
            if events.acceptor_accept.receivers:
                host, port = _addresses.remote(address)
                events.emit(
                    events.acceptor_accept,
                    self.server,
                    {"wait_time_ns": waited_ns, "startup_time_ns": now_ns() - started},
                    {
                        "acceptor_id": acceptor_id,
                        "connection_id": connection.id,
                        "remote_address": host,
                        "remote_port": port,
                    },
                )
            self.scheduler.add(connection)
        except Exception as error:
            sock.close()
            self.tell_spawn_error(error, acceptor_id, address)
            self.registry.refused(connection)
        finally:
            if isinstance(worker, Spawner):
                worker.task = None

    def turn_all_away(self, acceptor_id: int, listener: socket.socket) -> None:
        """At the limit, and those who wait have waited long enough. For who comes while
        this goes on there may be room again."""
        while True:
            try:
                sock, address = listener.accept()
            except OSError:
                return  # as a rule: nobody waits any more
            if self.registry.reserve():
                self.spawn(acceptor_id, sock, address, 0)
                continue
            sock.close()
            self.registry.count_rejected()
            error = ConnectionOverflow(
                f"{_addresses.show(address)} was refused: max_connections are open; raise it,"
                " or max_connections_wait_ms"
            )
            self.tell_spawn_error(error, acceptor_id, address)

    def tell_spawn_error(self, error: BaseException, acceptor_id: int, address: Any) -> None:
        if events.acceptor_spawn_error.receivers:
            host, port = _addresses.remote(address)
            events.emit(
                events.acceptor_spawn_error,
                self.server,
                {"error": error},
                {"acceptor_id": acceptor_id, "remote_address": host, "remote_port": port},
            )

    def tell_accept_error(self, error: BaseException, acceptor_id: int) -> None:
        if events.acceptor_accept_error.receivers:
            events.emit(
                events.acceptor_accept_error,
                self.server,
                {"error": error},
                {"acceptor_id": acceptor_id},
            )

    def drain(self, listener: ListenSocket, most: int) -> None:
        """Before a listener closes: accepts what already waits in its backlog, once."""
        for _ in range(most):
            if not self.registry.reserve():
                self.turn_all_away(0, listener.socket)
                return
            try:
                sock, address = listener.socket.accept()
            except OSError:
                self.registry.cancel()
                return
            self.spawn(0, sock, address, 0)


class Spawner:
    """An acceptor's thread, as `_waits` sees it: a stop that a receiver calls from there
    must not wait for the connection that is just being made."""

    permit = False
    waited = False
    task: object = None

    def give_way(self) -> None:
        pass


def _somebody_listens() -> bool:
    """Whether making a connection may call a receiver."""
    return bool(
        events.acceptor_accept.receivers
        or events.acceptor_limit_reached.receivers
        or events.acceptor_spawn_error.receivers
    )


class Acceptor:
    """One acceptor; `run` is its thread's."""

    def __init__(
        self,
        number: int,
        listener: ListenSocket,
        intake: Intake,
        bell: SharedBell,
        turn: Turn,
    ) -> None:
        self._turn = turn
        self.number = number
        self._listener = listener.socket
        self._intake = intake
        self.bell = bell
        self.over = False
        self.reason = "shutdown"
        self._accepted = 0
        self._failures = 0

    def run(self) -> None:
        """Thread: the acceptor's own."""
        server, started = self._intake.server, now_ns()
        _waits.this_thread_is(Spawner())
        self._tell(events.acceptor_start, server, {})
        try:
            if not self.over:
                self._accept_clients()
        finally:
            self._tell(
                events.acceptor_shutdown,
                server,
                {"duration_ns": now_ns() - started, "accepted": self._accepted},
                {"reason": self.reason},
            )

    def _accept_clients(self) -> None:
        turn = self._turn
        with ClientWait(self._listener, self.bell, exclusive=turn.shared) as clients, turn:
            while not self.over:
                asked = now_ns()
                clients.wait()
                if not self.over and self._may_accept():
                    self._accept(asked)

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
        intake = self._intake
        pause = intake.paused_until - now()
        if pause <= 0 and intake.registry.reserve():
            return True
        with self._turn.given_away():
            return self._find_room(pause)

    def _find_room(self, pause: float) -> bool:
        intake = self._intake
        if pause > 0:
            self._pause(pause)
            return False
        room = intake.registry.wait_for_room(intake.patience, lambda: self.over)
        if room is Room.FREE:
            return intake.registry.reserve()
        if room is Room.NONE:
            intake.turn_all_away(self.number, self._listener)
            intake.registry.overflow_over()
        return False

    def _accept(self, asked: int) -> None:
        intake = self._intake
        try:
            sock, address = self._listener.accept()
        except BlockingIOError:  # another acceptor was quicker
            intake.registry.cancel()
            return
        except OSError as error:
            intake.registry.cancel()
            with self._turn.given_away():
                self._failed(error)
            return
        except BaseException:
            intake.registry.cancel()
            raise
        self._failures = 0
        self._accepted += 1
        waited = now_ns() - asked
        if not _somebody_listens():
            intake.spawn(self.number, sock, address, waited)
            return
        with self._turn.given_away():
            intake.spawn(self.number, sock, address, waited)

    def _failed(self, error: OSError) -> None:
        if self.over:
            return
        intake = self._intake
        intake.tell_accept_error(error, self.number)
        self._failures += 1
        if error.errno in _EXHAUSTED:
            intake.turn_one_away(self._listener)
            intake.paused_until = now() + _PAUSE_S
            self._pause(_PAUSE_S)
        elif self._failures > _FAILURES_IN_A_ROW:
            self._pause(_PAUSE_S)

    def _pause(self, limit: float) -> None:
        _waits.wait_for(self.bell.fileno(), write=False, timeout=limit)
