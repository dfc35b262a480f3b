"""What is in the packages of a folder, and that each of them serves.

    python -m tests.packages FOLDER      of packages that are built
    python -m tests.packages             follows the pages that install: CONTRIBUTING.md,
                                         RELEASING.md and the tutorial's first, each in a clean copy
                                         of what is committed

Each wheel that fits this machine is installed in an environment of its own, with its dependencies,
and serves the README's first program there.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

from publisher import VERSION, addresses, settings
from tests.markdown import ROOT, python_blocks
from tests.pages import EVERY, NOT_RUN, PACKAGES, begins_as, runner

NAME = "thousand_island_sync"
_LIMIT_S = 300
#: Of this Python: no wheel for another can be installed here.
_TAG = f"cp{sys.version_info.major}{sys.version_info.minor}"


class Wrong(Exception):
    """What is not as it should be."""


def _expect(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise Wrong(f"{what}: it is {found!r}, not {expected!r}")


def _run(*command: str | Path, folder: Path = ROOT, **environment: str) -> str:
    """What it printed; what is in the environment of this run does not reach it."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("THOUSAND_ISLAND_", "PYTHON", "COVERAGE"))
    }
    ran = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
    )
    if ran.returncode:
        raise Wrong(f"{shlex.join(map(str, command))}:\n{ran.stdout}{ran.stderr}")
    return ran.stdout


# ---- what is in them --------------------------------------------------------


def look_at_metadata(metadata: Message) -> None:
    """What an index shows."""
    for field, expected in {
        "Name": NAME,
        "Version": VERSION,
        "License-Expression": "MIT",
        "License-File": "LICENSE",
        "Author": "the thousand_island_sync contributors",
        "Requires-Python": ">=3.11",
        "Description-Content-Type": "text/markdown",
    }.items():
        _expect(field, metadata[field], expected)
    named = [f"{label}, {address}" for label, address in addresses(settings()).items()]
    _expect("Project-URL", metadata.get_all("Project-URL", []), named)
    description = metadata.get_payload()
    assert isinstance(description, str)
    relative = re.findall(r"\]\((?!https?:|mailto:|#)[^)]*\)", description)
    _expect("relative links of the description", relative, [])
    _expect("the description's heading", description.strip().splitlines()[0], f"# {NAME}")


def look_at_source(path: Path) -> None:
    """The source distribution has every file of the repository."""
    listed = _run("git", "ls-files", "-z").split("\0") if (ROOT / ".git").exists() else []
    beginning = f"{NAME}-{VERSION}/"
    with tarfile.open(path) as archive:
        has = {one.name.removeprefix(beginning) for one in archive.getmembers() if one.isfile()}
        file = archive.extractfile(f"{beginning}PKG-INFO")
        assert file is not None
        look_at_metadata(message_from_bytes(file.read()))
    _expect("files that are not in it", sorted(set(filter(None, listed)) - has), [])
    made = {"PKG-INFO", "setup.cfg"}  # setuptools writes them
    more = {name for name in has - set(listed) - made if not name.startswith(f"{NAME}.egg-info/")}
    _expect("files that are not the repository's", sorted(more) if listed else [], [])


def look_at_wheel(path: Path) -> None:
    """A wheel has the package, the plugin, the type marker, and the C where its tag says so."""
    pure = path.name.endswith("-py3-none-any.whl")
    folder = f"{NAME}-{VERSION}.dist-info"
    with zipfile.ZipFile(path) as archive:
        has = set(archive.namelist())
        look_at_metadata(message_from_bytes(archive.read(f"{folder}/METADATA")))
        scripts = archive.read(f"{folder}/entry_points.txt").decode()
    _expect("the command", f"thousand-island = {NAME}.__main__:run" in scripts, True)
    _expect("the plugin", "thousand_island = _thousand_island_pytest" in scripts, True)
    sources = {
        str(file.relative_to(ROOT))
        for file in (ROOT / NAME).rglob("*")
        if file.suffix in {".py", ".pyi"} or file.name == "py.typed"
    } | {"_thousand_island_pytest.py", f"{folder}/licenses/LICENSE"}
    _expect("files that are not in it", sorted(sources - has), [])
    _expect("the C", [name for name in has if name.endswith(".so")] == [], pure)


# ---- that they serve --------------------------------------------------------


