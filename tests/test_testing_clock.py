"""`thousand_island_sync.testing.Clock`: every time-out of a server on a clock that stands still,
sentence by sentence as the contract has it."""

import threading
import time

import pytest

from tests.support import echoes, eventually, running
from thousand_island_sync import (
    TLS,
    Close,
    ConnectionOverflow,
    Continue,
    Handler,
    SocketTimeout,
)
from thousand_island_sync.testing import Clock, EventRecorder, _clock, hostile, serve
from thousand_island_sync.testing._clock import times_of


class Notes(Handler):
    """Writes down what runs, and at what time; `options` is the clock and the list."""

    def note(self, what):
        clock, notes = self.options
        notes.append((clock.now_ms, what))

    def handle_data(self, data, socket):
        socket.send(data)

    def handle_info(self, message, socket):
        self.note(message)

    def handle_timeout(self, socket):
        self.note("timeout")

    def handle_end(self, socket):
        self.note("end")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def notes():
    return []


@pytest.fixture
def served(clock, notes):
    """Serves on the clock; the handler's options are it and the notes."""

    def start(handler_cls=Notes, **options):
        options.setdefault("handler_options", (clock, notes))
        return serve(handler_cls, clock=clock, **options)

    return start


def is_closed(sock):
    sock.settimeout(5)
    return sock.recv(1) == b""


# ---- the clock ---------------------------------------------------------------------


def test_it_stands_still_until_it_is_advanced(clock):
    assert clock.now_ms == 0
    clock.advance(5)
    clock.advance(0.5)
    assert clock.now_ms == 5.5
    assert repr(clock) == "<Clock 5.5 ms>"


@pytest.mark.parametrize("ms", [-1, None, "5", True])
def test_it_goes_on_by_milliseconds(clock, ms):
    with pytest.raises(ValueError, match="milliseconds"):
        clock.advance(ms)
    assert clock.now_ms == 0


# ---- time-outs of connections --------------------------------------------------------


def test_the_read_timeout_and_no_real_time(clock, notes, served):
    with served(read_timeout_ms=50) as server:
        sock = server.connect()
        echoes(sock)
        threading.Event().wait(0.15)  # real time does nothing
        echoes(sock)
        clock.advance(49)
        assert notes == []
        clock.advance(1)
        assert notes == [(50, "timeout"), (50, "end")]
        assert is_closed(sock)


def test_a_client_that_has_just_connected_is_accepted_before_time_goes_on(clock, notes, served):
    with served(read_timeout_ms=50, num_acceptors=2) as server:
        for number in range(1, 6):
            sock = server.connect()
            clock.advance(50)
            assert notes[-2:] == [(50 * number, "timeout"), (50 * number, "end")]
            assert is_closed(sock)


def test_bytes_that_have_been_sent_are_delivered_before_time_goes_on(clock, notes, served):
    with served(read_timeout_ms=50) as server:
        sock = server.connect()
        for _ in range(5):
            clock.advance(40)
            sock.sendall(b"x")
        clock.advance(49)
        assert notes == []


def test_deadlines_and_timeouts_that_callbacks_give(clock, notes, served):
    class Gives(Notes):
        def handle_connection(self, socket):
            return Continue(deadline_ms=1_000)

        def handle_data(self, data, socket):
            return Continue(timeout_ms=300)

    with served(Gives) as server:
        slow, silent = server.connect(), server.connect()
        clock.advance(0)
        for _ in range(5):
            slow.sendall(b"x")
            clock.advance(250)
        assert notes == [(1_000, "timeout"), (1_000, "end")] * 2
        sock = server.connect()
        sock.sendall(b"x")
        clock.advance(299)
        assert len(notes) == 4
        clock.advance(1)
        assert notes[4:] == [(1_550, "timeout"), (1_550, "end")]
        assert is_closed(silent)


def test_messages_with_a_delay_each_in_its_time(clock, notes, served):
    class Beats(Notes):
        def handle_connection(self, socket):
            socket.connection.post("beat", delay_ms=1_000)
            socket.connection.post("once", delay_ms=2_500)

        def handle_info(self, message, socket):
            super().handle_info(message, socket)
            if message == "beat":
                socket.connection.post("beat", delay_ms=1_000)

    with served(Beats) as server:
        server.connect()
        clock.advance(4_000)
        assert notes == [
            (1_000, "beat"),
            (2_000, "beat"),
            (2_500, "once"),
            (3_000, "beat"),
            (4_000, "beat"),
        ]


# ---- calls that wait -----------------------------------------------------------------


