"""The tutorial, followed page by page: what it shows is what its reader gets."""

import itertools
import re
import subprocess

import pytest

from tests.pages import ran
from tests.programs import ROOT, program
from tests.tutorial import FOLDER, PAGES, Reader, blocks, matches

EXAMPLE = ROOT / "examples" / "store"

pytestmark = pytest.mark.usefixtures("authority")  # for TLS: not on a free-threaded 3.13


def test_a_reader_gets_what_the_pages_show(tmp_path):
    """One test, and one folder for all pages: they follow one another, in one process."""
    reader = Reader(tmp_path)
    for page in PAGES:
        try:
            reader.follow(page)
        except AssertionError as error:
            raise AssertionError(f"{page.name}: {error}") from error
        finally:
            reader.close()


def test_what_the_reader_has_in_the_end_is_the_example():
    files = {one.file: one.text for page in PAGES for one in blocks(page) if one.file}
    assert files.pop("test_fixture.py")
    assert files == {path.name: path.read_text() for path in EXAMPLE.iterdir() if path.is_file()}


def test_systemd_understands_the_units(tmp_path):
    for name in ("store.socket", "store.service"):
        text = (EXAMPLE / name).read_text()
        text = text.replace("/srv/store/.venv/bin/thousand-island", "/usr/bin/env")
        # Before systemd 253 that is unknown; the page says so.
        (tmp_path / name).write_text(text.replace("Type=notify-reload\n", "Type=notify\n"))
    command = [program("systemd-analyze"), "verify", "./store.socket", "./store.service"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    page = FOLDER / "10-production.md"
    for block in blocks(page):
        if block.kind == "ini":
            ran(page, block.text)


def test_the_first_page_lists_all_pages_in_order():
    index = (FOLDER / "index.md").read_text()
    assert re.findall(r"\]\((\S+\.md)\)", index) == [page.name for page in PAGES]
    for page, after in itertools.pairwise(PAGES):
        assert page.read_text().rstrip().endswith(f"]({after.name}).")


def test_at_most_one_block_in_twenty_is_not_run_and_it_has_a_reason():
    every = [one for page in PAGES for one in blocks(page)]
    left_out = [one for one in every if one.reason]
    assert all(len(one.reason) > 10 for one in left_out)
    assert 20 * len(left_out) <= len(every)


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a\n", "a\n", True),
        ("a\n", "a\nb\n", False),
        ("a in ...s\n", "a in 0.1s\n", True),
        ("a in ...s\n", "b in 0.1s\n", False),
        ("a.\n", "ab\n", False),
    ],
)
def test_what_is_printed_is_compared(shown, printed, same):
    assert matches(shown, printed) is same
