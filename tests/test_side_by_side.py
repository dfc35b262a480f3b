"""The tests run in several processes: each of them in one, and a failure in any is seen."""

import re
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests import test_timers
from tests.side_by_side import NONE_RUN, PROCESSES, outcome, share_of, turn
from tests.support import eventually


def test_all_have_about_as_many():
    shares = Counter(share_of(f"tests/test_socket.py::test_{n}") for n in range(1_000))
    assert set(shares) == set(range(PROCESSES))
    assert min(shares.values()) > 0.8 * 1_000 / PROCESSES


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


def test_who_is_alone_waits_for_the_others_and_they_for_him(tmp_path):
    seen, inside, leave = [], threading.Event(), threading.Event()

    def one(name, alone):
        with turn(tmp_path, alone):
            seen.append(f"{name} in")
            inside.set()
            assert leave.wait(10)
            seen.append(f"{name} out")

    def starts(name, alone):
        thread = threading.Thread(target=one, args=(name, alone))
        thread.start()
        return thread

    threads = [starts("first", False)]
    assert inside.wait(10)
    inside.clear()
    threads.append(starts("second", False))  # those who share do not wait for each other
    assert inside.wait(10)
    threads.append(starts("alone", True))
    assert eventually(lambda: waits_at(tmp_path / "room"))
    threads.append(starts("late", False))
    assert eventually(lambda: waits_at(tmp_path / "door"))
    assert seen == ["first in", "second in"]
    leave.set()
    for thread in threads:
        thread.join(10)
    assert seen[-4:] == ["alone in", "alone out", "late in", "late out"]


def waits_at(path):
    """Whether somebody waits for its lock (proc(5), /proc/locks)."""
    inode = str(path.stat().st_ino)
    lines = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and line.split(":")[-1].split()[0] == inode for line in lines)
