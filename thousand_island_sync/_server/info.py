"""What `ThousandIsland.info` gives."""

from __future__ import annotations

from dataclasses import dataclass

from .._base.types import Address, Status


@dataclass(frozen=True, slots=True)
class Info:
    """A snapshot of a server; see `ThousandIsland.info`.

    Attributes:
        status: what `ThousandIsland.status` says.
        local_address: where it listens; `None`: it does not.
        active_connections: connections that are open.
        peak_connections: the most that were open at once.
        accepted_total: connections whose handler was made.
        rejected_total: clients that were refused, at `max_connections` or by a constructor that
            raised; these count nowhere else.
        handler_threads: threads of the pool.
        busy_threads: those that run callbacks.
        waiting_connections: connections that are ready, while no thread is free for them.
        probes_total: connections that ended before their first byte.
        backlog: clients that the kernel has connected and nobody has accepted yet; `None` where
            the system does not tell, or the server does not listen.
        backlog_limit: how many those may be; `None` as for `backlog`.
        bytes_received_total: bytes of all connections, as `Socket.stats` counts them: over TLS the
            decrypted ones. Those of open connections are a second old at most. It never falls,
            but at a new start.
        bytes_sent_total: the same of bytes that were taken for sending, before they are encrypted.
        handshaking: connections that wait for their peer amid a handshake, upgrades included.
        oldest_wait_ms: milliseconds that the one of the `waiting_connections` has waited that
            came first, but for the first 10.
        draining: a drain or a stop is under way: send nobody here any more.
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
