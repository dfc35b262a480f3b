"""`python -m benchmarks`: measures ours and its peers in turn, and writes what it found.

    python -m pip install '.[bench]'      # the peers
    python -m benchmarks --quick          # about ten minutes; noisy
    python -m benchmarks                  # more than an hour
    python -m benchmarks --only 'ping-*'   # scenarios of these names
    python -m benchmarks --scaling        # how cost grows; see `benchmarks.scaling`

Needs `redis-benchmark`, `ab` and `wrk` (Debian: redis-tools, apache2-utils, wrk). Written
are `report.md`, `report.json` and an SVG for each scenario.

Machines are shared and noisy: what counts are the ratios within one turn. In a round all
servers of a scenario are there, and are loaded one after the other, back and forth; each round
starts them anew, for how fast a process is is luck, too. Nothing is pinned to a processor; the
load runs beside the server.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import sys
import tempfile
from pathlib import Path

from . import crowds, plots, report, scaling
from .load import Figures, Wrong
from .measure import Server, machine
from .scenarios import Scenario, scenarios

Results = dict[str, dict[str, list[Figures]]]


def measure(
    scenario: Scenario,
    peers: list[str],
    rounds: int,
    turns: int,
    seconds: float,
    failures: list[str],
) -> dict[str, list[Figures]]:
    """Each peer's figures, turn after turn; who fails once is left out of all of them."""
    found: dict[str, list[Figures]] = {peer: [] for peer in peers}

    def failed(peer: str, error: BaseException) -> None:
        failures.append(f"{scenario.name}, {peer}: {error}")
        del found[peer]

    for _ in range(rounds):
        with contextlib.ExitStack() as stack:
            servers: dict[str, Server] = {}
            for peer in list(found):
                try:
                    servers[peer] = stack.enter_context(Server(peer, scenario.work))
                except (OSError, SystemExit) as error:
                    failed(peer, error)
            for turn in range(1 if scenario.ends else turns):
                for peer in list(found)[:: -1 if turn % 2 else 1]:
                    print(f"{scenario.name}: {peer}", file=sys.stderr, flush=True)
                    try:
                        found[peer].append(scenario.load(servers[peer], seconds))
                    except (Wrong, OSError) as error:
                        failed(peer, error)
    return found


def chosen_by(patterns: list[str], name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round of one turn, shorter loads")
    parser.add_argument("--rounds", type=int, help="times that all servers are started; 3")
    parser.add_argument("--turns", type=int, help="of each server in a round; 5")
    parser.add_argument("--seconds", type=float, help="of each load; 0.5")
    parser.add_argument("--only", nargs="+", default=["*"], help="names; * is for anything")
    parser.add_argument("--peers", nargs="+", help="these only, and ours")
    parser.add_argument("--out", default=".benchmarks", help="a folder; .benchmarks")
    parser.add_argument("--scaling", action="store_true", help="how cost grows")
    given = parser.parse_args()
    rounds = given.rounds or (1 if given.quick else 3)
    turns = given.turns or (1 if given.quick else 5)
    seconds = given.seconds or 0.5
    crowds.allow_descriptors()
    folder = Path(given.out)
    folder.mkdir(parents=True, exist_ok=True)
    facts = machine()
    per_round = "one load" if given.scaling else f"{turns} loads in turn"
    facts["rounds"] = f"{rounds}, in each {per_round} of about {seconds:g} s"
    for name, value in facts.items():
        print(f"{name}: {value}")
    if given.scaling:
        scaling.run(folder, facts, rounds, seconds)
        return
    results: Results = {}
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as files:
        chosen = [one for one in scenarios(Path(files)) if chosen_by(given.only, one.name)]
        for scenario in chosen:
            peers = [
                name
                for name in scenario.peers
                if given.peers is None or name in given.peers or name.startswith("ours")
            ]
            found = measure(scenario, peers, rounds, turns, seconds, failures)
            results[scenario.name] = found
            print("\n".join(report.table_of(scenario, found)), flush=True)
            report.write(folder, facts, chosen, results, failures)
            plots.draw(folder / f"{scenario.name}.svg", report.table_of(scenario, found))
    print("\n".join(report.targets_table(results)))
    for failure in failures:
        print("Not measured:", failure)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
