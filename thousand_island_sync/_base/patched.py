"""Whether the process was monkey-patched so that threads are not real threads.

gevent's and eventlet's `patch_all` replace names of the standard library: with threads that take
turns on one real thread, locks that only switch between those, sockets that wait in their own loop.
They also remove `select.epoll`. Acceptors and a pool of threads cannot work on that, and blocking
handlers would gain nothing: those libraries have servers of their own.
"""

from __future__ import annotations

import _thread
import select
import socket
import threading

_PATCHERS = ("gevent", "eventlet")


def _root(thing: object) -> str:
    where = getattr(thing, "__module__", None) or type(thing).__module__
    return str(where).partition(".")[0]


def patched_by() -> str | None:
    """The library that replaced what this one stands on: threads, locks, sockets or pollers.

    Other parts may be patched (`ssl`, `subprocess`, `time`, ...); and other libraries put their
    own classes there that work: proxies, debuggers.
    """
    for thing in (
        _thread.start_new_thread,
        type(_thread.allocate_lock()),
        threading.Thread,
        type(threading.Lock()),
        socket.socket,
        getattr(select, "poll", None),
        select.select,
    ):
        root = _root(thing)
        if root in _PATCHERS:
            return root
    return None
