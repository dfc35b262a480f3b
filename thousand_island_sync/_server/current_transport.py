"""The transport that new connections get."""

from __future__ import annotations

from typing import Any

from .._base.locks import lock
from ..transports.base import Transport


class CurrentTransport:
    """Thread: any.

    Args:
        transport: the one to begin with.

    Attributes:
        current: the transport; an attribute, as each accepted client asks for it.
    """

    __slots__ = ("_lock", "current")

    def __init__(self, transport: Transport) -> None:
        self.current = transport
        self._lock = lock("server.reload")

    def reload(self, options: dict[str, Any]) -> None:
        """New connections get these options, merged over the present ones.

        Raises:
            ConfigError: they are bad, or belong to the listening socket; the old stay.
        """
        while True:
            before = self.current
            merged = before.merged(options)
            with self._lock:  # of two at once, the second is merged over the first
                if self.current is before:
                    self.current = merged
                    return
