"""Who has a task: what the queue does, in C as in Python, is what the table says."""

import pytest

from tests.slots import Busy
from thousand_island_sync._scheduler import states
from thousand_island_sync._scheduler.states import (
    MARKED,
    ON_BEGIN,
    ON_MARK,
    ON_PUT,
    ON_SETTLE,
    OWNED,
    PARKED,
)
from thousand_island_sync._scheduler.task import AGAIN

STATES = (PARKED, OWNED, MARKED)
MOVES = {name: move for name, move in vars(states).items() if name.startswith("ON_")}


@pytest.fixture
def busy():
    """A task that is nowhere; the poller has nothing to tell of it."""
    with Busy() as busy:
        busy.queue._ready.clear()
        busy.ours.recv(1)
        busy.poller.poll(0)
        yield busy


def comes(busy):
    """An event of its descriptor, and a look that finds it."""
    busy.theirs.sendall(b"x")
    busy.queue._unlooked = 64
    assert busy.queue.look(busy.worker)


def made_ready(busy):
    busy.scheduler.make_ready(busy.task)


def test_every_state_is_left_and_reached():
    left = {state for move in MOVES.values() for state, after in move.items() if after != state}
    reached = {after for move in MOVES.values() for state, after in move.items() if after != state}
    assert left == reached == set(STATES)


@pytest.mark.parametrize("how", [comes, made_ready])
@pytest.mark.parametrize("state", STATES)
def test_what_comes_for_it_puts_it_or_marks_it(busy, state, how):
    busy.task.ownership = state
    how(busy)
    assert busy.task.ownership == {**ON_PUT, **ON_MARK}[state]
    assert list(busy.queue._ready) == ([busy.task] if state in ON_PUT else [])


@pytest.mark.parametrize("state", ON_BEGIN)
def test_a_run_begins_without_a_mark(busy, state, monkeypatch):
    seen = []

    def run(task):
        seen.append(task.ownership)
        return AGAIN

    monkeypatch.setattr(busy.Runs, "run", run)
    busy.task.ownership = state
    busy.queue._ready.append(busy.task)
    busy.runner.run_batch(busy.worker)
    assert seen[0] == ON_BEGIN[state]


@pytest.mark.parametrize("state", ON_SETTLE)
def test_only_what_is_not_marked_is_parked(busy, state):
    busy.task.ownership = state
    busy.worker.parked.append(busy.task)
    busy.poller.wake()  # the look waits for nothing
    busy.queue._unlooked = 64
    assert busy.queue.look(busy.worker)
    assert busy.task.ownership == ON_SETTLE[state]
    assert list(busy.queue._ready) == ([busy.task] if ON_SETTLE[state] != PARKED else [])
    assert not busy.worker.parked
