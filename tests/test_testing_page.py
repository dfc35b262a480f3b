"""docs/howto/testing.md: its blocks run, one after the other, as a reader would run them."""

import pytest

from tests.markdown import python_blocks
from tests.pages import run_python
from thousand_island_sync.testing import Server

PAGE = "docs/howto/testing.md"
BLOCKS = python_blocks(PAGE)


def test_the_blocks_run():
    names = {}
    for block in BLOCKS:
        run_python(PAGE, block, names)
    made = []

    def thousand_island(handler_cls, **options):
        made.append(Server(handler_cls=handler_cls, **options))
        return made[-1]

    names["test_it_says_hello"](thousand_island)
    for server in made:
        with server:
            pass


@pytest.mark.parametrize("name", ["Notes", "Fails"])
def test_what_the_page_tests_is_on_the_page(name):
    assert any(f"class {name}(Handler)" in block for block in BLOCKS)
