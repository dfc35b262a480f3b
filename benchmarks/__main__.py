"""`python -m benchmarks`: measures ours and its peers in turn and prints the table.

    python -m pip install '.[bench]'    # uvloop
    python -m benchmarks                # about five minutes
    python -m benchmarks --quick        # about one; noisier

Needs `redis-benchmark` (Debian: redis-tools). Machines are shared and noisy: what counts
are the ratios within one run. Each round takes the peers in turn; medians are shown.
"""

from __future__ import annotations

import argparse
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from .measure import ROOT, Server, ping

PINGS: tuple[str, ...] = (
    "ours",
    "ours, looping",
    "raw threads",
    "socketserver",
    "asyncio Protocol",
    "uvloop Protocol",
)

#: (ours, the peer, at most)
PING_TARGETS = (
    ("ours", "uvloop Protocol", 1.15),
    ("ours", "asyncio Protocol", 1.0),
    ("ours", "raw threads", 0.75),
    ("ours, looping", "raw threads", 1.2),
)


def row(what: str, figure: str, target: str, met: bool) -> None:
    print(f"| {what} | {figure} | {target} | {'yes' if met else '**no**'} |", flush=True)


def measure_pings(rounds: int, requests: int) -> None:
    figures: dict[str, list[float]] = {name: [] for name in PINGS}
    for _ in range(rounds):
        for name in PINGS:
            with Server(name) as server:
                ping(server, requests // 10, 50)
                figures[name].append(ping(server, requests, 50)[0])
    medians = {name: statistics.median(values) for name, values in figures.items()}
    for mine, peer, most in PING_TARGETS:
        # Ratios within each round, then their median: the machine changes between rounds.
        ratio = statistics.median(a / b for a, b in zip(figures[mine], figures[peer], strict=True))
        row(
            f"PING, 50 clients: {mine} / {peer}, server CPU per request",
            f"{ratio:.2f} ({medians[mine]:.1f} / {medians[peer]:.1f} us)",
            f"at most {most}",
            ratio <= most,
        )


def measure_sleeps(rounds: int, requests: int) -> None:
    for sleep_ms in (0.5, 5.0):
        ratios, rates = [], []
        for _ in range(rounds):
            one = {}
            for name in ("ours", "raw threads"):
                with Server(name, "--sleep", str(sleep_ms)) as server:
                    ping(server, requests // 10, 50)
                    one[name] = ping(server, requests, 50)[1]
            ratios.append(one["ours"] / one["raw threads"])
            rates.append(one["ours"])
        ratio = statistics.median(ratios)
        row(
            f"a handler that sleeps {sleep_ms:g} ms, 50 clients: rate / raw threads",
            f"{ratio:.2f} ({statistics.median(rates):,.0f}/s)",
            "at least 0.95",
            ratio >= 0.95,
        )


def measure_idle(count: int) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, count + 200)), hard))
    with Server("ours") as server:
        clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(50)]
        for client in clients:
            client.sendall(b"PING")
            client.recv(64)
        threads, memory = server.threads(), server.memory_kib()
        clients += [socket.create_connection(("127.0.0.1", server.port)) for _ in range(count)]
        clients[-1].sendall(b"PING")
        clients[-1].recv(64)
        time.sleep(1)
        each = (server.memory_kib() - memory) / count
        row(f"{count:,} idle connections: memory each", f"{each:.2f} KiB", "at most 2", each <= 2)
        more = server.threads() - threads
        row(f"{count:,} idle connections: threads more", f"{more}", "0", more <= 0)
        before = server.cpu_s()
        time.sleep(5)
        share = (server.cpu_s() - before) / 5 * 100
        row(f"{count:,} idle connections: CPU at rest", f"{share:.2f} %", "under 0.5", share < 0.5)
        for client in clients:
            client.close()


def measure_import(rounds: int) -> None:
    def seconds(code: str) -> float:
        command = [sys.executable, "-c", code]
        before = time.perf_counter()
        subprocess.run(command, check=True, cwd=ROOT, env=environment)
        return time.perf_counter() - before

    # As installed: with its bytecode cached.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = tempfile.mkdtemp()
    seconds("import thousand_island_sync")
    differences = []
    for _ in range(rounds * 3):
        bare = seconds("import socket, threading, logging")
        ours = seconds("import socket, threading, logging, thousand_island_sync")
        differences.append(ours - bare)
    cost = statistics.median(differences) * 1000
    what = "`import thousand_island_sync`, over socket, threading and logging"
    row(what, f"{cost:.0f} ms", "at most 60", cost <= 60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, fewer requests")
    given = parser.parse_args()
    rounds, requests = (3, 50_000) if given.quick else (7, 100_000)
    print(
        f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()};"
        f" {rounds} rounds of {requests:,} requests\n"
    )
    print("| what | measured | target | met |\n|---|---|---|---|", flush=True)
    measure_pings(rounds, requests)
    measure_sleeps(rounds, requests // 4)
    measure_idle(8_000)
    measure_import(rounds)


if __name__ == "__main__":
    main()
