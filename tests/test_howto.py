"""docs/howto/: the blocks of each page run, one after the other, as a reader would run them."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys

import pytest

from tests.programs import ROOT

FOLDER = ROOT / "docs" / "howto"
PAGES = ("databases", "graceful-deploys", "metrics", "rate-limits")
#: The ports that the pages' shell commands name.
PORTS = ("4000", "8081", "8082")


def blocks(page, language):
    text = (FOLDER / f"{page}.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def pages_with(language):
    return [page for page in PAGES if blocks(page, language)]


def run_python(page):
    """The names that the blocks of Python leave."""
    names = {"__name__": "page"}
    for block in blocks(page, "python"):
        exec(compile(block, f"docs/howto/{page}.md", "exec"), names)
    return names


@pytest.mark.parametrize("page", pages_with("python"))
def test_the_blocks_of_python_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_python(page)


@pytest.fixture
def environment(tmp_path):
    """Of a shell that has the console script, in a folder with an `app.py`."""
    script = tmp_path / "bin" / "thousand-island"
    script.parent.mkdir()
    run = shlex.join([sys.executable, "-m", "thousand_island_sync"])
    script.write_text(f'#!/bin/sh\nexec {run} "$@"\n')
    script.chmod(0o755)
    path = (script.parent, os.path.dirname(sys.executable), os.environ["PATH"])
    return {
        **os.environ,
        "PATH": os.pathsep.join(map(str, path)),
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture
def on_free_ports():
    """A function: a text that names ports that are free, instead of the page's."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in PORTS]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        free = {
            port: str(probe.getsockname()[1]) for port, probe in zip(PORTS, probes, strict=True)
        }
    return lambda text: re.sub(rf"\b({'|'.join(PORTS)})\b", lambda found: free[found[0]], text)


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("sh"))
def test_the_blocks_of_shell_run(page, tmp_path, environment, on_free_ports):
    """Beside the page's first block of Python, which is `app.py`."""
    (tmp_path / "app.py").write_text(on_free_ports(blocks(page, "python")[0]))
    for block in blocks(page, "sh"):
        process = subprocess.Popen(
            ["sh", "-euc", on_free_ports(block)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
            env=environment,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=60)
            assert process.returncode == 0, output
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what a block that failed has left
            process.communicate()
