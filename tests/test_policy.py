"""The scheduler's policy, in simulated time: when permits are handed off, how long a ready
connection waits, and that the average settles both ways."""

import random

import pytest

from tests.simulation import World
from thousand_island_sync._scheduler.alarm import CALM_TICK, TICK
from thousand_island_sync._scheduler.stalls import _BUSY_LOOKS
from thousand_island_sync._scheduler.tendency import HAND_OFF_COST, SAMPLE_EVERY

pytestmark = pytest.mark.heavy

#: Two looks find the same callback: no ready connection waits for longer while a thread is
#: free, be the callback that is in its way the first slow one of a calm server or not.
STALL_LIMIT = 2 * CALM_TICK
#: Where the processor is busy: a callback may be at work.
BUSY_LIMIT = (_BUSY_LOOKS + 1) * CALM_TICK
QUICK = 20e-6
#: What makes a connection ready.
WAYS = ["an event", "another thread", "a timer"]


@pytest.fixture(params=[True, False], ids=["alarm", "bell"])
def world(monkeypatch, request):
    with World(monkeypatch, alarm=request.param) as made:
        yield made


def longest_wait(world, since=0.0):
    return max(wait for one in world.streams for when, wait in one.waits if when >= since)


def callbacks(world):
    return sum(len(one.waits) for one in world.streams)


def feed(world, count, every, messages):
    """`count` streams, each with a message `every` seconds; `messages(n)` says what the n-th
    of a stream does. Returns when the last has come."""
    end = 0.0
    for number in range(count):
        stream = world.stream()
        for step, (kind, duration) in enumerate(messages):
            end = 0.01 + number * every / count + step * every
            world.message(stream, end, kind, duration)
    return end


def test_quick_callbacks_share_one_thread_and_nothing_is_handed_over(world):
    end = feed(world, 20, 0.002, [("compute", QUICK)] * 200)
    world.run_until(end + 1)
    assert callbacks(world) == 20 * 200
    assert world.hand_offs == []
    assert world.scheduler.counts()[0] == 1
    assert longest_wait(world) < 0.001
    assert world.scheduler._estimate.tendency.average < HAND_OFF_COST


def test_an_idle_server_is_not_looked_at(world):
    world.run_until(feed(world, 1, 0.01, [("compute", QUICK)] * 10) + 1)
    looks = world.looks
    world.run_until(1_000)
    assert world.looks == looks


def test_nor_one_whose_requests_come_one_by_one_and_are_quick(monkeypatch):
    with World(monkeypatch) as world:
        world.run_until(feed(world, 1, 0.01, [("compute", QUICK)]) + 1)
        looks = world.looks
        for step in range(100):
            world.message(world.streams[0], 2 + step * 0.01, "compute", QUICK)
        world.run_until(4)
        assert callbacks(world) == 101
        assert world.looks == looks
        # The next of them blocks, and what comes behind it does not wait for that.
        world.message(world.streams[0], 5, "block", 1.0)
        world.message(world.stream(), 5.001, "compute", QUICK)
        world.run_until(7)
        assert longest_wait(world) <= STALL_LIMIT


def test_blocking_callbacks_run_side_by_side_once_that_is_known(world):
    """Twenty streams that sleep 5 ms: after the first moments, nobody waits for anybody."""
    end = feed(world, 20, 0.010, [("block", 0.005)] * 100)
    world.run_until(end + 1)
    assert callbacks(world) == 20 * 100
    assert longest_wait(world) <= STALL_LIMIT + 0.001
    assert longest_wait(world, since=0.1) <= 0.001
    assert all(one.classified.blocks for one in world.streams)
    assert 10 <= world.scheduler.counts()[0] <= 21, "one for each, and one that polls"


def test_a_burst_of_first_slow_callbacks_waits_for_one_stall_and_not_for_each(world):
    """Fifty new connections of a class that nothing is known of, all at once."""
    for _ in range(50):
        world.message(world.stream(), 0.01, "block", 0.1)
    world.run_until(5)
    assert callbacks(world) == 50
    waits = sorted(wait for one in world.streams for _, wait in one.waits)
    assert waits[31] <= 2 * TICK + 0.001, "while a thread is free"
    assert waits[-1] <= 0.1 + 2 * TICK + 0.001, "and the others for the first that finish"


