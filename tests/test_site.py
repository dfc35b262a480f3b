"""The site that `tox -e docs` has made: what is public can be found in it, and nothing is empty."""

import importlib
import inspect
import json
import os
import re
import zlib
from pathlib import Path

import pytest

from thousand_island_sync import errors, events
from thousand_island_sync._command.environment import variable
from thousand_island_sync._command.table import SHORT, TABLE, WITH_FLAGS, flag
from thousand_island_sync._server.config import OPTIONS
from thousand_island_sync.transports.tls import TLS_OPTIONS

if "SITE" not in os.environ:
    pytest.skip("`tox -e docs` makes the site, and runs this", allow_module_level=True)

SITE = Path(os.environ["SITE"])
ROOT = "thousand_island_sync"
#: Modules that have an `__all__`; `events` has none.
MODULES = [
    f"{ROOT}{name}"
    for name in (
        *("", ".errors", ".transports", ".testing", ".testing.hostile"),
        *(".health", ".admin", ".systemd", ".contrib.haproxy"),
    )
]
#: Words of a page's own, not of the frame around it, that a page has at least.
LEAST_WORDS = 40


def inventory():
    """(kind, name) of each object of the site -> where it is (objects.inv, version 2)."""
    head, _, packed = SITE.joinpath("objects.inv").read_bytes().partition(b"zlib.\n")
    assert b"version 2" in head
    found = {}
    for line in zlib.decompress(packed).decode().splitlines():
        name, kind, _, place, _ = re.fullmatch(r"(.+?) (\S+) (-?\d+) (\S*) (.*)", line).groups()
        found[kind, name] = place.removesuffix("$") + name if place.endswith("$") else place
    return found


INVENTORY = inventory()
NAMES = {name for kind, name in INVENTORY if kind.startswith("py:")}
SEARCH = json.loads(
    re.fullmatch(
        r"Search\.setIndex\((.*)\)", SITE.joinpath("searchindex.js").read_text(), re.DOTALL
    )[1]
)


def searched():
    """The full name of each object that the site's search knows."""
    for prefix, rows in SEARCH["objects"].items():
        for *_, name in rows:
            yield f"{prefix}.{name}" if prefix else name


SEARCHED = set(searched())


def public():
    for module in MODULES:
        for name in importlib.import_module(module).__all__:
            one = getattr(importlib.import_module(module), name)
            if not inspect.ismodule(one) and name != "__version__":
                yield module, name
    for name in events.ALL:
        yield f"{ROOT}.events", name.replace(".", "_")
    for name in ("ALL", "CATALOGUE", "EventDescription", "EventSignal"):
        yield f"{ROOT}.events", name
    yield f"{ROOT}.logger", "ConnectionFilter"


@pytest.mark.parametrize(("module", "name"), [*public()])
def test_a_public_name_is_found(module, name):
    full = {f"{module}.{name}", f"{ROOT}.{name}"}
    if module == ROOT and hasattr(errors, name):
        full.add(f"{ROOT}.errors.{name}")
    assert full & NAMES
    assert full & SEARCHED


@pytest.mark.parametrize("name", sorted({*TABLE, *OPTIONS, *TLS_OPTIONS}))
def test_an_option_is_found(name):
    assert ("std:setting", name) in INVENTORY
    assert name in SEARCHED


@pytest.mark.parametrize("name", TABLE)
def test_a_variable_of_the_environment_is_found(name):
    assert ("std:variable", variable(name)) in INVENTORY


@pytest.mark.parametrize("name", WITH_FLAGS)
def test_a_flag_is_found(name):
    flags = [flag(name), *([SHORT[name]] if name in SHORT else [])]
    if WITH_FLAGS[name].is_switch:
        flags.append(flag("no_" + name))
    for one in flags:
        assert ("std:flag", one) in INVENTORY
        assert one in SEARCHED


@pytest.mark.parametrize("name", events.CATALOGUE)
def test_an_event_is_found_with_the_types_of_what_it_tells(name):
    assert ("std:event", name) in INVENTORY
    assert name in SEARCHED
    stem = "".join(word.capitalize() for word in re.split(r"[._]", name))
    for kind in ("Measurements", "Metadata"):
        assert ("py:class", f"{ROOT}.events.{stem}{kind}") in INVENTORY


@pytest.mark.parametrize("name", errors.__all__)
def test_an_exception_is_found_and_says_more_than_its_name(name):
    assert ("py:exception", f"{ROOT}.errors.{name}") in INVENTORY
    assert len(inspect.getdoc(getattr(errors, name)).split()) >= 10


def words(page):
    """Those of the page's own text."""
    text = page.read_text()
    found = re.search(r"<article[^>]*>(.*?)</article>", text, re.DOTALL)
    return re.sub(r"<[^>]+>", " ", found[1]).split()


def test_each_object_is_where_the_inventory_says():
    ids = {}
    for (kind, name), place in INVENTORY.items():
        page, _, anchor = place.partition("#")
        if anchor:
            if page not in ids:
                ids[page] = set(re.findall(r' id="([^"]+)"', (SITE / page).read_text()))
            assert anchor in ids[page], (kind, name, place)


def test_no_page_is_empty():
    pages = sorted({place.partition("#")[0] for place in INVENTORY.values()} - {"search.html"})
    few = {
        page
        for page in pages
        if page.endswith(".html")
        and page not in ("genindex.html", "py-modindex.html")
        and len(words(SITE / page)) < LEAST_WORDS
    }
    assert few == set()


@pytest.mark.parametrize("folder", ["tutorial", "howto", "reference", "explanation"])
def test_each_part_has_a_page_that_lists_the_others(folder):
    index = (SITE / folder / "index.html").read_text()
    for page in (SITE / folder).glob("*.html"):
        assert page.name == "index.html" or f'href="{page.name}"' in index, page.name
