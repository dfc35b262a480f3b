"""A stream in a forked child, whose only thread goes on with a copy of it."""

from __future__ import annotations

import contextlib

from .._base import descriptors
from .duplex import Duplex


def renew(stream: Duplex) -> None:
    """Gives it new turns: a thread that exists only in the parent may have held the old ones."""
    stream.reader.renew()
    stream.writer.renew()
    stream.forget_waiter()


def traffic(stream: Duplex) -> tuple[int, int]:
    """Bytes sent and received so far."""
    return stream.writer.bytes_sent, stream.reader.bytes_received


def close_copy(stream: Duplex, counted: tuple[int, int]) -> None:
    """Closes the copy; the parent's connection goes on. Where the child has sent or received since
    `counted`, the session is the child's, and the peer is told. Thread: any of the child's."""
    with contextlib.ExitStack() as held:
        stream.writer.hold(held)
        if traffic(stream) != counted:
            stream.channel.send_close_notify()
    if stream.reader.comes_home(wait=False):
        descriptors.close_copy(stream.sock)
    # Else a thread of the child is in a call: its descriptor is closed when the process ends.
