"""Sends of several threads, and whoever looks after what waits, at the worst moments."""

import socket
import threading

import pytest

from tests.support import eventually, receive
from thousand_island_sync import Handler


class Idle(Handler):
    """Leaves its socket where the test finds it."""

    def handle_connection(self, socket):
        self.options.append(socket)


@pytest.fixture
def served(serve, client):
    """A connection's socket here, and the client's."""
    found = []
    server = serve(Idle, handler_options=found)
    sock = client(server)
    assert eventually(lambda: found)
    (connection,) = server.connections()
    return found[0], connection, sock


class TakesAPart:
    """Stands for a kernel that takes so many bytes of a quick send; meanwhile another thread
    does something."""

    def __init__(self, sock, count, meanwhile):
        self._sock, self._count, self._meanwhile = sock, count, meanwhile

    def send(self, data, flags):
        sent = self._sock.send(data[: self._count], flags)
        other = threading.Thread(target=self._meanwhile)
        other.start()
        other.join()
        return sent


def stream_of(connection):
    return connection._inbox._link.machine.stream


def test_what_is_pushed_amid_a_quick_send_comes_behind_all_of_it(served):
    sock, connection, peer = served
    stream = stream_of(connection)
    stream.writer._sink = TakesAPart(stream.sock, 3, lambda: connection.send(b"pushed"))
    assert sock.send(b"abcdefgh") == 8
    assert receive(peer, 14) == b"abcdefghpushed"


def test_a_barrier_that_is_raised_amid_a_quick_send_holds_no_rest_of_it_back(served):
    sock, connection, peer = served
    stream = stream_of(connection)
    buffer = stream.writer.buffered()

    def upgrade_begins():
        buffer.raise_barrier(True)
        connection.send(b"pushed")

    stream.writer._sink = TakesAPart(stream.sock, 3, upgrade_begins)
    assert sock.send(b"abcdefgh") == 8
    assert receive(peer, 8) == b"abcdefgh"
    assert connection.unsent == 6
    buffer.raise_barrier(False)
    buffer.settle()
    assert receive(peer, 6) == b"pushed"
