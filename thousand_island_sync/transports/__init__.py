"""Transports: `TCP` (Unix sockets too), `TLS`, and the base for a user's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._base.later import first_asked_for
from ._option_types import HostOptions, ReloadOptions, TransportOptions
from .base import Channel, ListenSocket, Transport
from .tcp import TCP, TCPChannel
from .tls import TLS, Prepared

if TYPE_CHECKING:
    from ._tls_info import TLSInfo
else:
    __getattr__, __dir__ = first_asked_for(globals(), {"._tls_info": ["TLSInfo"]})

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
