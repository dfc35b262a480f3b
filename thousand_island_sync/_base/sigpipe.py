"""Sends that a peer who has gone answers with an error, never with SIGPIPE.

The facts. A write to a stream whose reader has gone raises SIGPIPE (send(2)). CPython ignores the
signal from its start on, but programs that print, as part of a pipe, commonly set it back to its
default, which ends the process; so would any client that goes. send(2) and sendmsg(2) take
MSG_NOSIGNAL; sendfile(2) takes no flags, and raises the signal for the thread that called it.

Our decision. Every send of ours has the flag. Around sendfile the thread blocks the signal, and
takes back the one that it has caused, so neither a handler of the user's nor one that another
thread waits for is missed. Whoever blocks SIGPIPE in this thread by himself finds it pending, as
without us.
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
