"""Whichever callback blocks, in code that is not ours and unforeseen: nobody waits for it.

It is the watchdog that finds out, and on a server at rest it sleeps: so whatever leads to a
callback must see to it that the watch looks. A server that checks itself looks so often that it
would not be missed: all of this is asked of both kinds.
"""

import contextlib
import socket
import threading
from functools import partial

import pytest

from tests.support import Echo, answers, eventually, receive, reset, watch_sleeps
from thousand_island_sync import TLS, Close, Continue, Handler, SwitchTransport, events


class Stops:
    """Who comes here stays for as long as the test wants."""

    def __init__(self):
        self.inside, self.go, self.left = (threading.Event() for _ in range(3))

    def __call__(self):
        self.inside.set()
        self.go.wait(20)
        self.left.set()

    def hold_up_nobody(self, ask):
        """`ask`: whether another is answered."""
        assert self.inside.wait(10)
        assert ask()
        assert not self.left.is_set()
        self.go.set()


@pytest.fixture
def stops():
    made = Stops()
    yield made
    made.go.set()


class Obeys(Handler):
    """Takes orders. The options tell the first of its connections from others."""

    def __init__(self, options):
        super().__init__(options)
        self.is_first = options.pop()
        self.made()

    def made(self):
        pass

    def handle_data(self, data, socket):
        if data == b"raise":
            raise ValueError("told to")
        if data == b"close":
            return Close()
        if data == b"wait":
            return Continue(timeout_ms=50)
        if data == b"deadline":
            return Continue(deadline_ms=50)
        if data == b"TLS":
            socket.send(b"go")
            return SwitchTransport(TLS, type(self).tls)
        socket.send(data)
        return None

    def handle_call(self, message, socket):
        return None


def that_stops_in(name, stops):
    def callback(self, *given):
        if self.is_first:
            stops()
        return getattr(Obeys, name)(self, *given)

    return type("Stopping", (Obeys,), {name: callback})


# ---- what leads to each: a thread of the test's, which a call for one does not hold up ---------


def says(word):
    return lambda sock, connection: sock.sendall(word)


def ends(sock, connection):
    sock.shutdown(socket.SHUT_WR)


def is_reset(sock, connection):
    reset(sock)


def is_posted_to(sock, connection, **delay):
    connection.post("x", **delay)


def is_called(sock, connection):
    with contextlib.suppress(Exception):  # as the server stops
        connection.call("x", timeout_ms=20_000)


def is_closed_from_outside(sock, connection):
    connection.close()


def upgrades(authority, sock, connection):
    sock.sendall(b"TLS")
    assert sock.recv(2) == b"go"
    with (
        contextlib.suppress(OSError),
        authority.client_context().wrap_socket(sock, server_hostname="localhost") as wrapped,
    ):
        wrapped.recv(1)


#: A callback, and what leads to it.
WAYS = {
    "data": ("handle_data", says(b"x")),
    "the end of the stream": ("handle_eof", ends),
    "a message": ("handle_info", is_posted_to),
    "a delayed message": ("handle_info", partial(is_posted_to, delay_ms=50)),
    "a call": ("handle_call", is_called),
    "a Close": ("handle_close", says(b"close")),
    "a peer that has gone": ("handle_close", ends),
    "a reset": ("handle_close", is_reset),
    "an error": ("handle_error", says(b"raise")),
    "a read timeout": ("handle_timeout", says(b"wait")),
    "a deadline": ("handle_timeout", says(b"deadline")),
    "a close from outside": ("handle_shutdown", is_closed_from_outside),
    "an upgrade": ("handle_upgrade", upgrades),
    "what comes last": ("handle_end", ends),
}


@pytest.fixture(params=["0", "1"], ids=["unchecked", "checked"], autouse=True)
def checks(request, monkeypatch):
    monkeypatch.setenv("THOUSAND_ISLAND_DEBUG", request.param)


def at_rest(server):
    return eventually(lambda: watch_sleeps(server))


@pytest.mark.parametrize("name", ["made", "handle_connection"])
def test_nobody_waits_for_one_that_has_just_come(name, serve, client, stops):
    server = serve(that_stops_in(name, stops), handler_options=[False, True])
    assert at_rest(server)
    first = client(server)
    stops.hold_up_nobody(lambda: answers(client(server)))
    assert answers(first)


def test_nobody_waits_for_whom_a_client_names(serve, authority, secure, stops):
    def sni(name):
        if name == "a.example":
            stops()

    options = {**authority.options, "sni": sni}
    server = serve(Echo, transport_cls=TLS, transport_options=options)
    context = authority.client_context()
    assert at_rest(server)
    first = threading.Thread(target=lambda: secure(server, context, "a.example"))
    first.start()
    stops.hold_up_nobody(lambda: answers(secure(server, context, "b.example")))
    first.join(10)


@pytest.mark.parametrize(
    "event",
    [
        *("acceptor.accept", "handler.start", "handler.async_recv", "socket.send"),
        *("handler.shutdown", "socket.close"),
    ],
)
def test_nobody_waits_for_a_receiver_of(event, serve, client, stops):
    def receiver(server, **told):
        events.ALL[event].disconnect(receiver)
        stops()

    server = serve(Obeys, handler_options=[False, True])
    other = client(server)
    assert answers(other)
    assert at_rest(server)
    with events.ALL[event].connected_to(receiver):
        first = client(server)
        first.sendall(b"x")
        first.shutdown(socket.SHUT_WR)
        stops.hold_up_nobody(lambda: answers(other))
        assert receive(first, 1) == b"x"


@pytest.mark.parametrize(("name", "is_led_to"), WAYS.values(), ids=WAYS)
def test_nobody_waits_for_what_comes_of(name, is_led_to, serve, client, stops, request):
    Stopping = that_stops_in(name, stops)
    if name == "handle_upgrade":
        authority = request.getfixturevalue("authority")
        Stopping.tls, is_led_to = authority.options, partial(is_led_to, authority)
    server = serve(Stopping, handler_options=[False, True])
    first = client(server)
    assert eventually(server.connections)
    (connection,) = server.connections()
    other = client(server)
    assert answers(other)
    assert at_rest(server)
    leading = threading.Thread(target=is_led_to, args=(first, connection))
    leading.start()
    stops.hold_up_nobody(lambda: answers(other))
    server.stop(5_000)
    leading.join(10)
    assert not leading.is_alive()
