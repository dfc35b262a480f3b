"""Threads that wait in a send which no user code has called: a part of `checked`.

Bytes that wait to be sent hold no thread between callbacks, nor after the last one. So a thread
that waits for room must be in a call of user code: there is a frame of it on the stack, above the
step of the connection that the thread runs.
"""

from __future__ import annotations

import os
import sys
from types import FrameType
from typing import Any

from .._base.reports import report
from .._stream.unsent_total import UnsentTotal

_OURS = os.path.dirname(os.path.dirname(__file__))
_STEPS = ("run", "stay")


class WatchedWaits:
    """Stands before what is told of each wait for room. Thread: the one that waits.

    Args:
        told: that.
    """

    __slots__ = ("_told",)

    def __init__(self, told: Any) -> None:
        self._told = told

    def __call__(self, task: Any) -> None:
        if not _asked_for(sys._getframe(1), task):
            name = getattr(task, "id", type(task).__name__)
            report(f"a thread waits for room to send, and no callback of connection {name} runs")
        self._told(task)


def watch_waits(total: UnsentTotal) -> None:
    """From now on. Idempotent."""
    if not isinstance(total.waiting, WatchedWaits):
        total.waiting = WatchedWaits(total.waiting)


def _asked_for(frame: FrameType | None, task: object) -> bool:
    """Whether there is a frame of user code between that one and the task's step."""
    while frame is not None:
        if not frame.f_code.co_filename.startswith(_OURS):
            return True
        if frame.f_code.co_name in _STEPS and frame.f_locals.get("self") is task:
            return False
        frame = frame.f_back
    return False
