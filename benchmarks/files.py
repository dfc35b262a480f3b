"""How a file is best sent: `os.sendfile`, `pread` and `send`, or a mapping; in which pieces.

    python -m benchmarks.files             # over loopback and a Unix socket
    sudo python -m benchmarks.files        # over a veth pair of two namespaces, too

A sender in a process of its own sends a file again and again to a reader in another that
throws it away; the ways take turns. Written are the rate, and the sender's CPU for a GiB.
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .measure import ROOT

KIB = 1 << 10
#: The name of a way -> how many bytes at a time; 0: as many as it takes.
WAYS = {
    "os.sendfile": 0,
    "os.sendfile, 64 KiB": 64 * KIB,
    "os.sendfile, 128 KiB": 128 * KIB,
    "pread + send, 64 KiB": 64 * KIB,
    "pread + send, 128 KiB": 128 * KIB,
    "pread + send, 1 MiB": 1024 * KIB,
    "mmap + send": 0,
    "ours": 0,
    "ours, send of a mapping": 0,
}
SUBNET = "192.0.2."  # RFC 5737: for documentation, so nobody's


# ---- the sender, in its process -------------------------------------------------------


def _by_sendfile(sock: socket.socket, path: str, piece: int, end: float) -> int:
    """Sends the file until `end`; how many bytes that were."""
    total, fd, size = 0, os.open(path, os.O_RDONLY), os.path.getsize(path)
    while time.monotonic() < end:
        done = 0
        while done < size:
            done += os.sendfile(sock.fileno(), fd, done, min(piece or size, size - done))
        total += done
    return total


def _by_pread(sock: socket.socket, path: str, piece: int, end: float) -> int:
    total, fd = 0, os.open(path, os.O_RDONLY)
    while time.monotonic() < end:
        done = 0
        while data := os.pread(fd, piece, done):
            sock.sendall(data)
            done += len(data)
        total += done
    return total


def _by_mmap(sock: socket.socket, path: str, piece: int, end: float) -> int:
    total = 0
    while time.monotonic() < end:
        with _mapping(path) as mapped:
            sock.sendall(mapped)
            total += len(mapped)
    return total


def _mapping(path: str) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)


_LOOPS = {"os.sendfile": _by_sendfile, "pread + send": _by_pread, "mmap + send": _by_mmap}


def _send_ours(mapped: bool, address: str, path: str, seconds: float) -> tuple[int, float]:
    from thousand_island_sync import Close, Handler, Socket, ThousandIsland

    sent = []

    class Sends(Handler):
        def handle_connection(self, socket: Socket) -> Close:
            total, used, end = 0, time.process_time(), time.monotonic() + seconds
            while time.monotonic() < end:
                if mapped:
                    with _mapping(path) as data:
                        total += socket.send(data)
                else:
                    total += socket.sendfile(path)
            sent.append((total, time.process_time() - used))
            return Close()

    with ThousandIsland(handler_cls=Sends, host=address, port=0) as server:
        print(server.local_port if not address.startswith("unix:") else 0, flush=True)
        while not sent:
            time.sleep(0.01)
    return sent[0]


def _send(way: str, address: str, path: str, seconds: float) -> None:
    """Prints its port, sends to the first client, prints bytes, seconds and CPU seconds."""
    if way.startswith("ours"):
        total, used = _send_ours("mapping" in way, address, path, seconds)
        took = seconds
    else:
        if address.startswith("unix:"):
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(address.removeprefix("unix:"))
            listener.listen()
            print(0, flush=True)
        else:
            listener = socket.create_server((address, 0))
            print(listener.getsockname()[1], flush=True)
        sock, _ = listener.accept()
        began, used = time.monotonic(), time.process_time()
        total = _LOOPS[way.split(",")[0]](sock, path, WAYS[way], began + seconds)
        took, used = time.monotonic() - began, time.process_time() - used
        sock.close()
    print(total, took, used, flush=True)


def _receive(address: str, port: int) -> None:
    """Reads to the end and checks how much of it is what it should be."""
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(address.removeprefix("unix:"))
    else:
        sock = socket.create_connection((address, port))
    buffer = bytearray(256 * KIB)
    total = 0
    while count := sock.recv_into(buffer):
        total += count
    print(total, flush=True)


# ---- the measurement --------------------------------------------------------------------


def measure(
    way: str, address: str, path: str, seconds: float, near: list[str], far: list[str]
) -> tuple[float, float]:
    """(MiB a second, the sender's CPU milliseconds for a GiB); `near` and `far` are put
    before the commands of the sender and the reader."""
    me = [sys.executable, "-m", "benchmarks.files"]
    pipe: dict[str, Any] = {"stdout": subprocess.PIPE, "cwd": ROOT, "text": True}
    sender = subprocess.Popen(
        [*near, *me, "--role", f"send {way}", address, path, str(seconds)], **pipe
    )
    with sender:
        assert sender.stdout is not None
        port = sender.stdout.readline().strip()
        reader = subprocess.run(
            [*far, *me, "--role", "receive", address, port], timeout=60, check=True, **pipe
        )
        total, took, used = (float(part) for part in sender.stdout.read().split())
    if int(reader.stdout) != total:
        raise SystemExit(f"{way}: {total:.0f} bytes were sent, {reader.stdout.strip()} came")
    return total / took / (1 << 20), used / total * (1 << 30) * 1_000


@contextlib.contextmanager
def veth() -> Iterator[tuple[list[str], list[str], str]]:
    """Two namespaces with a veth pair; what puts a command into each, and the near address."""
    near, far = f"tis-near-{os.getpid()}", f"tis-far-{os.getpid()}"

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    with contextlib.ExitStack() as stack:
        for name in (near, far):
            ip("netns", "add", name)
            stack.callback(ip, "netns", "delete", name)
        ip("-n", near, "link", "add", "veth0", "type", "veth", "peer", "name", "veth1")
        ip("-n", near, "link", "set", "veth1", "netns", far)
        for name, device, host in ((near, "veth0", "1"), (far, "veth1", "2")):
            ip("-n", name, "address", "add", f"{SUBNET}{host}/24", "dev", device)
            ip("-n", name, "link", "set", device, "up")
        yield (["ip", "netns", "exec", near], ["ip", "netns", "exec", far], f"{SUBNET}1")


def compare(where: str, rounds: int, run: Callable[[str], tuple[float, float]]) -> None:
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            found[way].append(run(way))
    for way, results in found.items():
        rate = statistics.median(one[0] for one in results)
        cpu = statistics.median(one[1] for one in results)
        print(f"| {where} | {way} | {rate:,.0f} | {cpu:,.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--mebibytes", type=int, default=64, help="of the file")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("more", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role == "receive":
        _receive(given.more[0], int(given.more[1]))
        return
    if given.role:
        _send(given.role.removeprefix("send "), given.more[0], given.more[1], float(given.more[2]))
        return
    print("| over | way | MiB/s | sender's CPU, ms for a GiB |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "file")
        Path(path).write_bytes(os.urandom(1 << 20) * given.mebibytes)
        places = {"loopback": "127.0.0.1", "a Unix socket": f"unix:{folder}/socket"}
        for where, address in places.items():

            def run(way: str, address: str = address) -> tuple[float, float]:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{folder}/socket")
                return measure(way, address, path, given.seconds, [], [])

            compare(where, given.rounds, run)
        if os.geteuid() == 0:
            with veth() as (near, far, address):
                compare(
                    "a veth pair",
                    given.rounds,
                    lambda way: measure(way, address, path, given.seconds, near, far),
                )


if __name__ == "__main__":
    main()
