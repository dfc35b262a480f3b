"""Draws the life of a connection, `docs/images/connection.svg`, from the tables of `states.py`.

    python -m tests.state_diagram

Where the boxes stand and what the arrows say is written here; which there are is not, and one that
is missing here, or too many, is a `KeyError` or an `AssertionError`.
"""

from __future__ import annotations

import math

from benchmarks.svg import GREY, INK, OURS, Drawing
from tests.programs import ROOT
from thousand_island_sync._connection.states import LAST_CALLBACK, REASON, TRANSITIONS, Cause, State

PATH = ROOT / "docs" / "images" / "connection.svg"

_PLACES = {
    State.NEW: (90.0, 80.0),
    State.HANDSHAKING: (350.0, 80.0),
    State.RUNNING: (690.0, 80.0),
    State.PARKED: (690.0, 260.0),
    State.PAUSED: (1010.0, 260.0),
    State.CLOSING: (350.0, 430.0),
    State.CLOSED: (90.0, 430.0),
}
_SAYS = {
    State.NEW: "accepted",
    State.HANDSHAKING: "no bytes of yours yet",
    State.RUNNING: "a thread is in a callback",
    State.PARKED: "no thread; waits",
    State.PAUSED: "no thread; is not read",
    State.CLOSING: "the last callback",
    State.CLOSED: "handle_end",
}
#: What the arrow says, and where: how far along it (0 to 1), and beside it.
ARROWS: dict[tuple[State, State], tuple[str, float, tuple[float, float]]] = {
    (State.NEW, State.HANDSHAKING): ("handler made", 0.5, (0, -8)),
    (State.NEW, State.CLOSED): ("its constructor raised", 0.5, (72, 0)),
    (State.HANDSHAKING, State.RUNNING): ("handle_connection", 0.5, (0, 17)),
    (State.RUNNING, State.HANDSHAKING): ("SwitchTransport", 0.5, (0, -8)),
    (State.HANDSHAKING, State.CLOSING): ("failed, or a stop", 0.5, (58, 0)),
    (State.RUNNING, State.PARKED): ("returned", 0.6, (-32, 0)),
    (State.PARKED, State.RUNNING): ("bytes, a message", 0.4, (56, 0)),
    (State.RUNNING, State.PAUSED): ("Continue(paused=True)", 0.75, (-84, 14)),
    (State.PAUSED, State.RUNNING): ("a message", 0.5, (44, -8)),
    (State.PAUSED, State.PARKED): ("resume()", 0.5, (0, -8)),
    (State.RUNNING, State.CLOSING): ("Close(), an exception", 0.34, (-78, 0)),
    (State.PARKED, State.CLOSING): ("end, time-out, stop", 0.27, (80, 2)),
    (State.PAUSED, State.CLOSING): ("reset, deadline, stop", 0.3, (50, 22)),
    (State.CLOSING, State.CLOSED): ("it has returned", 0.5, (0, -8)),
}
_WIDTH, _HEIGHT = 168.0, 52.0


Point = tuple[float, float]


def _leave(middle: Point, shift: Point, unit: Point) -> Point:
    """Where a line leaves a box, which goes beside the middle of it by `shift`."""
    ways = [
        (math.copysign(half, way) - beside) / way
        for half, way, beside in zip((_WIDTH / 2, _HEIGHT / 2), unit, shift, strict=True)
        if way
    ]
    return (
        middle[0] + shift[0] + unit[0] * min(ways),
        middle[1] + shift[1] + unit[1] * min(ways),
    )


#: How a reader would say each cause.
_CAUSES = {
    Cause.PEER: "the peer closed or reset the connection",
    Cause.HANDLER: "a callback returned `Close()`",
    Cause.LOCAL: "the handler called `socket.close()`",
    Cause.TIMEOUT: "no bytes for the read timeout, or the deadline passed",
    Cause.SHUTDOWN: "the server stops, or `Connection.close()` was called",
    Cause.ERROR: "an error",
}


def ends() -> str:
    """The table of `overview.md`: how an established connection ends."""
    lines = ["| it ends because | last callback | event |", "|---|---|---|"]
    for cause, words in _CAUSES.items():
        callback = LAST_CALLBACK[State.PARKED, cause]
        told = f'`handler.shutdown`, `"{REASON[cause]}"`' if cause in REASON else "`handler.error`"
        lines.append(f"| {words} | {f'`{callback}`' if callback else 'none'} | {told} |")
    return "\n".join([*lines, ""])


def drawn() -> str:
    """The diagram."""
    arrows = {(one, other) for one, others in TRANSITIONS.items() for other in others}
    assert arrows == set(ARROWS), arrows ^ set(ARROWS)
    drawing = Drawing(1110, 500, "The life of a connection")
    drawing.text(12, 24, "The life of a connection", size=14, bold=True)
    for (one, other), (words, share, (aside, lower)) in ARROWS.items():
        start, end = _PLACES[one], _PLACES[other]
        length = math.dist(start, end)
        unit = (end[0] - start[0]) / length, (end[1] - start[1]) / length
        # Of a pair there and back, each keeps to its right.
        by = 9.0 if (other, one) in arrows else 0.0
        shift = -unit[1] * by, unit[0] * by
        begin = _leave(start, shift, unit)
        tip = _leave(end, shift, (-unit[0], -unit[1]))
        drawing.line([begin, (tip[0] - unit[0] * 8, tip[1] - unit[1] * 8)])
        side = (-unit[1] * 4.5, unit[0] * 4.5)
        back = (tip[0] - unit[0] * 11, tip[1] - unit[1] * 11)
        drawing.head(
            [
                tip,
                (back[0] + side[0], back[1] + side[1]),
                (back[0] - side[0], back[1] - side[1]),
            ]
        )
        x = begin[0] + (tip[0] - begin[0]) * share + aside
        y = begin[1] + (tip[1] - begin[1]) * share + lower
        drawing.text(x, y, words, size=11, anchor="middle", colour=INK)
    for state in TRANSITIONS:
        x, y = _PLACES[state]
        busy = state in (State.RUNNING, State.CLOSING)
        corner = (x - _WIDTH / 2, y - _HEIGHT / 2)
        edge = OURS if busy else GREY
        drawing.box(corner, (_WIDTH, _HEIGHT), "#ffffff", edge=edge, round_by=8)
        drawing.text(x, y - 4, state.name, size=13, anchor="middle", bold=True)
        drawing.text(x, y + 14, _SAYS[state], size=11, anchor="middle", colour=edge)
    return str(drawing)


if __name__ == "__main__":
    PATH.write_text(drawn())
    print(PATH)
