"""`python -m benchmarks.instructions`: instructions a request, counted by valgrind.

Times move by half on a shared machine; what a server executes in user mode for a request
hardly moves at all. It runs under `valgrind --tool=callgrind`, tens of times as slow as
otherwise, and serves the same load twice; the second time is counted.

    python -m benchmarks.instructions                       # ours and the event loops
    python -m benchmarks.instructions --peers 'raw threads'
    python -m benchmarks.instructions --functions 30        # where ours go

Needs Debian's `valgrind` and `redis-tools`, `apache2-utils`. What the kernel does for the
server's system calls is not in it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from . import load
from .measure import Server, tool_of
from .scenarios import make_certificate
from .work import HOST, Work

#: How many times as slow as otherwise, about.
_SLOWED = 50
_PEERS = ["ours", "asyncio Protocol", "uvloop Protocol", "raw threads"]


def _ping(clients: int) -> Callable[[Server, int], list[str]]:
    def command(server: Server, requests: int) -> list[str]:
        return load.redis_command(server, clients, "-t", "ping_mbulk", "-n", str(requests))

    return command


def _connections(server: Server, requests: int) -> list[str]:
    url = f"http://{HOST}:{server.port}/send/100"
    return [tool_of("ab", "apache2-utils"), "-q", "-c", "50", "-n", str(requests), url]


Loads = dict[str, tuple[Work, Callable[[Server, int], list[str]]]]


def loads(pem: str) -> Loads:
    """Name -> what the server is started for, and the program that loads it."""
    return {
        "PING, 1 connection": (Work(slowed=_SLOWED), _ping(1)),
        "PING, 50 connections": (Work(slowed=_SLOWED), _ping(50)),
        "a connection for each request, 50 at a time": (
            Work(http=True, slowed=_SLOWED),
            _connections,
        ),
        "PING over TLS 1.3, 50 connections": (Work(pem=pem, slowed=_SLOWED), _ping(50)),
    }


def count(
    work: Work,
    command: Callable[[Server, int], list[str]],
    peer: str,
    requests: int,
    folder: Path,
) -> tuple[float, Path]:
    """Instructions a request, and the file that `callgrind_annotate` takes."""
    out = folder / "callgrind.out"
    grind = [tool_of("valgrind", "valgrind"), "--tool=callgrind", "--quiet"]
    grind += [f"--callgrind-out-file={out}", "--fair-sched=yes"]
    with Server(peer, work, prefix=grind) as server:
        _run(command(server, requests))
        _control("--zero", server.pid)
        _run(command(server, requests))
        _control("--dump", server.pid)
        dumps = sorted(folder.glob("callgrind.out.*"))
    text = dumps[0].read_text()
    total = re.search(r"^(?:totals|summary): (\d+)", text, re.MULTILINE)
    assert total is not None, text[:200]
    return int(total[1]) / requests, dumps[0]


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=600)


def _control(what: str, pid: int) -> None:
    _run([tool_of("callgrind_control", "valgrind"), what, str(pid)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=8_000)
    parser.add_argument("--peers", nargs="+", default=_PEERS)
    parser.add_argument("--functions", type=int, default=0, help="of each, so many are shown")
    given = parser.parse_args()
    print("| instructions a request |", " | ".join(given.peers), "|")
    print("|---|" + "---|" * len(given.peers))
    with tempfile.TemporaryDirectory() as certificates:
        _measure(given, loads(make_certificate(Path(certificates))))


def _measure(given: argparse.Namespace, chosen: Loads) -> None:
    for name, (work, command) in chosen.items():
        row = []
        for peer in given.peers:
            with tempfile.TemporaryDirectory() as folder:
                found, dump = count(work, command, peer, given.requests, Path(folder))
                row.append(f"{found:,.0f}")
                if given.functions:
                    print(_functions(dump, given.functions))
        print(f"| {name} |", " | ".join(row), "|", flush=True)


def _functions(dump: Path, most: int) -> str:
    done = subprocess.run(
        [tool_of("callgrind_annotate", "valgrind"), "--threshold=100", str(dump)],
        check=True,
        capture_output=True,
        text=True,
    )
    # What valgrind thinks a thread has begun with has all that it does.
    lines = [
        line
        for line in done.stdout.splitlines()
        if re.match(r"\s*[\d,]+ \(", line) and "(100." not in line
    ]
    return "\n".join(lines[: most + 1])


if __name__ == "__main__":
    main()
