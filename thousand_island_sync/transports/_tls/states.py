"""The states of a TLS connection, as tables. Every rule about them must live here.

There are three states, independent of each other:

How far the *handshake* has come (`Phase`). It only goes forward. If the handshake fails, it stays
where it is, and tells a probe (the client had sent nothing) from an error.

What *OpenSSL's memory* holds of the fetched bytes (`Unread`). If exactly one whole record came, at
a record boundary, one call reads it, and nothing is left. If anything else came, OpenSSL has to be
asked before the connection may be parked.

              fetched, in pieces or several          fetched: a whole record, nothing else
    PART, NOTHING ----------> SOME          NOTHING ----------> WHOLE
    SOME, WHOLE -- OpenSSL wants more --> PART
    WHOLE -- all of it read --> NOTHING     SOME -- asked, and empty --> NOTHING

How the two directions *end* (`Ends`, by `AFTER`). `close_notify` is sent once (RFC 8446, 6.1), and
a stream that ends without the peer's is truncated. If a receive has read that end, both directions
are over (CUT). If only a call has failed (BROKEN), the peer's `close_notify` may still be found.
"""

from __future__ import annotations

from ..._base.fast_enum import FastEnum


class Phase(FastEnum):
    """How far a handshake has come."""

    SILENT = "the client has said nothing"
    HEARD = "something came of the client's first hello"
    ANSWERED = "the first hello is answered"
    FINISHED = "OpenSSL is done; what it agreed on is not checked yet"


class Unread(FastEnum):
    """What OpenSSL holds of the fetched bytes."""

    HANDSHAKE = "the handshake's: nothing may be read or sent"
    PART = "a part of a record, perhaps, which gives no bytes"
    NOTHING = "nothing: a record has ended"
    WHOLE = "one whole record"
    SOME = "there may be bytes to read"


class Ends(FastEnum):
    """Which of the two directions have ended, and how."""

    OPEN = "none has"
    CLOSE_SENT = "close_notify was sent"
    CLOSE_RECEIVED = "the peer's close_notify was read"
    CLOSED = "both"
    BROKEN = "a call met the end of the stream, and nothing of a close_notify"
    BROKEN_CLOSE_SENT = "the same, after ours was sent"
    CUT = "the stream ended in the middle of the session, or a part of it was lost"


class Event(FastEnum):
    """What changes `Ends`."""

    SEND_CLOSE_NOTIFY = "this side ends the session"
    READ_CLOSE_NOTIFY = "the peer has ended it"
    BREAK = "a call has failed"
    CUT = "the end of the stream was read"


AFTER: dict[tuple[Ends, Event], Ends] = {
    (Ends.OPEN, Event.SEND_CLOSE_NOTIFY): Ends.CLOSE_SENT,
    (Ends.CLOSE_RECEIVED, Event.SEND_CLOSE_NOTIFY): Ends.CLOSED,
    (Ends.BROKEN, Event.SEND_CLOSE_NOTIFY): Ends.BROKEN_CLOSE_SENT,
    (Ends.OPEN, Event.READ_CLOSE_NOTIFY): Ends.CLOSE_RECEIVED,
    (Ends.CLOSE_SENT, Event.READ_CLOSE_NOTIFY): Ends.CLOSED,
    (Ends.BROKEN, Event.READ_CLOSE_NOTIFY): Ends.CLOSE_RECEIVED,
    (Ends.BROKEN_CLOSE_SENT, Event.READ_CLOSE_NOTIFY): Ends.CLOSED,
    (Ends.OPEN, Event.BREAK): Ends.BROKEN,
    (Ends.CLOSE_SENT, Event.BREAK): Ends.BROKEN_CLOSE_SENT,
}
for _ends in Ends:
    AFTER[_ends, Event.CUT] = Ends.CUT  # from any state
    for _event in Event:
        AFTER.setdefault((_ends, _event), _ends)

#: The peer's stream has ended without its close_notify.
TRUNCATED = frozenset({Ends.BROKEN, Ends.BROKEN_CLOSE_SENT, Ends.CUT})
#: This side has ended its direction, or may not send any more.
CLOSE_SENT = frozenset({Ends.CLOSE_SENT, Ends.CLOSED, Ends.BROKEN_CLOSE_SENT, Ends.CUT})
#: States in which a receive asks OpenSSL before the kernel.
READABLE = frozenset({Unread.WHOLE, Unread.SOME})

# On Python 3.11 `Class.MEMBER` costs a call each time.
SILENT, HEARD, ANSWERED, FINISHED = Phase.SILENT, Phase.HEARD, Phase.ANSWERED, Phase.FINISHED
HANDSHAKE, PART, NOTHING = Unread.HANDSHAKE, Unread.PART, Unread.NOTHING
WHOLE, SOME = Unread.WHOLE, Unread.SOME
