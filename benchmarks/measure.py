"""Starting a server and reading what it costs: CPU, memory, threads."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from types import TracebackType

from .work import Work

ROOT = Path(__file__).resolve().parent.parent


class Server:
    """A peer in a process of its own; a context manager.

    Args:
        name: of `benchmarks.peers.PEERS`.
        work: what it is started for.
        python: the interpreter it runs on.
        prefix: a program that runs the interpreter, and what it takes.
    """

    def __init__(
        self,
        name: str,
        work: Work | None = None,
        python: str = sys.executable,
        prefix: Sequence[str] = (),
    ) -> None:
        self.name, self.work = name, work or Work()
        self._process = subprocess.Popen(
            [*prefix, python, "-m", "benchmarks.peers", name, self.work.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise SystemExit(f"benchmarks: {name} did not start")
        self.port = int(line)
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

    def finish(self) -> float | None:
        """Ends it; the milliseconds that its stop took, if it told."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        if self.name == "nginx":
            self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        told = self._process.stdout.read()
        self._process.stdout.close()
        return float(told) if told else None

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.stdout is not None and not self._process.stdout.closed:
            self.finish()


def tool_of(name: str, package: str) -> str:
    """The path of a program that loads the servers."""
    found = shutil.which(name)
    if found is None:
        raise SystemExit(f"benchmarks: {name} is missing (Debian: {package})")
    return found


def machine() -> dict[str, str]:
    """What it runs on, for the report."""
    import ssl

    from thousand_island_sync._server import accelerator

    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    facts = {
        "system": platform.platform(),
        "processor": f"{os.cpu_count()} x {model.group(1) if model else platform.machine()}",
        "load average when it began": f"{os.getloadavg()[0]:.2f}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "the peers' OpenSSL": ssl.OPENSSL_VERSION,
        "our hot path": "C" if accelerator.in_c else "Python: what is compiled was not found",
    }
    packages = "blinker pyOpenSSL cryptography uvloop gevent trio Twisted cheroot waitress"
    for package in packages.split():
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            facts[package] = "not installed: not measured"
    for program, flag in (
        ("redis-benchmark", "--version"),
        ("ab", "-V"),
        ("wrk", "-v"),
        ("nginx", "-v"),
    ):
        if shutil.which(program):
            told = subprocess.run([program, flag], capture_output=True, text=True)
            version = re.search(r"\d+\.\d+[.\d]*", told.stdout + told.stderr)
            facts[program] = version.group(0) if version else "?"
    return facts
