"""A descriptor that is kept spare for the moment at which no other is free, so that one more client
can be answered.

Health checks and admin commands come at that moment. While no descriptor is free, waiting clients
take each one that is closed. So the spare one cannot be opened again: instead the socket of the
client that got its number is kept, shut down.
"""

from __future__ import annotations

import errno
import socket
from collections import deque

from . import descriptors

_NONE_IS_FREE = (errno.EMFILE, errno.ENFILE)
_EXHAUSTED = {*_NONE_IS_FREE, errno.ENOBUFS, errno.ENOMEM}
#: Seconds until the next try of an accept that met with a shortage.
PAUSE_S = 0.1


def is_shortage(error: OSError) -> bool:
    """Whether the machine is out of something."""
    return error.errno in _EXHAUSTED


class Spare:
    """Of one listening socket. Thread: any."""

    def __init__(self) -> None:
        self._kept: deque[socket.socket] = deque()
        self._over = False

    def keep(self) -> None:
        """Opens it, unless it is there, or none is free."""
        with descriptors.thread.no_fork:
            if self._kept or self._over:
                return
            try:
                self._kept.append(socket.socket(socket.AF_UNIX))
            except OSError:
                return  # the next time
            descriptors.hold(self)

    def accept(self, listener: socket.socket) -> socket.socket:
        """A client's socket, which `end` closes.

        Raises:
            OSError: as accept(2).
        """
        with descriptors.thread.no_fork:
            self.keep()
            try:
                return descriptors.accept(listener)[0]
            except OSError as error:
                if error.errno not in _NONE_IS_FREE or not self._kept:
                    raise
                descriptors.close(self._kept.pop())
            return descriptors.accept(listener)[0]

    def end(self, sock: socket.socket) -> None:
        """Ends a client's connection. Never raises, and does nothing the second time."""
        with descriptors.thread.no_fork:
            if self._kept or self.is_over() or sock.fileno() < 0:
                descriptors.close(sock)
                return
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the peer has gone
            self._kept.append(sock)
            if self.is_over():  # meanwhile
                self.close()

    def is_over(self) -> bool:
        """Whether it was closed."""
        return self._over

    def close(self) -> None:
        """None is kept any more."""
        with descriptors.thread.no_fork:
            self._over = True
            while self._kept:
                descriptors.close(self._kept.pop())

    def abandon(self) -> None:
        """As `descriptors.Holder`."""
        self._over = True
        while self._kept:
            self._kept.pop().close()
