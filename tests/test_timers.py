"""Timers: lazy, in order, and without a trace of what was cancelled."""

from hypothesis import given
from hypothesis import strategies as st

from thousand_island_sync._base.clock import FOREVER
from thousand_island_sync._scheduler.deadlines import Deadlines
from thousand_island_sync._scheduler.task import Task
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


class Clock:
    def __init__(self):
        self.now = 1_000.1

    def __call__(self):
        return self.now


def task_until(deadline):
    task = Task(3)
    task.deadline = deadline
    return task


@given(st.data())
def test_a_task_fires_at_its_deadline_however_far_away_it_was_and_never_before(data):
    clock = Clock()
    deadlines, waiting = Deadlines(clock), []
    for _ in range(data.draw(st.integers(1, 40))):
        match data.draw(st.sampled_from(["new", "new", "move", "drop", "pass", "pass"])):
            case "new":
                task = task_until(clock.now + data.draw(st.floats(0.01, 9)))
                deadlines.set(task)
                waiting.append(task)
            case "move" if waiting:
                task = data.draw(st.sampled_from(waiting))
                task.deadline = clock.now + data.draw(st.floats(0.01, 9))
                if task.deadline < task.timer_at:  # as the scheduler does it
                    deadlines.set(task)
            case "drop" if waiting:
                task = data.draw(st.sampled_from(waiting))
                deadlines.drop(task)
                waiting.remove(task)
            case _:
                clock.now += data.draw(st.floats(0, 4))
                fired = deadlines.fire()
                assert set(fired) == {one for one in waiting if one.deadline <= clock.now}
                waiting = [one for one in waiting if one not in fired]
        if waiting:
            assert deadlines.left() <= max(0, min(one.deadline for one in waiting) - clock.now)


def test_those_that_are_far_away_have_one_timer_together_and_none_when_they_are_gone():
    deadlines = Deadlines(Clock())
    tasks = [task_until(1_060.3 + number / 10_000) for number in range(1_000)]
    for task in tasks:
        deadlines.set(task)
    assert len(deadlines._timers) == 1
    for task in tasks:
        deadlines.drop(task)
    assert len(deadlines._timers) == 0
    assert not any(task.timer for task in tasks)


def test_after_books_were_broken_off_nobody_has_a_timer():
    deadlines = Deadlines(Clock())
    tasks = [task_until(1_060.3), task_until(1_060.4), task_until(1_000.5)]
    for task in tasks:
        deadlines.set(task)
    tasks[0].timer.tasks.clear()  # half done
    stale = tasks.pop(1)  # it was taken out of the table before
    deadlines.drop_all(tasks)
    assert len(deadlines._timers) == 0
    for task in tasks:
        deadlines.set(task)
    deadlines.drop(stale)
    deadlines._clock.now = 1_061
    assert set(deadlines.fire()) == set(tasks)
