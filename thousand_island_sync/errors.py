"""Every exception that this library raises.

One small tree. `ThousandIslandError` is the root; what a program may want to
treat as a standard error is one as well (`ConfigError` is a `ValueError`,
`ListenError` an `OSError`, `SocketTimeout` a `TimeoutError`, ...), so code that
was written for the standard library's sockets keeps working.

Where the system is the cause, `errno` and `__cause__` are kept.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ConfigError",
    "ConnectionOverflow",
    "HandlerResultError",
    "HandshakeError",
    "LimitExceeded",
    "ListenError",
    "MailboxFull",
    "NotSupported",
    "SendBufferFull",
    "ServerNotRunning",
    "ServerStopping",
    "SocketClosed",
    "SocketError",
    "SocketTimeout",
    "ThousandIslandError",
]


class ThousandIslandError(Exception):
    """The root of every error of this library; also raised itself for misuse."""


class ConfigError(ThousandIslandError, ValueError):
    """An option has a wrong value or an unknown name."""


class ListenError(ThousandIslandError, OSError):
    """The server cannot listen on the address. `errno` is the system's."""


class HandshakeError(ThousandIslandError):
    """A TLS handshake failed, timed out, or was refused."""


class HandlerResultError(ThousandIslandError, TypeError):
    """A callback returned something that is not one of the documented values."""


class SocketError(ThousandIslandError, OSError):
    """A call on a `Socket` failed. `errno` and `__cause__` are the system's."""

    # The Socket that raised it: a callback may also fail on another connection's.
    _origin: object = None


class SocketClosed(SocketError, BrokenPipeError, ConnectionResetError):
    """The peer has gone, or this side has closed the socket.

    Attributes:
        partial: `bytes` that `recv_exactly` and `recv_until` had read before.
        bytes_sent: `int`, how much of a send had gone out.
    """

    partial: bytes = b""
    bytes_sent: int = 0


class ServerStopping(SocketClosed):
    """A read that waited was interrupted: the server stops, or `Connection.close()` was called."""


class SocketTimeout(SocketError, TimeoutError):
    """A call did not finish within its time. What was read so far is kept.

    Its `args` are `("timed out",)`, as the standard library's `TimeoutError` has them: libraries
    tell a timeout from other errors by `args[0]` (`cheroot`'s answer 408, say). `str()` says who,
    what and how long; `errno` is ETIMEDOUT.

    Attributes:
        bytes_sent: `int`, how much of a send had gone out.
    """

    bytes_sent: int = 0
    # Set on a send's: a receive's ends the connection as a timeout, a send's as an error.
    _sending: bool = False

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        if not isinstance(self, BlockingIOError):  # whose `args` are errno and text
            self.args: tuple[Any, ...] = ("timed out",)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.errno, self.strerror), self.__dict__


class LimitExceeded(SocketError):
    """A limit on bytes was exceeded: `recv_until`'s, or `max_unread`."""


class SendBufferFull(SocketError):
    """`Connection.send` found no room for its bytes in `max_unsent`, or in `max_unsent_total`:
    nothing of them was sent, and the connection goes on."""


class ConnectionOverflow(ThousandIslandError):
    """A client was refused: `max_connections` connections were open."""


class MailboxFull(ThousandIslandError):
    """`max_pending_messages` already wait for this connection."""


class ServerNotRunning(ThousandIslandError):
    """The call needs a server that listens."""


class NotSupported(ThousandIslandError):
    """This transport, platform or handler cannot do what was asked."""
