"""`python -m benchmarks --scaling`: how the cost of ours grows.

With connections (active ones, and idle ones beside 50 active), with handler threads where
handlers block, with acceptors where connections are short, and with cores where handlers
compute, which only a free-threaded Python can use.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from . import crowds, load, plots, report
from .load import Figures, Load
from .measure import Server
from .targets import METRICS
from .work import Work

_CONNECTIONS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)
_IDLE = (100, 1_000, 3_000, 10_000)
_THREADS = (1, 2, 4, 8, 16, 32, 50, 64)
_ACCEPTORS = (1, 2, 4, 10, 20)
_PEERS = ("ours", "asyncio Protocol", "raw threads")


class Series:
    """One curve: a name, and for each x the median figures."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.points: dict[float, Figures] = {}

    def take(
        self, x: float, peer: str, work: Work, scenario: Load, rounds: int, python: str = ""
    ) -> None:
        found = []
        for _ in range(rounds):
            with Server(peer, work, python or sys.executable) as server:
                found.append(scenario(server, self.seconds))
        self.points[x] = report.medians(found)

    seconds = 1.0


def _connections(rounds: int) -> Iterable[tuple[str, str, list[Series]]]:
    by_peer = [Series(peer) for peer in _PEERS]
    for count in _CONNECTIONS:
        for series in by_peer:
            ping = functools.partial(load.redis, clients=count)
            series.take(count, series.name, Work(), ping, rounds)
    yield "active connections", "cpu_us", by_peer


def _idle(rounds: int) -> Iterable[tuple[str, str, list[Series]]]:
    by_peer = [Series(peer) for peer in _PEERS[:2]]
    for count in (*_IDLE, crowds.most_connections()):
        for series in by_peer:
            idle = functools.partial(crowds.idle, count=count)
            series.take(count, series.name, Work(), idle, rounds)
    yield "idle connections beside 50 active", "cpu_us", by_peer


def _threads(rounds: int) -> Iterable[tuple[str, str, list[Series]]]:
    one = Series("ours, handlers that block for 5 ms")
    ping = functools.partial(load.redis, clients=50, first=200)
    for count in _THREADS:
        one.take(count, "ours", Work(sleep_ms=5, threads=count), ping, rounds)
    yield "max_handler_threads, 50 connections", "rate", [one]


def _acceptors(rounds: int) -> Iterable[tuple[str, str, list[Series]]]:
    one = Series("ours, a connection for each request")
    ab = functools.partial(load.ab, clients=50)
    for count in _ACCEPTORS:
        one.take(count, "ours", Work(http=True, acceptors=count), ab, rounds)
    yield "num_acceptors", "cpu_us", [one]


def _cores(rounds: int) -> Iterable[tuple[str, str, list[Series]]]:
    found = []
    pythons = {"with the GIL": sys.executable, "without": shutil.which("python3.13t") or ""}
    cores = sorted(os.sched_getaffinity(0))
    ping = functools.partial(load.redis, clients=50, first=200)
    for words, python in pythons.items():
        for peer in _PEERS[:2] if python else ():
            series = Series(f"{peer}, handlers that compute, {words}")
            found.append(series)
            for count in range(1, len(cores) + 1):
                os.sched_setaffinity(0, cores[:count])
                try:
                    series.take(count, peer, Work(compute=12_000), ping, rounds, python)
                finally:
                    os.sched_setaffinity(0, cores)
    yield "cores that server and load may use", "rate", found


def run(folder: Path, facts: dict[str, str], rounds: int, seconds: float) -> None:
    """Writes `scaling.md` and an SVG for each question."""
    Series.seconds = seconds
    lines = ["# Scaling", "", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    questions = (_connections, _idle, _threads, _acceptors, _cores)
    for question in questions:
        for axis, metric, curves in question(rounds):
            table = _table(axis, curves)
            print("\n".join(table), flush=True)
            lines += table
            _draw(folder / f"scaling-{question.__name__.strip('_')}.svg", axis, metric, curves)
            (folder / "scaling.md").write_text("\n".join(lines))


def _table(axis: str, curves: list[Series]) -> list[str]:
    lines = []
    for series in curves:
        names = [name for name in METRICS if all(name in one for one in series.points.values())]
        heads = " | ".join(METRICS[name][0] for name in names)
        lines += [
            f"## {series.name}",
            "",
            f"| {axis} | {heads} |",
            "|---" * (len(names) + 1) + "|",
        ]
        for x, figures in series.points.items():
            cells = " | ".join(METRICS[name][1].format(figures[name]) for name in names)
            lines.append(f"| {x:,g} | {cells} |")
        lines.append("")
    return lines


def _draw(path: Path, axis: str, metric: str, curves: list[Series]) -> None:
    found = {one.name: {x: row[metric] for x, row in one.points.items()} for one in curves}
    path.write_text(plots.curves(axis, METRICS[metric][0], found))
