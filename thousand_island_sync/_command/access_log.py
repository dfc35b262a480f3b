"""One line for each connection at its end, whatever else is logged."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from .. import events
from .._base import addresses
from .._telemetry.log_fields import fields
from ..server import ThousandIsland

#: Writes them, where the handlers of the loggers above it do.
LOGGER = "thousand_island_sync.access"
_EVENTS = (events.handler_shutdown, events.handler_error)


class AccessLog:
    """A context manager.

    Args:
        servers: whose connections.
    """

    def __init__(self, servers: Sequence[ThousandIsland]) -> None:
        self._servers = servers
        self._log = logging.getLogger(LOGGER)
        self._level = self._log.level

    def __enter__(self) -> AccessLog:
        self._log.setLevel(logging.INFO)  # whatever the level of those above it
        for signal in _EVENTS:
            signal.connect(self._tell, weak=False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for signal in _EVENTS:
            signal.disconnect(self._tell)
        self._log.setLevel(self._level)

    def _tell(self, server: Any, *, event: str, measurements: Any, metadata: Any) -> None:
        if server not in self._servers:
            return
        told = fields(server, event, measurements, metadata)
        told["event_name"] = "connection"
        self._log.info(
            "connection %s of %s from %s: %s after %s ms, %d bytes received, %d sent",
            told["connection_id"],
            told["server_name"],
            addresses.show(metadata.peer_address),
            told["reason"],
            told["duration_ms"],
            told["bytes_received"],
            told["bytes_sent"],
            extra=told,
        )
