"""Every poller: epoll, kqueue (against a stand-in for the module), and the fallbacks."""

import os
import select
import selectors
import socket
import sys
import threading
import time
from collections import namedtuple

import pytest

from tests.support import eventually
from thousand_island_sync._base import locks
from thousand_island_sync._scheduler.poller import (
    HANGUP,
    READ,
    WRITE,
    EpollPoller,
    KqueuePoller,
    SelectorPoller,
    WakeUp,
    new_poller,
)
from thousand_island_sync.testing._leaks import open_descriptors

Kevent = namedtuple("Kevent", "ident filter flags", defaults=(0, 0))


class Kqueue:
    """kqueue's behaviour with EV_CLEAR, made of edge-triggered epoll."""

    def __init__(self):
        self._epoll = select.epoll()
        self._wanted = {}

    def fileno(self):
        return self._epoll.fileno()

    def control(self, changes, count, timeout=None):
        for change in changes or ():
            self._change(change)
        if not count:
            return []
        events = []
        for fd, bits in self._epoll.poll(-1 if timeout is None else timeout, count):
            over = bits & (select.EPOLLHUP | select.EPOLLRDHUP | select.EPOLLERR)
            flags = Module.KQ_EV_EOF if over else 0
            if bits & (select.EPOLLIN | over):
                events.append(Kevent(fd, Module.KQ_FILTER_READ, flags))
            if bits & select.EPOLLOUT:
                events.append(Kevent(fd, Module.KQ_FILTER_WRITE, flags))
        return events

    def _change(self, change):
        before = self._wanted.get(change.ident, set())
        if change.flags & Module.KQ_EV_DELETE:
            if change.filter not in before:
                raise FileNotFoundError
            after = before - {change.filter}
        else:
            after = before | {change.filter}
        bits = select.EPOLLET | select.EPOLLRDHUP
        bits |= select.EPOLLIN if Module.KQ_FILTER_READ in after else 0
        bits |= select.EPOLLOUT if Module.KQ_FILTER_WRITE in after else 0
        if not after:
            self._epoll.unregister(change.ident)
        elif before:
            self._epoll.modify(change.ident, bits)
        else:
            self._epoll.register(change.ident, bits)
        self._wanted[change.ident] = after

    def close(self):
        self._epoll.close()


class Module:
    """What `select` has on BSD and macOS."""

    KQ_FILTER_READ, KQ_FILTER_WRITE = -1, -2
    KQ_EV_ADD, KQ_EV_DELETE, KQ_EV_CLEAR, KQ_EV_EOF = 1, 2, 0x20, 0x8000
    kqueue = Kqueue
    kevent = staticmethod(lambda ident, filter, flags: Kevent(ident, filter, flags))


def stand_in():
    return KqueuePoller(Module)


MAKERS = {
    "epoll": EpollPoller,
    "kqueue": stand_in,
    "poll": lambda: SelectorPoller(selectors.PollSelector),
    "select": lambda: SelectorPoller(selectors.SelectSelector),
}


