"""Transports: `TCP` (Unix sockets too), `TLS`, and the base for a user's own."""

from __future__ import annotations

from ._option_types import HostOptions, ReloadOptions, TransportOptions
from ._tls_info import TLSInfo
from .base import Channel, ListenSocket, Transport
from .tcp import TCP, TCPChannel
from .tls import TLS, Prepared

__all__ = [
    "TCP",
    "TLS",
    "Channel",
    "HostOptions",
    "ListenSocket",
    "Prepared",
    "ReloadOptions",
    "TCPChannel",
    "TLSInfo",
    "Transport",
    "TransportOptions",
]
