"""The result of `call`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

#: How a connection ended; `None`: it is open.
Ended = Literal["peer_closed", "local_closed", "timeout", "shutdown", "error"] | None


@dataclass(frozen=True, slots=True)
class Transcript:
    """What a handler has done in a `call`.

    Attributes:
        sent: all bytes that it has sent.
        sends: the same, one entry for each send.
        callbacks: `(name, args, result)` of each callback that has run, in order, including those
            that the handler inherits; `args` is a tuple without the socket, `result` what the
            callback returned, or the exception that it raised.
        ended: how the connection ended: `"peer_closed"`, `"local_closed"`, `"timeout"`,
            `"shutdown"`, `"error"`; `None`: it is open.
        error: what `handle_error` got, or what the handler's `__init__` raised; `None`: no error.
    """

    sent: bytes
    sends: list[bytes]
    callbacks: list[tuple[str, tuple[Any, ...], Any]]
    ended: Ended
    error: Any
