"""The way from an accepted socket to a connection that may exchange bytes: a channel is made,
hands are shaken, and later perhaps once more over another transport."""

from __future__ import annotations

from typing import Any, Protocol

from .. import events
from .._base import locks
from .._base.clock import now
from .._scheduler.task import PARK
from ..errors import HandlerResultError, HandshakeError, SocketError
from ..events import By
from ..handler import SwitchTransport
from ..socket import Socket
from ..transports.base import WRITE, Channel, EndedInSilence, Source, Transport
from .callbacks import Callbacks, End
from .closing import Closing
from .environment import Environment
from .served import Served
from .states import BY_PEER, BY_SHUTDOWN, CLOSED, HANDSHAKING, Cause, State


class Steps(Protocol):
    """What a handshake tells the machine that it belongs to."""

    socket: Socket
    source: Source
    short_proves: bool

    def become(self, state: State) -> None: ...
    def hands_shaken(self, name: str) -> int: ...
    def closing(self) -> Closing: ...
    def over(self) -> int: ...
    def finish(self, cause: Cause, reason: Any = None, told: By | None = None) -> int: ...


class Handshake:
    """The steps of a connection until hands are shaken. Thread: its owner's.

    Args:
        whose: the connection's.
        machine: the same.
        transport: what it is to speak.
        switch: what an upgrade was asked for with; `None`: the connection is new.
    """

    __slots__ = ("_began", "_dropped", "_machine", "_switch", "_transport", "_whose")

    def __init__(
        self,
        whose: Served,
        machine: Steps,
        transport: Transport,
        switch: SwitchTransport | None = None,
    ) -> None:
        self._whose = whose
        self._machine = machine
        self._transport = transport
        self._switch = switch
        self._dropped = 0  # bytes that were read before, and nobody has taken
        self._began = 0.0

    def step(self, callbacks: Callbacks) -> int:
        """As far as it goes without waiting; a verdict."""
        whose = self._whose
        if whose.alert:
            ending = whose.why_to_end()
            if ending is not None:
                return self._machine.finish(ending)
        return self._advance(callbacks, whose.env)

    def first_step(self, callbacks: Callbacks) -> int:
        """Makes the handler, and shakes hands. Only who waits after it goes into the poller: of
        short connections most have ended."""
        whose, machine = self._whose, self._machine
        client = whose.client
        env, sock = client.env, client.sock
        try:
            channel = self._transport.channel(sock)
            machine.socket = Socket(whose, sock, channel)
            self._use(channel)
            callbacks.make(env)
        except BaseException as error:
            locks.release_all()
            machine.become(CLOSED)
            machine.closing().refuse(error)
            return machine.over()
        machine.become(HANDSHAKING)
        env.opened(whose)
        if events.handler_start.receivers:
            callbacks.tell_start()
        self._began = env.clock()
        verdict = self.step(callbacks) if whose.alert else self._advance(callbacks, env)
        if verdict == PARK and not whose.attached:
            try:
                env.pool.attach(whose)
            except OSError as error:
                reason = no_room_error(whose.client.peer_shown(), error)
                return machine.finish(Cause.ERROR, reason)
        return verdict

    def _use(self, channel: Channel) -> None:
        self._machine.source = channel.source()
        self._machine.short_proves = channel.kernel_waits
        # A plain socket waits for room within its sends only; a channel may between them.
        if channel.kernel_waits:
            self._whose.write_edges = False
        else:
            self._whose.env.pool.watch_writes(self._whose)

    def _advance(self, callbacks: Callbacks, env: Environment) -> int:
        whose, machine = self._whose, self._machine
        channel = machine.socket._channel
        try:
            done = channel.handshake()
        except HandshakeError as error:
            if isinstance(error, EndedInSilence) and not machine.socket._bytes_received:
                return machine.finish(BY_PEER)
            error.args = (f"{whose.client.peer_shown()}: {error}",)
            return self._failed(error, Cause.ERROR)
        if done:
            whose.wants_write = False
            if events.socket_handshake.receivers:
                self._tell_done()
            if self._switch is None:
                callbacks.count_from(env.clock())
                return machine.hands_shaken("handle_connection")
            callbacks.wait_after_upgrade(self._switch.timeout_ms)
            return machine.hands_shaken("handle_upgrade")
        if env.stopping:
            return machine.finish(BY_SHUTDOWN)
        deadline = self._began + env.handshake_timeout
        if env.clock() >= deadline:
            return self._failed(self._too_late(), Cause.TIMEOUT)
        whose.wants_write = channel.recv_wants == WRITE
        whose.deadline = deadline
        return PARK

    # ---- an upgrade -----------------------------------------------------------------

    @classmethod
    def of(cls, whose: Served, machine: Steps, switch: SwitchTransport) -> Handshake:
        """The one that a callback asks for.

        Raises:
            HandlerResultError: it names no transport.
            Exception: whatever the transport makes of its options.
        """
        kind = switch.transport_cls
        if not (isinstance(kind, type) and issubclass(kind, Transport)):
            raise HandlerResultError(
                f"SwitchTransport: got {kind!r}, takes a Transport such as TLS"
            )
        return cls(whose, machine, kind.of(switch.transport_options), switch)

    def take_over(self, socket: Socket) -> End | None:
        """Puts its channel into the place of the old one; a send that is under way goes first, in
        plain. Raises Exception: whatever the transport does."""
        timeout = self._whose.env.send_timeout
        try:
            socket._take_turn("SwitchTransport", timeout, now() + timeout)
        except SocketError as error:
            return End(Cause.ERROR, error)
        try:
            # First of all: who detaches from another thread goes by it.
            self._machine.become(HANDSHAKING)
            if socket._closed:
                return End(Cause.LOCAL)
            self._replace(socket)
        finally:
            socket._sending.release()
        self._began = self._whose.env.clock()
        return None

    def _replace(self, socket: Socket) -> None:
        """Everything of the old transport that was read is dropped here (RFC 3207, 5). With the
        turn to send."""
        switch, old = self._switch, socket._channel
        assert switch is not None
        channel = self._transport.upgrade(self._whose.client.sock, old)
        rest = channel.begin_with(switch.initial) if switch.initial else b""
        old.unlimit()
        if old.exposed:
            channel.expose()
        socket._use(channel)
        self._use(channel)
        self._dropped = socket._drop_read()
        if rest:
            socket._add_fresh(rest)

    # ---- what came of it --------------------------------------------------------------

    def _too_late(self) -> HandshakeError:
        limit = self._whose.env.handshake_timeout * 1000
        return HandshakeError(
            f"the handshake with {self._whose.client.peer_shown()} was not finished within"
            f" {limit:g} ms (handshake_timeout_ms)"
        )

    def _failed(self, error: HandshakeError, cause: Cause) -> int:
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
                {"error": error, "duration_ns": self._took()},
                {"connection_id": whose.client.id, **whose.client.remote()},
            )
        return self._machine.finish(cause, error, By.EVENT)

    def _tell_done(self) -> None:
        events.emit(
            events.socket_handshake,
            self._whose.env.server,
            {"duration_ns": self._took()},
            {"connection_id": self._whose.client.id},
        )

    def _took(self) -> int:
        """Nanoseconds so far."""
        return int((self._whose.env.clock() - self._began) * 1e9)


def no_room_error(peer: str, error: OSError) -> SocketError:
    """The poller has no room for the descriptor (epoll_ctl(2): ENOSPC, ENOMEM)."""
    reason = SocketError(
        error.errno or 0,
        f"waiting for {peer}: the poller cannot take its descriptor:"
        f" {error.strerror or error}; raise fs.epoll.max_user_watches, or lower max_connections",
    )
    reason.__cause__ = error
    return reason
