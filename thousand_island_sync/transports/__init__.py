"""Transports: `TCP` (Unix sockets too), `TLS`, and the base for a user's own."""

from __future__ import annotations

from .base import Channel, ListenSocket, Transport
from .tcp import TCP, TCPChannel
from .tls import TLS

__all__ = ["TCP", "TLS", "Channel", "ListenSocket", "TCPChannel", "Transport"]