def fits(path: Path) -> bool:
    """Whether it can be installed here."""
    machine = sysconfig.get_platform().replace("-", "_").replace(".", "_").split("_", 1)[1]
    return path.name.endswith("-none-any.whl") or (
        f"-{_TAG}-{_TAG}-" in path.name and "musllinux" not in path.name and machine in path.name
    )


def first_program() -> str:
    """The README's, on a port of this machine that was free a moment ago."""
    (program,) = python_blocks("README.md")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    _expect("the port of the README's first program", program.count("port=4000"), 1)
    return program.replace("port=4000", f"port={port}")


def echo(program: Path, python: Path) -> None:
    """Runs it, is answered by it, and ends it by SIGTERM."""
    found = re.search(r"port=(\d+)", program.read_text())
    assert found is not None
    address = ("127.0.0.1", int(found[1]))
    with subprocess.Popen([python, program], cwd=program.parent, env={}) as process:
        try:
            until = time.monotonic() + 30
            while True:
                try:
                    client = socket.create_connection(address, 5)
                    break
                except ConnectionRefusedError:
                    if process.poll() is not None or time.monotonic() > until:
                        raise Wrong(f"{program.name} does not serve") from None
                    time.sleep(0.02)  # nothing tells that it listens
            with client:
                client.sendall(b"hello")
                _expect("the answer", client.recv(5, socket.MSG_WAITALL), b"hello")
            process.send_signal(signal.SIGTERM)
            _expect("the exit code", process.wait(30), 0)
        finally:
            process.kill()


def install(path: Path, folder: Path) -> None:
    """Into an environment of its own, where it then serves."""
    _run(sys.executable, "-m", "venv", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    _run(python, "-m", "pip", "install", "--quiet", path, folder=folder)
    _run(python, "-m", "pip", "check", folder=folder)
    in_c = "no" if path.name.endswith("-none-any.whl") else "yes"
    said = _run(folder / "venv" / "bin" / "thousand-island", "--version", folder=folder)
    _expect("--version", said, f"thousand-island {VERSION} (C accelerator: {in_c})\n")
    program = folder / "first.py"
    program.write_text(first_program())
    echo(program, python)


def check(folder: Path) -> None:
    """All packages of a folder.

    Raises:
        Wrong: something is not as it should be; it says what.
    """
    sources, wheels = sorted(folder.glob("*.tar.gz")), sorted(folder.glob("*.whl"))
    _expect("source distributions", [one.name for one in sources], [f"{NAME}-{VERSION}.tar.gz"])
    pure = [one for one in wheels if one.name == f"{NAME}-{VERSION}-py3-none-any.whl"]
    _expect("pure wheels", len(pure), 1)
    look_at_source(*sources)
    installed = []
    for wheel in wheels:
        look_at_wheel(wheel)
        if fits(wheel):
            with tempfile.TemporaryDirectory() as place:
                install(wheel, Path(place))
            installed.append(wheel.name)
    print(f"{len(wheels)} wheels; these were installed and served: {', '.join(installed)}")
    if sys.platform == "linux" and installed == [pure[0].name]:
        raise Wrong(f"there is no wheel with the C for {_TAG}")


# ---- the pages --------------------------------------------------------------


def follow_pages() -> None:
    """All blocks that are said to run here, page by page."""
    followed: dict[str, list[str]] = {}
    for page, language, text in EVERY:
        if runner(page, language, text) == PACKAGES and not begins_as(page, text, NOT_RUN):
            _expect(f"the language of a block of {page}", language, "sh")
            followed.setdefault(page, []).append(text)
    for blocks in followed.values():
        follow(blocks)


def follow(blocks: list[str]) -> None:
    """Runs shell commands, block by block, in a clean copy of what is committed."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place, "clone")
        _run("git", "clone", "--quiet", ROOT, copy)
        for block in blocks:
            print(block, end="", flush=True)
            began = time.monotonic()
            print(_run("bash", "-euc", block, folder=copy), end="")
            print(f"# {time.monotonic() - began:.0f} s\n", flush=True)


if __name__ == "__main__":
    try:
        if sys.argv[1:]:
            check(Path(sys.argv[1]).resolve())
        else:
            follow_pages()
    except Wrong as error:
        sys.exit(f"wrong: {error}")
