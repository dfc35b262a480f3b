"""The events of a server and of its pool."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from typing import Any

from .. import events
from .._base.clock import FOREVER, now_ns
from .._telemetry.in_order import InOrder
from .current_transport import CurrentTransport


class ListenerEvents:
    """What is told of a server's listening. Thread: one that may wait for receivers.

    Args:
        server: the `ThousandIsland`, which the events name.
        transport: has the transport for new connections.
    """

    __slots__ = ("_server", "_transport")

    def __init__(self, server: Any, transport: CurrentTransport) -> None:
        self._server = server
        self._transport = transport

    def started(self, address: Any, port: int) -> None:
        """It listens; `port`, where there is one."""
        if events.listener_start.receivers:
            measurements = {"port": port if isinstance(address, tuple) else None}
            metadata = {**self._about_transport(), "local_address": address}
            events.emit(events.listener_start, self._server, measurements, metadata)

    def suspended(self, address: Any) -> None:
        """It does not listen for a while."""
        self._tell(events.listener_suspend, address, {})

    def resumed(self, address: Any) -> None:
        """It listens again."""
        self._tell(events.listener_resume, address, {})

    def drains(self, address: Any, delay: float) -> None:
        """It will stop in so many seconds."""
        delay_ns = None if delay == FOREVER else round(delay * 1e9)
        self._tell(events.listener_drain, address, {"delay_ns": delay_ns})

    def shut_down(self, address: Any, began_ns: int) -> None:
        """A stop has begun, of what started then."""
        self._tell(events.listener_shutdown, address, {"duration_ns": now_ns() - began_ns})

    def failed(self, error: BaseException) -> None:
        """It cannot listen, or nobody accepts."""
        if events.listener_error.receivers:
            metadata = self._about_transport()
            events.emit(events.listener_error, self._server, {"error": error}, metadata)

    def _tell(self, signal: Any, address: Any, measurements: dict[str, Any]) -> None:
        if signal.receivers:
            events.emit(signal, self._server, measurements, {"local_address": address})

    def _about_transport(self) -> dict[str, Any]:
        transport = self._transport.current
        return {"transport_cls": type(transport), "transport_options": transport.redacted()}


class PoolEvents:
    """What is told of one run's pool, in order, on a thread that is there for that.

    Args:
        server: the `ThousandIsland`, which the events name.
        context: what receivers run in copies of.
        name: prefix of the thread's name.
    """

    __slots__ = ("_in_order", "_server")

    def __init__(self, server: Any, context: Context, name: str) -> None:
        self._server = server
        self._in_order = InOrder(self._emit, context, f"{name}-events")

    def saturation(self, saturated: bool, busy: int, waiting: int) -> None:
        """It is saturated, or relieved. Returns at once. Thread: any of the library's."""
        if _saturation(saturated).receivers:
            self._in_order.tell(saturated, busy, waiting)

    def _emit(self, saturated: bool, busy: int, waiting: int) -> None:
        signal = _saturation(saturated)
        if signal.receivers:
            measurements = {"busy_threads": busy, "waiting_connections": waiting}
            events.emit(signal, self._server, measurements, {})

    def wait(self, until: float, blocked: Callable[[int], bool]) -> bool:
        """As `InOrder.wait`."""
        return self._in_order.wait(until, blocked)


def _saturation(saturated: bool) -> Any:
    return events.pool_saturated if saturated else events.pool_relieved
