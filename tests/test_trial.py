"""Handlers are taken for quick on trial: when, what makes it a success, and what is undone."""

import itertools

import pytest

from thousand_island_sync._scheduler.task import Classified, Task
from thousand_island_sync._scheduler.tendency import Tendency
from thousand_island_sync._scheduler.trial import GAIN, LONGEST_PAUSE, PAUSE, SETTLE, WINDOW, Trial

LOOK = 0.002
KNOWN = 300e-6  # seconds that the handlers seem to block
BEFORE = 3_000  # callbacks in a second


class Bench:
    """A trial, its class, and a clock that goes from look to look."""

    def __init__(self, blocking=20, quick=5):
        self.tendency = Tendency()
        self.tendency.average = KNOWN
        self.tasks = [Task(number) for number in range(blocking + quick)]
        for task in self.tasks[:blocking]:
            task.average, task.classified = KNOWN, Classified.BLOCKING
        self.trial = Trial(self.tendency)
        self.now = self.cpu = 0.0
        self.turns = 0.0
        self.changes: list[float] = []  # when the class's average was changed

    def run(self, seconds, rate=BEFORE, busy=1.0, crowd=20):
        until = self.now + seconds
        while self.now < until:
            self.now += LOOK
            self.cpu += LOOK * busy
            self.turns += LOOK * rate
            if self.trial.look(self.now, self.cpu, lambda: int(self.turns), crowd, self.tasks):
                self.changes.append(self.now)
        return self

    def taken_for_blocking(self):
        return sum(task.classified.blocks for task in self.tasks)

    def to_trial(self):
        """Until it has begun and settled."""
        while not self.changes:
            self.run(LOOK)
        return self.run(SETTLE)


def test_where_a_crowd_keeps_the_processor_busy_all_are_taken_for_quick():
    bench = Bench().run(WINDOW + 3 * LOOK)
    assert bench.taken_for_blocking() == 0
    assert bench.tendency.average == 0.0
    assert all(task.average == 0.0 and not task.classified.measured for task in bench.tasks)


@pytest.mark.parametrize(
    "calm", [{"busy": 0.5}, {"crowd": 1}], ids=["a processor to spare", "one thread"]
)
def test_where_there_is_no_case_nobody_is(calm):
    assert Bench().run(10, **calm).changes == []


def test_nor_where_none_is_taken_for_blocking():
    assert Bench(blocking=0).run(10).changes == []


def test_it_stays_so_if_more_callbacks_end():
    bench = Bench().to_trial().run(WINDOW + 3 * LOOK, rate=BEFORE * GAIN * 1.1)
    assert bench.taken_for_blocking() == 0
    assert len(bench.changes) == 1
    assert not bench.trial.refute(bench.now)


def test_if_not_all_is_as_it_was():
    bench = Bench().to_trial().run(WINDOW + 3 * LOOK, rate=BEFORE)
    assert bench.taken_for_blocking() == 20
    assert bench.tendency.average == KNOWN
    assert all(task.classified.measured and task.average == KNOWN for task in bench.tasks[:20])
    assert not any(task.classified.blocks for task in bench.tasks[20:])


def test_if_far_fewer_end_it_is_over_early():
    bench = Bench()
    while not bench.changes:
        bench.run(LOOK)
    bench.run(SETTLE / 2, rate=BEFORE / 5)
    assert bench.taken_for_blocking() == 20


def test_one_that_blocks_while_the_processor_is_idle_ends_it_at_once():
    bench = Bench().to_trial()
    assert bench.trial.refute(bench.now)
    assert bench.taken_for_blocking() == 20
    assert not bench.trial.refute(bench.now)


def test_outside_a_trial_that_changes_nothing():
    bench = Bench()
    assert not bench.trial.refute(0.0)
    bench.run(3 * LOOK)  # it counts
    assert not bench.trial.refute(bench.now)
    assert bench.taken_for_blocking() == 20


def test_what_was_found_out_meanwhile_about_the_class_is_kept():
    bench = Bench().to_trial()
    bench.tendency.average = 2 * KNOWN
    bench.trial.refute(bench.now)
    assert bench.tendency.average == 2 * KNOWN


def test_after_each_failure_the_next_comes_much_later():
    bench = Bench().run(500)
    begun = bench.changes[::2]
    gaps = [round(later - earlier, 1) for earlier, later in itertools.pairwise(begun)]
    assert gaps == sorted(gaps)
    assert gaps[0] < 10 * PAUSE
    assert LONGEST_PAUSE < gaps[-1] < LONGEST_PAUSE + 1
    assert bench.taken_for_blocking() == 20


def test_a_success_starts_the_pauses_anew():
    bench = Bench().to_trial().run(WINDOW + 3 * LOOK)  # a failure
    bench.changes.clear()
    bench.to_trial().run(WINDOW + 3 * LOOK, rate=2 * BEFORE)
    for task in bench.tasks[:20]:
        task.classified = Classified.BLOCKING
    bench.changes.clear()
    bench.run(PAUSE + WINDOW + 5 * LOOK)
    assert len(bench.changes) == 1
