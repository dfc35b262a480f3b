"""The policy that hands permits over early."""

from thousand_island_sync._tendency import HAND_OVER_COST, Tendency


def run(samples, average=0.0):
    tendency = Tendency()
    for at_least, at_most in samples:
        average = tendency.learn(average, at_least, at_most)
    return average


def test_a_handler_that_blocks_is_known_after_one_sample():
    assert run([(5e-3, 5e-3)]) > HAND_OVER_COST


def test_a_quick_handler_stays_quick():
    assert run([(0.0, 2e-6)] * 100) < HAND_OVER_COST


def test_waiting_for_the_gil_proves_nothing():
    assert run([(0.0, 5e-3)] * 100) == 0.0
    assert run([(0.0, 5e-3)] * 100, average=1e-3) == 1e-3


def test_a_handler_that_has_stopped_blocking_is_quick_again_soon():
    assert run([(0.0, 20e-6)] * 12, average=1e-3) < HAND_OVER_COST


def test_one_very_long_wait_is_forgotten_as_soon():
    long = run([(60.0, 60.0)])
    assert run([(0.0, 20e-6)] * 6, average=long) < HAND_OVER_COST


def test_connections_start_from_what_their_class_has_shown():
    tendency = Tendency()
    assert tendency.average == 0.0
    tendency.learn(0.0, 5e-3, 5e-3)
    assert tendency.average > HAND_OVER_COST
