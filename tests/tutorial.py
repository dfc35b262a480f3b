"""Reads and follows the pages of the tutorial, as a reader would who types in what they show.

A block of `python` or `ini` whose first line is `# NAME` is that file. A block of `sh` is typed in,
and the block of `text` behind it is what it prints, `...` standing for anything. A comment before a
block says what a block does not say:

    <!-- serves -->         it goes on until the next one serves, or the page ends
    <!-- watches -->        the same, beside a server
    <!-- of: COMMAND -->    a `text`: what that command has printed since
    <!-- of, after Ctrl-C: COMMAND -->   the same, of one that gets Ctrl-C
    <!-- not run: REASON -->
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import thousand_island_sync
from tests.pages import ran
from tests.programs import ROOT, program
from tests.support import eventually, free_port

FOLDER = ROOT / "docs" / "tutorial"
PACKAGE = Path(thousand_island_sync.__file__).parent  # the one that is tested
PAGES = sorted(FOLDER.glob("*-*.md"), key=lambda page: int(page.name.partition("-")[0]))
_BLOCK = re.compile(
    r"(?:^<!-- (?P<said>[^\n]*) -->\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.M | re.S
)
PORT = "4000"


@dataclasses.dataclass(frozen=True)
class Block:
    kind: str
    text: str
    said: str

    @property
    def file(self) -> str | None:
        found = re.match(r"# (\S+\.\w+)\n", self.text)
        return found[1] if found and self.kind in ("python", "ini") else None

    @property
    def reason(self) -> str:
        return self.said.removeprefix("not run: ") if self.said.startswith("not run: ") else ""


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found = [Block(one["kind"], one["text"], one["said"] or "") for one in _BLOCK.finditer(text)]
    assert text.count("\n```") == 2 * len(found) + text.count("```{toctree}") * 2, page
    return [one for one in found if one.kind != "toctree"]


def matches(shown: str, printed: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in shown.split("..."))
    return re.fullmatch(pattern, printed) is not None


class Terminal:
    """A command that goes on by itself, and what it has printed."""

    def __init__(self, command: str, process: subprocess.Popen[str]) -> None:
        self.command = command
        self._process = process
        self._printed = ""
        self._changed = threading.Condition()
        assert process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(process.stdout,))
        self._reader.start()

    def _read(self, stream: object) -> None:
        for line in stream:  # type: ignore[attr-defined]
            with self._changed:
                self._printed += line
                self._changed.notify_all()

    def see(self, shown: str) -> None:
        """Waits until it has printed just this since it was last looked at."""
        with self._changed:
            self._changed.wait_for(lambda: matches(shown, self._printed), 20)
            assert matches(shown, self._printed), (self.command, shown, self._printed)
            self._printed = ""

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def press_ctrl_c(self) -> None:
        if not self.has_ended:
            os.killpg(self._process.pid, signal.SIGINT)
        self._process.wait(20)
        self._reader.join(20)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(20)
        self._reader.join(20)
        assert self._process.stdout is not None
        self._process.stdout.close()


class Reader:
    """Somebody in a folder, with a few terminals; the port is one that is free here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._terminals: list[Terminal] = []
        self._unused: dict[str, tuple[Path, Block]] = {}  # files that nothing has used yet
        self.port = str(free_port())
        commands = folder / "bin"
        commands.mkdir()
        for name, words in (("python", ""), ("thousand-island", " -m thousand_island_sync")):
            path = commands / name
            path.write_text(
                f'#!/bin/sh\nPYTHONPATH="{PACKAGE.parent}" exec "{sys.executable}"{words} "$@"\n'
            )
            path.chmod(0o755)
        installed = importlib.metadata.entry_points(group="pytest11", name="thousand_island")
        plugin = "" if installed else "-p _thousand_island_pytest"  # as in a checkout
        unwanted = ("PYTEST_", "THOUSAND_ISLAND_DEBUG")
        self._environment = {
            **{name: it for name, it in os.environ.items() if not name.startswith(unwanted)},
            "PATH": f"{commands}:{os.environ['PATH']}",
            "PYTEST_ADDOPTS": f"{plugin} -p no:cacheprovider -c {os.devnull} --rootdir .",
        }

    def follow(self, page: Path) -> None:
        printed: str | Terminal = ""
        for block in blocks(page):
            if block.reason:
                continue
            text = re.sub(rf"\b{PORT}\b", self.port, block.text)
            if block.file:
                (self.folder / block.file).write_text(text)
                self._unused[block.file] = (page, block)
                continue
            if block.kind == "sh":
                printed = self._type(text, block.said)
                self._note_used(block.text)
            elif block.kind == "text":
                if block.said.startswith("of"):
                    how, _, command = block.said.partition(": ")
                    printed = next(one for one in self._terminals if one.command == command)
                    if "Ctrl-C" in how:
                        printed.press_ctrl_c()
                if isinstance(printed, Terminal):
                    printed.see(text)
                else:
                    assert matches(text, printed), (page.name, text, printed)
            else:
                raise AssertionError(f"{page.name}: a block of {block.kind} that nobody runs")
            ran(page, block.text)
        self.close()

    def _note_used(self, text: str) -> None:
        """Of the files that were written: those that a command, or a file that one uses, names."""
        for name in list(self._unused):
            stem, _, _ = name.partition(".")
            if re.search(rf"\b({re.escape(name)}|{stem}:|(from|import) {stem}\b)", text):
                page, block = self._unused.pop(name, (Path(), None))
                if block is not None:
                    ran(page, block.text)
                    self._note_used(block.text)

    def _type(self, command: str, said: str) -> str | Terminal:
        program(command.split()[0]) if command.startswith(("openssl", "systemd")) else None
        if said not in ("serves", "watches"):
            done = subprocess.run(
                ["sh", "-e", "-c", command],
                cwd=self.folder,
                env=self._environment,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert (done.returncode, done.stderr) == (0, ""), (command, done)
            return done.stdout
        if said == "serves":
            self.close()
        process = subprocess.Popen(
            ["sh", "-c", f"exec {command}"],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=None,
            text=True,
            start_new_session=True,
        )
        terminal = Terminal(command.strip(), process)
        self._terminals.append(terminal)
        if said == "serves":
            eventually(lambda: terminal.has_ended or self._is_served(), 20)
            assert not terminal.has_ended, command
        return terminal

    def _is_served(self) -> bool:
        """Looks into the kernel's table: a client would count as one."""
        listening = f"0100007F:{int(self.port):04X} 00000000:0000 0A"
        return listening in Path("/proc/net/tcp").read_text()

    def close(self) -> None:
        """Ctrl-C in every terminal, the last one first."""
        for terminal in reversed(self._terminals):
            try:
                terminal.press_ctrl_c()
            finally:
                terminal.close()
        self._terminals.clear()
