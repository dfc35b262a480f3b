"""Sends to a peer that has disconnected fail with an error, never with SIGPIPE.

The facts. A write to a stream whose reader has closed it raises SIGPIPE (send(2)). CPython ignores
the signal from its start on, but programs that print into a pipe commonly set it back to its
default, which ends the process; then any client that disconnects would end it. send(2) and
sendmsg(2) take MSG_NOSIGNAL; sendfile(2) takes no flags, and raises the signal for the calling
thread.

Our decision. Every send of the library has the flag. Around sendfile the thread blocks the signal,
and consumes the one that it has caused: user handlers still get all others, and so does a thread
that waits for them. If user code has blocked SIGPIPE in this thread, it finds the signal pending,
as without this library.
"""

from __future__ import annotations

import os
import signal
import socket

#: 0 where there is none.
NOSIGNAL = int(getattr(socket, "MSG_NOSIGNAL", 0))
DONTWAIT = int(getattr(socket, "MSG_DONTWAIT", 0))
#: Of a send that does not wait.
QUIETLY = DONTWAIT | NOSIGNAL

_PIPE = {signal.SIGPIPE}
_sigtimedwait = getattr(signal, "sigtimedwait", None)  # macOS has none


def sendfile(to: int, file: int, offset: int, count: int) -> int:
    """As `os.sendfile`, which it calls.

    Raises:
        OSError: as sendfile(2).

    Thread: any.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    if signal.SIGPIPE in before or _sigtimedwait is None:
        return os.sendfile(to, file, offset, count)
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, _PIPE)
        try:
            return os.sendfile(to, file, offset, count)
        except BrokenPipeError:
            _sigtimedwait(_PIPE, 0)
            raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