@pytest.fixture(params=MAKERS)
def poller(request):
    made = MAKERS[request.param]()
    yield made
    made.close()


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def events_of(poller, fd, timeout=1.0):
    """What is reported for one descriptor until something is, at most `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        bits = 0
        for found, more in poller.poll(0.01):
            bits |= more if found == fd else 0
        if bits:
            return bits
    return 0


def test_the_best_of_the_platform_is_taken():
    made = new_poller()
    assert isinstance(made, EpollPoller)
    made.close()


def test_registering_for_writing_reports_at_once(poller, pair):
    poller.register(pair[0].fileno(), write=True)
    assert events_of(poller, pair[0].fileno()) & WRITE


def test_bytes_are_reported_once(poller, pair):
    ours, theirs = pair
    poller.register(ours.fileno(), write=False)
    assert events_of(poller, ours.fileno(), 0.05) == 0
    theirs.send(b"x")
    assert events_of(poller, ours.fileno()) & READ
    assert events_of(poller, ours.fileno(), 0.05) == 0
    if poller.needs_rearm:
        poller.rearm(ours.fileno(), write=False)
        assert events_of(poller, ours.fileno()) & READ
    else:
        theirs.send(b"y")
        assert events_of(poller, ours.fileno()) & READ


def test_the_end_of_a_stream_is_reported(poller, pair):
    ours, theirs = pair
    poller.register(ours.fileno(), write=False)
    theirs.close()
    bits = events_of(poller, ours.fileno())
    assert bits & READ
    assert poller.needs_rearm or bits & HANGUP


def test_what_was_unregistered_is_not_reported(poller, pair):
    ours, theirs = pair
    poller.register(ours.fileno(), write=False)
    poller.unregister(ours.fileno())
    poller.unregister(ours.fileno())
    theirs.send(b"x")
    assert events_of(poller, ours.fileno(), 0.05) == 0


def test_modify_takes_writing_out(poller, pair):
    ours, theirs = pair
    poller.register(ours.fileno(), write=True)
    assert events_of(poller, ours.fileno()) & WRITE
    poller.modify(ours.fileno(), write=False)
    poller.modify(ours.fileno(), write=False)
    theirs.send(b"x")
    assert events_of(poller, ours.fileno()) & READ


def test_registering_takes_effect_in_a_poll_that_runs(poller, pair):
    ours, theirs = pair
    theirs.send(b"x")
    found = []
    thread = threading.Thread(
        target=lambda: found.extend(poller.poll(5) or poller.poll(5) or poller.poll(5))
    )
    thread.start()
    poller.register(ours.fileno(), write=False)
    thread.join(5)
    assert ours.fileno() in [fd for fd, _ in found]


def test_wake_ends_a_poll(poller):
    threads = [threading.Thread(target=poller.poll, args=(30,)) for _ in range(2)]
    for thread in threads:
        thread.start()

    def woken():
        poller.wake()
        return not any(thread.is_alive() for thread in threads)

    assert eventually(woken)


def test_poll_takes_no_longer_than_its_timeout(poller, stopwatch):
    assert poller.poll(0) == []
    assert [one for one in poller.poll(0.02) if one[1] & WRITE] == []
    assert stopwatch() < 1


def test_a_poller_that_may_be_polled_itself_says_so(poller, pair):
    fd = poller.fileno()
    assert (fd is None) == poller.needs_rearm
    if fd is not None:
        ours, theirs = pair
        poller.register(ours.fileno(), write=False)
        theirs.send(b"x")
        assert select.select([fd], [], [], 1)[0]


class Interrupted(BaseException):
    """As an exception that another thread raises here."""


def interrupted_at(number, call, by="opcode"):
    """Makes the call, with an exception before its step of this number, in its module, the pollers'
    or the wake-ups'. The exception, if it came so far."""
    left, files = [number], {__file__, sys.modules[WakeUp.__module__].__file__}

    def trace(frame, event, argument):
        frame.f_trace_opcodes = True
        if event == by and frame.f_code.co_filename in files:
            left[0] -= 1
            if not left[0]:
                raise Interrupted
        return trace

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # CPython 3.12 looks when a tracer is set, and only then
    sys.settrace(trace)
    try:
        call()
    except Interrupted as error:
        return error
    finally:
        sys.settrace(before)
        locks.release_all()  # as a thread of the pool does then
    return None


def rings():
    bell = WakeUp()
    try:
        bell.wake()
    finally:
        bell.close()


@pytest.mark.skipif(not hasattr(os, "eventfd"), reason="sockets are closed by the collector")
def test_whatever_interrupts_its_maker_a_wake_up_leaves_no_descriptor_behind(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", lambda told: None)  # of what comes in its `__del__`
    before = open_descriptors()
    number = 1
    while interrupted_at(number, rings):
        assert open_descriptors() == before, f"at step {number}"
        number += 1
    assert number > 50
    assert open_descriptors() == before


@pytest.mark.skipif(not hasattr(os, "eventfd"), reason="sockets are closed by the collector")
def test_one_whose_making_fails_waits_for_no_collector():
    before, made = open_descriptors(), []
    number = 1
    while (error := interrupted_at(number, lambda: made.append(WakeUp()), by="line")) is not None:
        assert open_descriptors() == before, f"at line {number}, kept by {error!r}"
        number += 1
    assert number > 10
    made.pop().close()


@pytest.mark.parametrize("eventfd", [True, False], ids=["eventfd", "socketpair"])
def test_a_wake_up_is_readable_until_it_is_cleared(eventfd, monkeypatch):
    if not eventfd:
        monkeypatch.delattr("os.eventfd")
    bell = WakeUp()
    assert not select.select([bell.fileno()], [], [], 0)[0]
    for _ in range(3):
        bell.wake()
    assert select.select([bell.fileno()], [], [], 0)[0]
    bell.clear()
    bell.clear()
    assert not select.select([bell.fileno()], [], [], 0)[0]
    bell.close()
    bell.close()
    bell.wake()
