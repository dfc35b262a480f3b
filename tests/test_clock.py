"""Times: what a user gives, what is compared, and what a system call takes.

The arithmetic is tested over floats, not with sockets: whether a wait begins within a
microsecond of a whole second depends on how quick the machine is.
"""

import itertools
import math
import select
import socket
import struct
import threading
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support import eventually
from thousand_island_sync import Continue, Handler, SocketClosed, SocketError
from thousand_island_sync._base.clock import (
    ENDLESS,
    FOREVER,
    LONGEST_WAIT,
    limited,
    seconds,
    timeval,
    wait_time,
)
from thousand_island_sync.transports.tcp import TCPChannel

#: 30 days: more milliseconds than a C `int` holds.
MONTH_MS = 30 * 24 * 3600 * 1000
any_seconds = st.floats(0, allow_nan=False, allow_infinity=False)
usual_seconds = st.floats(0, 100_000, allow_nan=False)


# ---- arithmetic -------------------------------------------------------------


@given(any_seconds | usual_seconds)
@example(59.9999995)
@example(math.nextafter(1.0, 0.0))
@example(math.nextafter(60.0, 0.0))
@example(math.nextafter(60.0, 61.0))
@example(0.0)
@example(5e-324)
@example(1.7e308)
def test_g1_every_time_is_a_timeval_that_setsockopt_takes(time_):
    whole, microseconds = timeval(time_)
    assert 0 <= microseconds <= 999_999
    assert whole >= 0
    assert whole or microseconds  # (0, 0) would be no limit
    struct.pack("ll", whole, microseconds)


@given(usual_seconds)
def test_g1_a_timeval_is_never_shorter_and_less_than_two_microseconds_longer(time_):
    whole, microseconds = timeval(time_)
    given_back = whole * 1_000_000 + microseconds
    assert time_ * 1_000_000 <= given_back <= time_ * 1_000_000 + 2


def test_g1_no_limit_is_a_timeval_of_zeros():
    assert timeval(FOREVER) == (0, 0)


@given(any_seconds)
@example(2**31 / 1000)
def test_g8_every_time_is_one_that_a_system_call_takes(time_):
    most = wait_time(time_)
    assert most is not None
    assert math.ceil(most * 1000) < 2**31
    assert most == time_ or most == LONGEST_WAIT < time_


def test_g8_no_limit_is_none_for_a_system_call_and_a_past_deadline_is_now():
    assert wait_time(FOREVER) is None
    assert wait_time(-1.0) == 0.0


@given(st.floats(0, allow_nan=False) | st.integers(0) | st.just(10**400))
def test_g8_every_number_of_milliseconds_becomes_seconds_that_a_lock_takes(milliseconds):
    time_ = seconds(milliseconds)
    assert time_ == FOREVER or time_ < ENDLESS < threading.TIMEOUT_MAX
    assert (time_ == FOREVER) == (milliseconds >= ENDLESS * 1000)


def test_g8_seconds_without_a_limit():
    assert limited(None) == limited(1e300) == seconds(None) == FOREVER
    assert limited(3) == 3.0


# ---- around whole seconds, with sockets --------------------------------------


AROUND = sorted(
    edge
    for whole in (1.0, 2.0, 60.0)
    for edge in (whole - 5e-7, math.nextafter(whole, 0), whole, math.nextafter(whole, 99), 9e-7)
)


@pytest.fixture
def pair():
    ends = socket.socketpair()
    with ends[0], ends[1]:
        yield ends


@pytest.mark.parametrize("timeout", AROUND)
def test_g1_a_receive_may_wait_any_time_around_a_whole_second(pair, timeout):
    here, there = pair
    there.send(b"x")
    assert TCPChannel(here).wait_recv(1, timeout) == b"x"


class RefusesOnce:
    """A socket whose setsockopt fails the first time."""

    def __init__(self, sock):
        self.sock = sock
        self.refused = 0

    def setsockopt(self, *args):
        if not self.refused:
            self.refused += 1
            raise OSError(33, "refused")
        self.sock.setsockopt(*args)

    def recv(self, length):
        return self.sock.recv(length)


