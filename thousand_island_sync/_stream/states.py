"""What becomes of a stream, as tables. Every rule about it must live here.

Rule 1: what is done on this side to both directions is one `State` of the `Duplex`; it moves
only along the tables of what is done to it, `ON_CLOSE` and the others.
Rule 2: what the peer did to his direction is one `Incoming` of the `Reader`. It is a state of its
own, as it outlives a close: who left before his first byte is a probe, whoever closed then.
Rule 3: what was done to our direction is one `Outgoing` of the `Writer`.
Rule 4: whether anything more may be sent, once something had to be kept, is one `Sends` of the
`SendBuffer`. It is a state of its own, as it outlives `CLOSED`: what waits still goes out.

    OPEN --> INTERRUPTED --> CUT --> CLOSED
      |           |           |        ^
      +-----------+-----------+--> DETACHED --> LEFT

INTERRUPTED: reads shall end (`Connection.close()`), sends go on. CUT: a stop ran out of time, and
both directions are shut down. CLOSED: closed here; the owner closes the descriptor. DETACHED:
whoever called `detach` has the descriptor, or gets it; if nobody does, it is CLOSED after all.
LEFT: the owner has gone, and relies on whoever called `detach`.

What was INTERRUPTED and is CUT says that it was cut, which is so for sends, too. Nothing is lost by
that: who asked for the interruption has told the connection's inbox, which decides how it ends.
"""

from __future__ import annotations

from .._base.fast_enum import FastEnum


class State(FastEnum):
    """What was done to a stream on this side."""

    OPEN = "open"
    INTERRUPTED = "interrupted"
    CUT = "cut"
    CLOSED = "closed"
    DETACHED = "detached"
    LEFT = "left"


class Incoming(FastEnum):
    """What the peer did to his direction."""

    OPEN = "open"
    END = "the end of the stream"
    RESET = "reset"
    RESET_AFTER_END = "reset, after the end of the stream"


class Outgoing(FastEnum):
    """What was done to our direction."""

    OPEN = "open"
    SHUT = "shut"


class Sends(FastEnum):
    """What becomes of what is sent on a connection that has a send buffer."""

    OPEN = "it goes out, or is kept"
    UPGRADING = "it is kept behind a barrier, until the handshake of an upgrade is done"
    ENDED = "the last callback has returned: what waits goes out, and nothing after it"
    ENDED_UPGRADING = "the same; what is behind the barrier never may"
    FAILED = "what waited was dropped, and nothing more is sent"


# A member by its class is a call of Python's each time, on Python 3.11.
OPEN, INTERRUPTED, CUT = State.OPEN, State.INTERRUPTED, State.CUT
CLOSED, DETACHED, LEFT = State.CLOSED, State.DETACHED, State.LEFT
COMES, GOES, SHUT = Incoming.OPEN, Outgoing.OPEN, Outgoing.SHUT
MAY_SEND, UPGRADING, FAILED = Sends.OPEN, Sends.UPGRADING, Sends.FAILED

#: What is done to a stream: state before -> state after. Where nothing is said, it stays.
Move = dict[State, State]
#: `Connection.close()` was called.
ON_INTERRUPT: Move = {OPEN: INTERRUPTED}
#: A stop has run out of time.
ON_CUT: Move = {OPEN: CUT, INTERRUPTED: CUT}
#: It is closed here.
ON_CLOSE: Move = {OPEN: CLOSED, INTERRUPTED: CLOSED, CUT: CLOSED}
#: The descriptor is handed over.
ON_DETACH: Move = {OPEN: DETACHED, INTERRUPTED: DETACHED, CUT: DETACHED}
#: The hand-over was broken off, and nobody got the descriptor.
ON_KEEP: Move = {DETACHED: CLOSED}
#: The owner has come to its end.
ON_LEAVE: Move = {DETACHED: LEFT}

#: Every call that needs the descriptor raises `SocketClosed` in these.
CLOSED_HERE = frozenset({CLOSED, DETACHED, LEFT})
#: The descriptor is not this side's to shut down or to close in these.
GIVEN_AWAY = frozenset({DETACHED, LEFT})

#: The peer's end of the stream came. It may have been reset since.
ENDED = frozenset({Incoming.END, Incoming.RESET_AFTER_END})
#: He has reset it: the kernel says so but once, and gives `b""` from then on.
WAS_RESET = frozenset({Incoming.RESET, Incoming.RESET_AFTER_END})

#: before -> after the end of the stream, and after a reset.
AFTER_END: dict[Incoming, Incoming] = {COMES: Incoming.END}
AFTER_RESET: dict[Incoming, Incoming] = {
    COMES: Incoming.RESET,
    Incoming.END: Incoming.RESET_AFTER_END,
}

#: before -> after an upgrade is asked for, and after its handshake. Where none is said, it stays.
ON_BARRIER: dict[Sends, Sends] = {MAY_SEND: UPGRADING, Sends.ENDED: Sends.ENDED_UPGRADING}
ON_BARRIER_GONE: dict[Sends, Sends] = {UPGRADING: MAY_SEND, Sends.ENDED_UPGRADING: Sends.ENDED}
#: before -> after the last callback. What has failed stays so, whatever follows.
ON_LAST: dict[Sends, Sends] = {MAY_SEND: Sends.ENDED, UPGRADING: Sends.ENDED_UPGRADING}
#: What is kept stays behind the barrier in these.
BARRIER = frozenset({UPGRADING, Sends.ENDED_UPGRADING})
#: Every send raises `SocketClosed` in these.
SENDS_OVER = frozenset({Sends.ENDED, Sends.ENDED_UPGRADING, FAILED})
