"""Real programs as clients. Where one is missing the test is skipped, but in CI, which
sets `REQUIRE_PROGRAMS`, it fails."""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.markdown import ROOT
from tests.support import eventually


def program(name: str) -> str:
    """The path of a program."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("REQUIRE_PROGRAMS"):
            pytest.fail(f"{name} is not installed, and this run requires it")
        pytest.skip(f"{name} is not installed")
    return found


def newer_openssl() -> str:
    """The path of an `openssl` that knows the post-quantum groups; `.ci/run` fetches one."""
    for found in (os.environ.get("NEWER_OPENSSL"), shutil.which("openssl")):
        if found:
            listed = subprocess.run([found, "list", "-tls-groups"], capture_output=True, text=True)
            if "X25519MLKEM768" in listed.stdout:
                return found
    pytest.skip("no openssl here knows the post-quantum groups")


#: For servers whose memory and CPU are measured: they do not check themselves.
UNCHECKED = {"THOUSAND_ISLAND_DEBUG": "0"}


class Script:
    """A Python program of the project in a process of its own; a context manager.

    `announcement` matches the line on which it says where it listens.
    """

    def __init__(
        self,
        *arguments: str,
        announcement: str = r"listening on (\S+)",
        environment: dict[str, str] | None = None,
        folder: Path = ROOT,
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, **(environment or {})},
        )
        self.output: list[str] = []
        self.errors: list[str] = []
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._heard = threading.Condition()
        self._over = 0  # streams that have ended
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self.output)),
            threading.Thread(target=self._read, args=(self.process.stderr, self.errors)),
        ]
        for reader in self._readers:
            reader.start()
        try:
            self.address = self.wait_for(announcement)
        except BaseException:
            self.stop()
            raise

    def _read(self, stream: object, lines: list[str]) -> None:
        for line in stream:  # type: ignore[attr-defined]
            if line.startswith("answer "):
                self._answers.put(line.removeprefix("answer "))
            with self._heard:
                lines.append(line)
                self._heard.notify_all()
        with self._heard:
            self._over += 1
            self._heard.notify_all()

    def wait_for(self, pattern: str, timeout: float = 20) -> str:
        """The first group of the first match in what it printed."""

        def find() -> re.Match[str] | None:
            return re.search(pattern, "".join(self.output + self.errors))

        def found_or_over() -> bool:
            return find() is not None or self._over == 2

        with self._heard:
            self._heard.wait_for(found_or_over, timeout)
            if find() is None:
                raise AssertionError(f"no {pattern!r} in {self.output + self.errors}")
            found = find()
            assert found is not None
            return found.group(1)

    def ask(self, question: str) -> dict[str, Any]:
        """What `tests.served` answers."""
        assert self.process.stdin is not None
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        try:
            return dict(json.loads(self._answers.get(timeout=20)))
        except queue.Empty:
            raise AssertionError(f"no answer to {question}: {self.errors[-20:]}") from None

    @property
    def port(self) -> str:
        return self.address.rpartition(":")[2]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal, once the process handles it; the exit code."""
        eventually(lambda: self.process.poll() is not None or self._catches(number), 10)
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(20)
        for reader in self._readers:
            reader.join(10)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.stderr.close()
        return code

    def _catches(self, number: int) -> bool:
        """Whether a handler is installed (proc(5), SigCgt): what announces its address may
        not have come to `serve_forever` yet."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return False
        found = re.search(r"^SigCgt:\s*([0-9a-f]+)", status, re.MULTILINE)
        return found is not None and bool(int(found.group(1), 16) >> (number - 1) & 1)

    def __enter__(self) -> Script:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()  # also one that has ended: its pipes are ours to close
