"""Starting a thread safely, even if an exception comes to the caller."""

from __future__ import annotations

import _thread
import threading


def start(thread: threading.Thread) -> None:
    """As `thread.start()`. An exception that comes to the caller meanwhile leaves the thread
    started: in `start` itself it could leave a lock held which the new thread waits for.

    Raises:
        RuntimeError: no thread can be started.
    """
    came: list[BaseException] = []
    done = _thread.allocate_lock()
    done.acquire()
    _thread.start_new_thread(_start, (thread, done, came))
    done.acquire()
    if came:
        raise came[0]


def _start(thread: threading.Thread, done: _thread.LockType, came: list[BaseException]) -> None:
    try:
        thread.start()
    except BaseException as error:
        came.append(error)
    finally:
        done.release()
