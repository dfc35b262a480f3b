"""What a connection that ends in the middle of a handshake does with what it has to send.

The facts. What is sent amid a handshake is kept until it is done, and what is sent while an upgrade
waits for sends in plain stays behind those. If the handshake is never done, it would be kept for
good.

Our decision. Once the connection ends, no handshake goes on. What was kept for afterwards is lost,
and reported as lost; sends fail at once. What comes before an upgrade still goes out, in plain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import failures
from .states import BARRIER, ON_LAST

if TYPE_CHECKING:
    from .duplex import Duplex
    from .send_buffer import SendBuffer


def goes(stream: Duplex, buffer: SendBuffer) -> bool:
    """Whether something waits that may go out before the handshake is done. Thread: any."""
    held_back = buffer.sends in BARRIER and not buffer.ahead
    return (buffer.record or (buffer.size > 0 and not held_back)) and not stream.channel.handshaking


def end_sends(stream: Duplex) -> None:
    """Before the last callback, amid a handshake. Thread: the owner's."""
    buffer = stream.writer.buffered()
    buffer.on(ON_LAST)
    if stream.channel.handshaking:
        buffer.fail(failures.amid_handshake(stream.connection, "send"))


def drop(stream: Duplex, buffer: SendBuffer) -> None:
    """What waits after the last callback and never may go out. Thread: the owner's."""
    if buffer.waits and not goes(stream, buffer):
        buffer.fail(failures.amid_handshake(stream.connection, "send"))
