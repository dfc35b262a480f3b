"""The results, drawn: one SVG for each scenario, its servers beside one another."""

from __future__ import annotations

from pathlib import Path

from .load import Figures
from .report import medians
from .scenarios import Scenario
from .targets import METRICS

_SHOWN = ("cpu_us", "rate", "p50_ms", "p99_ms", "memory_kib", "threads")
_OURS, _THEIRS = "#c0392b", "#7f8c8d"


def draw(folder: Path, scenario: Scenario, found: dict[str, list[Figures]]) -> None:
    """`NAME.svg`: a bar for the median of each figure, and a dot for each round."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = scenario.name
    from matplotlib import pyplot

    peers = [name for name, rounds in found.items() if rounds][::-1]
    height = 1.2 + 0.28 * len(peers)
    figure, axes = pyplot.subplots(1, len(_SHOWN), sharey=True, figsize=(14, height))
    for axis, metric in zip(axes, _SHOWN, strict=True):
        for place, peer in enumerate(peers):
            colour = _OURS if peer.startswith("ours") else _THEIRS
            value = medians(found[peer]).get(metric, 0.0)
            axis.barh(place, value, color=colour, height=0.7)
            seen = [one[metric] for one in found[peer] if metric in one]
            axis.plot(seen, [place] * len(seen), "k.", markersize=2.5)
        axis.set_title(METRICS[metric][0], fontsize=9)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.locator_params(axis="x", nbins=4)
    axes[0].set_yticks(range(len(peers)), peers)
    figure.suptitle(scenario.title, fontsize=10, x=0.01, ha="left")
    figure.tight_layout()
    figure.savefig(folder / f"{scenario.name}.svg", metadata={"Date": None})
    pyplot.close(figure)
