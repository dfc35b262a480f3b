"""The tables of a connection's life."""

import itertools

import pytest

from thousand_island_sync import Handler
from thousand_island_sync._base.sigpipe import DONTWAIT, NOSIGNAL
from thousand_island_sync._connection import reserve
from thousand_island_sync._connection.reserve import Level
from thousand_island_sync._connection.states import (
    LAST_CALLBACK,
    ON_DRAIN,
    ON_STOP,
    REASON,
    TRANSITIONS,
    Cause,
    Stage,
    State,
)
from thousand_island_sync._stream import states as streams
from thousand_island_sync._stream.payload import BY_LIMIT, NoRoom, no_room
from thousand_island_sync._stream.states import Sends


def test_every_state_has_its_transitions_and_closed_is_the_end():
    assert set(TRANSITIONS) == set(State)
    assert TRANSITIONS[State.CLOSED] == frozenset()
    reached = {State.NEW}
    for _ in State:
        reached |= {target for state in reached for target in TRANSITIONS[state]}
    assert reached == set(State)


@pytest.mark.parametrize(
    ("state", "cause"),
    list(itertools.product((State.HANDSHAKING, State.RUNNING, State.PARKED, State.PAUSED), Cause)),
    ids=lambda value: value.name,
)
def test_every_state_and_cause_has_one_last_callback(state, cause):
    if cause is Cause.REFUSED or (state is State.HANDSHAKING and cause is Cause.HANDLER):
        assert (state, cause) not in LAST_CALLBACK
        return
    callback = LAST_CALLBACK[state, cause]
    assert (callback is None) == (cause is Cause.LOCAL)
    if callback is not None:
        assert hasattr(Handler, callback)
    assert callback == "handle_error" or cause in REASON


def test_what_differs_in_a_handshake():
    assert LAST_CALLBACK[State.HANDSHAKING, Cause.TIMEOUT] == "handle_error"
    assert LAST_CALLBACK[State.PARKED, Cause.TIMEOUT] == "handle_timeout"
    assert LAST_CALLBACK[State.HANDSHAKING, Cause.PEER] == "handle_close"
    assert LAST_CALLBACK[State.PARKED, Cause.PEER] == "handle_close"


@pytest.mark.parametrize(
    "moves",
    list(itertools.product((ON_DRAIN, ON_STOP), repeat=3)),
    ids=lambda moves: "-".join("stop" if one is ON_STOP else "drain" for one in moves),
)
def test_a_stage_only_goes_forward_and_a_stop_is_the_last(moves):
    order, stage = list(Stage), Stage.SERVING
    for move in moves:
        before, stage = stage, move.get(stage, stage)
        assert order.index(stage) >= order.index(before)
        assert stage is not Stage.SERVING
    assert (stage is Stage.STOPPING) == (ON_STOP in moves)


# ---- what a send does about bytes that find no room --------------------------------------------


def test_only_a_send_under_a_limit_of_the_sockets_returns_a_part():
    assert set(BY_LIMIT) == set(itertools.product((False, True), repeat=2))
    assert set(BY_LIMIT.values()) == set(NoRoom)
    for (limited, all_of_it), does in BY_LIMIT.items():
        assert (does is NoRoom.KEEP) == (not limited)
        assert (does is NoRoom.RETURN) == (limited and not all_of_it)


@pytest.mark.parametrize(("limited", "all_of_it"), list(BY_LIMIT))
def test_flags_keep_nothing_and_who_must_not_wait_returns(limited, all_of_it):
    assert no_room(limited, all_of_it, 0) is BY_LIMIT[limited, all_of_it]
    assert no_room(limited, all_of_it, NOSIGNAL) is BY_LIMIT[limited, all_of_it]
    other = 1 << 20  # of send(2), whichever it is
    assert no_room(limited, all_of_it, other) is not NoRoom.KEEP
    assert no_room(limited, all_of_it, DONTWAIT) is NoRoom.RETURN
    assert no_room(limited, all_of_it, DONTWAIT | other) is NoRoom.RETURN


# ---- threads that are kept for those who read ------------------------------------------------


@pytest.mark.parametrize("level", Level)
def test_what_is_found_leads_to_the_level_that_fits(level):
    half = reserve.ON_HALF.get(level, level)
    assert half is Level.ARMED
    over = reserve.ON_CROWD_OVER.get(half, half)
    assert over is Level.COUNTING
    assert reserve.ON_NOBODY.get(over, over) is Level.AT_REST


def test_who_is_armed_stays_so_until_the_crowd_is_over():
    for found in (reserve.ON_SOMEBODY, reserve.ON_NOBODY, reserve.ON_HALF):
        assert Level.ARMED not in found


def test_the_first_one_is_counted_and_the_last_one_ends_it():
    kept, task = reserve.Reserve(64, lambda: 0.0), type("Task", (), {"alert": False})()
    assert kept.level is Level.AT_REST
    kept.begins_to_wait(task)
    assert kept.level is Level.COUNTING
    assert not kept.leaves(task)
    assert kept.level is Level.AT_REST


# ---- what is sent on a connection that has a send buffer ---------------------------------------


@pytest.mark.parametrize("sends", Sends)
def test_a_barrier_and_the_last_callback_change_one_thing_each(sends):
    moves = (streams.ON_BARRIER, streams.ON_BARRIER_GONE, streams.ON_LAST)
    raised, lowered, ended = (move.get(sends, sends) for move in moves)
    if sends is Sends.FAILED:
        assert (raised, lowered, ended) == (sends, sends, sends)
        return
    assert raised in streams.BARRIER
    assert lowered not in streams.BARRIER
    assert ended in streams.SENDS_OVER
    over = sends in streams.SENDS_OVER
    assert (raised in streams.SENDS_OVER, lowered in streams.SENDS_OVER) == (over, over)
    assert (ended in streams.BARRIER) == (sends in streams.BARRIER)


def test_no_more_is_sent_after_a_failure_and_nothing_waits_behind_a_barrier_then():
    assert Sends.FAILED in streams.SENDS_OVER - streams.BARRIER
