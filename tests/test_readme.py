"""The README's Python blocks run, and its commands are the ones that CI runs."""

import re

import pytest

from tests.programs import ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[2][:30])
def test_the_blocks_run(block, capsys):
    exec(compile(block, "README.md", "exec"), {})


def test_there_are_blocks():
    assert len(BLOCKS) == 2


def test_ci_runs_the_readmes_command():
    assert "python -m pip install tox && tox" in README
    assert "tox" in (ROOT / ".ci" / "run").read_text()
    assert "python -m pip install . && python -m thousand_island_sync" in README