@pytest.mark.parametrize(
    "read",
    [
        lambda socket: socket.recv(timeout_ms=500),
        lambda socket: socket.recv_exactly(5, timeout_ms=500),
        lambda socket: socket.recv_until(b"\n", timeout_ms=500),
        lambda socket: [socket.settimeout(0.5), socket.recv()],
        lambda socket: socket.makefile("rb").read(1),
    ],
    ids=["recv", "recv_exactly", "recv_until", "settimeout", "makefile"],
)
def test_a_read_in_a_callback_times_out_by_the_clock(clock, notes, served, read):
    class Reads(Notes):
        def handle_data(self, data, socket):
            try:
                read(socket)
            except SocketTimeout:
                self.note("timed out")

    with served(Reads, read_timeout_ms=500) as server:
        sock = server.connect()
        sock.sendall(b"x")
        clock.advance(499)
        assert notes == []
        clock.advance(1)
        assert notes == [(500, "timed out")]


def test_a_handler_that_loops_over_recv_times_out_by_the_clock(clock, notes, served):
    class Loops(Notes):
        def handle_connection(self, socket):
            while data := socket.recv():
                socket.send(data)

    with served(Loops, read_timeout_ms=200) as server:
        sock = server.connect()
        for _ in range(3):
            echoes(sock)
            clock.advance(150)
        clock.advance(50)
        assert notes == [(500, "timeout"), (500, "end")]


def test_a_call_from_another_thread_times_out_by_the_clock(clock, served):
    class Busy(Notes):
        def handle_connection(self, socket):
            socket.recv(1, timeout_ms=None)

    raised = []

    with served(Busy, read_timeout_ms=None) as server:
        sock = server.connect()
        clock.advance(0)
        (connection,) = server.connections()

        def ask():
            with pytest.raises(SocketTimeout):
                connection.call("anybody?", timeout_ms=700)
            raised.append(clock.now_ms)

        with running(ask):
            assert eventually(lambda: connection.pending == 1)
            assert eventually(lambda: any(d < 1e10 for d, _ in times_of(clock).waiting.values()))
            clock.advance(699)
            assert raised == []
            clock.advance(1)
        assert raised == [700]
        sock.sendall(b"x")


def a_file(socket, path):
    path.write_bytes(MUCH)
    socket.sendfile(path)


MUCH = bytes(20_000_000)


@pytest.mark.parametrize("max_unsent", [0, 100_000])
@pytest.mark.parametrize(
    "send",
    [
        lambda socket, path: socket.send(MUCH),
        lambda socket, path: [socket.settimeout(7), socket.sendall(MUCH)],
        a_file,
    ],
    ids=["send", "sendall", "sendfile"],
)
def test_a_send_in_a_callback_times_out_by_the_clock(
    clock, notes, served, send, max_unsent, tmp_path
):
    class Sends(Notes):
        def handle_data(self, data, socket):
            try:
                send(socket, tmp_path / "file")
            except SocketTimeout:
                self.note("timed out")
                raise

        def handle_error(self, reason, socket):
            self.note("error")

    with served(Sends, send_timeout_ms=7_000, max_unsent=max_unsent) as server:
        sock = server.connect()
        sock.sendall(b"x")
        assert eventually(lambda: times_of(clock).waiting)
        clock.advance(6_999)
        assert notes == []
        clock.advance(1)
        assert [what for _, what in notes] == ["timed out", "error", "end"]
        assert {when for when, _ in notes} == {7_000}


def test_what_waits_to_be_sent_waits_by_the_clock(clock, notes, served):
    class Sends(Notes):
        def handle_data(self, data, socket):
            socket.send(bytes(30_000_000))

        def handle_error(self, reason, socket):
            assert isinstance(reason, SocketTimeout)
            self.note("error")

    with served(Sends, send_timeout_ms=7_000, max_unsent=60_000_000) as server:
        sock = server.connect()
        sock.sendall(b"x")
        clock.advance(6_999)
        assert notes == []
        clock.advance(1)
        assert notes == [(7_000, "error"), (7_000, "end")]


def test_a_peer_that_takes_a_little_is_given_its_time_anew(clock, notes, served):
    class Sends(Notes):
        def handle_data(self, data, socket):
            socket.send(bytes(30_000_000))

        def handle_error(self, reason, socket):
            self.note("error")

    with served(Sends, send_timeout_ms=1_000, max_unsent=60_000_000) as server:
        sock = server.connect()
        sock.sendall(b"x")
        for _ in range(4):
            clock.advance(600)
            left = 1_000_000
            while left:
                left -= len(sock.recv(left))
        assert notes == []
        clock.advance(1_000)
        clock.advance(500)  # what it took last may have been seen a look later
        assert [what for _, what in notes] == ["error", "end"]


def test_in_a_stop_a_peer_that_takes_nothing_is_given_up_in_real_time(clock, served):
    class Sends(Notes):
        def handle_data(self, data, socket):
            socket.send(bytes(30_000_000))

    with served(Sends, max_unsent=60_000_000, shutdown_timeout_ms=15_000) as server:
        server.connect().sendall(b"x")
        clock.advance(0)
        began = time.monotonic()
        assert server.stop()
        assert time.monotonic() - began < 8


