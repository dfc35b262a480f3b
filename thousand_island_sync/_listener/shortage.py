"""What the acceptors of a run do while the machine lacks descriptors or memory (EMFILE, ENOBUFS).

The next `accept` would fail as well, and as the client still waits, it would be tried again at
once, for ever. So one client is turned away, with a descriptor that is kept spare for that, and all
acceptors pause.
"""

from __future__ import annotations

import os
import socket

from .._base import descriptors
from .._base.clock import now
from .._base.locks import lock
from .._base.spare import PAUSE_S


class Shortage:
    """Of one run. Thread: any."""

    def __init__(self) -> None:
        self._lock = lock("shortage.spare")
        self._spare: int | None = None
        self._until = 0.0

    def begins(self) -> None:
        """All acceptors pause from now on, for a moment."""
        self._until = now() + PAUSE_S

    def left(self) -> float:
        """Seconds that an acceptor has yet to pause; 0 or less: none."""
        return self._until - now()

    def keep_spare(self) -> None:
        """Opens the spare descriptor, unless it is open."""
        with self._lock, descriptors.thread.no_fork:
            if self._spare is None:
                try:
                    self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
                except OSError:
                    return  # the next call tries again
                descriptors.hold(self)

    def drop_spare(self) -> None:
        """Closes it; may be called more than once."""
        with self._lock, descriptors.thread.no_fork:
            self.abandon()

    def abandon(self) -> None:
        """As `descriptors.Holder`."""
        spare, self._spare = self._spare, None
        if spare is not None:
            os.close(spare)

    def turn_one_away(self, listener: socket.socket) -> None:
        """Accepts and closes one client, with the number that the spare descriptor frees."""
        self.keep_spare()  # the last call may not have got it back
        with self._lock, descriptors.thread.no_fork:
            if self._spare is None:
                return
            self.abandon()
            try:
                listener.accept()[0].close()
            except OSError:
                pass
        self.keep_spare()
