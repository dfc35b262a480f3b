"""Every picture of the documentation is what its script draws from the tables, and text is text."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from benchmarks import plots
from tests import state_diagram
from tests.programs import ROOT
from thousand_island_sync._connection.states import State

PICTURES = plots.pictures()


@pytest.mark.parametrize(
    "name", sorted({*plots.BARS.values()} | {one for _, one in plots.CURVES.values()})
)
def test_a_plot_shows_what_was_recorded(name):
    """Another: `python -m benchmarks.plots`."""
    assert (plots.PLOTS / f"{name}.svg").read_text() == PICTURES[f"{name}.svg"]


def test_there_is_no_plot_that_nobody_draws():
    assert {path.name for path in plots.PLOTS.glob("*.svg")} == set(PICTURES)


def test_the_life_of_a_connection_is_that_of_the_table():
    """Another: `python -m tests.state_diagram`."""
    assert state_diagram.PATH.read_text() == state_diagram.drawn()


def test_the_overview_says_how_connections_end_as_the_tables_do():
    assert state_diagram.ends() in (ROOT / "docs" / "explanation" / "overview.md").read_text()


def words(svg):
    return [
        one.text for one in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    ]


def test_a_state_without_a_place_is_noticed(monkeypatch):
    monkeypatch.setitem(state_diagram.TRANSITIONS, State.CLOSED, frozenset({State.NEW}))
    with pytest.raises(AssertionError):
        state_diagram.drawn()


def test_the_diagram_names_every_state_as_text():
    assert {state.name for state in State} <= set(words(state_diagram.drawn()))


@pytest.mark.parametrize("name", PICTURES)
def test_a_plot_has_units_says_which_way_is_better_and_names_the_library(name):
    shown = words(PICTURES[name])
    assert any("thousand_island_sync" in one for one in shown)
    assert any("is better" in one for one in shown)
    assert not any("ours" in one.split() for one in shown)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_a_picture_that_a_page_shows_is_there(page):
    for path in re.findall(r"!\[.*?\]\((\S+\.svg)\)", page.read_text()):
        assert (page.parent / path).resolve().is_file()
