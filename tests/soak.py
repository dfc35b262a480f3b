"""Everything at once, for as long as you like: `python -m tests.soak --minutes 60`.

Three servers, over TCP, over TLS and on a Unix socket, each in a process of its own, while
clients of every kind come and go: quick ones, chatty ones, idle ones, ones that reset at any
moment, dribble, send garbage, or never read. Certificates are reloaded, listeners suspended
and resumed, handlers fail on purpose. Every second it is written down what each server holds:
memory, descriptors, threads, connections, and how long a good client waited.

It fails if an answer was wrong or missing, if anything grew, or if something was left. `--plot
FILE` draws it, `--csv FILE` keeps what is drawn, `--json FILE` all numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import random
import socket
import ssl
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trustme

from benchmarks import plots
from tests.programs import UNCHECKED, Script
from tests.support import eventually, receive, reset

KINDS = ("tcp", "tls", "unix")
IDLE = 100
#: What is called growth, from the second quarter of the time to the last. Resident memory
#: grows a little for a long time, as the C library's heap gets holes: what is allocated must
#: not, nor Python's blocks. What the threads of now hold is no growth.
GROWTH = {
    "allocated_kib": 1_024,
    "blocks": 20_000,
    "memory_kib": 16_384,
    "descriptors": IDLE,
    "threads": 8,
}
#: A thread's buffers where it sent large things over TLS (230 KiB were measured).
THREAD_KIB = 256
#: malloc(3) counts what a thread keeps for its next allocation as allocated, and it takes many
#: minutes until twenty threads keep all they may (glibc's manual, "Memory Allocation Tunables").
PLAIN_MALLOC = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}


class Soak:
    """One server, and its clients.

    Args:
        kind: of `KINDS`.
        folder: for the certificate, the socket and a file to send.
        over: ends the clients.
        environment: of the server's process.
    """

    def __init__(
        self, kind: str, folder: Path, over: threading.Event, environment: dict[str, str]
    ) -> None:
        self.kind, self.over = kind, over
        self.context = None if kind != "tls" else self._certificate(folder)
        options = ["max_handler_threads=24", "read_timeout_ms=20_000", "send_timeout_ms=1_000"]
        options += ["handshake_timeout_ms=10_000", f"handler_options='{folder}/file'"]
        if kind == "tls":
            options += ["transport_cls=TLS", f"transport_options={{'certfile': '{folder}/pem'}}"]
        if kind == "unix":
            options += [f"host='unix:{folder}/socket'", "port=0"]
        arguments = ("-m", "tests.served", "tests.soaked:Soaked", *options)
        self.script = Script(*arguments, environment=environment)
        self.failures: list[str] = []
        self.samples: list[dict[str, Any]] = []
        self.waits: list[float] = []
        self.visits = 0
        self.suspended = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def _certificate(self, folder: Path) -> ssl.SSLContext:
        ca = trustme.CA()
        issued = ca.issue_cert("localhost")
        chain = b"".join(part.bytes() for part in issued.cert_chain_pems)
        (folder / "pem").write_bytes(chain + issued.private_key_pem.bytes())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        ca.configure_trust(context)
        return context

    def connect(self, plain: bool = False) -> socket.socket:
        address: Any = self.script.address
        family = socket.AF_UNIX
        if self.kind != "unix":
            family, (host, _, port) = socket.AF_INET, address.rpartition(":")
            address = (host, int(port))
        for _ in range(500):
            sock = socket.socket(family)
            sock.settimeout(20)
            try:
                sock.connect(address)
                break
            except (ConnectionRefusedError, FileNotFoundError):  # it is suspended
                sock.close()
                self.over.wait(0.01)
        else:
            raise AssertionError("it stays suspended")
        if self.context is None or plain:
            return sock
        try:
            return self.context.wrap_socket(sock, server_hostname="localhost")
        except BaseException:
            sock.close()
            raise

    # ---- clients --------------------------------------------------------------

    def start(self) -> None:
        jobs: list[Callable[[random.Random], None]] = [self.good] * 3
        jobs += [self.chatty, self.restless, self.failing, self.file, self.never_reads]
        jobs += [self.garbage, self.dribble, self.idle, self.operate]
        for number, job in enumerate(jobs):
            thread = threading.Thread(target=self._keep_on, args=(job, number))
            thread.start()
            self._threads.append(thread)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
            if thread.is_alive():
                self.failures.append(f"{thread.name} stands still")

    def _keep_on(self, job: Callable[[random.Random], None], seed: int) -> None:
        chance = random.Random(f"{self.kind} {seed}")
        while not self.over.is_set() and len(self.failures) < 20:
            try:
                job(chance)
                self.visits += 1
            except BaseException as error:
                self.failures.append(f"{self.kind} {job.__name__}: {error!r}")

    def _exchange(self, sock: socket.socket, data: bytes) -> None:
        began = time.monotonic()
        sock.sendall(data)
        received = receive(sock, len(data))
        if received != data:
            raise AssertionError(f"{len(received)} of {len(data)} bytes came back, or others")
        with self._lock:
            self.waits.append(time.monotonic() - began)

    def good(self, chance: random.Random) -> None:
        with self.connect() as sock:
            sock.sendall(chance.choice([b"e", b"b", b"l", b"u", b"p"]))
            for _ in range(chance.randrange(1, 10)):
                self._exchange(sock, chance.randbytes(20).replace(b"\n", b" ") + b"\n")

    def chatty(self, chance: random.Random) -> None:
        with self.connect() as sock:
            sock.sendall(b"e")
            for _ in range(300):
                self._exchange(sock, b"x" * chance.randrange(1, 20_000))

    def restless(self, chance: random.Random) -> None:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            sock = self.connect()
            sock.sendall(b"e" + b"x" * chance.choice([1, 5_000, 60_000]))
            if chance.random() < 0.5:
                sock.recv(chance.randrange(1, 1_000))
            reset(sock) if chance.random() < 0.7 else sock.close()

    def failing(self, chance: random.Random) -> None:
        with self.connect() as sock:
            sock.sendall(b"f")
            with contextlib.suppress(ConnectionError):
                if sock.recv(1):
                    raise AssertionError("an answer to what fails")

    def file(self, chance: random.Random) -> None:
        with self.connect() as sock:
            sock.sendall(b"s")
            (size,) = (int(receive(sock, 8)),)
            if receive(sock, size) != b"\xa5" * size:
                raise AssertionError("the file came otherwise")

    def never_reads(self, chance: random.Random) -> None:
        with contextlib.suppress(ConnectionError, ssl.SSLError), self.connect() as sock:
            sock.sendall(b"n")
            self.over.wait(1.5)

    def garbage(self, chance: random.Random) -> None:
        with contextlib.suppress(ConnectionError), self.connect(plain=True) as sock:
            sock.sendall(chance.randbytes(chance.randrange(1, 300)))
            self.over.wait(chance.random() * 0.05)

    def dribble(self, chance: random.Random) -> None:
        with self.connect() as sock:
            sock.sendall(b"u")
            for _ in range(20):
                sock.sendall(b"x")
                self.over.wait(0.05)
            sock.sendall(b"\n")
            if receive(sock, 21) != b"x" * 20 + b"\n":
                raise AssertionError("a dribbled line came otherwise")

    def idle(self, chance: random.Random) -> None:
        with contextlib.ExitStack() as stack:
            for _ in range(IDLE):
                stack.enter_context(self.connect())
            self.over.wait(4)

    def operate(self, chance: random.Random) -> None:
        self.over.wait(3)
        if self.over.is_set():
            return
        # A port cannot be suspended without a moment in which the kernel resets clients.
        for ask in {"tls": ["reload"], "unix": ["suspend", "resume"]}.get(self.kind, []):
            with self._lock:
                self.script.ask(ask)

    # ---- what is held -----------------------------------------------------------

    def sample(self, at: float) -> None:
        with self._lock:
            facts = self.script.ask("facts")
            waits, self.waits = sorted(self.waits), []
        facts["at_s"] = round(at, 1)
        facts["p50_ms"] = round(waits[len(waits) // 2] * 1_000, 2) if waits else None
        facts["p99_ms"] = round(waits[len(waits) * 99 // 100] * 1_000, 2) if waits else None
        facts["exchanges"] = len(waits)
        self.samples.append(facts)
        if facts["errors"]:
            self.failures.extend(f"{self.kind} server: {error}" for error in facts["errors"])
        if facts["violations"]:
            self.failures.extend(f"{self.kind} server: {one}" for one in facts["violations"])

    def judge(self) -> None:
        """After the clients have gone."""
        if not eventually(lambda: self.script.ask("facts")["active_connections"] == 0, 15):
            self.failures.append(f"{self.kind}: connections are left")
        quarter = len(self.samples) // 4
        if quarter < 3:
            return
        for name, most in GROWTH.items():
            early, late = self.quarters(name, quarter)
            if name == "allocated_kib":
                before, now = self.quarters("threads", quarter)
                most += THREAD_KIB * max(0, now - before)
            if late - early > most:
                self.failures.append(f"{self.kind}: {name} grew from {early} to {late}")

    def quarters(self, name: str, quarter: int) -> tuple[float, float]:
        """Medians of the second quarter of the time and of the last."""
        parts = self.samples[quarter : 2 * quarter], self.samples[-quarter:]
        early, late = (statistics.median(one[name] for one in part) for part in parts)
        return early, late


def report(soaks: list[Soak]) -> None:
    """A table; memory in the second quarter of the time, and in the last."""
    print("| server | connections | exchanges | p50 | p99 | resident | allocated | threads |")
    print("|---|---|---|---|---|---|---|---|")
    for soak in soaks:
        samples = soak.samples
        quarter = max(1, len(samples) // 4)
        memory, allocated = (
            tuple(held / 1_024 for held in soak.quarters(name, quarter))
            for name in ("memory_kib", "allocated_kib")
        )
        p50 = statistics.median(one["p50_ms"] or 0 for one in samples)
        p99 = statistics.median(one["p99_ms"] or 0 for one in samples)
        print(
            f"| {soak.kind} | {samples[-1]['accepted_total']:,} |"
            f" {sum(one['exchanges'] for one in samples):,} | {p50:.1f} ms | {p99:.1f} ms |"
            f" {memory[0]:.1f} -> {memory[1]:.1f} MiB |"
            f" {allocated[0]:.1f} -> {allocated[1]:.1f} MiB |"
            f" {max(one['threads'] for one in samples)} |"
        )


def by_minute(soaks: list[Soak]) -> list[dict[str, str]]:
    """The last sample of each minute, and the worst percentile in it: the rows of `soak.csv`."""
    rows = []
    for soak in soaks:
        minutes: dict[int, list[dict[str, Any]]] = {}
        for sample in soak.samples:
            minutes.setdefault(int(sample["at_s"] // 60), []).append(sample)
        for minute, samples in minutes.items():
            row = {"server": soak.kind, "minute": str(minute)}
            row |= {name: str(samples[-1][name]) for name in plots.SOAK}
            row["p99_ms"] = str(max(one["p99_ms"] or 0 for one in samples))
            rows.append(row)
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--plot", help="an SVG file")
    parser.add_argument("--csv", help="a file for what `python -m benchmarks.plots` draws")
    parser.add_argument("--json", help="a file for all samples")
    parser.add_argument("--checked", action="store_true", help="with THOUSAND_ISLAND_DEBUG=1")
    given = parser.parse_args(arguments)
    checked = {"THOUSAND_ISLAND_DEBUG": "1"} if given.checked else UNCHECKED
    environment = PLAIN_MALLOC | checked
    over = threading.Event()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        (Path(folder) / "file").write_bytes(b"\xa5" * 300_000)
        soaks = [Soak(kind, Path(folder), over, environment) for kind in KINDS]
        for soak in soaks:
            stack.enter_context(soak.script)
            soak.start()
        began = time.monotonic()
        while time.monotonic() - began < given.minutes * 60 and not any(
            len(soak.failures) >= 20 for soak in soaks
        ):
            over.wait(1)
            for soak in soaks:
                soak.sample(time.monotonic() - began)
        over.set()
        for soak in soaks:
            soak.join()
            soak.judge()
        if min(len(soak.samples) for soak in soaks) >= 4:
            report(soaks)
        if given.json:
            samples = {soak.kind: soak.samples for soak in soaks}
            Path(given.json).write_text(json.dumps(samples, indent=1))
        if given.plot:
            Path(given.plot).write_text(plots.soak(by_minute(soaks)))
        if given.csv:
            with open(given.csv, "w", newline="") as file:
                writer = csv.DictWriter(
                    file, ["server", "minute", *plots.SOAK], lineterminator="\n"
                )
                writer.writeheader()
                writer.writerows(by_minute(soaks))
    failures = [failure for soak in soaks for failure in soak.failures]
    for failure in failures:
        print("FAILED", failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
