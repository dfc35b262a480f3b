"""`handle_drain`: what a connection has to do, once, when the server drains or stops.

It runs between callbacks, after what came before it: messages that waited, and bytes until a
receive finds nothing, but no more bytes than a stop delivers. A young connection that has received
nothing first gets its time to receive. In a pause, or while bytes wait to be sent, nothing is read,
so it does not wait for unread bytes. While much waits to be sent, it does not run: a stop waits
then, too, as long as the peer takes something.
"""

from __future__ import annotations

from typing import Any, Protocol

from .._base.waits import hand_off
from .._stream.duplex import Duplex
from .._stream.states import ENDED
from .callbacks import Callbacks, set_on_handler
from .served import Served
from .states import CLOSED, CLOSING, HANDSHAKING, State

#: Bytes that are delivered at most, if no receive finds nothing before.
_MOST = 1 << 20


class Steps(Protocol):
    """What a drain needs of its machine."""

    drain: Drain | None
    state: State
    stream: Duplex

    @property
    def pause(self) -> object: ...
    @property
    def callbacks(self) -> Callbacks: ...
    def mail_waits(self) -> bool: ...
    def call_then_receive(self, name: str) -> int: ...
    def park(self) -> int: ...


class Drain:
    """The drain of one connection, made in its first step after the drain began. Thread: its
    owner's.

    Args:
        whose: the connection's.
        machine: the same.

    Attributes:
        messages: how many wait, and come before `handle_drain`.
        owed: whether `handle_drain` is still to be called.
    """

    __slots__ = ("_before", "_in_stop", "messages", "owed")

    def __init__(self, whose: Served, machine: Steps) -> None:
        inbox = whose.known_inbox
        self.messages = 0 if inbox is None else inbox.waiting()
        self.owed = machine.callbacks.named("handle_drain") is not None
        self._before = self._in_stop = 0

    @staticmethod
    def step(whose: Served, machine: Steps) -> int | None:
        """After a message: calls `handle_drain` if it is due. Its verdict; `None`: it is not due
        yet, or was called before."""
        return Drain._call_handler(whose, machine, whose.deaf or machine.pause is not None)

    @staticmethod
    def _call_handler(
        whose: Served, machine: Steps, nothing_left: bool, last: bool = False
    ) -> int | None:
        """As `step`.

        Args:
            nothing_left: no bytes are to be delivered before.
            last: nor is any message.
        """
        drain = machine.drain = machine.drain or Drain(whose, machine)
        if not drain.owed:
            return None
        whose.alert = True  # until it is called, each step looks at everything
        buffer = machine.stream.writer.buffer
        if buffer is not None and buffer.over_half:
            return None
        if drain.messages > 0 and machine.mail_waits() and not last:
            return None
        if not nothing_left and drain._before <= _MOST:
            return None
        drain.owed = whose.no_sample = False
        if whose.classified.blocks:
            hand_off()
        return machine.call_then_receive("handle_drain")

    @staticmethod
    def found_nothing(whose: Served, machine: Steps) -> int | None:
        """A receive found nothing. The verdict; `None`: as without a drain."""
        drain = machine.drain = machine.drain or Drain(whose, machine)
        if not (drain.owed or whose.stopping):
            return None
        reader = machine.stream.reader
        has_spoken = reader.bytes_received or reader.incoming in ENDED
        if has_spoken or not whose.client.is_young:
            return Drain._call_handler(whose, machine, nothing_left=True)
        if machine.mail_waits():
            return None
        verdict = machine.park()
        whose.deadline = min(whose.deadline, whose.client.young_until)
        return verdict

    @staticmethod
    def before_shutdown(whose: Served, machine: Steps, broken_off: bool) -> int | None:
        """A stop is about to end the connection. A verdict, if it must not end yet.

        Args:
            broken_off: the stop has interrupted a callback, so only the last callback may follow.
        """
        if machine.state is HANDSHAKING or whose.why_to_end() is not None:
            return None
        verdict = Drain._call_handler(whose, machine, nothing_left=True, last=True)
        if broken_off:
            return verdict if machine.state in (CLOSING, CLOSED) else None
        drain = machine.drain
        return machine.park() if verdict is None and drain is not None and drain.owed else verdict

    def counts(self, received: int, stopping: bool) -> bool:
        """Counts received bytes. Whether a stop delivers no more."""
        if not stopping:
            self._before += received
            return False
        self._in_stop += received
        return self._in_stop > _MOST


def begins(connection: Any, by_class: bool) -> bool:
    """Whether a connection is to be run because a drain begins: only if it has a `handle_drain`.
    Thread: any.

    Args:
        by_class: its handler's class has a `handle_drain`; else the handler itself may.
    """
    if not (by_class or set_on_handler(connection.machine.callbacks, "handle_drain")):
        return False
    connection.alert = True
    return True
