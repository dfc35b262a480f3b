"""One run of a server, from a start to the stop that ends it, with everything that it opened.

A server that is started again gets a new run. So a thread that a stop had to leave behind
ends with the objects of its own run, and uses nothing of the next.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from .._base import reports
from .._base.clock import Times, now, now_ns
from .._base.listen_errors import listen_error, no_thread
from .._base.own_threads import Teller
from .._base.wake_up import WakeUp
from .._connection import drain
from .._connection.environment import Environment, Handlers
from .._connection.outflow import Outflow
from .._connection.states import ON_DRAIN, ON_STOP
from .._connection.task import ConnectionTask
from .._listener.acceptor_events import AcceptorEvents
from .._listener.acceptors import Acceptors
from .._listener.admission import Admission
from .._listener.connection_limit import ConnectionLimit
from .._listener.listener import Listener
from .._listener.listener_thread import ListenerThread
from .._scheduler.poller import Poller, new_poller
from .._scheduler.scheduler import Scheduler
from .._scheduler.worker import Running
from .._stream.unsent_total import UnsentTotal
from ..connection import Connection
from ..errors import ListenError
from ..handler import Handler
from ..transports.base import Transport
from . import accelerator, late_framing, orphans
from .config import Config
from .current_transport import CurrentTransport
from .run_events import ListenerEvents, PoolEvents
from .status import Load
from .stop import Stop

#: Seconds that suspending waits for acceptors that are no receiver's, and for receivers.
_ACCEPTORS_S, _RECEIVERS_S = 1.0, 0.1

#: As `ThousandIsland.info` has them, after the status.
Counts = tuple[
    Any, int, int, int, int, int, int, int, int, int | None, int | None, int, int, int, float
]
NOT_STARTED: Counts = (None, 0, 0, 0, 0, 0, 0, 0, 0, None, None, 0, 0, 0, 0.0)

accelerator.bind()
late_framing.put_in()


class Owner(Protocol):
    """Who has a run."""

    def blocked(self, ident: int) -> bool:
        """Whether a thread waits for a change of the server's state."""

    def finished(self, run: Run) -> None:
        """A stop has ended it."""


class _Census:
    """Keeps count of the connections of one run."""

    def __init__(self, limit: ConnectionLimit, admission: Callable[[], Admission]) -> None:
        self.opened, self.ended, self.probed = limit.opened, limit.ended, limit.count_probe
        self._admission = admission

    def refused(self, connection: ConnectionTask, error: BaseException, /) -> None:
        self._admission().refused(connection, error)


