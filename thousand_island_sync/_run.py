"""One run of a server, from a start to the stop that ends it: everything it opened.

A server that is started again gets a new one, so a thread that a stop had to leave
behind finishes with what it knew and touches nothing of the next run.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Any

from . import _checked, _locks, _reports, _twins, _waits, events
from ._clock import FOREVER, now, now_ns
from ._config import Config
from ._connection import Lifecycle
from ._environment import Environment
from ._intake import Intake
from ._listener import Listener
from ._poller import WakeUp, new_poller
from ._registry import Registry
from ._scheduler import Scheduler
from .transports._base import Transport

_twins.put_in()

#: What a stop may take beyond its timeout, for cutting and joining.
_GRACE_S = 0.4


class Run:
    """Opened by `open`, ended by `stop`.

    Args:
        server: the `ThousandIsland`, which the events name.
        config: its options.
        transport: gives the transport for new connections.
        blocked: threads that wait for a change of the server's state.
    """

    def __init__(
        self,
        server: Any,
        config: Config,
        transport: Callable[[], Transport],
        blocked: Callable[[], set[int]],
    ) -> None:
        self._server = server
        self._config = config
        self._transport = transport
        self._started_ns = now_ns()
        self.listener = Listener(
            count=config.num_listen_sockets,
            num_acceptors=config.num_acceptors,
            name=config.name,
            blocked=lambda: blocked() | self._in_stop.keys(),
        )
        self.registry = Registry(config.max_connections, self._tell_limit)
        self._interrupt = WakeUp() if config.interrupt_reads else None
        self._stop_lock = _locks.lock("run.stop")
        self._begun = False
        self._stopper = 0  # the thread that does it
        self._in_stop: dict[int, None] = {}  # threads that wait for it to be done
        self._deadline = FOREVER  # of the stop, on the monotonic clock
        self._callers: set[int] = set()  # connections whose callbacks are in a stop
        self._over = threading.Event()
        self._all_ended = True
        self.scheduler: Scheduler

    def open(self, port: int) -> None:
        """Listens and starts the threads; whatever fails, nothing is left behind.

        Raises:
            ListenError: the address cannot be had.
            RuntimeError: a thread cannot be started.
        """
        listener = self.listener
        transport = self._transport()
        try:
            listener.open(transport, port)
        except BaseException:
            listener.stop_thread(0)
            self._close_interrupt()
            raise
        self._make_scheduler(transport)
        try:
            listener.start_thread()
            listener.start_acceptors()
        except BaseException:
            deadline = now() + _GRACE_S
            listener.close("shutdown", deadline)
            self.scheduler.close()
            listener.stop_thread(deadline)
            listener.intake.drop_spare()
            self._close_interrupt()
            raise

    def _make_scheduler(self, transport: Transport) -> None:
        config = self._config
        checked = _reports.enabled()
        self.scheduler = (_checked.CheckedScheduler if checked else Scheduler)(
            new_poller(),
            max_threads=config.max_handler_threads,
            name=config.name,
            ring=self.listener.ring,
            saturation=self._tell_saturation,
        )
        env = self.env = Environment(
            server=self._server,
            handler_cls=config.handler_cls,
            handler_options=config.handler_options,
            context=contextvars.copy_context(),
            read_timeout=config.read_timeout,
            send_timeout=config.send_timeout,
            handshake_timeout=config.handshake_timeout,
            max_pending=config.max_pending_messages,
            clock=now,
            opened=self.registry.opened,
            ended=self.registry.ended,
            refused=self._refused,
            probed=self.registry.count_probe,
            interrupt=None if self._interrupt is None else self._interrupt.fileno(),
        )
        env.pool = self.scheduler
        self.listener.scheduler = self.scheduler
        self.listener.intake = Intake(
            server=self._server,
            env=env,
            registry=self.registry,
            scheduler=self.scheduler,
            transport=self._transport,
            patience=config.max_connections_wait,
            connection_cls=_checked.CheckedConnection if checked else Lifecycle,
        )

    # ---- events ---------------------------------------------------------------

    def _refused(self, connection: Lifecycle, error: BaseException) -> None:
        self.listener.intake.tell_spawn_error(
            error, connection._acceptor_id, connection.peer_address
        )
        self.registry.refused(connection)

    def _tell_limit(self, reached: bool, active: int, acceptor_id: int) -> None:
        signal = events.acceptor_limit_reached if reached else events.acceptor_limit_cleared
        if signal.receivers:
            events.emit(
                signal, self._server, {"active_connections": active}, {"acceptor_id": acceptor_id}
            )

    def _tell_saturation(self, saturated: bool, busy: int, waiting: int) -> None:
        signal = events.pool_saturated if saturated else events.pool_relieved
        if signal.receivers:
            measurements = {"busy_threads": busy, "waiting_connections": waiting}
            events.emit(signal, self._server, measurements, {})

    # ---- the stop -------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether the stop is finished."""
        return self._over.is_set()

    def stop(self, timeout: float) -> bool:
        """Ends the run within `timeout` seconds and a grace; may be called again, by
        other threads and by callbacks. Whether every connection ended by itself.

        The caller's own connection, if it is a callback, is not waited for; nor is
        any other whose callback has called this.
        """
        caller, me = _waits.current_task(), threading.get_ident()
        deadline = now() + timeout
        with self._stop_lock:
            first, self._begun = not self._begun, True
            if first:
                self._stopper = me
            elif self._stopper == me:
                return True  # a receiver, called by the very stop that it asks for
            self._deadline = min(self._deadline, deadline)
            if isinstance(caller, Lifecycle) and caller.server is self._server:
                self._callers.add(id(caller))
        self.registry.wake_all()
        _waits.give_way()
        if first:
            try:
                self._end()
            finally:
                self._over.set()
            return self._all_ended
        left = deadline + _GRACE_S - now()
        self._in_stop[me] = None
        done = self._over.wait(None if left == FOREVER else max(0.0, left))
        self._in_stop.pop(me, None)
        with self._stop_lock:
            self._callers.discard(id(caller))
        return done and self._all_ended

    def _end(self) -> None:
        address = self.listener.address
        self.listener.close("shutdown", min(self._deadline, now() + 5) + 0.2)
        if address is not None:
            self.tell_listener(
                events.listener_shutdown, address, {"duration_ns": now_ns() - self._started_ns}
            )
        self.env.stopping = True
        if self._interrupt is not None:
            self._interrupt.ring()
        for task in self.scheduler.tasks():
            task.stop_begins()
        self.scheduler.make_all_ready()
        if not self._wait_for_connections():
            self._all_ended = False
            self._cut()
        threads = self.scheduler.threads()  # before the first of them leaves
        self.scheduler.close()
        self._join_pool(threads)
        self.listener.stop_thread(self._last_moment())
        self.listener.intake.drop_spare()
        if self.registry.active == 0:
            self._close_interrupt()

    def _last_moment(self) -> float:
        return (now() if self._deadline == FOREVER else self._deadline) + _GRACE_S

    def _excluded(self) -> int:
        with self._stop_lock:
            return len(self._callers)

    def _wait_for_connections(self) -> bool:
        """Waits for callbacks. In the second half of the time, extra threads run last
        callbacks that find every thread stuck."""
        began = now()
        while True:
            left = self._deadline - now()
            if self.registry.gone(self._excluded):
                return True
            if left <= 0:
                return False
            until_half = left - (now() - began)
            if until_half <= 0:
                self.scheduler.reinforce()
            step = min(left, max(until_half / 2, 0.02))
            self.registry.wait_for_change(self._excluded, step)

    def _cut(self) -> None:
        """Time is up: what is left loses its connection, and ends as soon as it can."""
        callers = self._callers
        for task in self.scheduler.tasks():
            if isinstance(task, Lifecycle) and id(task) not in callers:
                task.cut_off()
        until = self._deadline + _GRACE_S / 2
        while now() < until and not self.registry.gone(self._excluded):
            self.scheduler.reinforce()
            self.registry.wait_for_change(self._excluded, 0.02)

    def _join_pool(self, threads: list[threading.Thread]) -> None:
        """Waits for the pool's threads, but for those that run what is not waited for."""
        until = min(self._last_moment(), now() + 2)
        stuck = self.registry.active > 0
        current = threading.current_thread()
        for thread in threads:
            if thread is current:
                continue
            while thread.is_alive() and not stuck and now() < until:
                thread.join(min(0.05, max(0.0, until - now())))

    def _close_interrupt(self) -> None:
        if self._interrupt is not None:
            self._interrupt.close()

    def tell_listener(self, signal: Any, address: Any, measurements: dict[str, Any]) -> None:
        if signal.receivers:
            events.emit(signal, self._server, measurements, {"local_address": address})
