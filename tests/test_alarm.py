"""The alarm of the watchdog."""

import os
import select
import threading

import pytest

from tests.slots import Busy
from tests.support import Echo, answers, eventually, receive
from thousand_island_sync import Handler
from thousand_island_sync._base.clock import FOREVER
from thousand_island_sync._scheduler import alarm as _alarm
from thousand_island_sync._scheduler.alarm import Alarm
from thousand_island_sync._scheduler.scheduler import Scheduler
from thousand_island_sync._scheduler.watchdog_timer import (
    AFTER_ARM,
    LOOKS,
    MAY_STOP,
    ON_ALARM,
    ON_WAIT,
    SLEEPS,
    WatchdogTimer,
)


def readable(alarm, timeout_ms):
    poller = select.poll()
    poller.register(alarm.fileno(), select.POLLIN)
    return bool(poller.poll(timeout_ms))


@pytest.fixture(params=["compiled", "of the standard library"])
def alarm(request, monkeypatch):
    if request.param != "compiled":
        monkeypatch.setattr(_alarm, "timer_open", None)
    try:
        made = Alarm()
    except OSError:
        pytest.skip("there is none")
    yield made
    made.close()


def test_it_goes_off_after_a_while_and_is_hushed(alarm):
    alarm.set(0.001)
    assert readable(alarm, 5_000)
    alarm.hush()
    assert not readable(alarm, 0)


def test_not_before(alarm):
    alarm.set(3_600.5)
    assert not readable(alarm, 0)


def test_nor_once_it_was_stopped(alarm):
    alarm.set(0.0001)
    assert readable(alarm, 5_000)
    alarm.stop()  # though it has gone off
    assert not readable(alarm, 0)
    alarm.hush()  # which does not wait


def test_the_last_one_counts(alarm):
    alarm.set(3_600)
    alarm.set(0.001)
    assert readable(alarm, 5_000)


@pytest.fixture
def without_alarms(monkeypatch):
    def none_left():
        raise OSError(24, os.strerror(24))

    monkeypatch.setattr(_alarm, "Alarm", none_left)


def test_a_server_that_can_have_none_serves_without(serve, client, without_alarms):
    server = serve(Echo)
    assert all(answers(client(server)) for _ in range(3))


# ---- whether the watchdog looks: the table, and what follows it ------------------------------

STATES = (SLEEPS, LOOKS, MAY_STOP)


class Noted:
    """An alarm that does nothing."""

    def __init__(self):
        self.calls = []

    def set(self, seconds):
        self.calls.append("set")

    def stop(self):
        self.calls.append("stop")


def timer(*, alarm, one_runs=True, sparse=True, insists=False):
    """One that was asleep; `sparse`: its last alarm was long ago."""
    made = WatchdogTimer(lambda: None, lambda: 1_000.0, threading.Lock(), one_runs)
    made.use(alarm)
    made.insist(insists)
    if not sparse:
        made.arm()
    return made


@pytest.mark.parametrize("one_runs", [True, False])
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("insists", [True, False])
def test_an_alarm_may_stop_where_one_thread_works_and_nothing_else_is_waited_for(
    one_runs, sparse, insists
):
    made = timer(alarm=Noted(), one_runs=one_runs, sparse=sparse, insists=insists)
    assert not made.begin(by_alarm=True)
    assert made.state == AFTER_ARM[one_runs and sparse and not insists]


@pytest.mark.parametrize(("alarm", "by_alarm"), [(None, True), (None, False), (Noted(), False)])
def test_without_an_alarm_it_is_rung_and_looks(alarm, by_alarm):
    made = timer(alarm=alarm)
    assert made.begin(by_alarm=by_alarm)
    assert made.state == AFTER_ARM[None]


@pytest.mark.parametrize("state", [LOOKS, MAY_STOP])
def test_what_begins_while_it_looks_sets_no_alarm(state):
    made = timer(alarm=Noted())
    made.state = state
    assert not made.begin(by_alarm=False)
    assert (made.state, made._alarm.calls) == (state, [])


