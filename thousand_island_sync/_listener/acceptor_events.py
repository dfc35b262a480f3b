"""The events of accepting."""

from __future__ import annotations

from typing import Any

from .. import events
from .._base import addresses
from .._base.clock import now_ns
from .._connection.task import ConnectionTask
from ..errors import ConnectionOverflow


def somebody_listens() -> bool:
    """Whether accepting may call a receiver."""
    return bool(
        events.acceptor_accept.receivers
        or events.acceptor_limit_reached.receivers
        or events.acceptor_spawn_error.receivers
        or events.acceptor_accept_error.receivers
    )


class AcceptorEvents:
    """Sends the events of one server's acceptors. Thread: one that may wait for receivers, and has
    no lock.

    Args:
        server: the `ThousandIsland`, which the events name.
    """

    __slots__ = ("_server",)

    def __init__(self, server: Any) -> None:
        self._server = server

    def started(self, acceptor_id: int) -> None:
        """An acceptor has begun."""
        if events.acceptor_start.receivers:
            self._emit(events.acceptor_start, {}, {"acceptor_id": acceptor_id})

    def shut_down(self, acceptor_id: int, began_ns: int, accepted: int, reason: str) -> None:
        """An acceptor has ended."""
        if events.acceptor_shutdown.receivers:
            measurements = {"duration_ns": now_ns() - began_ns, "accepted": accepted}
            metadata = {"acceptor_id": acceptor_id, "reason": reason}
            self._emit(events.acceptor_shutdown, measurements, metadata)

    def accepted(self, connection: ConnectionTask, waited_ns: int) -> None:
        """A client is a connection, which does not run yet."""
        if events.acceptor_accept.receivers:
            took = now_ns() - connection.client.accepted_at_ns
            host, port = addresses.remote(connection.client.peer_address)
            self._emit(
                events.acceptor_accept,
                {"wait_time_ns": waited_ns, "startup_time_ns": took},
                {
                    "acceptor_id": connection.client.acceptor_id,
                    "connection_id": connection.client.id,
                    "remote_address": host,
                    "remote_port": port,
                },
            )

    def refused(self, acceptor_id: int, address: Any) -> None:
        """A client has waited for room, and was closed."""
        error = ConnectionOverflow(
            f"{addresses.show(address)} was refused: max_connections are open; raise it,"
            " or max_connections_wait_ms"
        )
        self.spawn_error(error, acceptor_id, address)

    def spawn_error(self, error: BaseException, acceptor_id: int, address: Any) -> None:
        """An accepted client was not served."""
        if events.acceptor_spawn_error.receivers:
            host, port = addresses.remote(address)
            self._emit(
                events.acceptor_spawn_error,
                {"error": error},
                {"acceptor_id": acceptor_id, "remote_address": host, "remote_port": port},
            )

    def accept_error(self, error: BaseException, acceptor_id: int) -> None:
        """`accept` failed, or an acceptor died."""
        if events.acceptor_accept_error.receivers:
            self._emit(events.acceptor_accept_error, {"error": error}, {"acceptor_id": acceptor_id})

    def limit(self, reached: bool, active: int, acceptor_id: int) -> None:
        """As `Edges` tells it."""
        signal = events.acceptor_limit_reached if reached else events.acceptor_limit_cleared
        if signal.receivers:
            self._emit(signal, {"active_connections": active}, {"acceptor_id": acceptor_id})

    def _emit(self, signal: Any, measurements: dict[str, Any], metadata: dict[str, Any]) -> None:
        events.emit(signal, self._server, measurements, metadata)
