"""`thousand_island_sync.testing.hostile`: each opens its own socket, is back in time, closes it,
and says what came of it."""

import socket
import time

import pytest

from tests.support import Echo
from thousand_island_sync import TLS, Close, Continue, Handler
from thousand_island_sync.testing import EventRecorder, hostile, serve
from thousand_island_sync.testing.hostile import Outcome


class Line(Handler):
    """Answers a line, and ends."""

    buffer = b""

    def handle_data(self, data, socket):
        self.buffer += data
        if self.buffer.endswith(b"\n"):
            socket.send(self.buffer)
            return Close()
        return None


class Floods(Handler):
    """Sends more than anybody's buffers hold."""

    def handle_data(self, data, socket):
        socket.send(bytes(50_000_000))


@pytest.fixture(params=["tcp", "unix"])
def address(request, tmp_path):
    """Options of a server, by what it listens on."""
    return {"host": f"unix:{tmp_path}/s" if request.param == "unix" else "127.0.0.1"}


EVERY = [
    lambda address, **given: hostile.dribble(address, b"abc", 5, **given),
    lambda address, **given: hostile.reset_after(address, b"abc", 2, **given),
    lambda address, **given: hostile.never_read(address, b"abc", **given),
    lambda address, **given: hostile.half_close(address, b"abc", **given),
    hostile.half_handshake,
    hostile.half_proxy_header,
]
NAMES = [
    "dribble", "reset_after", "never_read", "half_close", "half_handshake", "half_proxy_header",
]  # fmt: skip


def test_dribble_sends_a_byte_at_a_time_and_reads_on(address):
    with serve(Line, **address) as server:
        began = time.monotonic()
        outcome = hostile.dribble(server.local_address, b"hello\n", 10)
        assert time.monotonic() - began >= 0.05
        assert outcome == Outcome(b"hello\n", b"hello\n", "eof")


def test_dribble_ends_where_the_server_has_had_enough():
    class Impatient(Line):
        def handle_connection(self, socket):
            return Continue(deadline_ms=100)

    with serve(Impatient) as server:
        outcome = hostile.dribble(server.local_address, b"x" * 1_000, 20)
        assert outcome.ended in ("eof", "reset")
        assert 1 <= len(outcome.sent) < 100


def test_reset_after_sends_so_many_bytes_and_resets(address):
    with serve(Line, **address) as server, EventRecorder(server) as recorder:
        outcome = hostile.reset_after(server.local_address, b"hello\n", 3)
        assert (outcome.sent, outcome.ended) == (b"hel", "reset")
        (told,) = recorder.wait_for("handler.shutdown")
        assert told.measurements["reason"] == "peer_closed"


def test_never_read_reads_nothing_and_the_server_gives_up():
    """What the client would have to read stands between it and the end, so that it learns of none
    in time; unless the server's kernel, which has to keep that, drops it first."""
    with serve(Floods, send_timeout_ms=200) as server, EventRecorder(server) as recorder:
        outcome = hostile.never_read(server.local_address, b"go", timeout_ms=1_000)
        assert (outcome.sent, outcome.received) == (b"go", b"")
        assert outcome.ended in ("timeout", "reset")
        recorder.wait_for("handler.error")


def test_never_read_sends_as_much_as_the_server_takes(address):
    with serve(Echo, send_timeout_ms=30_000, **address) as server:
        data = bytes(100_000_000)
        outcome = hostile.never_read(server.local_address, data, timeout_ms=700)
        assert outcome.ended == "timeout"
        assert 0 < len(outcome.sent) < len(data)


def test_half_close_reads_what_is_still_sent(address):
    class Late(Handler):
        def handle_eof(self, socket):
            socket.send(b"bye")
            return Close()

    with serve(Late, **address) as server:
        outcome = hostile.half_close(server.local_address, b"hello")
        assert outcome == Outcome(b"hello", b"bye", "eof")


def test_half_handshake_is_ended_by_the_handshakes_time(authority):
    options = {"transport_cls": TLS, "transport_options": authority.options}
    with serve(Echo, handshake_timeout_ms=100, **options) as server:
        with EventRecorder(server) as recorder:
            outcome = hostile.half_handshake(server.local_address)
            assert outcome.ended in ("eof", "reset")
            assert outcome.sent.startswith(b"\x16\x03")
            recorder.wait_for("socket.handshake_error")


def test_half_proxy_header_begins_as_one():
    with serve(Line, read_timeout_ms=100) as server:
        outcome = hostile.half_proxy_header(server.local_address)
        assert outcome.sent.startswith(b"PROXY TCP4 ")
        assert b"\r\n" not in outcome.sent
        assert outcome.ended in ("eof", "reset")


@pytest.mark.parametrize("behave", EVERY, ids=NAMES)
def test_each_is_back_in_its_time_and_closes_what_it_opened(behave, monkeypatch):
    opened = []

    def connected(address, timeout):
        opened.append(socket.create_connection(address, timeout))
        return opened[-1]

    monkeypatch.setattr(hostile, "connected", connected)
    with serve(Handler) as server:
        began = time.monotonic()
        outcome = behave(server.local_address, timeout_ms=150)
        assert time.monotonic() - began < 2
        # The server answers the end of the stream with its own.
        assert outcome.ended in ("timeout", "reset", "eof")
    assert [sock.fileno() for sock in opened] == [-1]


@pytest.mark.parametrize("behave", EVERY, ids=NAMES)
def test_none_raises_where_nobody_listens(behave, tmp_path):
    with serve(Echo) as server:
        gone = server.local_address
    assert behave(gone) == Outcome(b"", b"", "refused")
    assert behave(str(tmp_path / "nobody")).ended == "refused"


@pytest.mark.parametrize("behave", EVERY, ids=NAMES)
def test_none_raises_where_the_server_resets_at_once(behave):
    class Resets(Handler):
        def handle_connection(self, sock):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()

    with serve(Resets) as server:
        assert behave(server.local_address).ended in ("eof", "reset")


@pytest.mark.parametrize("behave", EVERY, ids=NAMES)
def test_the_server_goes_on(behave):
    with serve(Echo) as server:
        behave(server.local_address, timeout_ms=100)
        sock = server.connect()
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"


@pytest.mark.parametrize("behave", EVERY, ids=NAMES)
def test_none_is_no_limit(behave):
    with serve(Echo, read_timeout_ms=100, handshake_timeout_ms=100) as server:
        assert behave(server.local_address, timeout_ms=None).ended in ("eof", "reset")