def test_half_a_millisecond_is_blocking_too(world):
    end = feed(world, 20, 0.002, [("block", 0.0005)] * 300)
    world.run_until(end + 1)
    assert all(one.classified.blocks for one in world.streams)
    assert longest_wait(world, since=0.2) <= 0.001


def test_the_very_first_callback_may_block(world):
    """No look has found it, and the watch of a server at rest sleeps until it is told."""
    world.run_until(1)
    first, second = world.stream(), world.stream()
    first.arrived.append((1, "block", 100))
    world.message(second, 1.001, "compute", QUICK)
    world.run_until(3)
    assert callbacks(world) == 2
    assert longest_wait(world) < STALL_LIMIT


@pytest.mark.parametrize("by", WAYS)
def test_nor_does_it_matter_what_leads_to_one_that_blocks(by, world):
    world.run_until(feed(world, 2, 0.01, [("compute", QUICK)]) + 1)
    first, second = world.streams
    world.message(first, 2, "block", 100, by)
    world.message(second, 2.001, "compute", QUICK)
    world.run_until(3)
    assert callbacks(world) == 4
    assert longest_wait(world) <= STALL_LIMIT


def test_streams_that_alternate(world):
    """A quick callback, a slow one, a quick one: on the slow side of the average."""
    end = feed(world, 10, 0.020, [("compute", QUICK), ("block", 0.005)] * 100)
    world.run_until(end + 1)
    assert longest_wait(world) <= STALL_LIMIT + 0.001
    assert longest_wait(world, since=0.5) <= 2 * TICK + 0.001


