"""Whether the process was monkey-patched into one where threads are no threads.

gevent's and eventlet's `patch_all` put their own things under the standard library's names:
threads that take turns on one, locks that only switch between those, sockets that wait in their
own loop; and they take `select.epoll` away. Acceptors and a pool of threads cannot work on that,
and blocking handlers would gain nothing: such a process has a server of its own kind.
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
