"""What somebody meant: one answer for options, flags, events and commands."""

import ast

import pytest

from tests.programs import ROOT
from thousand_island_sync._base.nearest import did_you_mean, nearest

NAMES = ["port", "host", "handler.error", "H", "App", "app"]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("prt", "port"),
        ("handler.eror", "handler.error"),
        ("PORT", "port"),
        ("Prt", "port"),
        ("h", "H"),
        ("Ap", "App"),
        ("apP", "app"),
    ],
)
def test_the_name_that_is_most_like_it(word, meant):
    assert nearest(word, NAMES) == meant
    assert did_you_mean(word, iter(NAMES)) == f"; did you mean {meant}?"


@pytest.mark.parametrize("word", ["", "something else", 5, None])
def test_what_is_like_none_of_them_has_none(word):
    assert nearest(word, NAMES) is None
    assert did_you_mean(word, NAMES) == ""


def test_nobody_else_looks_for_near_names():
    modules = (ROOT / "thousand_island_sync").rglob("*.py")
    found = [
        path.stem
        for path in modules
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import) and node.names[0].name == "difflib"
    ]
    assert found == ["nearest"]
