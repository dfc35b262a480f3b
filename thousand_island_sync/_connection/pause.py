"""A pause: nothing is read from a connection until somebody resumes it.

A callback has returned `Continue(paused=True)`. The connection is PAUSED between callbacks, and
costs no thread. Its descriptor stays in the poller, which tells of a reset; what else it tells of
leads to a step that finds nothing to do. What has come lies in the kernel, with TLS, or here, and
is looked for when the pause ends, as no event will tell of it a second time.

A poller that reports what lies there for as long as it does is not asked meanwhile, and tells of
no reset; there the connection looks every second.
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

#: Seconds between two looks for a reset, where the poller tells of none.
LOOK_S = 1.0
#: A kernel's buffer holds 6 MiB, as a rule.
_MOST_RECEIVES = 128


class Reads(Protocol):
    """What a pause tells the machine that it holds up."""

    pause: Pause | None
    state: State
    stream: Duplex

    @property
    def callbacks(self) -> Callbacks: ...
    def receive_failed(self, error: OSError) -> int: ...


class Pause:
    """A connection's, until it is resumed. Thread: its owner's.

    Args:
        whose: the connection's.
        machine: the same.
    """

    __slots__ = ("_machine", "_whose")

    def __init__(self, whose: Served, machine: Reads) -> None:
        self._whose = whose
        self._machine = machine

    def begin(self) -> int:
        """After a callback, the one that asked for it or one that a message led to."""
        whose, machine = self._whose, self._machine
        machine.callbacks.stand_still()
        whose.reads = False
        machine.state = PAUSED
        return AGAIN  # there may be messages, and it may be resumed already

    def step(self, mail_waits: bool) -> int:
        """In the place of a read."""
        whose, machine = self._whose, self._machine
        if whose.client.was_reset(machine.stream.writer.outgoing is SHUT):
            return self._reset()
        whose.deadline = machine.callbacks.total_deadline
        if not whose.env.pool.tells_resets:
            whose.deadline = min(whose.deadline, whose.env.times.real() + LOOK_S)
        return AGAIN if mail_waits else PARK

    def _reset(self) -> int:
        """What lies there is dropped, so that it is known how the stream has ended."""
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
    """Between callbacks, in each step before a message and before a read. A resume ends the pause
    that there is; where there is none it does nothing, nor later: the next callback may pause."""
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
