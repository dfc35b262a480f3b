"""What a connection that ends before hands were shaken does with what it has to send.

The facts. What is sent amid a handshake is kept until it is done, and what is sent while an upgrade
waits for sends in plain stays behind those. Where hands are never shaken it would be kept for good.

Our decision. Once it ends nobody shakes them any more: what was kept for afterwards is lost, and
told of as such, and sends fail at once. What comes before an upgrade still goes out, in plain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import failures

if TYPE_CHECKING:
    from .duplex import Duplex
    from .send_buffer import SendBuffer


def goes(stream: Duplex, buffer: SendBuffer) -> bool:
    """Whether something waits that may go out before hands are shaken. Thread: any."""
    held_back = buffer.barrier and not buffer.ahead
    return (buffer.record or (buffer.size > 0 and not held_back)) and not stream.channel.shaking


def end_sends(stream: Duplex) -> None:
    """Before the last callback, amid a handshake. Thread: the owner's."""
    buffer = stream.writer.buffered()
    buffer.end()
    if stream.channel.shaking:
        buffer.fail(failures.unshaken(stream.connection, "send"))


def drop(stream: Duplex, buffer: SendBuffer) -> None:
    """What waits after the last callback and never may go out. Thread: the owner's."""
    if buffer.waits and not goes(stream, buffer):
        buffer.fail(failures.unshaken(stream.connection, "send"))
