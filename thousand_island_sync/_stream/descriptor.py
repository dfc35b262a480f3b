"""The methods of `Socket` that concern the descriptor."""

from __future__ import annotations

import socket as stdlib_socket
import struct
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from .. import events
from .._base.options import MISSING
from ..errors import NotSupported
from . import failures
from .handover import share
from .states import CLOSED_HERE

if TYPE_CHECKING:
    from .duplex import Duplex
    from .reader import Reader
    from .stats import Stats
    from .writer import Writer

_RECEIVE_TIMEOUT = (stdlib_socket.SOL_SOCKET, stdlib_socket.SO_RCVTIMEO)
_CREDENTIALS = struct.Struct("3i")
_HOW = {
    "read": stdlib_socket.SHUT_RD,
    "write": stdlib_socket.SHUT_WR,
    "both": stdlib_socket.SHUT_RDWR,
    stdlib_socket.SHUT_RD: stdlib_socket.SHUT_RD,
    stdlib_socket.SHUT_WR: stdlib_socket.SHUT_WR,
    stdlib_socket.SHUT_RDWR: stdlib_socket.SHUT_RDWR,
}
_HOW_NAMES = {
    stdlib_socket.SHUT_RD: "read",
    stdlib_socket.SHUT_WR: "write",
    stdlib_socket.SHUT_RDWR: "both",
}


def shutdown(stream: Duplex, how: str | int) -> None:
    """See `Socket.shutdown`."""
    chosen = _HOW.get(how)
    if chosen is None:
        raise ValueError(
            f'shutdown: how: got {how!r}, takes "read", "write", "both", SHUT_RD, SHUT_WR or'
            " SHUT_RDWR"
        )
    writer: Writer | None = stream.writer
    waits = writer is not None and (writer.unsent > 0 or stream.channel.unfinished)
    if waits and writer is not None and chosen != stdlib_socket.SHUT_RD:
        writer.flush(MISSING, "shutdown")  # nothing can be sent afterwards
    stream.shutdown(chosen)
    if events.socket_shutdown.receivers:
        events.emit(
            events.socket_shutdown,
            stream.connection.server,
            {"how": _HOW_NAMES[chosen]},
            events.About(stream.connection),
        )


def ask(stream: Duplex, call: str, *args: Any) -> Any:
    """A call of `socket.socket` that does not wait."""
    if args[:2] == _RECEIVE_TIMEOUT:  # the caller sets a limit of its own
        share(stream)
    return stream.ask(call, *args)


def peer_credentials(stream: Duplex) -> tuple[int, int, int]:
    """See `Socket.peer_credentials`."""
    stream.check_open("peer_credentials")
    option = getattr(stdlib_socket, "SO_PEERCRED", None)
    if option is None or stream.sock.family != stdlib_socket.AF_UNIX:
        raise NotSupported("peer_credentials() needs a Unix socket, on Linux")
    found = stream.ask("getsockopt", stdlib_socket.SOL_SOCKET, option, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(found)
    return pid, uid, gid


def traffic(reader: Reader, writer: Writer) -> Stats:
    """See `Socket.stats`."""
    from .stats import Stats

    return Stats(reader.bytes_received, reader.recv_count, *writer.counts())


def described(stream: Duplex) -> str:
    """The peer, and whether the socket is open."""
    state = "closed" if stream.state in CLOSED_HERE else "open"
    return f"{failures.who(stream.connection)} {state}"


def named(kind: type[IntEnum], value: int) -> int:
    """The number as an enumeration member, as in the standard library, if there is one."""
    try:
        return kind(value)
    except ValueError:
        return value