@pytest.mark.parametrize("state", STATES)
def test_another_alarm_goes_off_in_any_case(state):
    made = timer(alarm=Noted())
    made.state = state
    made.use(Noted())
    assert made.state == ON_ALARM.get(state, state) != MAY_STOP


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("again", [True, False])
def test_once_it_has_looked_it_says_whether_it_does_so_again(state, again):
    made = timer(alarm=Noted())
    made.state = state
    made.looks(again)
    assert made.state == (LOOKS if again else SLEEPS)


@pytest.mark.parametrize("state", STATES)
def test_a_thread_that_waits_again_needs_no_alarm_that_may_stop(state):
    """In C as in Python."""
    with Busy(ready=False) as busy:
        made = busy.scheduler._watchdog_timer
        made.use(Noted())
        made.state = state
        busy.ours.recv(1)
        busy.poller.poll(0)
        busy.poller.wake()  # the look waits for nothing, and finds nothing
        assert busy.queue.look(busy.worker)
        assert made.state == ON_WAIT.get(state, state)
        assert made._alarm.calls == (["stop"] if state in ON_WAIT else [])


@pytest.mark.parametrize("one_runs", [True, False])
@pytest.mark.parametrize("there_is_one", [True, False])
@pytest.mark.parametrize("state", STATES)
def test_a_look_that_finds_something_sets_one_unless_it_looks(state, there_is_one, one_runs):
    """In C as in Python."""
    with Busy(ready=False) as busy:
        made = busy.scheduler._watchdog_timer
        made.use(Noted() if there_is_one else None)
        made._one_runs = one_runs
        made.state = state
        assert busy.queue.look(busy.worker)
        armed = AFTER_ARM[one_runs if there_is_one else None]
        assert made.state == (ON_WAIT.get(state, state) or armed)
        assert list(busy.queue._ready) == [busy.task]


def test_a_server_does_not_look_at_requests_that_come_one_by_one(serve, client, monkeypatch):
    monkeypatch.setenv("THOUSAND_ISLAND_DEBUG", "0")
    tend, looks = Scheduler.tend, []

    def watch(scheduler):
        timeout = tend(scheduler)
        looks.append(timeout)
        return timeout

    def at_rest():  # for `watch_sleeps` is true a moment before its last look, too
        before = len(looks)
        return not eventually(lambda: len(looks) > before, 0.1) and looks[-1:] == [FOREVER]

    monkeypatch.setattr(Scheduler, "tend", watch)
    server = serve(Echo)
    sock = client(server)
    assert answers(sock)
    assert eventually(at_rest)
    scheduler = server._run.scheduler
    if scheduler._watchdog_timer._alarm is None or not scheduler._permits.is_one():
        pytest.skip("there is none, or nobody can tell that all wait again")
    monkeypatch.setattr(_alarm, "TICK", 60)  # for however long they take here
    monkeypatch.setattr(_alarm, "SPARSE_S", 0)
    before = len(looks)
    assert all(answers(sock) for _ in range(20))
    assert eventually(lambda: scheduler._watchdog_timer.state == SLEEPS)
    assert len(looks) == before
    assert scheduler.counts()[0] == 1


def test_but_at_those_that_follow_each_other_closely(serve, client, monkeypatch):
    monkeypatch.setattr(_alarm, "TICK", 60)
    monkeypatch.setattr(_alarm, "SPARSE_S", 3_600)
    server = serve(Echo)
    sock = client(server)
    assert all(answers(sock) for _ in range(20))
    assert server._run.scheduler._watchdog_timer.state != SLEEPS  # the alarm is still set


@pytest.mark.parametrize("debug", ["0", "1"])
def test_one_of_them_that_blocks_all_the_same_holds_up_nobody(serve, client, monkeypatch, debug):
    monkeypatch.setenv("THOUSAND_ISLAND_DEBUG", debug)
    monkeypatch.setattr(_alarm, "SPARSE_S", 0)
    go = threading.Event()

    class Blocks(Handler):
        def handle_data(self, data, socket):
            if data == b"b":
                go.wait(10)
            socket.send(data)

    server = serve(Blocks)
    blocked, other = client(server), client(server)
    assert all(answers(other) for _ in range(20))
    blocked.sendall(b"b")
    assert answers(other)
    assert not go.is_set()
    go.set()
    assert receive(blocked, 1) == b"b"
