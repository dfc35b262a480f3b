"""`framing` that a thread sets on a handler outside of its callbacks.

A connection without framing does not check whether its handler has one by now, as each message
would pay for that; a connection that waits for the rest of a frame does not check before more
comes. So it has to be told. A handler does not know its connection, so that is searched for.
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
