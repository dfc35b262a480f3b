"""`_base.locks`: the order of locks, who has them, and what must not run under one; each rule is
broken here on purpose. All other tests run with the watch on, and fail if it finds anything."""

import contextlib
import logging
import os
import subprocess
import sys
import threading

import pytest

from tests.support import running
from thousand_island_sync import events
from thousand_island_sync._base import locks, reports, waits
from thousand_island_sync._base.locks import ORDER, TURNS, if_free, lock, maker


@pytest.fixture
def found(caplog):
    """What was found so far; it is expected here."""
    caplog.set_level(logging.CRITICAL, "thousand_island_sync")
    yield reports.violations
    reports.violations.clear()


pytestmark = pytest.mark.skipif(not locks.watched, reason="nothing is watched in this run")


# ---- the order --------------------------------------------------------------------


def test_later_ones_are_taken_under_earlier_ones(found):
    with lock("connection.limit"), lock("scheduler"), lock("connection"):
        assert locks.held_here() == ["connection.limit", "scheduler", "connection"]
    assert locks.held_here() == []
    assert found == []


@pytest.mark.parametrize("inner", ["connection.limit", "scheduler"])
def test_an_earlier_one_or_another_of_the_same_is_not_waited_for(inner, found):
    with lock("scheduler"), lock(inner):
        pass
    assert found == [f"the lock {inner} is waited for under scheduler"]


def test_what_is_only_tried_needs_no_order(found):
    limit = lock("connection.limit")
    with lock("scheduler"):
        assert limit.acquire(False)
        limit.release()
    assert found == []


def test_its_own_thread_may_take_one_of_a_server_again(found):
    one = lock("connection.limit")
    with one, one:
        assert locks.owns(one)
    assert not locks.owns(one)
    assert found == []


@pytest.mark.parametrize("name", ["socket.sending", "tls"])
def test_what_a_connection_has_is_not_taken_twice(name, found):
    one = maker(name)()
    with one:
        if one.acquire(timeout=0.01):
            one.release()
    assert found == [f"a thread waits for the lock {name}, which it has"]


def test_who_has_it_gives_it_back(found):
    one = maker("socket.sending")()
    one.acquire()

    def release():
        with contextlib.suppress(RuntimeError):
            one.release()

    other = threading.Thread(target=release)
    other.start()
    other.join()
    assert found == ["the lock socket.sending is given back by a thread that does not have it"]
    locks._here.held.clear()


def test_every_name_is_there_once_and_turns_are_among_them():
    assert len(set(ORDER)) == len(ORDER)
    assert set(ORDER) >= TURNS


# ---- what must not run under one ------------------------------------------------------


@pytest.mark.parametrize("name", ["scheduler", "socket.sending"])
def test_no_receiver_runs_under_a_lock_or_a_turn(name, found):
    with lock(name) if name == "scheduler" else maker(name)():
        events.emit(events.pool_relieved, None, {"busy_threads": 0, "waiting_connections": 0}, {})
    assert found == [f"a receiver is run under {name}"]


def test_no_log_handler_runs_under_a_lock(found):
    log = logging.getLogger("thousand_island_sync")
    with lock("connection.limit"):
        log.critical("something")
    assert found == ["a log handler is run under connection.limit"]


def test_a_thread_may_wait_with_its_turn_and_with_no_lock(found):
    reader, writer = os.pipe()
    try:
        with maker("socket.sending")():
            waits.wait_for(reader, write=False, timeout=0)
        assert found == []
        with lock("connection.limit"):
            waits.wait_for(reader, write=False, timeout=0)
    finally:
        os.close(reader)
        os.close(writer)
    assert found == ["a thread waits under connection.limit"]


# ---- taking one amid one's own ------------------------------------------------------------


@contextlib.contextmanager
def held_by_another_thread(one):
    """Another thread has the lock until the event is set, or the block left."""
    held, over = threading.Event(), threading.Event()

    def hold():
        with one:
            held.set()
            over.wait(10)

    with running(hold):
        assert held.wait(5)
        try:
            yield over
        finally:
            over.set()


@pytest.fixture
def calls():
    """What `if_free` has called, and whether the lock was held then."""
    return []


def test_what_is_free_is_taken_whatever_is_held(calls):
    one = lock("scheduler")
    with lock("connection"):
        assert if_free(one, lambda: calls.append(locks.owns(one)))
    assert calls == [True]
    assert not locks.owns(one)


def test_ones_own_is_not_taken_again(calls):
    one = lock("scheduler")
    with one:
        assert not if_free(one, lambda: calls.append(1))
        assert locks.if_possible(one, lambda: calls.append(2) or 3) == 3
        assert locks.owns(one)
    assert calls == [2]


@pytest.mark.parametrize("held", ["connection.limit", "mailbox", None])
def test_anothers_is_waited_for_only_by_who_has_none(held, calls):
    one = lock("scheduler")
    with held_by_another_thread(one) as over:
        if held is None:
            threading.Timer(0.05, over.set).start()
            assert if_free(one, lambda: calls.append(locks.owns(one)))
            assert calls == [True]
        else:
            with lock(held):
                assert not if_free(one, lambda: calls.append(1))
                assert locks.if_possible(one, lambda: locks.owns(one)) is False
            assert calls == []


def test_who_is_gone_is_not_looked_at():
    before = len(locks.every())
    one = lock("connection.limit")
    assert one in locks.every()
    assert len(locks.every()) == before + 1
    del one
    assert len(locks.every()) == before


# ---- over a fork, and without the watch ------------------------------------------------------


def test_those_of_the_process_are_held_in_their_order_and_renewed(found):
    with held_by_another_thread(lock("connection.limit")):
        locks.hold_those_of_process()
        assert all(locks.owns(one) for one in locks.of_process.values())
        locks.release_those_of_process()
        assert not any(locks.owns(one) for one in locks.of_process.values())
    assert found == []
    script = (
        "import os, threading\n"
        "from thousand_island_sync._base import locks\n"
        "one, held = locks.lock('connection.limit'), threading.Event()\n"
        "threading.Thread(target=lambda: (one.acquire(), held.set()), daemon=True).start()\n"
        "held.wait(5)\n"
        "locks.hold_those_of_process()\n"
        "locks.renew_every()\n"
        "with one: pass\n"
        "print(locks.held_here(), any(x.acquire(False) is False for x in locks.every()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30
    )
    assert (done.stdout, done.stderr) == ("[] False\n", "")


def test_a_module_imported_in_the_middle_of_a_fork_gets_a_lock_that_is_not_released(
    found, monkeypatch
):
    known = dict(locks.of_process)
    known.pop("systemd", None)
    monkeypatch.setattr(locks, "of_process", known)
    locks.hold_those_of_process()
    late = locks.process_lock("systemd")
    locks.release_those_of_process()
    assert not any(locks.owns(one) for one in [late, *known.values()])
    assert found == []


PLAIN = """
import threading
from thousand_island_sync import events
from thousand_island_sync._base import compiled, locks
native = compiled.native
kinds = (threading.RLock, threading.RLock) if native is None else (native.RLock, native.Lock)
alike = type(locks.lock("connection.limit")) is type(kinds[0]())
print(alike, locks.maker("socket.sending") is kinds[1])
print(events.emit.__module__, locks.watched)
"""


def test_without_the_watch_they_are_plain():
    done = subprocess.run(
        [sys.executable, "-c", PLAIN],
        env={**os.environ, "THOUSAND_ISLAND_DEBUG": "0"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["True True", "thousand_island_sync.events False"]
