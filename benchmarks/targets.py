"""What this library set out to reach, and whether a run reached it."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping

from .load import Figures

#: scenario -> peer -> a turn's figures, in the order of the turns.
Results = Mapping[str, Mapping[str, list[Figures]]]


@dataclasses.dataclass(frozen=True)
class Target:
    """`metric` of `mine` in a scenario, over that of `peer` where one is named.

    Args:
        scenario: its name.
        metric: of the figures.
        bound: at most, or at least where `least` is true.
        peer: its name; `""`: the figure itself. Of several with `|` between, the best.
        mine: who of ours.
        least: the bound is a lower one.
    """

    scenario: str
    metric: str
    bound: float
    peer: str = ""
    mine: str = "ours"
    least: bool = False

    def measured(self, results: Results) -> float | None:
        """The median over the turns, of ratios within a turn; `None`: not measured."""
        found = results.get(self.scenario, {})
        mine = [one.get(self.metric) for one in found.get(self.mine, [])]
        if not mine or None in mine:
            return None
        values = [value for value in mine if value is not None]
        if not self.peer:
            return statistics.median(values)
        rivals = [found[peer] for peer in self.peer.split("|") if found.get(peer)]
        if not rivals:
            return None
        choose = max if self.least else min
        best = [choose(one[self.metric] for one in round_) for round_ in zip(*rivals, strict=True)]
        return float(statistics.median(a / b for a, b in zip(values, best, strict=True)))

    def met(self, measured: float) -> bool:
        return measured >= self.bound if self.least else measured <= self.bound

    def words(self) -> str:
        over = f" / {self.peer.replace('|', ' or ')}" if self.peer else ""
        return f"{self.scenario}: {METRICS[self.metric][0]}: {self.mine}{over}"

    def bound_words(self) -> str:
        return f"at {'least' if self.least else 'most'} {self.bound:,g}"


#: The name of each figure in words, and how it is written.
METRICS: dict[str, tuple[str, str]] = {
    "cpu_us": ("CPU us/request", "{:,.1f}"),
    "rate": ("requests/s", "{:,.0f}"),
    "p50_ms": ("p50 ms", "{:.2f}"),
    "p99_ms": ("p99 ms", "{:.2f}"),
    "memory_kib": ("memory KiB", "{:,.0f}"),
    "threads": ("threads", "{:.0f}"),
    "naps": ("naps/s", "{:,.0f}"),
    "crunches": ("crunches/s", "{:.1f}"),
    "each_kib": ("KiB each", "{:.2f}"),
    "p99_alone": ("p99 over that alone", "{:.2f}"),
    "times_alone": ("times alone", "{:.2f}"),
    "rest_percent": ("CPU at rest %", "{:.2f}"),
    "more_threads": ("threads more", "{:.0f}"),
    "stop_ms": ("stop ms", "{:,.0f}"),
}

_PREAD = "raw threads|raw threads, pread"
_LOOPING = "ours, looping"

TARGETS: tuple[Target, ...] = (
    Target("ping-50", "cpu_us", 1.05, "uvloop Protocol"),
    Target("ping-50", "cpu_us", 0.95, "asyncio Protocol"),
    Target("ping-50", "cpu_us", 0.70, "raw threads"),
    Target("ping-1", "cpu_us", 1.10, "raw threads"),
    Target("ping-50", "cpu_us", 1.10, "raw threads", _LOOPING),
    Target("one-by-one", "cpu_us", 1.10, "asyncio Protocol"),
    Target("connection-per-request", "cpu_us", 1.30, "uvloop Protocol"),
    Target("connection-per-request", "cpu_us", 0.80, "asyncio Protocol"),
    Target("connection-per-request", "cpu_us", 0.28, "socketserver"),
    Target("tls-ping", "cpu_us", 1.15, "uvloop Protocol"),
    Target("tls-ping", "cpu_us", 0.95, "asyncio Protocol"),
    Target("tls-handshakes", "cpu_us", 0.9, "raw threads"),
    Target("tls-idle", "each_kib", 40),
    Target("tls-file", "rate", 0.9, "nginx", least=True),
    Target("sleep-0.5", "rate", 1.0, "raw threads", least=True),
    Target("sleep-5", "rate", 1.0, "raw threads", least=True),
    Target("sleep-5", "rate", 9_300, least=True),
    Target("mixed", "p99_ms", 8),
    Target("mixed", "naps", 900, least=True),
    Target("beside-computing", "rate", 1.0, "uvloop Protocol", least=True),
    Target("beside-computing", "crunches", 0.4, "uvloop Protocol", least=True),
    *(
        target
        for size in ("1KiB", "64KiB", "1MiB", "64MiB")
        for target in (
            Target(f"file-{size}", "rate", 1.0, _PREAD, least=True),
            Target(f"file-{size}", "cpu_us", 1.0, _PREAD),
        )
    ),
    Target("idle-10000", "each_kib", 1.5),
    Target("idle-10000", "times_alone", 1.05),
    Target("idle-10000", "stop_ms", 1_000),
    Target("slow-readers", "p99_alone", 1.3),
    Target("telemetry", "cpu_us", 1.4, "ours", "ours, a receiver on every event"),
)
