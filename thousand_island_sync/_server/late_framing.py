"""`framing` that a handler gets from a thread which runs none of its callbacks.

A connection without framing never asks whether its handler has any by now, as each message would
pay for that, and one that waits for the rest of a frame does not ask before more comes. So it is
told. Which connection that is, only the connections know: it is looked for.
"""

from __future__ import annotations

from .._base import waits
from .._connection.task import ConnectionTask
from ..handler import Handler, when_framing_is_set
from . import orphans

#: Seconds for the step of another thread that is under way. What it calls may wait for us: a
#: receiver of an event, for a lock that is held here.
_STEP_S = 1.0


def put_in() -> None:
    when_framing_is_set(_look_for)


def _look_for(handler: Handler) -> None:
    here = waits.current_task()
    if isinstance(here, ConnectionTask) and here.machine.callbacks.calls(handler, or_makes=True):
        return  # it looks when that callback, or the constructor, has returned
    for run in orphans.runs():
        if not run.serves(handler):
            continue
        for one in run.limit.snapshot():
            if isinstance(one, ConnectionTask) and one.machine.callbacks.calls(handler):
                one.inbox.frame()
                one.let_step_end(_STEP_S)  # whose receive may be under way
                return
