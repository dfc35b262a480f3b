"""docs/operations.md: each command is run by a test, or is named with the reason why none does."""

import re
import subprocess

import pytest

from tests.operations_commands import NOT_RUN, PAGE, RUN_ELSEWHERE, RUN_HERE, commands
from tests.programs import ROOT, program


def test_each_command_is_run_or_has_a_reason_and_none_is_there_that_the_page_has_not():
    known = [*RUN_HERE, *RUN_ELSEWHERE, *NOT_RUN]
    assert sorted(set(commands())) == sorted(known)
    assert all(len(reason) > 10 for reason in NOT_RUN.values())


@pytest.mark.parametrize("command", RUN_HERE)
def test_a_command_runs(command):
    program(RUN_HERE[command])
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("command", RUN_ELSEWHERE)
def test_the_test_that_runs_a_command_is_there(command):
    path, _, name = RUN_ELSEWHERE[command].partition("::")
    assert f"def {name}(" in (ROOT / path).read_text()


def test_the_contents_name_every_section():
    text = (ROOT / PAGE).read_text()
    sections = re.findall(r"^## (.*)$", text, re.MULTILINE)
    listed = re.findall(r"^- \[(.*)\]\(#(.*)\)$", text, re.MULTILINE)
    assert [title for title, _ in listed] == sections
    for title, anchor in listed:
        assert anchor == re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
