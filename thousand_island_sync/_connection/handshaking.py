"""The way from an accepted socket to a connection that may exchange bytes: the handler
is made, hands are shaken, and later perhaps once more over another transport."""

from __future__ import annotations

from .. import events
from .._base import addresses, locks
from .._base.clock import now
from .._base.options import Missing
from .._scheduler.task import AGAIN
from ..errors import HandlerResultError, HandshakeError, SocketError
from ..events import By
from ..handler import SwitchTransport
from ..socket import Socket
from ..transports.base import Channel, Transport
from .ending import Ending
from .states import BY_SHUTDOWN, HANDSHAKING, Cause


class Upgrade:
    """A `SwitchTransport` that is under way.

    Args:
        timeout_ms: as it was given.
        dropped: how many bytes were read before, and nobody has taken.
    """

    __slots__ = ("dropped", "timeout_ms")

    def __init__(self, timeout_ms: float | Missing | None, dropped: int) -> None:
        self.timeout_ms, self.dropped = timeout_ms, dropped


class Handshaking(Ending):
    """The first step, and the fate of handshakes."""

    __slots__ = ()

    def _begin(self) -> bool:
        """The first step: makes the handler. Whether that failed."""
        env = self._env
        try:
            channel = self._transport.channel(self._sock)
            self._socket = Socket(self, self._sock, channel)
            self._use(channel)
            self._handler = self._context.run(env.handler_cls, env.handler_options)
        except BaseException as error:
            locks.release_all()
            self._refuse(error)
            return True
        self._become(HANDSHAKING)
        env.opened(self)
        if events.handler_start.receivers:
            host, port = addresses.remote(self.peer_address)
            events.emit(
                events.handler_start,
                env.server,
                {},
                {
                    "connection_id": self.id,
                    "acceptor_id": self.acceptor_id,
                    "remote_address": host,
                    "remote_port": port,
                },
            )
        self._handshake_at = self._clock()
        return False

    def _use(self, channel: Channel) -> None:
        self._source = channel.source()
        self._short_proves = channel.kernel_waits
        # A plain socket waits for room within its sends only; a channel may between them.
        if channel.kernel_waits:
            self.write_edges = False
        else:
            self._env.pool.watch_writes(self)

    def _handshake_took(self) -> int:
        """Nanoseconds so far."""
        return int((self._clock() - self._handshake_at) * 1e9)

    def _handshake_failed(self, error: HandshakeError, cause: Cause = Cause.ERROR) -> int:
        if self._switch is not None and self._switch.dropped:
            error.args = (
                f"{error}; {self._switch.dropped} bytes that were read before the upgrade were"
                " dropped (SwitchTransport's initial= gives them to the handshake)",
            )
        if events.socket_handshake_error.receivers:
            host, port = addresses.remote(self.peer_address)
            events.emit(
                events.socket_handshake_error,
                self._env.server,
                {"error": error, "duration_ns": self._handshake_took()},
                {"connection_id": self.id, "remote_address": host, "remote_port": port},
            )
        return self._finish(cause, error, By.EVENT)

    def _nobody_watches(self, error: OSError) -> int:
        """The poller has no room for the descriptor (epoll_ctl(2): ENOSPC, ENOMEM)."""
        advice = "raise fs.epoll.max_user_watches, or lower max_connections"
        reason = SocketError(
            error.errno or 0,
            f"waiting for {self.peer_shown()}: its descriptor finds no room in the poller:"
            f" {error.strerror or error}; {advice}",
        )
        reason.__cause__ = error
        return self._finish(Cause.ERROR, reason)

    def _switch_transport(self, switch: SwitchTransport) -> int:
        """Everything of the old transport that was read is dropped here (RFC 3207, 5)."""
        socket, timeout = self._socket, self.send_timeout
        try:
            if not (
                isinstance(switch.transport_cls, type)
                and issubclass(switch.transport_cls, Transport)
            ):
                raise HandlerResultError(
                    f"SwitchTransport: got {switch.transport_cls!r}, takes a Transport such as TLS"
                )
            transport = switch.transport_cls.of(switch.transport_options)
        except Exception as error:
            return self._upgrade_failed(error)
        try:
            # A send that is under way goes first, in plain.
            socket._take_turn("SwitchTransport", timeout, now() + timeout)
        except SocketError as error:
            return self._finish(Cause.ERROR, error)
        failure: Exception | None = None
        try:
            self._become(HANDSHAKING)  # first: who detaches from another thread goes by it
            closed = socket._closed
            if not closed:
                self._upgrade(transport, switch)
        except Exception as error:
            failure = error
        finally:
            socket._sending.release()
        if failure is not None:
            return self._upgrade_failed(failure)
        if closed:
            return self._finish(Cause.LOCAL)
        self._handshake_at = self._clock()
        return AGAIN

    def _upgrade(self, transport: Transport, switch: SwitchTransport) -> None:
        """With the turn to send."""
        socket = self._socket
        old = socket._channel
        channel = transport.upgrade(self._sock, old)
        rest = channel.begin_with(switch.initial) if switch.initial else b""
        old.unlimit()
        if old.exposed:
            channel.expose()
        socket._use(channel)
        self._use(channel)
        self._switch = Upgrade(switch.timeout_ms, socket._drop_read())
        if rest:
            socket._add_fresh(rest)

    def _upgrade_failed(self, error: Exception) -> int:
        self._log_error(error, "SwitchTransport")
        return self._finish(Cause.ERROR, error, By.TRACEBACK)

    def _asked_to_end(self) -> Cause | None:
        if self._socket._closed:
            return Cause.LOCAL
        if self._asked or self._socket._cut:
            return BY_SHUTDOWN
        return None
