"""From an accepted socket to a connection that may exchange bytes: a channel is made, and its
handshake done; later perhaps those of another transport."""

from __future__ import annotations

from typing import Any, Protocol

from .. import events
from .._base import locks
from .._scheduler.task import AGAIN, PARK
from .._stream.duplex import Duplex
from .._stream.opening import open_stream
from .._stream.states import CLOSED_HERE, ON_BARRIER
from ..errors import HandlerResultError, HandshakeError, SocketError
from ..events import By
from ..handler import SwitchTransport
from ..socket import Socket
from ..transports.base import WRITE, Channel, EndedInSilence, Transport
from .callbacks import Callbacks, End
from .closing import Closing
from .served import Served
from .states import BY_PEER, BY_SHUTDOWN, CLOSED, HANDSHAKING, STOPPING, Cause, State

#: Seconds between two checks whether an upgrade may begin, as no event tells that.
_LOOK_S = 0.02


class Steps(Protocol):
    """What a handshake tells the machine that it belongs to."""

    handshake: Handshake | None
    short_proves: bool
    socket: Socket
    state: State
    stream: Duplex

    @property
    def callbacks(self) -> Callbacks: ...
    def use(self, channel: Channel) -> None: ...
    def call_then_receive(self, name: str) -> int: ...
    def over(self) -> int: ...
    def finish(self, cause: Cause, reason: Any = None, told: By | None = None) -> int: ...


