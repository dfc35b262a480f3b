"""The tasks of a scheduler: what is asked of the table, beside a dictionary that does the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thousand_island_sync._scheduler.task import Task
from thousand_island_sync._scheduler.task_table import TaskTable

numbers = st.integers(-3, 12)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(numbers, max_size=3)),
        st.tuples(st.sampled_from(["remove", "again", "replace", "take"]), numbers),
    )
)


@given(steps)
def test_a_table_has_what_was_added_and_not_removed(steps):
    table, known = TaskTable(), {}
    gone = Task(5)  # never added
    for step, given_ in steps:
        if step == "add":
            tasks = [Task(fd) for fd in given_]
            table.add(tasks)
            known |= {task.fd: task for task in tasks}
        elif (task := known.get(given_)) is None:
            table.remove(Task(given_))  # harmless
        elif step == "replace":
            known[given_] = successor = Task(given_)
            table.replace(task, successor)
            assert not table.has(task)
        elif step == "take":
            table.take_descriptor(task)
            del known[given_]
            assert task.fd < 0
            known[task.fd] = task
        else:
            del known[given_]
            table.remove(task)
            assert not table.has(task)
            if step == "again":
                table.remove(task)
        assert set(table.all()) == set(table.each()) == set(known.values())
        assert len(table.all()) == len(known)
        assert all(table.has(task) for task in known.values())
        assert not table.has(gone)
        assert table.is_empty() == (not known)
        assert not table.is_over()
        found = {fd: task for fd, task in enumerate(table.by_fd) if task is not None}
        assert found == {fd: task for fd, task in known.items() if fd >= 0}
    assert table.close() == table.is_over() == (not known)


@pytest.mark.parametrize("fd", [0, 3, 1_000])
def test_the_last_one_leaves_the_table_empty(fd):
    table, task = TaskTable(), Task(fd)
    table.add([task])
    assert not table.close()
    table.take_descriptor(task)
    assert not table.is_over()
    assert not table.has(Task(fd))
    table.remove(task)
    assert table.is_over()
