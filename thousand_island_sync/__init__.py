"""A threaded TCP, TLS and Unix-socket server for code that blocks.

    from thousand_island_sync import Handler, ThousandIsland

    class Echo(Handler):
        def handle_data(self, data, socket):
            socket.send(data)

    with ThousandIsland(port=4000, handler_cls=Echo) as server:
        server.wait()

Where to look: `help(ThousandIsland)` has the options, `help(Handler)` the callbacks, `help(Socket)`
what they get, `help(Connection)` what other threads use; `help(TransportOptions)` the options of
TCP and TLS; `help(events)` telemetry. Times are milliseconds, and their names end in `_ms`; `None`
is no limit. Every error of ours is a `ThousandIslandError`.
"""

from typing import TYPE_CHECKING

from . import events
from ._base.later import first_asked_for
from ._base.options import Missing
from ._base.types import PEM, Address, Buffer, File, SocketAddress, Status
from ._base.version import VERSION as __version__
from .connection import Connection
from .errors import (
    ConfigError,
    ConnectionOverflow,
    HandlerResultError,
    HandshakeError,
    LimitExceeded,
    ListenError,
    MailboxFull,
    NotSupported,
    SendBufferFull,
    ServerNotRunning,
    ServerStopping,
    SocketClosed,
    SocketError,
    SocketTimeout,
    ThousandIslandError,
)
from .framing import Framing, LengthPrefix, Lines
from .handler import Close, Continue, Error, Handler, Result, SwitchTransport
from .logger import LogLevel, attach_logger, detach_logger
from .server import ThousandIsland
from .socket import Socket
from .transports import (
    TCP,
    TLS,
    HostOptions,
    Prepared,
    ReloadOptions,
    Transport,
    TransportOptions,
)

if TYPE_CHECKING:
    from ._server.info import Info
    from ._server.option_types import ServerOptions
    from ._socketserver import socketserver_handler
    from ._stream.stats import Stats
    from .transports import TLSInfo
else:
    # Few programs name these, and some take a millisecond of an import. No lock of a module is
    # made with them: a fork would have to know of it from the beginning.
    __getattr__, __dir__ = first_asked_for(
        globals(),
        {
            "._server.info": ["Info"],
            "._server.option_types": ["ServerOptions"],
            "._socketserver": ["socketserver_handler"],
            "._stream.stats": ["Stats"],
            ".transports._tls_info": ["TLSInfo"],
        },
    )

__all__ = [
    "__version__",
    "Missing",
    "SocketAddress",
    "PEM",
    "Address",
    "Buffer",
    "File",
    "TransportOptions",
    "Transport",
    "TLSInfo",
    "ReloadOptions",
    "Prepared",
    "HostOptions",
    "Stats",
    "Status",
    "Info",
    "TCP",
    "TLS",
    "Close",
    "ConfigError",
    "Connection",
    "ConnectionOverflow",
    "Continue",
    "Error",
    "Framing",
    "Handler",
    "HandlerResultError",
    "HandshakeError",
    "LengthPrefix",
    "LimitExceeded",
    "Lines",
    "ListenError",
    "LogLevel",
    "MailboxFull",
    "NotSupported",
    "Result",
    "SendBufferFull",
    "ServerNotRunning",
    "ServerOptions",
    "ServerStopping",
    "Socket",
    "SocketClosed",
    "SocketError",
    "SocketTimeout",
    "SwitchTransport",
    "ThousandIsland",
    "ThousandIslandError",
    "attach_logger",
    "detach_logger",
    "events",
    "socketserver_handler",
]