def test_g1_a_time_that_the_kernel_refused_is_not_remembered_as_set(pair):
    here, there = pair
    channel = TCPChannel(RefusesOnce(here))
    with pytest.raises(OSError, match="refused"):
        channel.wait_recv(1, 3.0)
    there.send(b"x")
    assert channel.wait_recv(1, 3.0) == b"x"
    set_to = here.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16)
    assert struct.unpack("ll", set_to)[0] == 3


class Exactly(Handler):
    """Answers each byte, and keeps what a receive failed with."""

    def handle_connection(self, sock):
        while True:
            try:
                sock.send(sock.recv_exactly(1))
            except SocketError as error:
                self.options.append(error)
                raise


@pytest.mark.parametrize("step", [1e-9, 3e-7, 9.99e-7, 1e-6, 1.000001])
def test_g1_healthy_clients_live_whatever_the_clock_says(serve, client, monkeypatch, step):
    """The deadline of a call is made at one moment, and its wait begins less than a
    microsecond later on a quick machine: here the clock moves by so much each time."""
    told = itertools.count(1_000)
    for place in ("_base.clock.REAL.clock", "_stream.reader.now"):
        monkeypatch.setattr(f"thousand_island_sync.{place}", lambda: next(told) * step)
    failures = []
    # No wait is longer than a second; one that is a little less comes to the last microsecond.
    longest = 1_000 if step < 0.001 else 60_000
    server = serve(Exactly, read_timeout_ms=longest, handler_options=failures)
    with client(server) as sock:
        for _ in range(200):
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
    assert eventually(lambda: not server.connections())
    assert {type(error) for error in failures} <= {SocketClosed}  # we left


# ---- long times, everywhere that takes one ------------------------------------


class Patient(Handler):
    """Has long times in every place that takes one."""

    def handle_connection(self, sock):
        sock.connection.post(b"late", delay_ms=MONTH_MS)
        sock.settimeout(MONTH_MS / 1000)
        return Continue(timeout_ms=MONTH_MS, persistent=True, deadline_ms=2 * MONTH_MS)

    def handle_data(self, data, sock):
        if data == b"recv":
            data = sock.recv(10, timeout_ms=MONTH_MS)
        elif data == b"exactly":
            data = sock.recv_exactly(3, timeout_ms=MONTH_MS)
        elif data == b"block":
            time.sleep(0.1)
        sock.send(data, timeout_ms=MONTH_MS)

    def handle_call(self, message, sock):
        return message


@pytest.mark.parametrize(
    "milliseconds", [2**31 - 1, 2**31, MONTH_MS, 1e15, pytest.param(10**400, id="10**400")]
)
def test_g8_a_server_may_have_any_time_everywhere(serve, client, milliseconds):
    server = serve(
        Patient,
        max_handler_threads=1,  # while it waits, the listener's thread polls
        read_timeout_ms=milliseconds,
        send_timeout_ms=milliseconds,
        handshake_timeout_ms=milliseconds,
        shutdown_timeout_ms=milliseconds,
        max_connections_wait_ms=milliseconds,
    )
    before = {thread.name for thread in threading.enumerate()}
    with client(server) as one, client(server) as other:
        for order, rest in ((b"recv", b"one"), (b"exactly", b"abc"), (b"block", b"")):
            one.sendall(order)
            other.sendall(b"meanwhile")
            assert not select.select([one], [], [], 0.05)[0]
            one.sendall(rest)
            assert one.recv(10) == (rest or order)
            assert other.recv(10) == b"meanwhile"
        assert before <= {thread.name for thread in threading.enumerate()}
        assert server.wait(timeout_ms=1) is False
        assert server.connections()[0].call(b"?", timeout_ms=milliseconds) == b"?"
    assert server.stop(milliseconds) is True
    assert server.wait(timeout_ms=milliseconds) is True
