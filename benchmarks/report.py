"""The results, written: Markdown for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

from .load import Figures
from .scenarios import Scenario
from .targets import METRICS, TARGETS, Results


def medians(rounds: list[Figures]) -> Figures:
    names = [name for name in METRICS if rounds and all(name in one for one in rounds)]
    return {name: statistics.median(one[name] for one in rounds) for name in names}


def table_of(scenario: Scenario, found: dict[str, list[Figures]]) -> list[str]:
    """A table of medians; the last column is the CPU beside ours."""
    rows = {name: medians(rounds) for name, rounds in found.items() if rounds}
    if not rows:
        return []
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    heads = [METRICS[name][0] for name in names]
    lines = [f"## {scenario.title}", "", f"| server | {' | '.join(heads)} | ours / it, CPU |"]
    lines.append("|---" * (len(names) + 2) + "|")
    mine = found.get(scenario.peers[0], [])
    for peer, row in rows.items():
        cells = [METRICS[name][1].format(row[name]) if name in row else "" for name in names]
        ratio = statistics.median(
            [a["cpu_us"] / b["cpu_us"] for a, b in zip(mine, found[peer], strict=False)] or [0]
        )
        lines.append(f"| {peer} | {' | '.join(cells)} | {ratio:.2f} |")
    return [*lines, "", *([scenario.note, ""] if scenario.note else [])]


def targets_table(results: Results) -> list[str]:
    lines = ["| what | measured | target | met |", "|---|---|---|---|"]
    for target in TARGETS:
        measured = target.measured(results)
        if measured is not None:
            met = "yes" if target.met(measured) else "**no**"
            figure = f"{measured:,.2f}"
            lines.append(f"| {target.words()} | {figure} | {target.bound_words()} | {met} |")
    return lines if len(lines) > 2 else []


def write(
    folder: Path,
    facts: dict[str, str],
    scenarios: list[Scenario],
    results: dict[str, dict[str, list[Figures]]],
    failures: list[str],
) -> None:
    """`report.md` and `report.json`; called after every scenario, so that an interrupted
    run leaves what it has."""
    lines = ["# Benchmarks", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()] + [""]
    lines += targets_table(results)
    for failure in failures:
        lines += ["", f"**Not measured:** {failure}"]
    lines += [""]
    for scenario in scenarios:
        if scenario.name in results:
            lines += table_of(scenario, results[scenario.name])
    (folder / "report.md").write_text("\n".join(lines))
    content: dict[str, Any] = {"facts": facts, "results": results, "failures": failures}
    content["scenarios"] = {
        one.name: {"title": one.title, "work": dataclasses.asdict(one.work)} for one in scenarios
    }
    (folder / "report.json").write_text(json.dumps(content, indent=1))
