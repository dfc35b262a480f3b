"""`python -m benchmarks.frames`: what `framing` costs, in CPU of the server, by turns.

    python -m benchmarks.frames                  # requests of one line; a long line, byte by byte
    python -m benchmarks.frames --turns 9 --requests 40000 --length 1048576

A request is one line, answered with one byte, once by `handle_data` as it comes and once with
`framing = Lines()`: what is told is the difference for each. The long line is sent with a send(2)
for each byte; read once by a handler that loops over `recv`, and once as a frame. How many of its
bytes come at once is chance, so what is told is the CPU for each receive, too.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

from thousand_island_sync import Close, Handler, LengthPrefix, Lines, Socket, ThousandIsland

ROOT = Path(__file__).resolve().parent.parent


class Raw(Handler):
    def handle_data(self, data: bytes, socket: Socket) -> None:
        socket.send(b"+")


class Line(Raw):
    framing = Lines(limit=1 << 21)


class Prefixed(Raw):
    framing = LengthPrefix(">I")


class Received(Handler):
    """Counts the bytes of a line, and tells how often it received."""

    def handle_connection(self, socket: Socket) -> Close:
        while not socket.recv().endswith(b"\n"):
            pass
        socket.send(b"%d" % socket.stats().recv_count)
        return Close()


class Framed(Handler):
    framing = Lines(limit=1 << 21)

    def handle_data(self, data: bytes, socket: Socket) -> Close:
        socket.send(b"%d" % socket.stats().recv_count)
        return Close()


HANDLERS: list[type[Handler]] = [Raw, Line, Prefixed, Received, Framed]


def serve(name: str) -> None:
    handler = next(one for one in HANDLERS if one.__name__ == name)
    with ThousandIsland(handler_cls=handler, port=0) as server:
        print(server.local_port, flush=True)
        sys.stdin.read()


class Server:
    """One handler in a process of its own."""

    def __init__(self, name: str) -> None:
        command = [sys.executable, "-m", "benchmarks.frames", "--serve", name]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True
        )
        assert self._process.stdout is not None
        self._port = int(self._process.stdout.readline())

    def cpu_s(self) -> float:
        # clock_getcpuclockid(3): the CPU clock of another process.
        return time.clock_gettime((~self._process.pid << 3) | 2)

    def connect(self) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self._port))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    def stop(self) -> None:
        self._process.communicate("")


def requests(server: Server, request: bytes, count: int) -> float:
    """Microseconds of CPU for each."""
    with server.connect() as client:
        before = server.cpu_s()
        for _ in range(count):
            client.sendall(request)
            client.recv(1)
        return (server.cpu_s() - before) / count * 1e6


def long_line(server: Server, length: int) -> tuple[float, float]:
    """Seconds of CPU for all, and microseconds for each receive."""
    with server.connect() as client:
        before = server.cpu_s()
        for _ in range(length):
            client.send(b"x")
        client.send(b"\n")
        receives = int(client.recv(100))
        took = server.cpu_s() - before
    return took, took / receives * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--length", type=int, default=1 << 20)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve)
        return
    servers = {one.__name__: Server(one.__name__) for one in HANDLERS}
    try:
        for size in (20, 64, 200):
            line = b"x" * (size - 1) + b"\n"
            prefixed = (size - 4).to_bytes(4, "big") + b"x" * (size - 4)
            turns = [
                (
                    requests(servers["Raw"], line, given.requests),
                    requests(servers["Line"], line, given.requests),
                    requests(servers["Prefixed"], prefixed, given.requests),
                )
                for _ in range(given.turns)
            ]
            raw, lines, lengths = (statistics.median(row) for row in zip(*turns, strict=True))
            more = statistics.median(turn[1] - turn[0] for turn in turns)
            also = statistics.median(turn[2] - turn[0] for turn in turns)
            print(
                f"{size:4} bytes: {raw:.2f} us raw, Lines {lines:.2f} ({more:+.2f}),"
                f" LengthPrefix {lengths:.2f} ({also:+.2f})",
                flush=True,
            )
        if given.length:
            pairs = [
                (
                    long_line(servers["Received"], given.length),
                    long_line(servers["Framed"], given.length),
                )
                for _ in range(given.turns)
            ]
            for what, column, unit in (("in all", 0, "s"), ("each receive", 1, "us")):
                alone = statistics.median(one[column] for one, _ in pairs)
                framed = statistics.median(one[column] for _, one in pairs)
                times = statistics.median(two[column] / one[column] for one, two in pairs)
                print(
                    f"a line of {given.length} bytes, byte by byte, {what}: recv alone"
                    f" {alone:.2f} {unit}, a frame {framed:.2f} {unit}, {times:.2f} times"
                )
    finally:
        for server in servers.values():
            server.stop()


if __name__ == "__main__":
    main()
