"""`Info`: the result of `ThousandIsland.info`."""

from __future__ import annotations

from dataclasses import dataclass

from .._base.types import Address, Status


@dataclass(frozen=True, slots=True)
class Info:
    """A snapshot of a server; see `ThousandIsland.info`.

    Attributes:
        status: as `ThousandIsland.status`.
        local_address: where the server listens; `None`: it does not listen.
        active_connections: connections that are open.
        peak_connections: the most that were open at once.
        accepted_total: connections whose handler was made.
        rejected_total: clients that were refused, at `max_connections` or because the handler's
            constructor raised; they count nowhere else.
        handler_threads: threads of the pool.
        busy_threads: those of them that run callbacks.
        waiting_connections: connections that are ready and wait for a free thread.
        probes_total: connections that ended before their first byte.
        backlog: clients that wait in the kernel to be accepted; `None`: the system does not tell,
            or the server does not listen.
        backlog_limit: the most clients that may wait there; `None` as for `backlog`.
        bytes_received_total: bytes that all connections have received, over TLS after decryption.
            The figure for open connections is at most a second old. It falls only at a new
            start.
        bytes_sent_total: bytes that all connections have taken for sending, over TLS before
            encryption; as `bytes_received_total` otherwise.
        handshaking: connections in a handshake that wait for their peer, upgrades included.
        oldest_wait_ms: milliseconds for which the first of the `waiting_connections` has waited;
            waits of up to 10 ms are not counted.
        draining: whether a drain or a stop is under way, so that no client should come here.
    """

    status: Status
    local_address: Address | None
    active_connections: int
    peak_connections: int
    accepted_total: int
    rejected_total: int
    handler_threads: int
    busy_threads: int
    waiting_connections: int
    probes_total: int
    backlog: int | None
    backlog_limit: int | None
    bytes_received_total: int
    bytes_sent_total: int
    handshaking: int
    oldest_wait_ms: float
    draining: bool
