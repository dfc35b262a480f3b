"""docs/reference/ has every public name, and what no table of the package has: signals, exit codes,
variables of the environment, subcommands. What the code has and the pages have not fails here;
`tests/test_site.py` looks at the site that is made of them."""

import ast
import inspect
import re

import pytest

import thousand_island_sync
from tests.markdown import ROOT
from thousand_island_sync import admin, errors, health, systemd, testing, transports
from thousand_island_sync.__main__ import main
from thousand_island_sync._command.environment import variable
from thousand_island_sync._command.subcommands import SUBCOMMANDS
from thousand_island_sync._command.table import TABLE
from thousand_island_sync.contrib import haproxy
from thousand_island_sync.testing import hostile

PACKAGE = ROOT / "thousand_island_sync"
PAGE = (ROOT / "docs" / "reference" / "command-line.rst").read_text()
REFERENCE = "".join(
    path.read_text() for path in sorted((ROOT / "docs" / "reference").iterdir()) if path.is_file()
)
SOURCES = {path: path.read_text() for path in PACKAGE.rglob("*.py")}

#: A signal that the code names, and that is not handled -> why.
NOT_HANDLED = {"SIGPIPE": "blocked around one system call, and as it was after it"}


def documented(module):
    """The names of a module that the directive `public` stands for."""
    for shown, below in re.findall(r"^\.\. public:: (\S+)\n((?:\n|   .*\n?)*)", REFERENCE, re.M):
        if shown == module.__name__:
            yield from below.split() or module.__all__


@pytest.mark.parametrize(
    "module",
    [thousand_island_sync, errors, transports, testing, hostile, health, admin, systemd, haproxy],
    ids=lambda module: module.__name__,
)
def test_each_public_name_is_in_the_reference(module):
    names = {name for name in module.__all__ if not inspect.ismodule(getattr(module, name))}
    shown = [name for one in (module, thousand_island_sync, errors) for name in documented(one)]
    assert names - {"__version__"} - set(shown) == set()
    of_this_module = list(documented(module))
    assert len(of_this_module) == len(set(of_this_module))


def rows(heading):
    """The first cells of the table under a heading."""
    section = re.search(rf"^{heading}\n-+\n(.*?)(?=^[^\n]+\n-{{3,}}\n|\Z)", PAGE, re.S | re.M)[1]
    return [
        cell for row in re.findall(r"^   \* - (.*)$", section, re.M) for cell in row.split(", ")
    ]


def test_each_signal_that_is_handled_is_on_the_page():
    code = " ".join(SOURCES.values())
    named = set(re.findall(r"\bsignal\.(SIG[A-Z0-9]+)\b|\"(SIG[A-Z0-9]+)\"", code))
    named = {one or other for one, other in named}
    assert named - set(NOT_HANDLED) == set(rows("Signals")) - {"signal"}
    assert set(NOT_HANDLED) <= named


def codes(tree):
    """The numbers that functions of the command line return as an exit code."""
    constants = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and ast.unparse(function.returns or tree) == "int":
            for returned in (one for one in ast.walk(function) if isinstance(one, ast.Return)):
                for node in ast.walk(returned):
                    if isinstance(node, ast.Constant) and type(node.value) is int:
                        yield node.value
                    elif isinstance(node, ast.Name) and type(constants.get(node.id)) is int:
                        yield constants[node.id]


def test_each_exit_code_is_on_the_page():
    files = [PACKAGE / "__main__.py", *(PACKAGE / "_command").glob("*.py")]
    found = {code for path in files for code in codes(ast.parse(SOURCES[path]))}
    assert found == {int(code) for code in rows("Exit codes") if code != "code"}


def test_each_variable_that_is_read_is_in_the_reference():
    code = " ".join(SOURCES.values()) + (ROOT / "setup.py").read_text()
    read = set(re.findall(r"\bTHOUSAND_ISLAND_[A-Z_]+[A-Z]\b", code))
    own = read - {variable(name) for name in TABLE}
    assert own == {"THOUSAND_ISLAND_CONFIG", "THOUSAND_ISLAND_DEBUG", "THOUSAND_ISLAND_PURE"}
    for name in own:
        assert f"``{name}" in PAGE


def test_each_subcommand_is_on_the_page():
    shown = {cell.strip("`").split()[0] for cell in rows("Subcommands")}
    assert shown == {"subcommand", "check", *SUBCOMMANDS}


def test_each_flag_of_the_help_is_explained(capsys):
    """`test_site` finds those of options; the others have to stand in a sentence."""
    assert main(["--help"]) == 0
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", capsys.readouterr().out))
    assert len(flags) > 60
    assert {one for one in flags if not re.search(rf"`[^`\n]*{one}(?![\w-])", REFERENCE)} == set()
