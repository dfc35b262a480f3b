"""Makes the stream of a connection."""

from __future__ import annotations

import socket as stdlib_socket

from .._base.options import MISSING
from ..transports.base import Channel
from .duplex import Duplex, Owner
from .reader import Reader
from .states import COMES, GOES, OPEN
from .writer import Writer, make_turn


def open_stream(connection: Owner, sock: stdlib_socket.socket, channel: Channel) -> Duplex:
    """The connection's stream, with its two directions. Thread: its owner's."""
    stream = Duplex(connection, sock, channel, OPEN, MISSING)
    stream.reader = reader = Reader(stream, COMES)
    stream.writer = Writer(stream, reader, channel.sink(), make_turn(), GOES)
    return stream
