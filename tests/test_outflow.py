"""What sends for peers whose bytes wait, where there is no thread for it, and on every poller."""

import contextlib
import gc
import os
import socket
import threading
import time

import pytest

from tests.forking import Children
from tests.support import eventually, receive, running
from tests.test_poller import Module
from tests.test_unsent import World
from thousand_island_sync import Handler, SocketClosed
from thousand_island_sync._connection.outflow import Outflow
from thousand_island_sync._scheduler.write_poller import (
    EpollWrites,
    KqueueWrites,
    LookedAt,
    new_write_poller,
)
from thousand_island_sync._stream.unsent_total import NoDriver

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
    with pytest.raises(SocketClosed, match="read nothing"):
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


# ---- who never needs one --------------------------------------------------------------------


def test_whoever_never_fills_the_kernels_buffer_has_none_of_his_own(wire):
    class Sends(Handler):
        def handle_data(self, data, socket):
            socket.send(data)
            socket.sendall(data)
            socket.send([data, data])
            socket.flush()

    server = wire.serve(Sends)
    sock = wire.connect(server)
    connection = only(server)
    for _ in range(10):
        sock.sendall(b"ping")
        assert receive(sock, 16) == b"ping" * 4
    assert connection._inbox._link.machine.stream.writer.buffer is None


# ---- each poller of descriptors with room --------------------------------------------------------

WRITE_POLLERS = {
    "epoll": EpollWrites,
    "kqueue": lambda: KqueueWrites(Module),
    "poll": LookedAt,
}


@pytest.fixture(params=WRITE_POLLERS)
def poller(request):
    made = WRITE_POLLERS[request.param]()
    yield made
    made.close()


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def fill(sock):
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(bytes(65_536))


def empty(sock):
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while sock.recv(65_536):
            pass


def test_the_best_of_the_platform_is_taken():
    made = new_write_poller()
    assert isinstance(made, EpollWrites)
    made.close()


def test_who_has_room_is_told_of_at_once_and_when_it_is_put_in_again(poller, pair):
    for _ in range(2):
        poller.watch(pair[0].fileno(), read=False)
        assert poller.ready() == [pair[0].fileno()]


def test_who_has_none_is_told_of_when_there_is_some(poller, pair):
    fill(pair[0])
    poller.watch(pair[0].fileno(), read=False)
    assert poller.ready() == []
    empty(pair[1])
    assert eventually(lambda: poller.ready() == [pair[0].fileno()])


def test_who_must_read_first_is_told_of_when_something_comes(poller, pair):
    poller.watch(pair[0].fileno(), read=True)
    assert poller.ready() == []
    pair[1].send(b"x")
    assert eventually(lambda: poller.ready() == [pair[0].fileno()])
    poller.watch(pair[0].fileno(), read=False)
    assert poller.ready() == [pair[0].fileno()]


def test_who_was_reset_is_told_of(poller, pair):
    fill(pair[0])
    poller.watch(pair[0].fileno(), read=False)
    assert poller.ready() == []
    pair[1].close()
    assert eventually(lambda: poller.ready() == [pair[0].fileno()])


def test_who_is_forgotten_is_not_and_may_be_forgotten_twice(poller, pair):
    poller.watch(pair[0].fileno(), read=False)
    poller.forget(pair[0].fileno())
    poller.forget(pair[0].fileno())
    assert poller.ready() == []


# ---- a forked child -----------------------------------------------------------------------


@pytest.fixture
def children():
    made = Children()
    yield made
    made.close()


def takes_numbers_and_collects():
    """What has been the parent's has other owners here: nothing closes their numbers."""
    files = [open("/dev/zero", "rb") for _ in range(50)]  # noqa: SIM115 - until the child ends
    gc.collect()
    assert all(file.read(1) == b"\0" for file in files)


def test_a_child_sends_nothing_of_what_waits_and_closes_nothing(wire, children):
    server = wire.serve(Replies, transport_options=SMALL)
    sock = wire.connect(server)
    sock.sendall(b"b")
    connection = only(server)
    assert eventually(lambda: connection.unsent > 0 and server.info().busy_threads == 0)
    total = connection._inbox._link.env.unsent

    def child():
        takes_numbers_and_collects()
        assert total.bytes == 0
        assert isinstance(total.driver, NoDriver)

    pid = children.run(child)
    assert children.exit_code(pid) == 0, children.said
    assert receive(sock, SIZE) == REPLY
    sock.sendall(b"b")
    assert receive(sock, SIZE) == REPLY


def test_a_child_of_the_callback_that_sent_it_goes_on_behind_nothing(serve, client, children):
    """What waits is the parent's alone; what the child sends is its own."""

    class ForksBehind(Handler):
        def handle_data(self, data, socket):
            socket.send(REPLY)
            assert socket.unsent
            self.options(socket)

    def forks_here(sock):
        pid = children.fork()
        if not pid:
            takes_numbers_and_collects()
            children.say(sock.unsent)
            os._exit(0)

    server = serve(ForksBehind, handler_options=forks_here, transport_options=SMALL)
    sock = client(server)
    sock.sendall(b"x")
    assert children.exit_code() == 0
    assert children.said == ["0"]
    assert receive(sock, SIZE) == REPLY
    assert eventually(lambda: only(server).unsent == 0)


def test_a_child_does_not_close_the_number_of_a_poller_that_was_lost(serve, client, children):
    server = serve(Replies, transport_options=SMALL)
    socks = [client(server) for _ in range(2)]
    socks[0].sendall(b"b")
    assert eventually(lambda: len(server.connections()) == 2)
    driver = driver_of(server.connections()[0])
    assert eventually(lambda: driver._watched and server.info().busy_threads == 0)
    before, null = driver._poller, os.open(os.devnull, os.O_RDONLY)
    number = before.fileno()
    os.dup2(null, number)
    try:
        socks[1].sendall(b"b")
        with running(lambda: receive(socks[0], SIZE), lambda: receive(socks[1], SIZE)):
            assert eventually(lambda: driver._poller is not before)
        assert children.exit_code(children.run(lambda: os.fstat(number))) == 0, children.said
    finally:
        os.close(null)
        os.close(number)
