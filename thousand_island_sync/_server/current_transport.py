"""The transport that new connections get."""

from __future__ import annotations

from typing import Any

from .._base.locks import lock
from ..transports.base import Transport


class CurrentTransport:
    """Thread: any.

    Args:
        transport: the one to begin with.
    """

    __slots__ = ("_lock", "_transport")

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._lock = lock("server.reload")

    def current(self) -> Transport:
        return self._transport

    def reload(self, options: dict[str, Any]) -> None:
        """New connections get these options, merged over the present ones.

        Raises:
            ConfigError: they are bad, or belong to the listening socket; the old stay.
        """
        while True:
            before = self._transport
            merged = before.merged(options)
            with self._lock:  # of two at once, the second is merged over the first
                if self._transport is before:
                    self._transport = merged
                    return
