"""A connection that ends before its first byte is a probe, on every transport: it is counted, it
is no error, and no failed handshake."""

from collections import Counter

import pytest

from tests.support import Echo, eventually, journal, reset
from thousand_island_sync import TLS, Close, Handler, SwitchTransport

EVENTS = ("socket.handshake_error", "handler.error", "handler.shutdown")


def probe(client, server, how):
    sock = client(server)
    reset(sock) if how == "reset" else sock.close()


@pytest.mark.parametrize("how", ["close", "reset"])
def test_it_is_counted_and_ends_as_the_peer_ended_it(how, wire, client, record):
    recorder = record(*EVENTS)
    Base = journal()
    server = wire.serve(Base)
    for _ in range(10):
        probe(client, server, how)
    told = recorder.wait_for("handler.shutdown", 10)
    assert [one.measurements["reason"] for one in told] == ["peer_closed"] * 10
    assert recorder.names() == ["handler.shutdown"] * 10
    assert eventually(lambda: server.info().active_connections == 0)
    assert server.info().probes_total == 10
    # The ten end on several threads: each in that order, all of them in none.
    assert eventually(lambda: Counter(Base.names()) == {"close": 10, "end": 10})


class Loops(Handler):
    """Reads until the end, as most code for blocking sockets does."""

    def handle_connection(self, socket):
        while data := socket.recv():
            socket.send(data)
        return Close()


class ClosesItself(Handler):
    def handle_connection(self, socket):
        while data := socket.recv():
            socket.send(data)
        socket.close()


class Wants(Handler):
    def handle_connection(self, socket):
        socket.recv_exactly(4)


class Greets(Handler):
    """It is the client's first byte that counts."""

    def handle_connection(self, socket):
        socket.send(b"220 ready")


@pytest.mark.parametrize(
    ("handler_cls", "reason"),
    [
        (Loops, "peer_closed"),
        (ClosesItself, "local_closed"),
        (Wants, "peer_closed"),
        (Greets, "peer_closed"),
    ],
)
def test_whatever_the_handler_does(handler_cls, reason, serve, client, record):
    recorder = record(*EVENTS)
    server = serve(handler_cls)
    client(server).close()
    (told,) = recorder.wait_for("handler.shutdown")
    assert told.measurements["reason"] == reason
    assert server.info().probes_total == 1


def test_who_has_sent_a_byte_is_none(wire, record):
    recorder = record(*EVENTS)
    server = wire.serve(Loops)
    sock = wire.connect(server)
    sock.sendall(b"x")
    assert sock.recv(1) == b"x"
    wire.end(sock)
    (told,) = recorder.wait_for("handler.shutdown")
    assert told.measurements["reason"] == "local_closed"
    assert server.info().probes_total == 0


def test_who_has_shaken_hands_is_none(serve, authority, secure, record):
    recorder = record(*EVENTS)
    server = serve(Echo, transport_cls=TLS, transport_options=authority.options)
    secure(server, authority.client_context()).unwrap()
    recorder.wait_for("handler.shutdown")
    assert server.info().probes_total == 0


def test_whom_the_server_ends_is_none(serve, client, record):
    recorder = record(*EVENTS)
    server = serve(Handler, read_timeout_ms=20)
    client(server)
    (told,) = recorder.wait_for("handler.shutdown")
    assert told.measurements["reason"] == "timeout"
    client(server)
    assert eventually(lambda: server.info().active_connections == 1)
    server.stop()
    assert server.info().probes_total == 0


def test_an_upgrade_that_the_client_leaves_has_failed(serve, client, authority, record):
    """It had asked for it."""
    recorder = record(*EVENTS)
    options = TLS.prepare(**authority.options)

    class Upgrades(Handler):
        def handle_data(self, data, socket):
            return SwitchTransport(TLS, options)

    server = serve(Upgrades)
    with client(server) as sock:
        sock.sendall(b"STARTTLS")
    (told,) = recorder.wait_for("socket.handshake_error")
    assert "127.0.0.1" in str(told.measurements["error"])
    assert server.info().probes_total == 0
