"""Which thread sends an event: what the page of events says, held against servers that run."""

import re
import threading

import pytest

from tests.senders import SENDERS
from tests.support import eventually, receive, receive_all
from thousand_island_sync import Close, Handler, events


class Whole(Handler):
    """Uses what sends an event, by the first byte that comes."""

    def handle_data(self, data, socket):
        if data == b"r":
            socket.send(b"?")
            socket.send(socket.recv(1))
        elif data == b"f":
            socket.sendfile(__file__, 0, 1)
        elif data == b"x":
            raise ValueError("x")
        elif data == b"c":
            return Close()
        else:
            socket.send(data)
        return None


@pytest.fixture
def told():
    """(event, server's name, thread's name) of each event of the test."""
    found = []

    def receiver(server, *, event, measurements, metadata):
        found.append((event, server.name, threading.current_thread().name))

    for signal in events.ALL.values():
        signal.connect(receiver)
    yield found
    for signal in events.ALL.values():
        signal.disconnect(receiver)


def differing(told):
    """What came from a thread that the page does not name."""
    me = threading.current_thread().name
    for event, server, thread in told:
        patterns = [one.pattern for one in SENDERS[event]]
        # A call is made by this thread, or, in a callback, by a handler thread.
        if "" in patterns and thread == me:
            continue
        patterns = [one or r"-handler-\d+" for one in patterns]
        if not any(re.fullmatch(re.escape(server) + one, thread) for one in patterns):
            yield event, thread


def test_there_is_a_sender_for_each_event():
    assert list(SENDERS) == list(events.CATALOGUE)
    assert all(SENDERS.values())


def test_events_come_from_the_threads_that_the_page_names(serve, client, told):
    server = serve(Whole, max_connections=2)

    def has_been_told(name):
        return eventually(lambda: name in {event for event, *_ in told}, 10)

    first, second = client(server), client(server)
    assert has_been_told("acceptor.limit_reached")
    for data, answer in ((b"a", b"a"), (b"f", b'"'), (b"r", b"?"), (b"b", b"b")):
        first.sendall(data)
        assert receive(first, 1) == answer
    first.sendall(b"x")
    assert receive_all(first) == b""
    second.sendall(b"c")
    assert receive_all(second) == b""
    assert eventually(lambda: sum(event == "socket.close" for event, *_ in told) == 2, 10)
    assert has_been_told("acceptor.limit_cleared")
    server.suspend()
    server.resume()
    assert server.drain() is True
    seen = {event for event, *_ in told}
    assert seen >= {
        *("listener.start", "listener.suspend", "listener.resume", "listener.drain"),
        *("listener.shutdown", "acceptor.start", "acceptor.accept", "acceptor.shutdown"),
        *("acceptor.limit_reached", "acceptor.limit_cleared", "handler.start"),
        *("handler.async_recv", "handler.shutdown", "handler.error", "socket.handshake"),
        *("socket.recv", "socket.send", "socket.sendfile", "socket.close"),
    }
    assert set(differing(told)) == set()
