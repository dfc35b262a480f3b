"""Ten lines of one kind a second, and then how many were left out: on a clock of the test's."""

import os
import threading

from hypothesis import given
from hypothesis import strategies as st

from tests.support import eventually
from thousand_island_sync._telemetry.log_limit import MOST, LineLimit


class World:
    """A clock, timers, and what was told."""

    def __init__(self):
        self.time = 100.0
        self.timers = []
        self.told = []
        self.no_threads = False
        self.limit = LineLimit(
            lambda kind, count: self.told.append((kind, count)),
            threading.RLock(),
            lambda: self.time,
            self.later,
        )

    def later(self, seconds, action):
        if self.no_threads:
            raise RuntimeError("can't start new thread")
        timer = Timer(self.time + seconds, action, self.timers)
        self.timers.append(timer)
        return timer

    def pass_to(self, time):
        for timer in [one for one in self.timers if one.when <= time]:
            self.time = timer.when
            timer.cancel()
            timer.action()
        self.time = time


class Timer:
    def __init__(self, when, action, timers):
        self.when, self.action, self.timers = when, action, timers

    def cancel(self):
        if self in self.timers:
            self.timers.remove(self)


def test_ten_are_written_the_others_are_counted_and_told_a_second_later():
    world = World()
    assert [world.limit.admits("kind") for _ in range(25)] == [True] * 10 + [False] * 15
    assert world.told == []
    world.pass_to(101.0)
    assert world.told == [("kind", 15)]
    assert world.limit.admits("kind")
    world.pass_to(200.0)
    assert world.told == [("kind", 15)]


def test_each_kind_counts_for_itself():
    world = World()
    for kind in ("one", "other"):
        assert sum(world.limit.admits(kind) for _ in range(12)) == MOST
    assert world.limit.admits("third")
    world.pass_to(102.0)
    assert world.told == [("one", 2), ("other", 2)]


@given(st.lists(st.floats(0, 0.3), max_size=200))
def test_in_no_second_are_there_more_and_each_is_written_or_counted_once(pauses):
    world, written = World(), []
    for pause in pauses:
        world.pass_to(world.time + pause)
        if world.limit.admits("kind"):
            written.append(world.time)
    for time in written:
        assert sum(time - 1 < other <= time for other in written) <= MOST
    world.pass_to(world.time + 1)
    assert len(written) + sum(count for _, count in world.told) == len(pauses)
    assert world.timers == []


def test_flushing_tells_at_once_and_leaves_no_timer():
    world = World()
    for _ in range(11):
        world.limit.admits("kind")
    world.limit.flush()
    assert world.told == [("kind", 1)]
    assert world.timers == []
    world.limit.flush()
    assert len(world.told) == 1


def test_closing_begins_anew():
    world = World()
    for _ in range(11):
        world.limit.admits("kind")
    world.limit.close()
    assert world.told == [("kind", 1)]
    assert world.limit.admits("kind")


def test_without_a_thread_for_it_the_next_line_that_is_written_tells():
    world = World()
    world.no_threads = True
    for _ in range(13):
        world.limit.admits("kind")
    world.time += 1
    assert world.told == []
    assert world.limit.admits("kind")
    assert world.told == [("kind", 3)]


def test_on_a_thread_of_its_own_it_is_told_within_a_second_or_so():
    told = []
    limit = LineLimit(lambda *what: told.append(what), threading.RLock())
    for _ in range(14):
        limit.admits("kind")
    assert eventually(lambda: told == [("kind", 4)])


def test_a_forked_child_begins_anew():
    told = []
    limit = LineLimit(lambda *what: told.append(what), threading.RLock())
    for _ in range(14):
        limit.admits("kind")
    pid = os.fork()
    if not pid:
        os._exit(0 if limit.admits("kind") else 1)
    assert os.waitpid(pid, 0)[1] == 0
    limit.flush()
    assert told == [("kind", 4)]
