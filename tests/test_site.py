"""The site that `tox -e docs` has made: what is public can be found in it."""

import os
from pathlib import Path

import pytest

if "SITE" not in os.environ:
    pytest.skip("`tox -e docs` makes the site, and runs this", allow_module_level=True)

SITE = Path(os.environ["SITE"])


@pytest.mark.parametrize("folder", ["tutorial", "howto", "reference", "explanation"])
def test_each_part_has_a_page_that_lists_the_others(folder):
    assert (SITE / folder / "index.html").stat().st_size > 1_000