def test_clients_wait_for_room_by_the_clock(clock, served):
    with served(max_connections=1, max_connections_wait_ms=300) as server:
        with EventRecorder(server) as recorder:
            first, second = server.connect(), server.connect()
            echoes(first)
            assert eventually(lambda: times_of(clock).waiting)
            clock.advance(299)
            clock.advance(1)
            (refused,) = recorder.wait_for("acceptor.spawn_error")
            assert isinstance(refused.measurements["error"], ConnectionOverflow)
            assert is_closed(second)
            echoes(first)


# ---- when advance returns ------------------------------------------------------------


def test_it_returns_when_the_callbacks_that_became_due_have_returned(clock, notes, served):
    class Slow(Notes):
        def handle_timeout(self, socket):
            threading.Event().wait(0.1)
            self.note("timeout")

        def handle_end(self, socket):
            threading.Event().wait(0.1)
            self.note("end")

    with served(Slow, read_timeout_ms=50) as server:
        for _ in range(3):
            server.connect()
        clock.advance(50)
        assert sorted(notes) == [(50, "end")] * 3 + [(50, "timeout")] * 3


def test_one_that_does_not_return_is_an_error(clock, served, monkeypatch):
    monkeypatch.setattr(_clock, "_MOST_S", 0.05)
    release = threading.Event()

    class Stuck(Notes):
        def handle_timeout(self, socket):
            release.wait(20)

    with served(Stuck, read_timeout_ms=50) as server:
        server.connect()
        with pytest.raises(AssertionError, match="at 50 ms a callback became due"):
            clock.advance(50)
        release.set()


def test_one_that_was_at_work_before_is_not_waited_for(clock, notes, served, monkeypatch):
    monkeypatch.setattr(_clock, "_CALM_S", 0.05)
    begun, release = threading.Event(), threading.Event()

    class Works(Notes):
        def handle_data(self, data, socket):
            begun.set()
            release.wait(20)
            return Close()

    with served(Works, read_timeout_ms=50) as server:
        busy, silent = server.connect(), server.connect()
        busy.sendall(b"x")
        assert begun.wait(5)
        clock.advance(50)
        assert notes == [(50, "timeout"), (50, "end")]
        release.set()
        assert is_closed(busy)
        assert is_closed(silent)


def test_one_that_waits_for_a_later_time_is_not_waited_for(clock, notes, served):
    class Asks(Notes):
        def handle_info(self, message, socket):
            self.note("asks")
            try:
                socket.recv(timeout_ms=1_000)
            except SocketTimeout:
                self.note("no answer")

    with served(Asks) as server:
        server.connect()
        clock.advance(0)
        server.connections()[0].post("now", delay_ms=10)
        clock.advance(20)
        assert notes == [(10, "asks")]
        clock.advance(2_000)
        assert notes == [(10, "asks"), (1_010, "no answer")]


def test_several_servers_share_a_clock(clock, notes, served):
    with served(read_timeout_ms=50) as first, served(read_timeout_ms=30) as second:
        first.connect()
        second.connect()
        clock.advance(100)
        assert notes == [(30, "timeout"), (30, "end"), (50, "timeout"), (50, "end")]


def test_servers_without_it_are_not_its(clock, notes, served):
    with serve(Notes, handler_options=(clock, notes), read_timeout_ms=60_000) as other:
        sock = other.connect()
        echoes(sock)
        clock.advance(1e9)
        echoes(sock)
    assert [what for _, what in notes] == ["end"]


# ---- what stays on real time -----------------------------------------------------------


def test_handshakes_stay_on_real_time(clock, served, authority):
    options = {"transport_cls": TLS, "transport_options": authority.options}
    with served(handshake_timeout_ms=100, read_timeout_ms=50, **options) as server:
        assert hostile.half_handshake(server.local_address).ended in ("eof", "reset")
        sock = server.connect()
        echoes(sock)
        clock.advance(50)
        assert is_closed(sock)


def test_stops_stay_on_real_time(clock, served):
    with served() as server:
        server.connect()
        began = time.monotonic()
        assert server.stop()
        assert time.monotonic() - began < 3
    release = threading.Event()

    class Stuck(Notes):
        def handle_data(self, data, socket):
            socket.send(b"begun")
            release.wait(20)

    with pytest.raises(AssertionError, match="was cut"):
        with served(Stuck, shutdown_timeout_ms=100) as server:
            sock = server.connect()
            sock.sendall(b"x")
            assert sock.recv(5) == b"begun"
            began = time.monotonic()
            threading.Timer(0.4, release.set).start()
            assert not server.stop(100)
            assert time.monotonic() - began < 3
            raise AssertionError("was cut")


def test_a_server_may_be_started_again_on_it(clock, notes, served):
    with served(read_timeout_ms=50) as server:
        server.connect()
        clock.advance(50)
        server.stop()
        server.start()
        sock = server.connect()
        clock.advance(50)
        assert is_closed(sock)
        assert notes == [(50, "timeout"), (50, "end"), (100, "timeout"), (100, "end")]
