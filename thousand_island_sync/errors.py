"""Every exception that this library raises.

`ThousandIslandError` is the root. Many are standard exceptions as well (`ConfigError` is a
`ValueError`, `ListenError` an `OSError`, `SocketTimeout` a `TimeoutError`, ...), so code that was
written for the standard library's sockets keeps working.

An error that comes from the system keeps its `errno` and `__cause__`.
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
    """The base of every error of this library; raised itself when a call is misused."""


class ConfigError(ThousandIslandError, ValueError):
    """An option has a wrong value or an unknown name; raised before anything is opened."""


class ListenError(ThousandIslandError, OSError):
    """The server cannot listen on the address; `start` and `resume` raise it, with the errno."""


class HandshakeError(ThousandIslandError):
    """A TLS handshake failed, timed out, or was refused; `handle_error` gets it."""


class HandlerResultError(ThousandIslandError, TypeError):
    """A callback returned a value that is not a `Result`; `handle_error` gets it."""


class SocketError(ThousandIslandError, OSError):
    """A call on a `Socket` or `Connection` failed. `errno` and `__cause__` are the system's.

    The caller gets it. If a callback does not catch it, `handle_error` gets it.
    """

    # The Socket that raised it: a callback may also fail on another connection's.
    _origin: object = None


class SocketClosed(SocketError, BrokenPipeError, ConnectionResetError):
    """The connection was closed, by the peer or locally.

    Sends and receives on a `Socket` raise it, and `send`, `post` and `call` of a `Connection` that
    has ended.

    Attributes:
        partial: `bytes` that `recv_exactly` or `recv_until` had received before.
        bytes_sent: `int`, the number of bytes of a send that had gone out.
    """

    partial: bytes = b""
    bytes_sent: int = 0


class ServerStopping(SocketClosed):
    """A stop of the server, or `Connection.close()`, has interrupted a read that waited.

    A callback gets it from its read, with the option `interrupt_reads`. `handle_shutdown` follows.
    """


class SocketTimeout(SocketError, TimeoutError):
    """A call did not finish within its time. Bytes that were received are kept.

    The caller of a send, a receive or `Connection.call` gets it. `handle_error` gets it for a peer
    that takes none of the bytes that wait for `send_timeout_ms`.

    Its `args` are `("timed out",)`, as those of the standard library's `TimeoutError`: libraries
    such as cheroot recognize a timeout by `args[0]`. `str()` names the call, the peer and the time;
    `errno` is ETIMEDOUT.

    Attributes:
        bytes_sent: `int`, the number of bytes of a send that had gone out.
    """

    bytes_sent: int = 0
    # Set by a send, which ends the connection as an error; a receive ends it as a timeout.
    _sending: bool = False

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        if not isinstance(self, BlockingIOError):  # whose `args` are errno and text
            self.args: tuple[Any, ...] = ("timed out",)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.errno, self.strerror), self.__dict__


class LimitExceeded(SocketError):
    """A limit on received bytes was exceeded: of `recv_until`, a framing, or `max_unread`.

    The caller of `recv_until` or `unread` gets it; `handle_error` for a frame that is too long.
    """


class SendBufferFull(SocketError):
    """`Connection.send` found no room in the send buffer (`max_unsent`, `max_unsent_total`).

    The caller gets it. Nothing was sent, and the connection goes on.
    """


class ConnectionOverflow(ThousandIslandError):
    """A client was refused at `max_connections`; the event `acceptor.spawn_error` has it."""


class MailboxFull(ThousandIslandError):
    """`max_pending_messages` messages wait for this connection; `post` and `call` raise it."""


class ServerNotRunning(ThousandIslandError):
    """The call needs a server that is started, or that listens.

    `local_port`, `local_address`, `suspend` and `resume` of a `ThousandIsland` raise it.
    """


class NotSupported(ThousandIslandError):
    """The transport, platform or handler does not support the call; the caller gets it.

    For example `tls_info()` of a TCP connection, or `local_port` of a Unix socket.
    """
