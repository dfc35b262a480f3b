"""For tests of your handlers: a handler run in memory, a server on a free port with checks at its
end, a clock that only moves when told, and clients that misbehave.

`docs/howto/testing.md` shows how. The rest of the package imports nothing of it.
"""

from . import hostile
from ._call import call
from ._clock import Clock
from ._recorder import Event, EventRecorder
from ._serve import Expected, Server, serve
from ._steps import EOF, RESET, Advance, Post, Step, Stop, advance, post, stop
from ._transcript import Ended, Transcript

__all__ = [
    "Advance",
    "Clock",
    "EOF",
    "Ended",
    "Event",
    "EventRecorder",
    "Expected",
    "Post",
    "RESET",
    "Server",
    "Step",
    "Stop",
    "Transcript",
    "advance",
    "call",
    "hostile",
    "post",
    "serve",
    "stop",
]
