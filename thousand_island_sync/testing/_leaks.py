"""Leaks: threads and descriptors that were not there before."""

from __future__ import annotations

import gc
import os
import socket
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from pathlib import PurePath

from .._base import descriptors
from .._server import orphans

#: Seconds that threads and descriptors get to end.
_PATIENCE_S = 1.0
#: What a server opens besides sockets: pollers, wake-ups, timers, and a spare one.
_SERVERS_KINDS = ("anon_inode:", os.devnull)
_FRAMES = 3
#: The sockets that `connect` of a server has returned. They are closed before its check.
clients: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def open_descriptors() -> dict[int, str]:
    """The open descriptors -> a text that differs if the number is reused."""
    found = {}
    for folder in ("/proc/self/fd", "/dev/fd"):
        if os.path.isdir(folder):
            numbers: Iterable[int] = [int(name) for name in os.listdir(folder)]
            break
    else:
        numbers = range(1_024)
    for number in numbers:
        try:
            try:
                found[number] = os.readlink(f"/proc/self/fd/{number}")
            except FileNotFoundError:
                entry = os.fstat(number)
                found[number] = f"file {entry.st_dev}:{entry.st_ino}"
        except OSError:
            pass  # the descriptor with which the folder was read
    return found


class Before:
    """The threads and descriptors that exist when it is made.

    Args:
        is_mine: whether a server is the one that is checked.
        ignore_threads: names of threads that may stay; `*` and `?` as in file names.
    """

    def __init__(
        self, is_mine: Callable[[object], bool], ignore_threads: Iterable[str] = ()
    ) -> None:
        self._is_mine = is_mine
        self._ignored = [ignore_threads] if isinstance(ignore_threads, str) else [*ignore_threads]
        self._threads = set(threading.enumerate())
        self._descriptors = open_descriptors()

    def left(self) -> list[str]:
        """The threads and descriptors that are new, in words; waits for a second at most."""
        threads, numbers = self._what_is_left()
        if threads or numbers:
            gc.collect()
        deadline, pause = time.monotonic() + _PATIENCE_S, threading.Event()
        while (threads or numbers) and time.monotonic() < deadline:
            pause.wait(0.005)
            threads, numbers = self._what_is_left()
        return [
            *(f"a thread is left: {_shown_thread(one)}" for one in threads),
            *(f"a descriptor is left: {_shown(one, what)}" for one, what in numbers.items()),
        ]

    def _what_is_left(self) -> tuple[list[threading.Thread], dict[int, str]]:
        others = [
            run.server.name
            for run in orphans.runs()
            if not self._is_mine(run.server) and run.server.status not in ("new", "stopped")
        ]
        threads = [
            one
            for one in threading.enumerate()
            if one not in self._threads
            and one.is_alive()
            and not any(fnmatchcase(one.name, name) for name in self._ignored)
            and not any(one.name.startswith(f"{name}-") for name in others)
        ]
        numbers = {
            number: what
            for number, what in open_descriptors().items()
            if self._descriptors.get(number) != what
        }
        if others and numbers:
            theirs = descriptors.sockets() | {sock.fileno() for sock in list(clients)}
            numbers = {
                number: what
                for number, what in numbers.items()
                if number not in theirs and not what.startswith(_SERVERS_KINDS)
            }
        return threads, numbers


def _shown_thread(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    stack = traceback.extract_stack(frame)[-_FRAMES:] if frame is not None else []
    places = [f"{PurePath(one.filename).name}:{one.lineno} in {one.name}" for one in stack]
    return f"{thread.name!r}, at {' > '.join(places) or 'its end'}"


def _shown(number: int, what: str) -> str:
    try:
        sock = socket.socket(fileno=number)
    except OSError:  # not a socket, or closed by now
        return f"{number}, {what}"
    try:
        what += f", {sock.getsockname()}"
        what += f" connected to {sock.getpeername()}"
    except OSError:
        pass  # it is not connected
    finally:
        sock.detach()
    return f"{number}, {what}"
