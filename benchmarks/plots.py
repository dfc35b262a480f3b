"""Draws the recorded results: `python -m benchmarks.plots` writes `docs/plots` anew.

The records are the tables of `docs/explanation/benchmarks.md` and `scaling.md`, and `soak.csv`.
So a picture shows what was recorded. A test draws them again and compares.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

from .svg import FAINT, GREY, INK, OURS, Drawing, named

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "docs" / "explanation"
PLOTS = ROOT / "docs" / "plots"

#: The title of a table of `benchmarks.md` -> its picture.
BARS = {
    "PING, 50 connections": "ping-50",
    "PING, 200 a second from 20 connections, one after the other": "one-by-one",
    "a connection for each request (`ab`, 50 at a time), HTTP, 100 bytes": "connection-per-request",
    "handlers that block for 5 ms, 50 connections": "sleep-5",
    "40 connections that are quick beside 20 whose requests block for 20 ms": "mixed",
    "50 active connections beside 10,000 idle ones": "idle-10000",
}
#: The column of x in `scaling.md` -> what is drawn over it, and its picture.
CURVES = {
    "active connections": ("CPU us/request", "scaling-connections"),
    "max_handler_threads, 50 connections": ("requests/s", "scaling-threads"),
}
#: The columns that become panels: their words, and which way is better.
PANELS = {
    "CPU us/request": ("CPU, us a request", "lower is better"),
    "requests/s": ("requests a second", "higher is better"),
    "naps/s": ("blocking requests a second", "higher is better"),
    "p99 ms": ("99th percentile, ms", "lower is better"),
    "memory KiB": ("memory, KiB", "lower is better"),
    "KiB each": ("KiB for each idle one", "lower is better"),
    "threads": ("threads", "lower is better"),
}
_COLOURS = (OURS, "#2e6da4", "#5b8c3a", "#8a6d3b")
_NAMES, _PANEL, _BAR, _ROW, _TOP = 205, 175, 100, 20, 74

Rows = dict[str, dict[str, float]]


def number(cell: str) -> float:
    return float(cell.replace(",", ""))


def tables(lines: list[str]) -> Iterator[tuple[str, str, Rows]]:
    """Each table under a heading: the heading, the name of the first column, and the rows."""
    title, head, first = "", [""], ""
    rows: Rows = {}
    for line in [*lines, "## "]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("#"):
            if rows:
                yield title, first, rows
            title, head, rows = line.lstrip("# "), [""], {}
        elif line.startswith("| ") and head == [""]:
            first, *head = cells
        elif line.startswith("| ") and title:
            found = zip(head, cells[1:], strict=True)
            rows[cells[0]] = {name: number(cell) for name, cell in found if cell and name in PANELS}


def bars(title: str, rows: Rows) -> str:
    """The servers of one scenario beside one another, a panel for each figure."""
    panels = [name for name in PANELS if any(name in row for row in rows.values())]
    width = _NAMES + _PANEL * len(panels)
    drawing = Drawing(width, _TOP + _ROW * len(rows) + 12, title)
    drawing.text(12, 22, title.replace("`", ""), size=14, bold=True)
    for row, name in enumerate(rows):
        colour = OURS if name.startswith("ours") else INK
        y = _TOP + _ROW * row + 13
        drawing.text(_NAMES - 10, y, named(name), size=11, anchor="end", colour=colour)
    for column, panel in enumerate(panels):
        left = _NAMES + _PANEL * column
        words, better = PANELS[panel]
        drawing.text(left, 48, words, bold=True)
        drawing.text(left, 63, better, size=10, colour=GREY)
        most = max(row.get(panel, 0) for row in rows.values()) or 1
        for row, (name, figures) in enumerate(rows.items()):
            if panel not in figures:
                continue
            y, length = _TOP + _ROW * row, _BAR * figures[panel] / most
            colour = OURS if name.startswith("ours") else GREY
            drawing.box((left, y), (length, _ROW - 5), colour)
            drawing.text(left + length + 5, y + 12, _written(panel, figures[panel]), size=10)
    return str(drawing)


def _written(panel: str, value: float) -> str:
    if panel == "threads" or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def curves(axis: str, column: str, found: dict[str, dict[float, float]]) -> str:
    """`column` over `axis`, a curve for each server."""
    words, better = PANELS[column]
    drawing = Drawing(720, 340, f"{words}, over {axis}")
    drawing.text(12, 22, f"{words} ({better})", size=14, bold=True)
    left, right, top, bottom = 70.0, 540.0, 44.0, 290.0
    every = sorted({x for curve in found.values() for x in curve})
    most = max(max(curve.values()) for curve in found.values())
    step = _step(most)

    def place(x: float, y: float) -> tuple[float, float]:
        begin, end = math.log(every[0]), math.log(every[-1])
        across = (math.log(x) - begin) / (end - begin)
        return left + across * (right - left), bottom - y / most * (bottom - top)

    for tick in range(int(most / step) + 1):
        _, y = place(every[0], tick * step)
        drawing.line([(left, y), (right, y)], FAINT, width=1)
        drawing.text(left - 8, y + 4, f"{tick * step:,g}", size=10, anchor="end")
    for x in every:
        at, _ = place(x, 0)
        drawing.text(at, bottom + 16, f"{x:,g}", size=10, anchor="middle")
    drawing.text((left + right) / 2, bottom + 38, axis, anchor="middle")
    ends = []
    for (name, curve), colour in zip(found.items(), itertools.cycle(_COLOURS), strict=False):
        points = [place(x, y) for x, y in curve.items()]
        drawing.line(points, colour, width=2)
        for x, y in points:
            drawing.dot(x, y, colour)
        ends.append((points[-1][1] + 4, named(name).partition(", handlers")[0], colour))
    below = bottom + 14
    for y, name, colour in sorted(ends, reverse=True):  # from the bottom up, never over another
        below = min(y, below - 14)
        drawing.text(right + 12, below, name, size=11, colour=colour)
    return str(drawing)


#: The columns of `soak.csv` -> their words, and what one unit of the picture is in them.
SOAK = {
    "memory_kib": ("resident memory, MiB", 1024.0),
    "descriptors": ("open descriptors", 1.0),
    "threads": ("threads", 1.0),
    "p99_ms": ("99th percentile, ms (the worst of each minute)", 1.0),
}


def soak(rows: list[dict[str, str]]) -> str:
    """What three servers held over time, and how quick they were: a panel for each column."""
    title = "thousand_island_sync: a server each over TCP, TLS and a Unix socket, soaked"
    drawing = Drawing(720, 700, title)
    drawing.text(12, 22, title, size=14, bold=True)
    drawing.text(12, 40, "a flat line is better; lower is better", size=11, colour=GREY)
    left, right, height = 60.0, 640.0, 100.0
    end = max(number(row["minute"]) for row in rows) or 1
    kinds = list(dict.fromkeys(row["server"] for row in rows))
    for place, (column, (words, unit)) in enumerate(SOAK.items()):
        bottom = 180.0 + 155 * place
        drawing.text(left, bottom - height - 14, words, bold=True)
        most = max(number(row[column]) for row in rows) / unit
        step = _step(most) * 2
        for tick in range(int(most / step) + 1):
            y = bottom - tick * step / most * height
            drawing.line([(left, y), (right, y)], FAINT, width=1)
            drawing.text(left - 8, y + 4, f"{tick * step:,g}", size=10, anchor="end")
        for kind, colour in zip(kinds, itertools.cycle(_COLOURS), strict=False):
            points = [
                (
                    left + number(row["minute"]) / end * (right - left),
                    bottom - number(row[column]) / unit / most * height,
                )
                for row in rows
                if row["server"] == kind
            ]
            drawing.line(points, colour, width=1.5)
    for place, (kind, colour) in enumerate(zip(kinds, itertools.cycle(_COLOURS), strict=False)):
        drawing.text(right - 130 + 50 * place, 40, kind, size=12, colour=colour, bold=True)
    for part in range(5):
        x = left + part / 4 * (right - left)
        drawing.text(x, 665, f"{end * part / 4:.0f}", size=10, anchor="middle")
    drawing.text((left + right) / 2, 686, "minutes", anchor="middle")
    return str(drawing)


def _step(most: float) -> float:
    """A round number that divides `most` into four to nine parts."""
    scale = 10.0 ** math.floor(math.log10(most))
    return next(scale * part for part in (0.1, 0.2, 0.5, 1, 2) if most / (scale * part) < 9)


def pictures() -> dict[str, str]:
    """The name of each file of `docs/plots`, and what it has to hold."""
    made = {}
    for title, _, rows in tables((RECORDS / "benchmarks.md").read_text().splitlines()):
        if title in BARS:
            made[f"{BARS[title]}.svg"] = bars(title, rows)
    grouped: dict[str, dict[str, dict[float, float]]] = {}
    for title, axis, rows in tables((RECORDS / "scaling.md").read_text().splitlines()):
        if axis in CURVES:
            column, _ = CURVES[axis]
            grouped.setdefault(axis, {})[title] = {
                number(x): figures[column] for x, figures in rows.items()
            }
    for axis, found in grouped.items():
        column, name = CURVES[axis]
        made[f"{name}.svg"] = curves(axis, column, found)
    with (RECORDS / "soak.csv").open() as file:
        made["soak.svg"] = soak(list(csv.DictReader(file)))
    return made


def draw(path: Path, table: list[str]) -> None:
    """The picture of one table of a report."""
    for title, _, rows in tables(table):
        path.write_text(bars(title, rows))


def main() -> None:
    for name, text in pictures().items():
        (PLOTS / name).write_text(text)
        print(PLOTS / name)


if __name__ == "__main__":
    main()
