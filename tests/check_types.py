"""mypy and pyright on the programs of `tests/type_programs`: what is right has no error, and each
line that is marked as wrong has one, by either. The examples are right ones, too. And every public
name has a type that does not depend on what a checker infers.

    python -m tests.check_types           # exit code 1 and a list, where they differ

Both look at the package as at any that is installed (`py.typed`). pyright is a program for node;
`pyright[nodejs]` brings both as wheels, and nothing is downloaded when it runs.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

PROGRAMS = Path(__file__).resolve().parent / "type_programs"
ROOT = PROGRAMS.parent.parent
EXAMPLES = ROOT / "examples"
#: Its files import one another, as they do where it runs.
STORE = EXAMPLES / "store"
PACKAGE = "thousand_island_sync"
_MARK = re.compile(r"#\s*wrong$")

#: A file's name and a line of it.
Place = tuple[str, int]


def marked() -> set[Place]:
    """Where the mistakes are."""
    return {
        (path.name, number)
        for path in PROGRAMS.glob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if _MARK.search(line)
    }


def _run(*command: str) -> str:
    environment = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1", "MYPY_FORCE_COLOR": "0"}
    environment["MYPYPATH"] = str(STORE)
    environment["PYTHONPATH"] = str(ROOT)  # where pyright finds a package that is not installed
    ran = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if ran.returncode not in (0, 1):
        raise SystemExit(f"{command[0]} failed: {ran.stdout}{ran.stderr}")
    return ran.stdout


def by_mypy() -> dict[Place, str]:
    """Where mypy finds something, and what."""
    strict = ("--strict", "--config-file=", "--no-error-summary")
    programs = [*EXAMPLES.glob("*.py"), *STORE.glob("*.py")]
    printed = _run("mypy", *strict, str(PROGRAMS), *map(str, programs))
    found = re.findall(r"^(.+?\.py):(\d+): error: (.*)$", printed, re.MULTILINE)
    return {(Path(name).name, int(line)): said for name, line, said in found}


def by_pyright() -> dict[Place, str]:
    """The same of pyright, in its strict mode."""
    config = str(PROGRAMS / "pyrightconfig.json")
    printed = _run("pyright", "--outputjson", "--pythonpath", sys.executable, "-p", config)
    return {
        (Path(one["file"]).name, one["range"]["start"]["line"] + 1): one["message"]
        for one in json.loads(printed[printed.find("{") :])["generalDiagnostics"]
        if one["severity"] == "error"
    }


def public() -> set[str]:
    """Where each name is defined that a public module has in its `__all__`."""
    found = set()
    for path in (ROOT / PACKAGE).rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if "._" in name:
            continue
        module = importlib.import_module(name)
        for one in getattr(module, "__all__", ()):
            what = getattr(module, one)
            home = getattr(what, "__module__", None) or name
            found.add(f"{home}.{getattr(what, '__qualname__', one)}")
    return found


def incomplete() -> list[str]:
    """Public names whose type is not said (`pyright --verifytypes`), their members among them."""
    ours = tuple(f"{name}." for name in public())
    here = ("--pythonpath", sys.executable)
    printed = _run("pyright", *here, "--outputjson", "--ignoreexternal", "--verifytypes", PACKAGE)
    symbols = json.loads(printed[printed.find("{") :])["typeCompleteness"]["symbols"]
    if not symbols:
        raise SystemExit(f"pyright found no names in {PACKAGE}: {printed}")
    return [
        f"its type is not said: {one['name']}"
        + "".join(f": {why['message'].splitlines()[0]}" for why in one["diagnostics"])
        for one in symbols
        if f"{one['name']}.".startswith(ours) and (not one["isTypeKnown"] or one["isTypeAmbiguous"])
    ]


def differences(checker: str, found: dict[Place, str]) -> list[str]:
    wanted = marked()
    lines = [
        f"{checker}: {name}:{line}: {found[name, line]}"
        for name, line in sorted(found.keys() - wanted)
    ]
    return lines + [
        f"{checker}: {name}:{line}: it does not see what is wrong"
        for name, line in sorted(wanted - found.keys())
    ]


def main() -> int:
    if not marked():
        raise SystemExit(f"nothing is marked as wrong in {PROGRAMS}")
    found = differences("mypy", by_mypy()) + differences("pyright", by_pyright()) + incomplete()
    print("\n".join(found) or f"mypy and pyright agree on {len(marked())} mistakes, and no other")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
