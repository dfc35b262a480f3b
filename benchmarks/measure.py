"""Starting a server and reading what it costs: CPU, memory, threads."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parent.parent


class Server:
    """A peer in a process of its own; a context manager."""

    def __init__(self, name: str, *more: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.peers", name, *more],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.pid = self._process.pid

    def cpu_s(self) -> float:
        """Seconds of CPU that the process has used, user and system."""
        # clock_getcpuclockid(3): the CPU clock of another process, in nanoseconds.
        return time.clock_gettime((~self.pid << 3) | 2)

    def memory_kib(self) -> int:
        """Private memory and page tables; what is shared with other processes is not counted."""
        text = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return sum(int(kib) for kib in re.findall(r"Private_(?:Clean|Dirty): +(\d+) kB", text))

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def tool_of(name: str, package: str) -> str:
    """The path of a program that loads the servers."""
    found = shutil.which(name)
    if found is None:
        raise SystemExit(f"benchmarks: {name} is missing (Debian: {package})")
    return found


def ping(
    server: Server, requests: int, clients: int, tls: ssl.SSLContext | None = None
) -> tuple[float, float]:
    """(CPU microseconds of the server for a request, requests per second)."""
    tool = tool_of("redis-benchmark", "redis-tools")
    check_answer(server.port, tls)
    before, began = server.cpu_s(), time.perf_counter()
    subprocess.run(
        [tool, "-p", str(server.port), "-t", "ping_mbulk"]
        + ["-c", str(clients), "-n", str(requests), "-q"]
        + (["--tls", "--insecure"] if tls else []),
        check=True,
        capture_output=True,
        timeout=300,
    )
    wall = time.perf_counter() - began
    return (server.cpu_s() - before) / requests * 1e6, requests / wall


def check_answer(port: int, tls: ssl.SSLContext | None = None) -> None:
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        if tls is not None:
            client = stack.enter_context(tls.wrap_socket(client, server_hostname="localhost"))
        client.sendall(b"*1\r\n$4\r\nPING\r\n")
        got = client.recv(64)
    if got != b"+PONG\r\n":
        raise SystemExit(f"benchmarks: port {port} answered {got!r} to a PING")
