"""Ends a wait in a poller, with a descriptor that any thread can make readable."""

from __future__ import annotations

import contextlib
import os
import socket

from . import descriptors
from .sigpipe import NOSIGNAL


class WakeUp:
    """A descriptor that `wake` makes readable: an eventfd, or a socket pair elsewhere.

    An asynchronous exception may come before the thread that made it has stored it, or can close
    it: so the collector closes it, too. Such an exception comes between two calls, never inside
    of a C function: so opening and noting a descriptor, or closing and forgetting it, is one
    call.
    """

    def __init__(self) -> None:
        self._pair: tuple[socket.socket, socket.socket] | None = None
        self._waking: set[object] = set()  # those who are in `wake` at this moment
        self._closed = False
        self._unclosed: list[int] = []
        try:
            self._fd = self._opened()
        except BaseException:
            self.close()  # at once: a traceback keeps it, and may wait for the collector itself
            raise

    def _opened(self) -> int:
        with descriptors.thread.no_fork:
            descriptors.hold(self)
            if not hasattr(os, "eventfd"):
                self._pair = socket.socketpair()
                for end in self._pair:
                    end.setblocking(False)
                self._unclosed.append(self._pair[0].fileno())
            else:
                flags = (os.EFD_NONBLOCK | os.EFD_CLOEXEC,)
                self._unclosed.extend(map(os.eventfd, (0,), flags))
            return self._unclosed[0]

    def fileno(self) -> int:
        return self._fd

    def wake(self) -> None:
        """Thread: any, wherever it was interrupted: so there is no lock. Harmless after `close`."""
        waking, me = self._waking, object()
        try:
            waking.add(me)
            if self._closed:
                return
            if self._pair is None:
                os.eventfd_write(self._fd, 1)
            else:
                try:
                    self._pair[1].send(b"\0", NOSIGNAL)
                except BlockingIOError:
                    pass  # it is full, so it is readable
        finally:
            waking.discard(me)
            if self._closed:
                self._close_if_quiet()

    def clear(self) -> None:
        """Makes it unreadable again."""
        try:
            if self._pair is None:
                os.eventfd_read(self._fd)
            else:
                while self._pair[0].recv(4096):
                    pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Closes it at once, or when the last thread that is in `wake` has left that."""
        self._closed = True
        self._close_if_quiet()

    def _close_if_quiet(self) -> None:
        if not self._waking:
            with descriptors.thread.no_fork:
                self.abandon()

    def abandon(self) -> None:
        """As `descriptors.Holder`: it wakes no thread any more."""
        self._closed = True
        for end in self._pair or ():
            end.close()
        if self._pair is None:
            with contextlib.suppress(IndexError):  # another has closed it
                any(map(os.close, map(self._unclosed.pop, (0,))))

    def __del__(self) -> None:
        if hasattr(self, "_unclosed"):
            self.abandon()
