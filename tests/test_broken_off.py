"""An exception at each of the first 500 points of our threads' lives; see `tests/broken_off.py`."""

import os
import subprocess
import sys

import pytest

from tests.programs import ROOT, UNCHECKED
from thousand_island_sync._server import accelerator

KINDS = ("handler", "acceptor", "listener")


def broken_off(kind, pure, first, last, step, *more):
    numbers = [str(first), str(last), str(step)]
    command = [sys.executable, "-m", "tests.broken_off", kind, *numbers, *more]
    environment = {**os.environ, **UNCHECKED, "THOUSAND_ISLAND_PURE": pure}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=110
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " points, 0 failures" in done.stdout


@pytest.fixture(params=["0", "1"], ids=["C", "pure"])
def pure(request):
    if request.param == "0" and not accelerator.in_c:
        pytest.skip("without the C it is the same")
    return request.param


@pytest.mark.alone
@pytest.mark.parametrize("kind", KINDS)
def test_an_exception_here_and_there_in_a_thread_of_ours_ends_no_server(kind, pure):
    broken_off(kind, pure, 3, 500, 41)


@pytest.mark.alone
@pytest.mark.parametrize("kind", KINDS)
def test_an_exception_where_a_lock_was_just_taken_or_released_ends_no_server(kind, pure):
    broken_off(kind, pure, 1, 500, 1, "locks")


@pytest.mark.alone
@pytest.mark.heavy
@pytest.mark.parametrize("first", range(1, 501, 50))
@pytest.mark.parametrize("kind", KINDS)
def test_an_exception_anywhere_in_a_thread_of_ours_ends_no_server(kind, first, pure):
    broken_off(kind, pure, first, first + 49, 1)
