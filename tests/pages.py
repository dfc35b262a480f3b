"""The blocks of code of the documentation, what runs each, and the proof that each has run.

    python -m tests.pages        runs the tests that run blocks, and fails for a block that none ran

A test that runs a block says so by `ran`, once the block did what its page says; `run_python` does
both. How a page is written stands in `tests/test_pages.py`.
"""

from __future__ import annotations

import collections
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.markdown import ROOT, code_blocks
from tests.operations_commands import NOT_RUN as COMMANDS_NOT_RUN
from tests.operations_commands import commands_of

PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/*.md", "docs/*/*.md", "examples/*/README.md")
    for path in ROOT.glob(pattern)
)
HERE = "tests/test_pages.py"
#: It runs the blocks that install, for `tox -e packages`.
PACKAGES = "tests/packages.py"

#: A page or a folder, and a language (`None`: each) -> what runs these blocks.
RUN_BY = {
    ("docs/tutorial/", None): "tests/test_tutorial.py",
    ("docs/howto/command-line.md", "sh"): HERE,
    ("docs/howto/command-line.md", "toml"): "tests/test_check.py",
    ("docs/howto/handlers.md", None): "tests/test_readme.py",
    ("docs/howto/operations.md", "text"): "tests/test_haproxy.py",
    ("docs/howto/operations.md", None): "tests/test_operations_page.py",
    ("docs/howto/pushing.md", None): "tests/test_slow_consumers.py",
    ("docs/howto/socketserver.md", None): "tests/test_socketserver.py",
    ("docs/howto/testing.md", None): "tests/test_testing_page.py",
    ("docs/howto/tls.md", "python"): "tests/test_readme.py",
    ("docs/howto/", None): "tests/test_howto.py",
    ("docs/explanation/performance.md", "python"): HERE,
    ("docs/reference/events.md", None): HERE,
    ("README.md", "python"): "tests/test_readme.py",
    ("README.md", "sh"): HERE,
    ("CONTRIBUTING.md", None): PACKAGES,
    ("RELEASING.md", None): PACKAGES,
}
#: Beside those: it runs some commands of docs/howto/operations.md.
MORE = ("tests/test_units.py",)

#: A page, and how a block of it begins -> why nothing runs it.
NOT_RUN = {
    (
        "README.md",
        "python -m pip install tox",
    ): "it runs every test, this one too, for half an hour",
    ("docs/tutorial/10-production.md", "sudo "): "it needs systemd as process 1, and root",
    ("docs/howto/from-thousand-island.md", "defmodule Counter"): "it needs Elixir",
    ("docs/howto/operations.md", "systemctl enable"): "it needs systemd as process 1, and root",
    ("docs/howto/operations.md", "pip install"): "it installs from a package index",
    ("docs/explanation/performance.md", "python -m pip"): "it installs from a package index, and"
    " takes hours; tests/test_benchmarks.py runs the benchmarks on little",
    ("examples/cluster/README.md", "pip install"): "it installs, and takes fixed ports;"
    " tests/test_cluster.py does the same on free ones",
    ("examples/cluster/README.md", "kill -TERM"): "it goes on from the block before it",
}
#: Blocks that `tests/packages.py` runs, of a page that something else runs: how they begin.
INSTALLS = {("docs/tutorial/1-serve.md", "mkdir store && cd store")}
#: Prose, in the form of a block: the steps of the tutorial.
PROSE = {("docs/tutorial/index.md", "text")}


def blocks(page: str) -> list[tuple[str, str]]:
    """The language and the text of each block of code."""
    text = (ROOT / page).read_text()
    found = code_blocks(text)
    assert len(re.findall(r"^\s*(```|~~~)", text, re.MULTILINE)) == 2 * len(found), page
    return [one for one in found if not one[0].startswith("{") and (page, one[0]) not in PROSE]


EVERY = [(page, *block) for page in PAGES for block in blocks(page)]


def runner(page: str, language: str, text: str = "") -> str | None:
    """What runs it: a page of its own comes before its folder, a language before all."""
    if begins_as(page, text, INSTALLS):
        return PACKAGES
    for key in ((page, language), (page, None), (f"{page.rpartition('/')[0]}/", None)):
        if key in RUN_BY:
            return RUN_BY[key]
    return None


def begins_as(page: str, text: str, listed: Iterable[tuple[str, str]]) -> bool:
    return any(page == its and text.startswith(begins) for its, begins in listed)


# ---- that they have run ------------------------------------------------------------------------


def ran(page: str | Path, text: str) -> None:
    """Notes that a block of a page, or one command of a block, did what the page says."""
    if record := os.environ.get("BLOCKS_RAN"):
        name = Path(page)
        shown = str(name.relative_to(ROOT) if name.is_absolute() else name)
        with open(record, "a") as file:
            file.write(json.dumps([shown, text]) + "\n")


def run_python(page: str, text: str, names: dict[str, Any]) -> dict[str, Any]:
    """Runs a block; the names that it leaves."""
    exec(compile(text, page, "exec"), names)
    ran(page, text)
    return names


def missing(
    every: list[tuple[str, str, str]], records: list[tuple[str, str]]
) -> list[tuple[str, str, str]]:
    """The blocks that did not run: neither as a whole nor command by command.

    A text that stands in a page twice has to run twice.
    """
    seen = collections.Counter(records)
    left = []
    for page, language, text in every:
        if seen[page, text]:
            seen[page, text] -= 1
        elif not (
            language == "sh"
            and all(seen[page, one] or one in COMMANDS_NOT_RUN for one in commands_of(text))
        ):
            left.append((page, language, text))
    return left


def main() -> int:
    every = [
        one for one in EVERY if not begins_as(one[0], one[2], NOT_RUN) and runner(*one) != PACKAGES
    ]
    files = sorted({*RUN_BY.values(), *MORE} - {PACKAGES})
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder, "ran")
        record.touch()
        environment = {**os.environ, "BLOCKS_RAN": str(record)}
        words = [sys.executable, "-m", "tests.side_by_side", "-q", "-m", "not heavy", *files]
        done = subprocess.run(words, cwd=ROOT, env=environment)
        records = [tuple(json.loads(line)) for line in record.read_text().splitlines()]
    left = missing(every, records)
    for page, language, text in left:
        print(f"{page}: no test has run this block of {language}:\n{text}")
    print(f"{len(every) - len(left)} of {len(every)} blocks have run")
    return done.returncode or bool(left)


if __name__ == "__main__":
    sys.exit(main())
