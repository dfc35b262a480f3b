"""The policy that hands permits over early."""

import os
import resource
import threading

import pytest

from tests.support import eventually
from thousand_island_sync._scheduler.tendency import (
    HAND_OFF_COST,
    Tendency,
    processor_time,
    voluntary_switches,
    wants_processor,
)


def run(samples, average=0.0):
    tendency = Tendency()
    for at_least, at_most in samples:
        average = tendency.learn(average, at_least, at_most)
    return average


def test_a_handler_that_blocks_is_known_after_one_sample():
    assert run([(5e-3, 5e-3)]) > HAND_OFF_COST


def test_a_quick_handler_stays_quick():
    assert run([(0.0, 2e-6)] * 100) < HAND_OFF_COST


def test_waiting_for_the_gil_proves_nothing():
    assert run([(0.0, 5e-3)] * 100) == 0.0
    assert run([(0.0, 5e-3)] * 100, average=1e-3) == 1e-3


def test_many_waits_prove_nothing_unless_they_are_most_of_the_time():
    """Each wait for the GIL is one, and with it goes some time in which nobody runs."""
    tendency = Tendency()
    assert tendency.learn(0.0, 3e-3, 20e-3, waits=15) == 0.0
    assert tendency.learn(0.0, 3e-3, 5e-3, waits=15) > HAND_OFF_COST
    assert tendency.learn(0.0, 3e-3, 20e-3, waits=2) > HAND_OFF_COST


def test_a_handler_that_has_stopped_blocking_is_quick_again_soon():
    assert run([(0.0, 20e-6)] * 12, average=1e-3) < HAND_OFF_COST


def test_one_very_long_wait_is_forgotten_as_soon():
    long = run([(60.0, 60.0)])
    assert run([(0.0, 20e-6)] * 6, average=long) < HAND_OFF_COST


def test_connections_start_from_what_their_class_has_shown():
    tendency = Tendency()
    assert tendency.average == 0.0
    tendency.learn(0.0, 5e-3, 5e-3)
    assert tendency.average > HAND_OFF_COST


def test_a_callback_that_did_not_wait_at_all_leaves_no_doubt():
    assert run([(0.0, 0.0)] * 5, average=1e-3) < HAND_OFF_COST
    assert run([(0.0, 20e-6)] * 5, average=1e-3) > HAND_OFF_COST


@pytest.mark.skipif(not hasattr(resource, "RUSAGE_THREAD"), reason="only Linux counts by thread")
def test_the_kernel_tells_a_wait_from_work():
    def counted(work):
        before = voluntary_switches()
        work()
        return voluntary_switches() - before

    assert counted(lambda: threading.Event().wait(0.001)) > 0
    assert min(counted(lambda: sum(range(50_000))) for _ in range(20)) == 0


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="Linux has it")
def test_the_kernel_tells_who_wants_a_processor():
    told, over = [], threading.Event()

    def waits():
        told.append(threading.get_native_id())
        over.wait(10)

    thread = threading.Thread(target=waits)
    thread.start()
    try:
        assert eventually(lambda: told and not wants_processor(told[0]))
        assert wants_processor(threading.get_native_id())
    finally:
        over.set()
        thread.join()


def test_the_kernel_tells_how_much_of_a_processor_another_thread_has_had():
    began, over = threading.Event(), threading.Event()

    def work():
        began.set()
        while not over.is_set():
            sum(range(1_000))

    thread = threading.Thread(target=work)
    thread.start()
    began.wait(5)
    first = processor_time(thread.native_id)
    try:
        assert eventually(lambda: processor_time(thread.native_id) > first + 0.02)
    finally:
        over.set()
        thread.join()


def test_of_a_thread_that_is_gone_nothing_is_known():
    assert not wants_processor(0)
    assert processor_time(2**22) == 0  # no thread has this number (proc(5), pid_max)
