"""The figures of `Socket.stats`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stats:
    """The traffic of a connection so far; see `Socket.stats`.

    Attributes:
        bytes_received: bytes that were received; over TLS, after decryption.
        recv_count: the number of receives in which they arrived.
        bytes_sent: bytes that were taken for sending; over TLS, before encryption.
        send_count: the number of calls that sent them.
    """

    bytes_received: int
    recv_count: int
    bytes_sent: int
    send_count: int
