"""What users see of each public name: a docstring that says what it is and in which unit, and types
that can be imported."""

import builtins
import collections.abc
import inspect
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import thousand_island_sync
from thousand_island_sync import TransportOptions, events, testing, transports
from thousand_island_sync.testing import hostile

ROOT = Path(__file__).resolve().parent.parent
#: Modules whose names are public, too, and names of others that signatures may have.
MODULES = [events, transports, testing, hostile]
OTHERS = {
    *("Certificate", "SSL", "Context", "os", "PathLike", "socket", "io", "logging", "Logger"),
    *("contextlib", "TracebackType"),
}
#: Made by the library alone: what their constructors take is nobody's business.
MADE_HERE = {"Socket", "Connection", "Prepared"}
#: The kind of `Transport` and all that goes with it is experimental.
EXPERIMENTAL = {"Transport", "TCP", "TLS"}


def public():
    """Each public name, and what it is; those of the testing kit have its name in front."""
    for module in (thousand_island_sync, testing, hostile):
        prefix = module.__name__.removeprefix("thousand_island_sync").lstrip(".")
        for name in module.__all__:
            yield f"{prefix}.{name}".lstrip("."), getattr(module, name)


def members():
    """`Class.name` of each public method and property, and each function and class itself."""
    found = {}
    for name, one in public():
        if not (inspect.isclass(one) or inspect.isfunction(one)):
            continue
        if not one.__module__.startswith("thousand_island_sync"):
            continue  # `collections.abc.Buffer`
        found[name] = one
        if not inspect.isclass(one) or name in EXPERIMENTAL:
            continue
        for attribute in dir(one):
            of = next(base for base in one.__mro__ if attribute in vars(base))
            value = getattr(one, attribute)
            if attribute.startswith("_") or not of.__module__.startswith("thousand_island_sync"):
                continue
            if callable(value) or isinstance(value, property):
                found[f"{name}.{attribute}"] = value
    found["TLS.prepare"] = thousand_island_sync.TLS.prepare
    return found


MEMBERS = members()


def functions():
    for name, one in MEMBERS.items():
        function = one.fget if isinstance(one, property) else one
        if inspect.isclass(function) and name in MADE_HERE | EXPERIMENTAL:
            continue
        if inspect.isclass(function) and issubclass(function, BaseException | dict):
            continue
        yield name, function


@pytest.mark.parametrize("name", MEMBERS)
def test_it_has_a_docstring_whose_first_sentence_is_whole(name):
    doc = inspect.getdoc(MEMBERS[name])
    assert doc
    first = doc.split("\n\n")[0]
    assert first.rstrip()[-1] in ".)`", first
    assert doc[0].isupper() or doc[0] in '`"(', first


@pytest.mark.parametrize(("name", "function"), [*functions()])
def test_a_time_has_its_unit_in_the_docstring(name, function):
    doc = inspect.getdoc(MEMBERS[name])
    for parameter in inspect.signature(function).parameters:
        if parameter.endswith("_ms") and parameter not in TransportOptions.__annotations__:
            said = re.search(rf"\b{parameter}: (.*?)(?=\n *\w+: |\n\n|\Z)", doc, re.DOTALL)
            assert said, f"{parameter} is not described"
            assert re.search("milliseconds|as for", said[1]), said[1]


@pytest.mark.parametrize(("name", "function"), [*functions()])
def test_a_number_of_bytes_says_so(name, function):
    doc = inspect.getdoc(MEMBERS[name])
    for parameter in inspect.signature(function).parameters:
        if parameter.endswith("_bytes") and parameter not in TransportOptions.__annotations__:
            said = re.search(rf"\b{parameter}: (.*?)(?=\n *\w+: |\n\n|\Z)", doc, re.DOTALL)
            assert said, f"{parameter} is not described"
            assert "bytes" in said[1]


def words_of(function):
    """The names in the types of a signature."""
    signature = inspect.signature(function)
    types = [one.annotation for one in signature.parameters.values()]
    types.append(signature.return_annotation)
    for type_ in types:
        if type_ is not inspect.Parameter.empty:
            without_texts = re.sub(r"'[^']*'|\"[^\"]*\"", "", str(type_))
            yield from re.findall(r"[A-Za-z]\w*", without_texts)


@pytest.mark.parametrize(("name", "function"), [*functions()])
def test_what_stands_in_a_signature_can_be_imported(name, function):
    known = {*dir(builtins), *dir(typing), *dir(collections.abc), *OTHERS, "type"}
    for word in {*words_of(function)} - known:
        assert word in thousand_island_sync.__all__ or any(
            hasattr(module, word) for module in MODULES
        ), f"{name}: {word}"


def test_what_can_be_imported_is_there():
    for name in thousand_island_sync.__all__:
        assert hasattr(thousand_island_sync, name)
    assert sorted(set(thousand_island_sync.__all__)) == sorted(thousand_island_sync.__all__)


def run_python(program):
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_public_name_is_there_however_it_is_asked_for():
    run_python(
        "import thousand_island_sync as t\n"
        "assert set(t.__all__) <= set(dir(t)), set(t.__all__) - set(dir(t))\n"
        "from thousand_island_sync import *\n"
        "assert {name for name in t.__all__ if globals()[name] is not getattr(t, name)} == set()\n"
        "from thousand_island_sync import Info, transports\n"
        "assert Info is t.Info and transports.TLSInfo is t.TLSInfo and 'TLSInfo' in dir(transports)"
    )


def test_a_name_that_is_not_there_is_an_attribute_error_that_says_so():
    with pytest.raises(AttributeError, match="has no attribute 'Inof'"):
        thousand_island_sync.Inof  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Inof'"):
        exec("from thousand_island_sync import Inof")


def test_an_import_brings_nothing_that_only_few_programs_need():
    rarely = "_server.info", "_server.checked", "_socketserver", "systemd", "admin", "testing"
    loaded = run_python("import sys, thousand_island_sync; print(*sys.modules)").split()
    assert not {f"thousand_island_sync.{name}" for name in rarely} & set(loaded)
    assert not {"OpenSSL", "ssl", "asyncio"} & set(loaded)


def test_what_snapshots_are_made_of_is_there_before_anybody_can_ask_for_one():
    """A call that interrupts an import of the same module would find half of it."""
    run_python(
        "import sys\n"
        "from thousand_island_sync import Handler, ThousandIsland\n"
        "ThousandIsland(handler_cls=Handler, port=0)\n"
        "assert 'thousand_island_sync._server.info' in sys.modules\n"
        "assert 'thousand_island_sync._stream.stats' in sys.modules\n"
        "assert 'thousand_island_sync._stream.raw_file' in sys.modules"
    )
