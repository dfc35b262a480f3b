"""What a connection that ends during a handshake does with the bytes that wait.

The facts. What is sent during a handshake is kept until that is done. What is sent while an upgrade
waits for plaintext sends is kept behind those. If the handshake is never done, it would be kept for
ever.

Our decision. Once the connection ends, its handshake does not go on. What was kept for the time
after it is dropped, and reported as lost; sends fail at once. Bytes from before an upgrade are
still sent, in plaintext.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import failures
from .states import BARRIER, ON_LAST

if TYPE_CHECKING:
    from .duplex import Duplex
    from .send_buffer import SendBuffer


def goes(stream: Duplex, buffer: SendBuffer) -> bool:
    """Whether bytes wait that may be sent before the handshake is done. Thread: any."""
    held_back = buffer.sends in BARRIER and not buffer.ahead
    return (buffer.record or (buffer.size > 0 and not held_back)) and not stream.channel.handshaking


def end_sends(stream: Duplex) -> None:
    """Ends sends before the last callback, in a handshake. Thread: the owner's."""
    buffer = stream.writer.buffered()
    buffer.on(ON_LAST)
    if stream.channel.handshaking:
        buffer.fail(failures.amid_handshake(stream.connection, "send"))


def drop(stream: Duplex, buffer: SendBuffer) -> None:
    """Drops what waits after the last callback and can never be sent. Thread: the owner's."""
    if buffer.waits and not goes(stream, buffer):
        buffer.fail(failures.amid_handshake(stream.connection, "send"))