class Handshake:
    """The handshake of a connection that waits for its peer. Thread: its owner's.

    Args:
        whose: the connection's.
        machine: the same.
        began: when, in real time.
    """

    __slots__ = ("_began", "_dropped", "_machine", "_next", "_switch", "_whose")

    def __init__(self, whose: Served, machine: Steps, began: float) -> None:
        self._whose = whose
        self._machine = machine
        self._began = began
        self._switch: SwitchTransport | None = None  # if it is an upgrade: the callback's result
        self._next: Transport | None = None  # the new transport, until what waits is sent
        self._dropped = 0  # bytes that were received before the upgrade, and dropped

    @classmethod
    def begin(cls, whose: Served, machine: Steps, transport: Transport) -> int:
        """The first step of a connection: makes the handler, and begins the handshake. If that is
        done at once, as over TCP, no `Handshake` object is made. Only a connection that then
        waits goes into the poller: most short connections end in this step."""
        client, callbacks = whose.client, machine.callbacks
        env, sock = client.env, client.sock
        try:
            channel = transport.channel(sock)
            machine.stream = stream = open_stream(whose, sock, channel)
            machine.socket = Socket(stream, stream.reader, stream.writer)
            machine.use(channel)
            callbacks.make(env, stream.reader)
        except BaseException as error:
            locks.release_all()
            machine.state = CLOSED
            Closing(whose, machine.stream, machine, env).refuse(error)
            return machine.over()
        machine.state = HANDSHAKING
        opened = env.census.opened
        opened(whose)
        if events.handler_start.receivers:
            callbacks.tell_start()
        if machine.short_proves and not whose.alert and not events.socket_handshake.receivers:
            try:
                if channel.handshake():
                    clock = env.clock
                    callbacks.count_from(clock())
                    return machine.call_then_receive("handle_connection")
            except HandshakeError as error:
                return cls(whose, machine, env.times.real())._failed(error)
            made = machine.handshake = cls(whose, machine, env.times.real())
            verdict = made._wait(channel)
        else:
            made = machine.handshake = cls(whose, machine, env.times.real())
            verdict = made.step()
        if verdict == PARK and not whose.attached:
            try:
                env.pool.attach(whose)
            except OSError as error:
                return machine.finish(Cause.ERROR, no_room_error(client.peer_shown(), error))
        return verdict

    def step(self) -> int:
        """Goes as far as it can without waiting. Returns a verdict."""
        whose, machine = self._whose, self._machine
        if whose.alert:
            ending = whose.why_to_end()
            if ending is not None:
                return machine.finish(ending)
        if self._next is not None and self._switch is not None:
            verdict = self._wait_for_sends(self._next, self._switch)
            if verdict is not None:
                return verdict
        channel, callbacks = machine.stream.channel, machine.callbacks
        try:
            done = channel.handshake()
        except HandshakeError as error:
            return self._failed(error)
        if not done:
            return self._wait(channel)
        whose.wants_write = False
        whose.env.handshaking.discard(whose)
        buffer = machine.stream.writer.buffer
        if buffer is not None:
            buffer.settle()  # for bytes that were sent meanwhile
        if events.socket_handshake.receivers:
            self._tell_done()
        if self._switch is None:
            callbacks.count_from(whose.env.clock())
            return machine.call_then_receive("handle_connection")
        callbacks.wait_after_upgrade(self._switch.timeout_ms)
        return machine.call_then_receive("handle_upgrade")

    def _wait(self, channel: Channel) -> int:
        whose, env = self._whose, self._whose.env
        if env.stage is STOPPING and not whose.client.is_young:
            return self._machine.finish(BY_SHUTDOWN)
        deadline = self._began + env.limits.handshake_timeout
        if env.times.real() >= deadline:
            limit = env.limits.handshake_timeout * 1000
            error = HandshakeError(
                f"the handshake with {whose.client.peer_shown()} was not finished within"
                f" {limit:g} ms (handshake_timeout_ms)"
            )
            return self._fails(error, Cause.TIMEOUT)
        env.handshaking.add(whose)
        whose.wants_write = channel.recv_wants == WRITE
        whose.deadline = (
            min(deadline, whose.client.young_until) if env.stage is STOPPING else deadline
        )
        return PARK

    # ---- an upgrade -----------------------------------------------------------------

    @classmethod
    def upgrade(cls, whose: Served, machine: Steps, switch: SwitchTransport) -> int:
        """Replaces the channel by the one that a callback asked for. Sends that are under way go
        first, in plaintext."""
        try:
            outcome = cls._of(whose, machine, switch)
        except Exception as error:  # a wrong transport, or wrong options
            return _broke_off(machine, error)
        if isinstance(outcome, End):
            return machine.finish(outcome.cause)
        machine.handshake = outcome
        return AGAIN

    @classmethod
    def _of(cls, whose: Served, machine: Steps, switch: SwitchTransport) -> Handshake | End:
        kind = switch.transport_cls
        if not (isinstance(kind, type) and issubclass(kind, Transport)):
            raise HandlerResultError(
                f"SwitchTransport: got {kind!r}, takes a Transport such as TLS"
            )
        transport = kind.of(switch.transport_options)
        # First of all: a `detach` on another thread relies on the state.
        machine.state = HANDSHAKING
        if machine.stream.state in CLOSED_HERE:
            return End(Cause.LOCAL)
        made = cls(whose, machine, 0.0)
        made._switch = switch
        if not made._replaces(transport, switch):
            made._next = transport
            # At once: what another thread sends before the next step must not go in plaintext.
            machine.stream.writer.buffered().on(ON_BARRIER)
        return made

    def _replaces(self, transport: Transport, switch: SwitchTransport) -> bool:
        """Puts the new channel in; `False`: bytes wait to be sent, or another thread sends."""
        stream, writer = self._machine.stream, self._machine.stream.writer
        if not writer.try_turn():
            return False
        try:
            buffer = writer.buffer
            if buffer is not None and not buffer.tries_ahead(writer):
                return False
            self._replace(stream, transport, switch)
        finally:
            writer.give_turn_back()
        self._began = self._whose.env.times.real()
        return True

    def _wait_for_sends(self, transport: Transport, switch: SwitchTransport) -> int | None:
        """A verdict while plaintext waits to be sent; `None`: the handshake begins. What is sent
        from now on is kept until after the handshake."""
        whose, machine = self._whose, self._machine
        buffer = machine.stream.writer.buffered()
        try:
            if self._replaces(transport, switch):
                self._next = None
                return None
        except Exception as error:
            return _broke_off(machine, error)
        if buffer.failure is not None:
            return machine.finish(BY_PEER)
        if whose.env.stage is STOPPING:
            return machine.finish(BY_SHUTDOWN)
        whose.deadline = whose.env.times.real() + _LOOK_S
        return PARK

    def _replace(self, stream: Duplex, transport: Transport, switch: SwitchTransport) -> None:
        """Replaces the channel, and drops all bytes that were received over the old transport
        (RFC 3207, 5). With the turn to send."""
        old = stream.channel
        channel = transport.upgrade(self._whose.client.sock, old)
        rest = channel.begin_with(switch.initial) if switch.initial else b""
        old.unlimit()
        if old.exposed:
            channel.expose()
        stream.use(channel)
        self._machine.use(channel)
        self._dropped = stream.reader.drop()
        if rest:
            stream.reader.add_fresh(rest)

    # ---- what came of it --------------------------------------------------------------

    def _failed(self, error: HandshakeError) -> int:
        received = self._machine.stream.reader.bytes_received
        if isinstance(error, EndedInSilence) and not received:
            return self._machine.finish(BY_PEER)
        error.args = (f"{self._whose.client.peer_shown()}: {error}",)
        return self._fails(error, Cause.ERROR)

    def _fails(self, error: HandshakeError, cause: Cause) -> int:
        whose = self._whose
        if self._dropped:
            error.args = (
                f"{error}; {self._dropped} bytes that were read before the upgrade were"
                " dropped (SwitchTransport's initial= gives them to the handshake)",
            )
        if events.socket_handshake_error.receivers:
            events.emit(
                events.socket_handshake_error,
                whose.env.server,
                {"error": error, "duration_ns": self._duration_ns()},
                events.About(whose.client, **whose.client.remote()),
            )
        return self._machine.finish(cause, error, By.EVENT)

    def _tell_done(self) -> None:
        events.emit(
            events.socket_handshake,
            self._whose.env.server,
            {"duration_ns": self._duration_ns()},
            events.About(self._whose.client),
        )

    def _duration_ns(self) -> int:
        """Nanoseconds so far."""
        return int((self._whose.env.times.real() - self._began) * 1e9)


#: As `Handshake.begin`.
begin = Handshake.begin


def no_room_error(peer: str, error: OSError) -> SocketError:
    """The poller has no room for the descriptor (epoll_ctl(2): ENOSPC, ENOMEM)."""
    reason = SocketError(
        error.errno or 0,
        f"waiting for {peer}: the poller cannot take its descriptor:"
        f" {error.strerror or error}; raise fs.epoll.max_user_watches, or lower max_connections",
    )
    reason.__cause__ = error
    return reason


def _broke_off(machine: Steps, error: Exception) -> int:
    """An upgrade failed before its handshake was done; a verdict."""
    machine.callbacks.log(error, "SwitchTransport")
    return machine.finish(Cause.ERROR, error, By.TRACEBACK)
