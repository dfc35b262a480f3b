"""The life of a connection, as two tables. Every rule about it must live here.

Rule 1: a connection is in exactly one `State`; it moves only along `TRANSITIONS`.
Rule 2: what ends it is one `Cause`; `LAST_CALLBACK` and `REASON` say what the
handler and the events get for it.

    NEW ---------> HANDSHAKING ------> RUNNING <-----> PARKED, PAUSED
     |                  |   ^             |               |
     |                  |   +-(upgrade)---+               |
     |                  v                 v               |
     |               CLOSING <------------+---------------+
     v                  v
    CLOSED <------------+

NEW: accepted, its handler not made yet. HANDSHAKING: a handler exists, bytes are
not exchanged yet; it may be parked meanwhile. RUNNING: one thread is in a callback of it.
PARKED: between callbacks; no thread runs it until an event or a timer, or its owner checks what
there is for the next callback. PAUSED: the same, but nothing is read; once resumed it is
PARKED. CLOSING: its last callback runs. CLOSED: the descriptor is closed.

While it is RUNNING its owner uses the descriptor only through the `Socket`: a thread that
takes the descriptor away relies on that.

Rule 3: what a server asks of all its connections is one `Stage`, which only goes forward.
"""

from __future__ import annotations

from .._base.fast_enum import FastEnum


class State(FastEnum):
    NEW = "new"
    HANDSHAKING = "handshaking"
    RUNNING = "running"
    PARKED = "parked"
    PAUSED = "paused"
    CLOSING = "closing"
    CLOSED = "closed"


class Cause(FastEnum):
    """Why a connection ends."""

    PEER = "the peer has gone"
    HANDLER = "a callback returned Close()"
    LOCAL = "socket.close() was called"
    TIMEOUT = "no bytes for the read timeout, or the deadline passed"
    SHUTDOWN = "the server stops, or Connection.close() was called"
    ERROR = "an error"
    REFUSED = "the handler could not be made"


class Stage(FastEnum):
    """What a server asks of its connections."""

    SERVING = "to go on"
    DRAINING = "to be ready for an end: a drain, or a stop, has begun"
    STOPPING = "to end when they can"


# On Python 3.11 `Class.MEMBER` costs a call each time, and a connection needs a dozen of them.
NEW, HANDSHAKING, RUNNING = State.NEW, State.HANDSHAKING, State.RUNNING
PARKED, PAUSED, CLOSING, CLOSED = State.PARKED, State.PAUSED, State.CLOSING, State.CLOSED
SERVING, DRAINING, STOPPING = Stage.SERVING, Stage.DRAINING, Stage.STOPPING
BY_PEER, BY_HANDLER, BY_SHUTDOWN = Cause.PEER, Cause.HANDLER, Cause.SHUTDOWN

#: States in which the owner uses the descriptor only through the socket.
APART = frozenset({RUNNING, CLOSING, CLOSED})

TRANSITIONS: dict[State, frozenset[State]] = {
    State.NEW: frozenset({State.HANDSHAKING, State.CLOSED}),
    State.HANDSHAKING: frozenset({State.RUNNING, State.CLOSING}),
    State.RUNNING: frozenset({State.PARKED, State.PAUSED, State.HANDSHAKING, State.CLOSING}),
    State.PARKED: frozenset({State.RUNNING, State.CLOSING}),
    State.PAUSED: frozenset({State.PARKED, State.RUNNING, State.CLOSING}),
    State.CLOSING: frozenset({State.CLOSED}),
    State.CLOSED: frozenset(),
}

_ESTABLISHED = (State.RUNNING, State.PARKED, State.PAUSED)

#: (state, cause) -> the last callback's name; `None`: the handler gets none.
LAST_CALLBACK: dict[tuple[State, Cause], str | None] = {
    (State.NEW, Cause.REFUSED): None,
    (State.HANDSHAKING, Cause.PEER): "handle_close",
    (State.HANDSHAKING, Cause.TIMEOUT): "handle_error",
    (State.HANDSHAKING, Cause.ERROR): "handle_error",
    (State.HANDSHAKING, Cause.SHUTDOWN): "handle_shutdown",
    (State.HANDSHAKING, Cause.LOCAL): None,
}
for _state in _ESTABLISHED:
    LAST_CALLBACK[_state, Cause.PEER] = "handle_close"
    LAST_CALLBACK[_state, Cause.HANDLER] = "handle_close"
    LAST_CALLBACK[_state, Cause.LOCAL] = None
    LAST_CALLBACK[_state, Cause.TIMEOUT] = "handle_timeout"
    LAST_CALLBACK[_state, Cause.SHUTDOWN] = "handle_shutdown"
    LAST_CALLBACK[_state, Cause.ERROR] = "handle_error"

#: The reason in `handler.shutdown`; causes that are not here lead to `handler.error`.
REASON: dict[Cause, str] = {
    Cause.PEER: "peer_closed",
    Cause.HANDLER: "local_closed",
    Cause.LOCAL: "local_closed",
    Cause.TIMEOUT: "timeout",
    Cause.SHUTDOWN: "shutdown",
}

#: What is asked of all: stage before -> stage after. A stage that is missing stays.
ON_DRAIN: dict[Stage, Stage] = {SERVING: DRAINING}
ON_STOP: dict[Stage, Stage] = {SERVING: STOPPING, DRAINING: STOPPING}
