"""What every thread does at this moment, and how long each callback has run.

The facts. The time at which a callback begins is not stored: every message would pay for that. But
the scheduler counts the steps of each of its threads.

Our decision: an `AdminServer` has a thread that checks ten times a second which threads are in a
step, and notes when it saw each callback first. So times are up to 100 ms too short, and a server
without an `AdminServer` pays nothing. Stacks have files, lines and functions; no line of source and
no variable, so no data of a client, and no secret.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FrameType
from typing import Any, NamedTuple

from .._base.clock import now
from .._base.latch import Latch
from .._base.supervised import Supervised
from .._connection.handler_check import CALLBACKS
from .._connection.task import ConnectionTask
from .._scheduler.worker import Running

#: Seconds between two looks.
LOOK_S = 0.1
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class Callback(NamedTuple):
    """What a thread of a pool is in."""

    name: str
    connection: ConnectionTask
    since: float
    has_permit: bool


#: What tells one callback from the next: of the thread, its steps so far and the callback's frame.
_Key = tuple[int, int, str]


class CallbackWatch:
    """Looks after the callbacks of some servers, from `start` to `stop`.

    Args:
        running: what their threads run at this moment.
        name: of its thread.
    """

    def __init__(self, running: Callable[[], list[Running]], name: str) -> None:
        self._running = running
        self._seen: dict[int, tuple[_Key, float]] = {}
        self._over = Latch()
        self._thread = Supervised(self._look_again_and_again, name)

    def start(self) -> None:
        """Raises RuntimeError: no thread can be started."""
        self._thread.start()

    def stop(self) -> None:
        """Thread: any."""
        self._over.open()
        self._thread.join(1)

    def _look_again_and_again(self) -> None:
        while not self._over.wait(LOOK_S):
            if self._running():
                self.look(sys._current_frames())
            else:
                self._seen = {}

    def look(self, frames: Mapping[int, FrameType]) -> dict[int, Callback]:
        """The callbacks of this moment, by the idents of their threads. Thread: any."""
        found, seen, time_now = {}, {}, now()
        before = self._seen
        for one in self._running():
            ident, task = one.ident, one.task
            if not isinstance(task, ConnectionTask) or ident not in frames:
                continue
            frame = callback_frame(frames[ident])
            if frame is None:
                continue
            name = frame.f_code.co_name
            key = (one.turns, id(frame), name)
            known = before.get(ident)
            since = known[1] if known is not None and known[0] == key else time_now
            seen[ident] = key, since
            found[ident] = Callback(name, task, since, one.has_permit)
        self._seen = seen
        return found


def callback_frame(frame: FrameType | None) -> FrameType | None:
    """The frame of the callback that a thread of the pool is in: the first of a callback's name,
    else (one may have been set anew, or be a constructor) the first that is not ours."""
    foreign: FrameType | None = None
    for one in _outermost_first(frame):
        if one.f_code.co_name in CALLBACKS:
            return one
        filename = one.f_code.co_filename
        if foreign is None and not (filename.startswith(_OURS) or filename == threading.__file__):
            foreign = one
    return foreign


def _outermost_first(frame: FrameType | None) -> Iterable[FrameType]:
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return reversed(frames)


def stacks(watch: CallbackWatch) -> list[dict[str, Any]]:
    """Every thread, those first that run a callback, the longest first; of each the stack, the
    most recent call last."""
    frames = sys._current_frames()
    callbacks = watch.look(frames)
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    found = [
        {
            "thread": names.get(ident, f"thread {ident}"),
            **(_shown(callbacks[ident]) if ident in callbacks else {}),
            "stack": list(_lines(frame)),
        }
        for ident, frame in frames.items()
    ]
    return sorted(found, key=lambda one: -one.get("running_ms", -1))


def _shown(callback: Callback) -> dict[str, Any]:
    client = callback.connection.client
    return {
        "connection": client.id,
        "peer": client.peer_shown(),
        "callback": callback.name,
        "running_ms": round((now() - callback.since) * 1000),
        "has_permit": callback.has_permit,
    }


def innermost(frame: FrameType) -> str:
    """Where it stands: file, line and function."""
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def _lines(frame: FrameType) -> Iterator[str]:
    yield from map(innermost, _outermost_first(frame))
