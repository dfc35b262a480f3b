"""An application in a folder, and the command line that serves it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.programs import ROOT, Script

SERVING = r"(?m)^(\S+:\d+)(?: |$)"

APP = '''
import os, threading
from thousand_island_sync import Handler, ThousandIsland


class Upper(Handler):
    def handle_data(self, data, socket):
        socket.send(data.upper())


class Options(Handler):
    """Says what it was given."""

    def handle_connection(self, socket):
        socket.send(repr(self.options).encode())


class Stuck(Handler):
    def handle_data(self, data, socket):
        socket.send(b"busy")
        threading.Event().wait()


class Outer:
    class Inner(Upper):
        pass


class Nearly(Handler):
    def handle_dta(self, data, socket):
        pass


class Raises(Handler):
    async def handle_data(self, data, socket):
        pass


def make():
    return ThousandIsland(handler_cls=Upper, host="127.0.0.1", port=0, name="made")


def make_two():
    return [make(), ThousandIsland(handler_cls=Options, host="127.0.0.1", port=0, name="two")]


def make_where_another_is():
    taken = int(os.environ["TAKEN"])
    return [make(), ThousandIsland(handler_cls=Upper, host="127.0.0.1", port=taken)]


def make_none():
    return None


def make_empty():
    return []


def make_twice():
    server = make()
    return [server, server]


def make_badly():
    return ThousandIsland(handler_cls=Upper, prot=0)


def make_with(port):
    return make()


async def make_later():
    return make()


def raises():
    raise LookupError("no database\\nat all")


def leaves():
    raise SystemExit(3)


SERVER = make()


def set_up():
    with open(os.environ["SETUP_FILE"], "a") as file:
        file.write("set up\\n")
'''


def write_app(folder: Path) -> None:
    (folder / "app.py").write_text(APP)
    (folder / "broken.py").write_text("import thousand_island_sync\n1 / 0\n")
    (folder / "untidy.py").write_text("def f(:\n")
    (folder / "needy.py").write_text("import no_such_library\n")
    (folder / "leaving.py").write_text("import sys\nsys.exit(0)\n")


def environment(**more: str) -> dict[str, str]:
    """Without what this process has of the command line's variables."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("THOUSAND_ISLAND_")
        or name in ("THOUSAND_ISLAND_DEBUG", "THOUSAND_ISLAND_PURE")
    }
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def run(
    folder: Path, *arguments: str, timeout: float = 60, **variables: str
) -> subprocess.CompletedProcess[str]:
    """The command line in a folder, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "thousand_island_sync", *arguments],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


class Serving(Script):
    """The command line in a folder, once it serves."""

    def __init__(self, folder: Path, *arguments: str, **variables: str) -> None:
        super().__init__(
            "-m",
            "thousand_island_sync",
            *arguments,
            announcement=SERVING,
            environment=environment(**variables),
            folder=folder,
        )
