"""What users see of each public name: a docstring that says what it is and in which unit, and types
that can be imported."""

import builtins
import collections.abc
import inspect
import re
import typing

import pytest

import thousand_island_sync
from thousand_island_sync import TransportOptions, events, testing, transports
from thousand_island_sync.testing import hostile

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
