"""Errors that the locks of the C meet, each made to happen; as `test_exits_one_by_one`."""

import contextlib
import signal
import sys
import threading
import time

import pytest

from tests.slots import Broken, breaks
from thousand_island_sync._base import compiled, locks
from thousand_island_sync._server import accelerator

pytestmark = pytest.mark.skipif(not accelerator.in_c, reason="this run tests the Python")


@contextlib.contextmanager
def held_by_another(lock):
    over, taken = threading.Event(), threading.Event()

    def hold():
        with lock:
            taken.set()
            over.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(60)
    yield
    over.set()
    thread.join()


@contextlib.contextmanager
def alarms(handler):
    """Again and again, until it is over."""
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


KINDS = [compiled.native.Lock, compiled.native.RLock] if accelerator.in_c else []


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_looks_at_what_it_gets(kind):
    with pytest.raises(TypeError):
        kind("first")
    assert not kind().acquire.__self__.locked()


@pytest.mark.parametrize("kind", KINDS)
def test_signals_do_not_prolong_a_wait_for_a_lock_and_end_none(kind):
    lock, heard = kind(), []
    with held_by_another(lock), alarms(lambda *_: heard.append(time.monotonic())):
        began = time.monotonic()
        assert lock.acquire(timeout=0.2) is False
        assert time.monotonic() - began >= 0.2
    assert heard
    assert lock.acquire(False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_handler_that_raises_ends_a_wait_for_a_lock_which_stays_anothers(kind):
    lock = kind()
    with held_by_another(lock):
        with alarms(breaks), pytest.raises(Broken), lock:
            pass
        with alarms(breaks), pytest.raises(Broken):
            lock.acquire()
        assert lock.locked()
    assert lock.acquire(False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_watch_that_fails_is_told_of_and_takes_no_lock_away(kind, monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda met: told.append(type(met.exc_value)))
    lock = kind(1)
    compiled.native.watch_locks(breaks)
    try:
        with lock:
            held = lock.locked()
    finally:
        compiled.native.watch_locks(locks._watch if locks.watched else None)
    assert held
    assert not lock.locked()
    assert set(told) == {Broken}


def test_a_child_has_none_of_its_parents_locks():
    """What it does in a child is done here on a thread, which ends with what was counted."""
    native, lock, had = compiled.native, compiled.native.RLock(), []

    def be_a_child():
        lock.acquire()
        had.append(native.holds_any())
        native.holds_none()
        had.append(native.holds_any())
        lock._at_fork_reinit()

    thread = threading.Thread(target=be_a_child)
    thread.start()
    thread.join()
    assert had == [True, False]
    assert lock.acquire(False)
    lock.release()


def test_a_lock_that_an_exception_left_taken_is_not_counted_for_good():
    """As by an exception between `__enter__` and the body of a `with`, on CPython 3.14 and later:
    one that nothing knows, as each connection has some."""
    locks_held = []

    def meet_an_exception():
        left_taken = compiled.native.RLock()
        left_taken.acquire()
        locks_held.append(locks.holds_any())
        locks.release_all()
        locks_held.append(locks.holds_any())
        del left_taken
        with compiled.native.RLock():
            locks_held.append(locks.holds_any())
        locks_held.append(locks.holds_any())

    thread = threading.Thread(target=meet_an_exception)
    thread.start()
    thread.join()
    assert locks_held == [True, False, True, False]


def test_a_lock_of_a_thread_that_is_no_more_can_be_made_anew():
    for kind in (compiled.native.Lock, compiled.native.RLock):
        lock = kind()
        thread = threading.Thread(target=lock.acquire)
        thread.start()
        thread.join()
        assert lock.acquire(False) is False
        lock._at_fork_reinit()
        assert lock.acquire(False) is True
        lock.release()
