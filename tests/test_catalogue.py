"""The catalogue of failures: every id has a test that is named for it, and the list in
docs/explanation/reliability.md is the list of these tests."""

import re
from collections import defaultdict
from pathlib import Path

TESTS = Path(__file__).resolve().parent
DOCUMENT = TESTS.parent / "docs" / "explanation" / "reliability.md"

#: How many ids each part of the catalogue has. What is not there yet: F2 (metrics), F3 (the
#: PROXY protocol), G14 (clients that do not read), G20 (processes).
PARTS = {"a": 10, "b": 9, "c": 13, "d": 16, "e": 9, "f": 16, "g": 20}
LATER = {"F2", "F3", "G14", "G20"}
IDS = [f"{part.upper()}{number}" for part, most in PARTS.items() for number in range(1, most + 1)]


def named():
    """id -> the files that have tests of it."""
    found = defaultdict(set)
    for path in TESTS.glob("test_*.py"):
        for name in re.findall(r"^def test_((?:[a-g]\d+_)+)", path.read_text(), re.MULTILINE):
            for one in name.strip("_").split("_"):
                found[one.upper()].add(path.stem)
    return found


def test_every_id_has_a_test():
    assert sorted(set(IDS) - set(named())) == sorted(LATER)


def test_no_test_is_named_for_an_id_that_is_not_there():
    assert set(named()) <= set(IDS) - LATER


def test_the_document_lists_them():
    found = named()
    for one in IDS:
        row = re.search(rf"^\| {one} \| .* \| (.*) \|$", DOCUMENT.read_text(), re.MULTILINE)
        assert row is not None, f"{one} is not in the list"
        said = set(re.findall(r"`(test_\w+)`", row[1]))
        assert said == found.get(one, set()), f"{one}: the list says {sorted(said)}"
