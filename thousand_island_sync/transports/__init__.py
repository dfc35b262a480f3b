"""Transports: `TCP` (Unix sockets too), `TLS`, and the base for a user's own."""

from __future__ import annotations

from ._base import Channel, ListenSocket, Transport
from .tcp import TCP, TCPChannel

__all__ = ["TCP", "Channel", "ListenSocket", "TCPChannel", "Transport"]