class Run:
    """Opened by `open`, ended by its `stop`.

    Args:
        server: the `ThousandIsland`, which the events name.
        config: its options.
        transport: has the transport for new connections.
        context: what callbacks and receivers of a stop run in copies of.
        owner: is told of its end.

    Attributes:
        limit: counts its connections.
        thread: the listener's.
        scheduler: runs them; there once it was opened, as is
        listener: gets them.
    """

    scheduler: Scheduler
    listener: Listener
    _env: Environment
    _admission: Admission

    def __init__(
        self,
        server: Any,
        config: Config,
        transport: CurrentTransport,
        context: contextvars.Context,
        owner: Owner,
    ) -> None:
        orphans.know(self)
        self._server = server
        self._config = config
        self._transport = transport
        self._context = context
        self._owner = owner
        self._began_ns = now_ns()
        self._tellers: list[Teller] = []  # of those who waited at a `suspend`
        self._interrupt: WakeUp | None = None
        self._poller: Poller | None = None
        self._threads_began = False
        self.thread = ListenerThread(config.name)
        self.events = ListenerEvents(server, transport)
        self._acceptor_events = AcceptorEvents(server)
        self._pool_events = PoolEvents(server, context, config.name)
        self.limit = ConnectionLimit(
            config.max_connections,
            config.max_connections_wait,
            self._acceptor_events.limit,
            config.times,
        )
        self.stop = Stop(self, lambda: owner.finished(self), owner.blocked)

    @property
    def name(self) -> str:
        """The server's."""
        return self._config.name

    @property
    def server(self) -> Any:
        """The `ThousandIsland`."""
        return self._server

    @property
    def times(self) -> Times:
        """What its connections go by."""
        return self._config.times

    @property
    def unsent(self) -> UnsentTotal:
        """What waits to be sent in its connections."""
        return self._env.unsent

    def serves(self, handler: Handler) -> bool:
        """Whether a connection of it may have that one. Thread: any."""
        env: Environment | None = getattr(self, "_env", None)
        return env is not None and env.handlers.may_make(handler)

    # ---- opening ------------------------------------------------------------------

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
        transport = self._transport.current
        with _listening(transport, port):
            try:
                self._open_descriptors()
                self.listener.open(transport, port)
                listening()
                self._threads_began = True
                with _threads("start"):
                    self.thread.start(self.scheduler, self.listener)
                    self.listener.start_acceptors()
            except BaseException:
                self.take_back()
                raise

    def take_back(self) -> None:
        """What a start has opened that failed, of which nobody is told."""
        if self._threads_began:
            self.stop.take_back()
            return
        listener: Listener | None = getattr(self, "listener", None)
        if listener is not None:
            listener.close_sockets()
        for opened in (self._poller, self._interrupt, self.thread):
            if opened is not None:
                opened.close()

    def _open_descriptors(self) -> None:
        self.thread.open()
        if self._config.interrupt_reads:
            self._interrupt = WakeUp()
        self._poller = new_poller()
        scheduler_cls: type[Scheduler] = Scheduler
        connection_cls: type[ConnectionTask] = ConnectionTask
        if reports.enabled():
            from .checked import CheckedConnection, CheckedScheduler

            scheduler_cls, connection_cls = CheckedScheduler, CheckedConnection
        self.scheduler = scheduler_cls(
            self._poller,
            max_threads=self._config.max_handler_threads,
            name=self.name,
            ring=self.thread.wake,
            saturation=self._pool_events.saturation,
        )
        self.listener = self._make_listener(connection_cls)

    def _make_listener(self, connection_cls: type[ConnectionTask]) -> Listener:
        config, limit, owner = self._config, self.limit, self._owner
        self._env = self._make_environment()
        self._admission = Admission(
            self._env, self._transport, connection_cls, limit, self.scheduler, self._acceptor_events
        )
        return Listener(
            config.num_listen_sockets,
            config.num_acceptors,
            Acceptors(self.name, owner.blocked, self.events.failed),
            self._admission,
            self.scheduler,
            self.name,
        )

    def _make_environment(self) -> Environment:
        config = self._config
        env = Environment(
            self._server,
            Handlers(config.handler_cls, config.handler_options, self._context),
            config.limits(),
            _Census(self.limit, lambda: self._admission),
            config.times.clock,
            None if self._interrupt is None else self._interrupt.fileno(),
        )
        env.go_by(config.times)
        env.pool = config.times.pool(self.scheduler)
        env.unsent.driver = Outflow(env.unsent, self.scheduler, now)
        env.reserve.everybody = self.scheduler.tasks
        env.reserve.start = self.scheduler.start
        return env

    # ---- suspending ---------------------------------------------------------------

    def listen_again(self, port: int) -> None:
        """After `close_listener`, which takes it back if it fails.

        Raises:
            ListenError: the address cannot be had, no descriptor, or no thread.

        Thread: one that was made for it.
        """
        transport = self._transport.current
        with _listening(transport, port):
            self.listener.open(transport, port)
            with _threads("resume"):
                self.listener.start_acceptors()

    def close_listener(self) -> None:
        """Suspends: those who waited in the backlog are told of on a thread of their own, which
        is waited for while that is a matter of a moment. Thread: one that was made for it."""
        backlog = self.listener.close("suspend", now() + _ACCEPTORS_S)
        if backlog:
            teller = Teller(backlog.settle, self._context.copy(), f"{self.name}-backlog", [])
            self._tellers.append(teller)
            teller.wait(now() + _RECEIVERS_S, self._owner.blocked)

    # ---- what it is doing -----------------------------------------------------------

    def counts(self) -> Counts:
        """Constant in time, but for a walk over the connections once a second at most."""
        limit, traffic = self.limit, self.limit.traffic
        traffic.look()
        return (
            self.listener.address,
            limit.active,
            limit.peak,
            limit.accepted,
            limit.rejected,
            *self.scheduler.counts(),
            limit.probes,
            *self.listener.backlog(),
            traffic.received,
            traffic.sent,
            len(self._env.handshaking),
            self.scheduler.oldest_wait() * 1000,
        )

    def load(self) -> Load:
        """What is left of the threads and of the connections. Quick, and never waits."""
        most = self._config.max_handler_threads
        free = max(0, most - self.scheduler.counts()[1])
        return Load(free, most, self.limit.is_reached)

    def handles(self) -> list[Connection]:
        """The open connections, as users have them."""
        return [one.handle for one in self.limit.snapshot() if isinstance(one, ConnectionTask)]

    # ---- for a drain ----------------------------------------------------------------

    def blocked(self, ident: int) -> bool:
        """Whether a thread waits for a change of the server's state."""
        return self._owner.blocked(ident)

    def begin_drain(self) -> None:
        """Connections whose handlers do something about it learn of it."""
        self._env.move(ON_DRAIN)
        by_class = self._env.handlers.drain
        told = [task for task in self.connections() if drain.begins(task, by_class)]
        if by_class:
            self.scheduler.make_all_ready()
        else:
            for task in told:
                self.scheduler.make_ready(task)

    def tell_drain(self, delay: float) -> None:
        """It is said where it listens, or did; `delay` in seconds."""
        self.events.drains(self.listener.listened, delay)

    def running(self) -> list[Running]:
        """What its pool's threads run at this moment. Thread: any."""
        return self.scheduler.running()

    # ---- for the stop ---------------------------------------------------------------

    def tell_shutdown(self, address: Any) -> None:
        """The stop has closed what listened there."""
        self.events.shut_down(address, self._began_ns)

    def has(self, task: object) -> bool:
        """Whether it is one of its connections."""
        return isinstance(task, ConnectionTask) and self.limit.knows(task)

    def connections(self) -> list[ConnectionTask]:
        """Those that its scheduler knows."""
        return [task for task in self.scheduler.tasks() if isinstance(task, ConnectionTask)]

    def end_connections(self) -> None:
        """They learn of the stop, and end when they can; reads that wait are interrupted, where
        that was asked for."""
        self._env.move(ON_STOP)
        if self._interrupt is not None:
            self._interrupt.wake()
        self._env.unsent.stop_begins()
        for task in self.scheduler.tasks():
            task.stop_begins()
        self.scheduler.make_all_ready()

    def all_told(self, until: float) -> bool:
        """Whether every event has been sent, but for those that the caller is to send; see
        `Teller.wait`."""
        blocked = self._owner.blocked
        told = [teller.wait(until, blocked) for teller in self._tellers]
        return self._pool_events.wait(until, blocked) and all(told)

    def close_outflow(self) -> None:
        """Nothing waits to go out any more, but what is lost."""
        env: Environment | None = getattr(self, "_env", None)
        if env is not None:
            env.unsent.driver.close()

    def close_descriptors(self) -> None:
        """What no thread needs any more."""
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
