"""Timers: lazy, in order, and without a trace of what was cancelled."""

from hypothesis import given
from hypothesis import strategies as st

from thousand_island_sync._base.clock import FOREVER
from thousand_island_sync._scheduler.timers import Timers


def test_they_fire_in_order_and_those_of_one_time_in_the_order_made():
    timers = Timers()
    for when, target in ((3, "c"), (1, "a"), (2, "b1"), (2, "b2"), (9, "d")):
        timers.add(when, target)
    assert timers.next() == 1
    assert timers.due(0.5) == []
    assert timers.due(3) == ["a", "b1", "b2", "c"]
    assert timers.next() == 9
    assert len(timers) == 1


def test_what_was_cancelled_never_fires_and_is_swept_out():
    timers = Timers()
    made = [timers.add(when, str(when)) for when in range(1_000)]
    for timer in made[1:]:
        timers.cancel(timer)
        timers.cancel(timer)
    assert len(timers) == 1
    assert len(timers._heap) < 200
    assert timers.due(10_000) == ["0"]
    timers.cancel(made[0])
    assert timers.next() == FOREVER
    assert len(timers) == 0


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=200), st.integers(0, 50))
def test_whatever_is_added_and_cancelled_what_is_due_is_what_is_left(entries, now):
    timers = Timers()
    made = [(timers.add(when, (when, n)), cancel) for n, (when, cancel) in enumerate(entries)]
    for timer, cancel in made:
        if cancel:
            timers.cancel(timer)
    left = sorted((when, n) for n, (when, cancel) in enumerate(entries) if not cancel)
    assert timers.due(now) == [entry for entry in left if entry[0] <= now]
    assert len(timers) == sum(entry[0] > now for entry in left)
