"""The alarm of the watchdog."""

import os
import select
import threading

import pytest

from tests.support import Echo, answers, eventually, receive
from thousand_island_sync import Handler
from thousand_island_sync._base.clock import FOREVER
from thousand_island_sync._scheduler import alarm as _alarm
from thousand_island_sync._scheduler.alarm import Alarm
from thousand_island_sync._scheduler.scheduler import Scheduler


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
    assert eventually(lambda: not scheduler._watchdog_timer.watching)
    assert len(looks) == before
    assert scheduler.counts()[0] == 1


def test_but_at_those_that_follow_each_other_closely(serve, client, monkeypatch):
    monkeypatch.setattr(_alarm, "TICK", 60)
    monkeypatch.setattr(_alarm, "SPARSE_S", 3_600)
    server = serve(Echo)
    sock = client(server)
    assert all(answers(sock) for _ in range(20))
    assert server._run.scheduler._watchdog_timer.watching  # the alarm is still set


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
