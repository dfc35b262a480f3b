"""The fields of a log record that tells of an event: those that apply to it.

They are plain values under the usual names of logs, for code that reads records and not lines
(python-json-logger, structlog's `ExtraAdder`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from .._base import addresses
from .._base.clock import now_ns
from .about import About, Peered


class Client(Peered, Protocol):
    """A connection, as far as it is asked here."""

    @property
    def server(self) -> Any: ...
    @property
    def accepted_at_ns(self) -> int: ...


#: How a connection ended that has no `reason` of its own.
_ENDED_BY_ERROR = ("handler.error", "socket.handshake_error")
_RECEIVES = ("socket.recv", "handler.async_recv")
#: Bytes that an event tells of as such.
_BYTES = ("bytes_received", "bytes_sent")


def fields(
    server: object, event: str, measurements: Mapping[str, Any], metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """What `attach_logger` gives a record beside its line. Durations are milliseconds."""
    found: dict[str, Any] = {
        "event_name": event,
        "server_name": getattr(server, "name", str(server)),
    }
    if "connection_id" in metadata:
        found["connection_id"] = metadata["connection_id"]
    found.update(_client(metadata))
    if "duration_ns" in measurements:
        found["duration_ms"] = milliseconds(measurements["duration_ns"])
    if isinstance(metadata, About) and metadata.moved is not None:
        found.update(zip(_BYTES, metadata.moved, strict=True))
    found.update({name: measurements[name] for name in _BYTES if name in measurements})
    if event in _RECEIVES:
        found["bytes_received"] = len(measurements["data"])
    reason = measurements.get("reason", metadata.get("reason"))
    if event in _ENDED_BY_ERROR:
        reason = "error"
    if reason is not None:
        found["reason"] = reason
    found.update(of_error(measurements.get("error")))
    return found


def of_traceback(client: Client, error: BaseException, is_the_end: bool) -> dict[str, Any]:
    """Of the record with the traceback of what a callback raised. `is_the_end`: that record tells
    of the end of its connection, as `handler.error` would."""
    found = {
        "server_name": client.server.name,
        "connection_id": client.id,
        **of_peer(client.peer_address),
        **of_error(error),
    }
    if is_the_end:
        took = milliseconds(now_ns() - client.accepted_at_ns)
        found.update(event_name="handler.error", duration_ms=took, reason="error")
    return found


def of_error(error: object) -> dict[str, Any]:
    """The exception itself, and its type's name; none of what is no exception."""
    if not isinstance(error, BaseException):
        return {}
    return {"error": error, "error_type": type(error).__name__}


def of_peer(address: Any) -> dict[str, Any]:
    """A peer's address, as the system gave it."""
    host, port = addresses.remote(address)
    return _address(host, port)


def milliseconds(nanoseconds: int) -> float:
    """Of a time that was measured."""
    return round(nanoseconds / 1e6, 3)


def _client(metadata: Mapping[str, Any]) -> dict[str, Any]:
    if "remote_address" in metadata:
        return _address(metadata["remote_address"], metadata["remote_port"])
    return of_peer(metadata.peer_address) if isinstance(metadata, About) else {}


def _address(host: str, port: int | None) -> dict[str, Any]:
    """A Unix peer has no port."""
    found: dict[str, Any] = {"client_address": host}
    if port is not None:
        found["client_port"] = port
    return found
