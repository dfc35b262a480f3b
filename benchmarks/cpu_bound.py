"""Handlers that compute: what several cores are worth, with the GIL and without.

    python -m benchmarks.cpu_bound python3.13 python3.13t

Each interpreter serves the same handler, which computes for about a millisecond a PING, as
ours and as an asyncio `Protocol`, in turn; `redis-benchmark` asks, 50 clients. Written are
the rate, and how many cores the server used.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_SERVER = """
import asyncio, sys, threading

def compute():
    total = 0
    for number in range(12_000):
        total += number * number % 7
    return b"+PONG\\r\\n"

def answer(data):
    # redis-benchmark asks for the configuration first, and bears an error.
    errors = b"-ERR unknown command\\r\\n" * data.count(b"CONFIG")
    return errors + b"".join(compute() for _ in range(data.count(b"PING")))

class Ping(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(answer(data))

async def serve():
    server = await asyncio.get_running_loop().create_server(Ping, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

if sys.argv[1] == "asyncio":
    asyncio.run(serve())
else:
    from thousand_island_sync import Handler, ThousandIsland
    class Ours(Handler):
        def handle_data(self, data, socket):
            socket.send(answer(data))
    server = ThousandIsland(handler_cls=Ours, host="127.0.0.1", port=0).start()
    print(server.local_port, flush=True)
    server.wait()
"""


def measure(python: str, kind: str, requests: int) -> tuple[float, float]:
    """Requests a second, and cores used."""
    process = subprocess.Popen(
        [python, "-c", _SERVER, kind],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        used = time.clock_gettime((~process.pid << 3) | 2)
        began = time.monotonic()
        done = subprocess.run(
            ["redis-benchmark", "-p", port, "-t", "ping_mbulk", "-c", "50", "-q"]
            + ["-n", str(requests)],
            capture_output=True,
            text=True,
            check=True,
        )
        took = time.monotonic() - began
        used = time.clock_gettime((~process.pid << 3) | 2) - used
        assert re.search(r"requests per second", done.stdout), done.stdout
        return requests / took, used / took
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("python", nargs="*", default=[sys.executable])
    parser.add_argument("--requests", type=int, default=4_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(given.rounds):
        for python in given.python:
            for kind in ("ours", "asyncio"):
                found.setdefault((python, kind), []).append(measure(python, kind, given.requests))
    print("| interpreter | server | requests a second | cores |")
    print("|---|---|---|---|")
    for (python, kind), results in found.items():
        rate = statistics.median(one[0] for one in results)
        cores = statistics.median(one[1] for one in results)
        print(f"| {Path(python).name} | {kind} | {rate:,.0f} | {cores:.2f} |")


if __name__ == "__main__":
    main()
