"""The layers of docs/design.md: each module imports only from rows above its own."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "thousand_island_sync"

#: A folder has one row; its modules may import each other, but not in a circle.
ROWS = [
    {"errors", "_native"},
    {"_base"},
    {"systemd"},
    {"_telemetry"},
    {"events"},
    {"logger"},
    {"transports", "_scheduler"},
    {"_stream", "handler", "framing", "connection"},
    {"socket"},
    {"_connection", "_socketserver"},
    {"_listener"},
    {"_server"},
    {"server"},
    {"_admin"},
    {"admin", "_health"},
    {"health", "contrib"},
    {"testing"},
    {"_command"},
    {"", "__main__"},
]
ROW_OF = {module: number for number, row in enumerate(ROWS) for module in row}
FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


NAMES = {name_of(path) for path in FILES} | {"_native"}


def imported(path):
    """The package's own modules that a file imports when it is imported."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    here = path.relative_to(PACKAGE).parent.parts
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level or id(node) in typing_only:
            continue
        base = [*here[: len(here) - node.level + 1], *(node.module or "").split(".")]
        base = [part for part in base if part]
        for alias in node.names:
            longer = ".".join([*base, alias.name])
            yield longer if longer in NAMES else ".".join(base)


def row_of(name):
    return ROW_OF[name.split(".")[0]]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_module_imports_only_from_rows_above_and_its_own_folder(path):
    name = name_of(path)
    for other in imported(path):
        same = name.split(".")[0] == other.split(".")[0] != ""
        assert row_of(other) < row_of(name) or same, f"{name} imports {other}"


def test_nobody_imports_himself_by_way_of_others():
    left = {name_of(path): set(imported(path)) for path in FILES}
    while True:
        free = {name for name, needs in left.items() if not needs & set(left)}
        if not free:
            break
        left = {name: needs for name, needs in left.items() if name not in free}
    assert left == {}


def test_every_folder_has_its_row():
    assert {name.split(".")[0] for name in NAMES} == set(ROW_OF)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_file_is_two_things_in_one(path):
    assert len(path.read_text().splitlines()) <= 400
