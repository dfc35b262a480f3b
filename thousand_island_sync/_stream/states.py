"""The states of a stream, as tables. Every rule about them must live here.

Rule 1: what this side has done to both directions is one `State` of the `Duplex`; it moves only
along the tables `ON_CLOSE` and the others.
Rule 2: what the peer has done to its direction is one `Incoming` of the `Reader`. It is a state of
its own, as it is needed after a close: a peer that ended before its first byte was a probe, even if
this side closed afterwards.
Rule 3: whether this side has shut its direction down is one `Outgoing` of the `Writer`.
Rule 4: whether more may be sent, once bytes had to be kept, is one `Sends` of the `SendBuffer`. It
is a state of its own, as it is needed after `CLOSED`: what waits is still sent.

    OPEN --> INTERRUPTED --> CUT --> CLOSED
      |           |           |        ^
      +-----------+-----------+--> DETACHED --> LEFT

INTERRUPTED: reads shall end (`Connection.close()`), sends go on. CUT: a stop ran out of time, and
both directions are shut down. CLOSED: this side has closed it; the owner closes the descriptor.
DETACHED: the caller of `detach` has the descriptor, or gets it; if `detach` fails, it is CLOSED.
LEFT: the owner has ended, and leaves the close to the thread in `detach`.

A stream that was INTERRUPTED and is then CUT only says CUT. That loses nothing: the thread that
interrupted it has also told the connection's inbox, which decides how the connection ends.
"""

from __future__ import annotations

from .._base.fast_enum import FastEnum


class State(FastEnum):
    """What this side has done to a stream."""

    OPEN = "open"
    INTERRUPTED = "interrupted"
    CUT = "cut"
    CLOSED = "closed"
    DETACHED = "detached"
    LEFT = "left"


class Incoming(FastEnum):
    """What the peer has done to its direction."""

    OPEN = "open"
    END = "the end of the stream"
    RESET = "reset"
    RESET_AFTER_END = "reset, after the end of the stream"


class Outgoing(FastEnum):
    """What this side has done to its direction."""

    OPEN = "open"
    SHUT = "shut"


class Sends(FastEnum):
    """What a connection with a send buffer does with what is sent."""

    OPEN = "it goes out, or is kept"
    UPGRADING = "it is kept behind a barrier, until the handshake of an upgrade is done"
    ENDED = "the last callback has returned: what waits goes out, and nothing after it"
    ENDED_UPGRADING = "the same; what is behind the barrier never may"
    FAILED = "what waited was dropped, and nothing more is sent"


# On Python 3.11 `Class.MEMBER` costs a call each time.
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
#: This side closes it.
ON_CLOSE: Move = {OPEN: CLOSED, INTERRUPTED: CLOSED, CUT: CLOSED}
#: The descriptor is handed over.
ON_DETACH: Move = {OPEN: DETACHED, INTERRUPTED: DETACHED, CUT: DETACHED}
#: The hand-over was interrupted, and the caller did not get the descriptor.
ON_KEEP: Move = {DETACHED: CLOSED}
#: The owner has ended.
ON_LEAVE: Move = {DETACHED: LEFT}

#: Every call that needs the descriptor raises `SocketClosed` in these.
CLOSED_HERE = frozenset({CLOSED, DETACHED, LEFT})
#: The descriptor is not this side's to shut down or to close in these.
GIVEN_AWAY = frozenset({DETACHED, LEFT})

#: The peer's end of the stream came. It may have been reset since.
ENDED = frozenset({Incoming.END, Incoming.RESET_AFTER_END})
#: The peer has reset it: the kernel reports that only once, and then gives `b""`.
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
