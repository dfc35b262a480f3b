"""Just enough SVG: text stays text, so it can be searched, copied and read aloud."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

INK, GREY, FAINT, PAPER = "#222222", "#8a939b", "#d8dde1", "#ffffff"
OURS = "#b03a2e"
LIBRARY = "thousand_island_sync"


def named(name: str) -> str:
    """A server of a table, by the library's name where the table says "ours"."""
    return name.replace("ours", LIBRARY, 1) if name.split(",")[0] == "ours" else name


class Drawing:
    """Shapes on white paper, in the order in which they were added."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self._lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}"'
            f' width="{width:g}" height="{height:g}" role="img"'
            ' font-family="Helvetica, Arial, sans-serif">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{width:g}" height="{height:g}" fill="{PAPER}"/>',
        ]

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 12,
        anchor: str = "start",
        colour: str = INK,
        bold: bool = False,
    ) -> None:
        weight = ' font-weight="bold"' if bold else ""
        self._lines.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}"'
            f' fill="{colour}"{weight}>{escape(words)}</text>'
        )

    def box(
        self,
        corner: tuple[float, float],
        size: tuple[float, float],
        fill: str,
        *,
        edge: str = "none",
        round_by: float = 0,
    ) -> None:
        (x, y), (width, height) = corner, size
        self._lines.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
            f' rx="{round_by:g}" fill="{fill}" stroke="{edge}"/>'
        )

    def line(
        self, points: Iterable[tuple[float, float]], colour: str = INK, *, width: float = 1.2
    ) -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._lines.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"/>'
        )

    def dot(self, x: float, y: float, colour: str) -> None:
        self._lines.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>')

    def head(self, points: Iterable[tuple[float, float]], colour: str = INK) -> None:
        """The head of an arrow."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._lines.append(f'<polygon points="{path}" fill="{colour}"/>')

    def __str__(self) -> str:
        return "\n".join([*self._lines, "</svg>", ""])
