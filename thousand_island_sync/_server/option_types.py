"""The options of `ThousandIsland`, as a type for functions that take them, too.

`tests/test_options.py` compares it with the signature.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from ..transports import Prepared, Transport, TransportOptions


class ServerOptions(TypedDict, total=False):
    """The options of `ThousandIsland` but for `handler_cls`, as `testing.serve` and `testing.call`
    take them; `help(ThousandIsland)` says what they are."""

    handler_options: Any
    port: int
    host: str | None
    transport_cls: type[Transport]
    transport_options: TransportOptions | Prepared
    num_acceptors: int
    num_listen_sockets: int
    max_connections: int
    max_connections_wait_ms: float | None
    max_handler_threads: int
    read_timeout_ms: float | None
    handshake_timeout_ms: float | None
    send_timeout_ms: float | None
    shutdown_timeout_ms: float | None
    interrupt_reads: bool
    max_pending_messages: int | None
    max_unread: int
    max_unsent: int
    max_unsent_total: int
    name: str
