"""What sends for peers whose bytes wait, where there is no thread for it, and on every poller."""

import socket
import threading
import time

import pytest

from tests.support import eventually, receive
from tests.test_unsent import World
from thousand_island_sync import Handler, SocketClosed
from thousand_island_sync._connection.outflow import Outflow

#: A small buffer of the kernel's, so that little fills it.
SMALL = {"host": "127.0.0.1", "send_buffer": 8_192}
SIZE = 250_000
REPLY = bytes(range(250)) * (SIZE // 250)


class Replies(Handler):
    """To `b` much, and nobody reads it yet; whoever says anything else is held till the end."""

    may_end: threading.Event

    def handle_data(self, data, socket):
        if data == b"b":
            socket.send(REPLY)
        else:
            self.may_end.wait(30)


def only(server):
    assert eventually(server.connections)
    (connection,) = server.connections()
    return connection


def driver_of(connection):
    return connection._inbox._link.env.unsent.driver


# ---- no thread is free ----------------------------------------------------------------------


@pytest.fixture(params=[1, 3])
def held(request, wire):
    """A connection for which bytes wait, and a pool that callbacks hold, all of it."""
    Replies.may_end = threading.Event()
    count = request.param
    server = wire.serve(Replies, max_handler_threads=count, transport_options=SMALL)
    sock = wire.connect(server)
    sock.sendall(b"b")
    connection = only(server)
    assert eventually(lambda: connection.unsent > 0 and server.info().busy_threads == 0)
    for _ in range(count):
        wire.connect(server).sendall(b"holds")
    assert eventually(lambda: server.info().busy_threads == count)
    yield server, connection, sock
    Replies.may_end.set()


def test_what_waits_goes_out_though_callbacks_hold_every_thread(held):
    server, connection, sock = held
    assert receive(sock, SIZE) == REPLY
    assert eventually(lambda: connection.unsent == 0)
    assert server.info().busy_threads == server.info().handler_threads


def test_so_does_what_is_kept_then(held):
    _, connection, sock = held
    assert receive(sock, SIZE) == REPLY
    assert eventually(lambda: connection.unsent == 0)
    for _ in range(3):
        connection.send(REPLY)
        assert receive(sock, SIZE) == REPLY


def test_a_peer_that_takes_nothing_is_dropped_then_too(wire):
    Replies.may_end = threading.Event()
    server = wire.serve(
        Replies, max_handler_threads=1, send_timeout_ms=300, transport_options=SMALL
    )
    wire.connect(server).sendall(b"b")
    connection = only(server)
    assert eventually(lambda: connection.unsent > 0 and server.info().busy_threads == 0)
    wire.connect(server).sendall(b"holds")
    assert eventually(lambda: connection.unsent == 0)
    with pytest.raises(SocketClosed, match="taken nothing"):
        connection.send(b"x")
    Replies.may_end.set()


class NoThread:
    """A scheduler that can start none for now."""

    def __init__(self):
        self.refuses, self.tasks, self.stand_in = True, [], None

    def add_uncounted(self, task):
        if self.refuses:
            raise RuntimeError("no handler thread can be started")
        self.tasks.append(task)

    def stands_in_for(self, call):
        self.stand_in = call

    def make_ready(self, task):
        assert task in self.tasks

    def forget(self, task):
        pass


class StandsFor:
    """A writer whose turn is free."""

    def __init__(self, world):
        self.buffer = world.buffers[0]

    def block(self, blocked):
        pass

    def try_turn(self):
        self.buffer.turn_begins()
        return True

    def give_turn_back(self):
        pass

    def tell_owner(self):
        pass


@pytest.fixture
def threadless():
    """A buffer whose bytes wait, on a real socket that has room again."""
    ours, theirs = socket.socketpair()
    world, scheduler = World(), NoThread()
    driver = world.total.driver = Outflow(world.total, scheduler, time.monotonic)
    buffer = world.buffers[0]
    buffer._stream.sock = ours
    buffer._stream.writer = StandsFor(world)
    buffer.keep([memoryview(b"waits")])
    with ours, theirs:
        yield world, scheduler, driver, buffer
        driver.close()


def test_what_waits_goes_out_though_no_thread_can_be_started(threadless):
    _, scheduler, driver, buffer = threadless
    driver.watch(buffer, buffer._stream.sock.fileno(), read=False)
    assert scheduler.tasks == []
    buffer._stream.channel.room = 100
    scheduler.stand_in()
    assert buffer._stream.channel.sent == b"waits"


def test_the_driver_is_added_once_a_thread_can_be_started(threadless):
    _, scheduler, driver, buffer = threadless
    driver.watch(buffer, buffer._stream.sock.fileno(), read=False)
    scheduler.stand_in()
    assert scheduler.tasks == []
    scheduler.refuses = False
    scheduler.stand_in()
    scheduler.stand_in()
    assert len(scheduler.tasks) == 1


def test_or_as_something_else_waits(threadless):
    _, scheduler, driver, buffer = threadless
    for _ in range(2):
        driver.watch(buffer, buffer._stream.sock.fileno(), read=False)
    assert scheduler.tasks == []
    scheduler.refuses = False
    for _ in range(2):
        driver.watch(buffer, buffer._stream.sock.fileno(), read=False)
    assert len(scheduler.tasks) == 1
