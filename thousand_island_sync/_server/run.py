"""One run of a server, from a start to the stop that ends it: everything it opened.

A server that is started again gets a new one, so a thread that a stop had to leave
behind finishes with what it knew and touches nothing of the next run.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

from .. import events
from .._base import reports
from .._base.clock import now, now_ns
from .._base.listen_errors import listen_error, no_thread
from .._base.own_threads import Teller
from .._base.wake_up import WakeUp
from .._connection.connection import Lifecycle
from .._connection.environment import Environment
from .._listener.admission import Admission
from .._listener.connection_limit import ConnectionLimit
from .._listener.listener import Listener
from .._scheduler.poller import Poller, new_poller
from .._scheduler.scheduler import Scheduler
from .._telemetry.in_order import InOrder
from ..errors import ListenError, ThousandIslandError
from ..transports.base import Transport
from . import checked as _checked
from . import orphans, twins
from .config import Config
from .stop import Stop

#: Seconds that suspending waits for acceptors that are no receiver's, and for receivers.
_ACCEPTORS_S, _RECEIVERS_S = 1.0, 0.1

twins.put_in()


class Run:
    """Opened by `open`, ended by its `stop`.

    Args:
        server: the `ThousandIsland`, which the events name.
        config: its options.
        transport: gives the transport for new connections.
        blocked: whether a thread waits for a change of the server's state.
        context: what callbacks and receivers of a stop run in copies of.
        finished: called when a stop has ended it.
    """

    def __init__(
        self,
        server: Any,
        config: Config,
        transport: Callable[[], Transport],
        *,
        blocked: Callable[[int], bool],
        context: contextvars.Context,
        finished: Callable[[Run], None],
    ) -> None:
        orphans.know(self)
        self._server = server
        self._config = config
        self._transport = transport
        self._blocked = blocked
        self._context = context
        self.tellers: list[Teller] = []  # of those who waited at a `suspend`
        self._started_ns = now_ns()
        self.name = config.name
        self.saturation = InOrder(self._tell_saturation, context, f"{config.name}-events")
        self.listener = Listener(
            count=config.num_listen_sockets,
            num_acceptors=config.num_acceptors,
            name=config.name,
            blocked=blocked,
            nobody=self._tell_nobody,
        )
        self.limit = ConnectionLimit(config.max_connections, self._tell_limit)
        self._interrupt: WakeUp | None = None
        self._poller: Poller | None = None
        self._threads_began = False
        self.scheduler: Scheduler
        self.stop = Stop(self, lambda: finished(self), blocked)

    def open(self, port: int, listening: Callable[[], None]) -> None:
        """Listens and starts the threads; whatever fails, nothing is left behind.

        Args:
            port: where.
            listening: called when it listens, before the first thread starts.

        Raises:
            ListenError: the address cannot be had, or no descriptor.
            ThousandIslandError: a thread cannot be started.

        Thread: one that was made for it.
        """
        transport = self._transport()
        with _listening(transport, port):
            try:
                self._open_descriptors(transport, port)
                listening()
                self._threads_began = True
                with _threads("start"):
                    self.listener.start_thread()
                    self.listener.start_acceptors()
            except BaseException:
                self.take_back()
                raise

    def _open_descriptors(self, transport: Transport, port: int) -> None:
        self.listener.open_bell()
        if self._config.interrupt_reads:
            self._interrupt = WakeUp()
        self.listener.open(transport, port)
        self._poller = new_poller()
        self._make_scheduler(transport, self._poller)
        self.listener.admission.keep_spare()

    def take_back(self) -> None:
        """What a start has opened that failed, of which nobody is told."""
        if self._threads_began:
            self.stop.take_back()
            return
        self.listener.close_sockets()
        if self._poller is not None:
            self._poller.close()
        if hasattr(self.listener, "admission"):
            self.listener.admission.drop_spare()
        if self._interrupt is not None:
            self._interrupt.close()
        self.listener.close_bell()

    def listen_again(self, port: int) -> None:
        """After `close_listener`, which takes it back if it fails.

        Raises:
            ListenError: the address cannot be had, no descriptor, or no thread.

        Thread: one that was made for it.
        """
        transport = self._transport()
        with _listening(transport, port):
            self.listener.open(transport, port)
            with _threads("resume"):
                self.listener.start_acceptors()

    def close_listener(self) -> None:
        """Suspends: those who waited in the backlog are told of on a thread of their own, which
        is waited for while that is a matter of a moment. Thread: one that was made for it."""
        crowd = self.listener.close("suspend", now() + _ACCEPTORS_S)
        if crowd:
            teller = Teller(crowd.settle, self._context.copy(), f"{self.name}-backlog", [])
            self.tellers.append(teller)
            teller.wait(now() + _RECEIVERS_S, self._blocked)

    def _make_scheduler(self, transport: Transport, poller: Poller) -> None:
        config = self._config
        checked = reports.enabled()
        self.scheduler = (_checked.CheckedScheduler if checked else Scheduler)(
            poller,
            max_threads=config.max_handler_threads,
            name=config.name,
            ring=self.listener.ring,
            saturation=self._saturation,
        )
        env = self.env = Environment(
            server=self._server,
            handler_cls=config.handler_cls,
            handler_options=config.handler_options,
            context=self._context,
            read_timeout=config.read_timeout,
            send_timeout=config.send_timeout,
            handshake_timeout=config.handshake_timeout,
            max_pending=config.max_pending_messages,
            max_unread=config.max_unread,
            clock=now,
            opened=self.limit.opened,
            ended=self.limit.ended,
            refused=self._refused,
            probed=self.limit.count_probe,
            interrupt=None if self._interrupt is None else self._interrupt.fileno(),
        )
        env.pool = self.scheduler
        self.listener.scheduler = self.scheduler
        self.listener.admission = Admission(
            server=self._server,
            env=env,
            limit=self.limit,
            scheduler=self.scheduler,
            transport=self._transport,
            patience=config.max_connections_wait,
            connection_cls=_checked.CheckedConnection if checked else Lifecycle,
        )

    # ---- events ---------------------------------------------------------------

    def _refused(self, connection: Lifecycle, error: BaseException) -> None:
        self.listener.admission.tell_spawn_error(
            error, connection.acceptor_id, connection.peer_address
        )
        self.limit.refused(connection)

    def _tell_limit(self, reached: bool, active: int, acceptor_id: int) -> None:
        signal = events.acceptor_limit_reached if reached else events.acceptor_limit_cleared
        if signal.receivers:
            events.emit(
                signal, self._server, {"active_connections": active}, {"acceptor_id": acceptor_id}
            )

    def _saturation(self, saturated: bool, busy: int, waiting: int) -> None:
        if (events.pool_saturated if saturated else events.pool_relieved).receivers:
            self.saturation.tell(saturated, busy, waiting)

    def _tell_saturation(self, saturated: bool, busy: int, waiting: int) -> None:
        signal = events.pool_saturated if saturated else events.pool_relieved
        if signal.receivers:
            measurements = {"busy_threads": busy, "waiting_connections": waiting}
            events.emit(signal, self._server, measurements, {})

    def _tell_nobody(self, error: ThousandIslandError) -> None:
        if events.listener_error.receivers:
            transport = self._transport()
            events.emit(
                events.listener_error,
                self._server,
                {"error": error},
                {"transport_cls": type(transport), "transport_options": transport.redacted()},
            )

    def tell_shutdown(self, address: Any) -> None:
        self.tell_listener(
            events.listener_shutdown, address, {"duration_ns": now_ns() - self._started_ns}
        )

    def tell_listener(self, signal: Any, address: Any, measurements: dict[str, Any]) -> None:
        if signal.receivers:
            events.emit(signal, self._server, measurements, {"local_address": address})

    # ---- for the stop ---------------------------------------------------------

    def ring_interrupt(self) -> None:
        """Reads that wait are interrupted, where that was asked for."""
        if self._interrupt is not None:
            self._interrupt.wake()

    def close_descriptors(self) -> None:
        """What no thread needs any more."""
        self.listener.admission.drop_spare()
        if self._interrupt is not None and self.limit.active == 0:
            self._interrupt.close()


@contextlib.contextmanager
def _listening(transport: Transport, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, ListenError):
            raise
        raise listen_error(error, transport.options.get("host", ""), port) from error


@contextlib.contextmanager
def _threads(what: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise no_thread(what, error) from error
