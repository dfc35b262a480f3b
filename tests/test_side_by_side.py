"""The tests run in two processes: each of them in one, and a failure in either is seen."""

import re
import subprocess
import sys

import pytest

from tests import test_timers
from tests.side_by_side import NONE_RUN, PROCESSES, outcome, share_of


def test_both_have_about_half():
    shares = [share_of(f"tests/test_socket.py::test_{n}") for n in range(1_000)]
    assert set(shares) == set(range(PROCESSES))
    assert 400 < sum(shares) < 600


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([0, 0], 0),
        ([0, 1], 1),
        ([1, 0], 1),
        ([NONE_RUN, 1], 1),
        ([-11, 0], -11),
        ([0, NONE_RUN], 0),
        ([NONE_RUN, NONE_RUN], NONE_RUN),
    ],
)
def test_a_failure_of_either_is_one(codes, expected):
    assert outcome(codes) == expected


def test_each_test_is_run_once():
    done = subprocess.run(
        [sys.executable, "-m", "tests.side_by_side", "tests/test_timers.py"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    passed = re.findall(r"(\d+) passed", done.stdout)
    written = [name for name in vars(test_timers) if name.startswith("test_")]
    assert done.returncode == 0, done.stdout
    assert sum(map(int, passed)) == len(written) >= 3
    assert done.stdout.count("---- ") == PROCESSES