def test_quick_streams_beside_blocking_ones(world):
    """The blocking ones are handed off, the quick ones never wait for them for long, and
    stay quick themselves."""
    slow = [world.stream() for _ in range(5)]
    quick = [world.stream() for _ in range(10)]
    for step in range(300):
        for number, stream in enumerate(slow):
            world.message(stream, 0.01 + step * 0.01 + number * 0.001, "block", 0.005)
        for number, stream in enumerate(quick):
            world.message(stream, 0.0105 + step * 0.01 + number * 0.0005, "compute", QUICK)
    world.run_until(5)
    assert all(stream.classified.blocks for stream in slow)
    assert not any(stream.classified.blocks for stream in quick)
    waits = [wait for stream in quick for when, wait in stream.waits if when > 0.5]
    assert max(waits) <= 2 * TICK
    assert sorted(waits)[len(waits) * 99 // 100] < 0.001


@pytest.mark.parametrize("slow", [0.050, 1.0], ids=["50 ms", "1 s"])
def test_rare_slow_callbacks_hold_up_nobody_for_longer_than_the_stall_limit(slow, world):
    """One of four hundred: its permit is taken, and the stream is quick again afterwards."""
    chance = random.Random(1)
    for number in range(20):
        stream = world.stream()
        for step in range(400):
            kind, duration = "compute", QUICK
            if chance.random() < 1 / 400:
                kind, duration = "block", slow
            by = chance.choice(WAYS) if chance.random() < 1 / 20 else "an event"
            world.message(stream, 0.01 + number * 0.0001 + step * 0.005, kind, duration, by)
    world.run_until(20)
    assert callbacks(world) == 20 * 400
    assert longest_wait(world) <= STALL_LIMIT + 0.001
    assert not any(stream.classified.blocks for stream in world.streams)
    assert world.scheduler._estimate.tendency.average < HAND_OFF_COST


def test_a_connection_whose_callback_computed_for_long_makes_way_from_then_on(world):
    heavy = world.stream()
    for step in range(20):
        world.message(heavy, 0.01 + step * 0.2, "compute", 0.1)
    quick = world.stream()
    for step in range(1_000):
        world.message(quick, 0.011 + step * 0.004, "compute", QUICK)
    world.run_until(10)
    assert heavy.classified.blocks
    assert max(wait for _, wait in quick.waits) <= BUSY_LIMIT
    assert max(wait for when, wait in quick.waits if when > 0.2) < HAND_OFF_COST
    assert world.scheduler._estimate.tendency.average < HAND_OFF_COST  # of others it says nothing


def test_until_its_callbacks_are_quick_again(world):
    stream, other = world.stream(), world.stream()
    world.message(stream, 0.01, "compute", 0.1)
    world.message(other, 0.015, "compute", QUICK)
    for step in range(2 * SAMPLE_EVERY):
        world.message(stream, 0.2 + step * 0.01, "compute", QUICK)
    world.run_until(0.19)
    assert stream.classified.blocks
    world.run_until(10)
    assert not stream.classified.blocks


def test_the_average_settles_both_ways(world):
    """Blocking, then quick, then blocking: known each time after a few callbacks."""
    stream = world.stream()
    other = world.stream()
    steps = [("block", 0.002)] * 40 + [("compute", QUICK)] * 60 + [("block", 0.002)] * 60
    seen = []
    for step, (kind, duration) in enumerate(steps):
        when = 0.01 + step * 0.01
        world.message(stream, when, kind, duration)
        world.message(other, when + 0.0001, "compute", QUICK)
        world.kernel.at(when + 0.009, lambda: seen.append(stream.classified.blocks))
    world.run_until(5)
    assert seen[39] is True
    assert seen[99] is False
    assert seen[159] is True
    assert seen.index(True) <= 2 * SAMPLE_EVERY
    assert seen[40:].index(False) <= 2 * SAMPLE_EVERY
    assert seen[100:].index(True) <= 2 * SAMPLE_EVERY


def test_a_class_is_quick_again_though_those_that_blocked_have_gone(world):
    """The connections that are left were measured long ago; they are measured again."""
    left = [world.stream() for _ in range(3)]
    for step in range(200):
        for number, stream in enumerate(left):
            kind, duration = ("block", 0.002) if step < 50 else ("compute", QUICK)
            world.message(stream, 0.01 + step * 0.01 + number * 0.001, kind, duration)
    world.run_until(3)
    assert not any(stream.classified.blocks for stream in left)
    assert all(stream.classified.measured for stream in left)
    gone = world.stream()
    world.message(gone, 3.1, "block", 0.5)
    world.kernel.at(3.2, lambda: world._forget(gone))
    world.run_until(3.3)
    assert world.scheduler._estimate.tendency.average > HAND_OFF_COST
    for step in range(300):
        for number, stream in enumerate(left):
            world.message(stream, 4 + step * 0.01 + number * 0.001, "compute", QUICK)
    world.run_until(8)
    assert world.scheduler._estimate.tendency.average < HAND_OFF_COST
    assert world.scheduler._estimate.sample_mask == SAMPLE_EVERY - 1


def test_connections_start_from_what_their_class_has_shown(world):
    end = feed(world, 10, 0.01, [("block", 0.003)] * 50)
    world.run_until(end + 0.1)
    late = world.stream()
    quick = world.stream()
    now = world.kernel.now
    world.message(late, now + 0.1, "block", 0.5)
    world.message(quick, now + 0.1001, "compute", QUICK)
    world.run_until(now + 1)
    assert quick.waits[0][1] < 0.001, "the very first callback made way"


def test_at_the_bound_all_are_served_in_order_and_it_is_told(monkeypatch):
    with World(monkeypatch, max_threads=2) as world:
        streams = [world.stream() for _ in range(10)]
        for number, stream in enumerate(streams):
            world.message(stream, 0.01 + number * 0.001, "block", 1.0)
        world.run_until(30)
        begun = [stream.waits[0][0] + stream.waits[0][1] for stream in streams]
        assert begun == sorted(begun)
        assert begun[-1] <= 4.2
        assert [saturated for _, saturated, *_ in world.edges] == [True, False]
        assert world.scheduler.counts()[0] == 2


def test_a_firehose_lets_others_through(world):
    """One stream that always has more, and a quick one: it goes to the back of the queue."""
    firehose, quick = world.stream(), world.stream()
    for step in range(5_000):
        world.message(firehose, 0.01 + step * 1e-6, "compute", 100e-6)
    for step in range(50):
        world.message(quick, 0.0105 + step * 0.005, "compute", QUICK)
    world.run_until(5)
    assert len(firehose.waits) == 5_000
    # A look after each 64 callbacks, and what was taken up before it.
    assert max(wait for _, wait in quick.waits) <= 2 * 64 * 100e-6
