"""A pause: nothing is read from a connection until `Connection.resume()`.

A callback has returned `Continue(paused=True)`. The connection is PAUSED between callbacks, and
uses no thread. Its descriptor stays in the poller, which reports a reset; other events lead to a
step that finds nothing to do. Bytes that have come stay in the kernel, in TLS, or in the read
buffer. When the pause ends the connection looks for them, as no second event will come.

A level-triggered poller would report the same bytes for ever. So it does not watch the descriptor
meanwhile, and reports no reset; instead the connection checks for one every second.
"""

from __future__ import annotations

import errno
import os
from typing import Protocol

from .._scheduler.task import AGAIN, PARK
from .._stream.buffer import CHUNK
from .._stream.duplex import Duplex
from .._stream.states import SHUT
from .callbacks import Callbacks
from .served import Served
from .states import PARKED, PAUSED, State

#: Seconds between two checks for a reset, if the poller reports none.
LOOK_S = 1.0
#: A kernel's buffer holds 6 MiB, as a rule.
_MOST_RECEIVES = 128


class Reads(Protocol):
    """What a pause needs of its machine."""

    pause: Pause | None
    state: State
    stream: Duplex

    @property
    def callbacks(self) -> Callbacks: ...
    def receive_failed(self, error: OSError) -> int: ...


class Pause:
    """The pause of a connection, until it is resumed. Thread: its owner's.

    Args:
        whose: the connection's.
        machine: the same.
    """

    __slots__ = ("_machine", "_whose")

    def __init__(self, whose: Served, machine: Reads) -> None:
        self._whose = whose
        self._machine = machine

    def begin(self) -> int:
        """After a callback: the one that asked for the pause, or one of a message in the pause."""
        whose, machine = self._whose, self._machine
        machine.callbacks.stand_still()
        whose.reads = False
        machine.state = PAUSED
        return AGAIN  # messages may wait, or a resume may have come

    def step(self, mail_waits: bool) -> int:
        """A step in the pause, in the place of a read."""
        whose, machine = self._whose, self._machine
        if whose.client.was_reset(machine.stream.writer.outgoing is SHUT):
            return self._reset()
        whose.deadline = machine.callbacks.total_deadline
        if not whose.env.pool.tells_resets:
            whose.deadline = min(whose.deadline, whose.env.times.real() + LOOK_S)
        return AGAIN if mail_waits else PARK

    def _reset(self) -> int:
        """Drops the bytes that have come, up to the error that ended the stream."""
        recv = self._machine.stream.channel.recv
        error = OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        try:
            for _ in range(_MOST_RECEIVES):
                if not recv(CHUNK):
                    break  # another thread was told of the reset
        except OSError as met:
            error = met
        return self._machine.receive_failed(error)

    def end(self) -> None:
        """It has been resumed."""
        whose, machine = self._whose, self._machine
        machine.pause, whose.reads = None, True
        if not whose.deaf:
            machine.callbacks.run_on()
        machine.callbacks.look_at_framing()
        machine.state = PARKED


def take_resume(whose: Served, machine: Reads) -> None:
    """Called between callbacks, in each step before a message and before a read. A resume ends the
    present pause. Without one it is dropped, and does not end a pause that begins later."""
    inbox = whose.known_inbox
    if inbox is not None and inbox.framed:
        inbox.framed = False
        machine.callbacks.look_at_framing()
        if machine.callbacks.frames is not None:
            machine.callbacks.frames.called_back()  # what waits here may be frames by now
    if inbox is not None and inbox.resumed:
        inbox.resumed = False
        if machine.state is PAUSED and machine.pause is not None:
            machine.pause.end()
