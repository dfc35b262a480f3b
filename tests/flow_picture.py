"""Draws `docs/images/connection.svg`, how a connection flows, from the table of its states.

python -m tests.flow_picture
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from thousand_island_sync._connection.states import TRANSITIONS, State

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "connection.svg"

WIDTH, HEIGHT = 936, 400
BOX_WIDTH, BOX_HEIGHT = 168, 66
#: Where a state's box is (its left upper corner), and what is written under its name.
BOXES: dict[State, tuple[int, int, str]] = {
    State.NEW: (16, 40, "accepted"),
    State.HANDSHAKING: (252, 40, "handler made, then TLS"),
    State.RUNNING: (488, 40, "one callback at a time"),
    State.PARKED: (736, 40, "between callbacks"),
    State.PAUSED: (736, 174, "nothing is read"),
    State.CLOSING: (488, 284, "the last callback"),
    State.CLOSED: (252, 284, "then handle_end"),
}
#: States in which no thread is in the connection.
HELD_BY_NO_THREAD = {State.PARKED, State.PAUSED, State.CLOSED}

#: From one state to another: the corners of the line, its words, and where they stand.
_Arrow = tuple[list[tuple[int, int]], str, tuple[int, int]]
ARROWS: dict[tuple[State, State], _Arrow] = {
    (State.NEW, State.HANDSHAKING): ([(184, 73), (252, 73)], "", (0, 0)),
    (State.NEW, State.CLOSED): ([(100, 106), (100, 317), (252, 317)], "refused", (176, 309)),
    (State.HANDSHAKING, State.RUNNING): ([(420, 62), (488, 62)], "done", (454, 54)),
    (State.RUNNING, State.HANDSHAKING): ([(488, 86), (420, 86)], "STARTTLS", (454, 102)),
    (State.HANDSHAKING, State.CLOSING): ([(336, 106), (500, 284)], "failed", (408, 226)),
    (State.RUNNING, State.PARKED): ([(656, 62), (736, 62)], "returned", (696, 54)),
    (State.PARKED, State.RUNNING): ([(736, 86), (656, 86)], "bytes", (696, 102)),
    (State.RUNNING, State.PAUSED): ([(632, 106), (736, 192)], "", (0, 0)),
    (State.PAUSED, State.RUNNING): ([(736, 222), (596, 106)], "", (0, 0)),
    (State.PAUSED, State.PARKED): ([(790, 174), (790, 106)], "resume()", (824, 144)),
    (State.RUNNING, State.CLOSING): ([(540, 106), (540, 284)], "Close(), an error", (594, 250)),
    (State.PARKED, State.CLOSING): (
        [(904, 73), (920, 73), (920, 328), (656, 328)],
        "the peer closed, a timeout, a stop",
        (778, 346),
    ),
    (State.PAUSED, State.CLOSING): ([(780, 240), (780, 306), (656, 306)], "", (0, 0)),
    (State.CLOSING, State.CLOSED): ([(488, 317), (420, 317)], "", (0, 0)),
}

_STYLE = """\
text { font-family: system-ui, sans-serif; fill: #1f2933; text-anchor: middle; font-size: 12px }
.name { font-weight: 600; font-size: 14px }
.words { font-size: 11px }
.box { stroke: #52606d; stroke-width: 1.5 }
.thread { fill: #ffe3c2 }
.none { fill: #d7f0e4 }
.arrow { fill: none; stroke: #52606d; stroke-width: 1.5; marker-end: url(#head) }"""

_HEAD = (
    '<marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8"'
    ' orient="auto"><path d="M0 0 8 4 0 8z" fill="#52606d"/></marker>'
)
_ALTERNATIVE = (
    "A connection is accepted, its handler is made and hands are shaken. Then it runs callbacks on"
    " a thread, and waits between them without one, until the peer closes, a timeout or a stop."
)


def _box(state: State) -> list[str]:
    x, y, words = BOXES[state]
    kind = "none" if state in HELD_BY_NO_THREAD else "thread"
    size = f'width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="8"'
    middle = x + BOX_WIDTH // 2
    return [
        f'<rect class="box {kind}" x="{x}" y="{y}" {size}/>',
        f'<text class="name" x="{middle}" y="{y + 28}">{state.name}</text>',
        f'<text x="{middle}" y="{y + 48}">{escape(words)}</text>',
    ]


def _arrow(ends: tuple[State, State]) -> list[str]:
    corners, words, (x, y) = ARROWS[ends]
    points = " ".join(f"{left},{top}" for left, top in corners)
    drawn = [f'<polyline class="arrow" points="{points}"/>']
    if words:
        drawn.append(f'<text class="words" x="{x}" y="{y}">{escape(words)}</text>')
    return drawn


def _legend() -> list[str]:
    drawn = []
    for x, kind, words in (
        (252, "thread", "a thread works for the connection"),
        (520, "none", "no thread: an entry in epoll, or nothing"),
    ):
        drawn.append(f'<rect class="box {kind}" x="{x}" y="372" width="16" height="14" rx="3"/>')
        drawn.append(
            f'<text x="{x + 24}" y="383" style="text-anchor: start">{escape(words)}</text>'
        )
    return drawn


def picture() -> str:
    """The drawing: a box for each state, an arrow for each transition of the table."""
    arrows = [(one, other) for one, others in TRANSITIONS.items() for other in others]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        f' width="{WIDTH}" height="{HEIGHT}" role="img">',
        f"<title>{escape(_ALTERNATIVE)}</title>",
        f"<style>{_STYLE}</style>",
        f"<defs>{_HEAD}</defs>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        *(line for state in TRANSITIONS for line in _box(state)),
        *(line for ends in sorted(arrows, key=list(ARROWS).index) for line in _arrow(ends)),
        *_legend(),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(picture())
