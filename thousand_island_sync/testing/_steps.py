"""The steps of `call`: what happens to a connection, in order."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Final

from .._base.options import is_milliseconds


class _PeerEnds(enum.Enum):
    EOF = "EOF"
    RESET = "RESET"

    def __repr__(self) -> str:
        return self.name


#: The peer ends its sending side, and still reads.
EOF: Final = _PeerEnds.EOF
#: The peer resets the connection.
RESET: Final = _PeerEnds.RESET


@dataclass(frozen=True, slots=True)
class Advance:
    """So many milliseconds pass; made by `advance`."""

    ms: float


@dataclass(frozen=True, slots=True)
class Post:
    """A message for `handle_info` is posted; made by `post`."""

    message: Any


@dataclass(frozen=True, slots=True)
class Stop:
    """The server begins to stop; made by `stop`."""


Step = bytes | _PeerEnds | Advance | Post | Stop


def advance(ms: float) -> Advance:
    """A step of `call`: so many **milliseconds** pass, in which nothing comes.

    Time-outs that become due, and messages that were posted with a delay, happen in order.

    Raises:
        ValueError: `ms` is not a number of milliseconds, 0 or more.
    """
    if not is_milliseconds(ms):
        raise ValueError(f"advance: got {ms!r}, takes milliseconds, 0 or more")
    return Advance(ms)


def post(message: Any) -> Post:
    """A step of `call`: another thread calls `connection.post(message)`."""
    return Post(message)


def stop() -> Stop:
    """A step of `call`: the server stops. It waits for the connection until the shutdown time is
    over (`shutdown_timeout_ms`, on the clock of the call), and then cuts it."""
    return Stop()


def checked(given: Any) -> Step:
    """A checked step.

    Raises:
        TypeError: it is not a step.
        ValueError: it is `b""`.
    """
    if isinstance(given, _PeerEnds | Advance | Post | Stop):
        return given
    if given in (advance, post, stop):
        raise TypeError(f"call: got the function {given.__name__}; call it: {given.__name__}(...)")
    if isinstance(given, str):
        raise TypeError("call: got str as a step, takes bytes; encode it first")
    try:
        data = bytes(memoryview(given))
    except TypeError:
        raise TypeError(
            f"call: got {type(given).__name__} as a step, takes bytes, EOF, RESET, advance(ms),"
            " post(message) or stop()"
        ) from None
    if not data:
        raise ValueError("call: got b'' as a step, takes bytes; EOF is the end of the stream")
    return data
