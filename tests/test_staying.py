"""Threads that stay with a connection whose callbacks block, or that is alone."""

import contextlib
import gc
import socket
import threading
import time
import weakref

import pytest

from tests.support import eventually, receive
from tests.test_connection import World
from thousand_island_sync import Close, Continue, Handler
from thousand_island_sync._connection.task import ConnectionTask
from thousand_island_sync._scheduler import scheduler as _scheduler
from thousand_island_sync._scheduler.affinity import Affinity
from thousand_island_sync._scheduler.poller import EpollPoller
from thousand_island_sync._scheduler.run_queue import ALONE
from thousand_island_sync._scheduler.scheduler import Scheduler
from thousand_island_sync._scheduler.task import AGAIN, DONE, PARK, Classified, Task

ALWAYS, NEVER = (lambda duration: True), (lambda duration: False)


@pytest.fixture
def world():
    with World() as made:
        made.run()
        made.calls.clear()
        yield made


def stay(world, *incoming, wanted=NEVER):
    world.channel.incoming.extend(incoming)
    return world.connection.stay(0.004, wanted)


# ---- the connection ---------------------------------------------------------


def test_it_delivers_until_nothing_more_comes(world):
    assert stay(world, b"one", b"two") == (PARK, False)
    assert world.calls == [("handle_data", b"one"), ("handle_data", b"two")]
    assert world.connection.machine.socket.stats().bytes_received == 6


def test_it_ends_when_the_thread_is_wanted(world):
    assert stay(world, b"one", b"two", wanted=ALWAYS) == (PARK, True)
    assert world.calls == [("handle_data", b"one")]


def test_it_ends_after_a_while_whatever_comes(world):
    verdict, came = stay(world, *[b"x"] * 1_000)
    assert (verdict, came) == (PARK, True)
    assert len(world.calls) < 1_000


def test_each_callback_moves_the_read_deadline(world):
    world.time += 3
    stay(world, b"one")
    assert world.connection.deadline == world.time + 10


def test_what_a_callback_returns_counts(world):
    world.reactions["handle_data"] = Continue(timeout_ms=500)
    assert stay(world, b"one", b"two") == (PARK, False)
    assert len(world.calls) == 2
    assert world.connection.deadline == world.time + 0.5


def test_what_a_callback_raises_ends_it(world):
    world.reactions["handle_data"] = ValueError("a bug")
    assert stay(world, b"one", b"two") == (DONE, True)
    assert world.names() == ["handle_data", "handle_error", "handle_end"]


def test_an_end_of_the_stream(world):
    world.reactions["handle_eof"] = Close()
    assert stay(world, b"one", b"") == (DONE, True)
    assert world.names() == ["handle_data", "handle_eof", "handle_close", "handle_end"]


def test_a_reset(world):
    assert stay(world, ConnectionResetError(104, "reset")) == (DONE, True)
    assert world.names() == ["handle_close", "handle_end"]


def test_a_message_that_comes_meanwhile_is_seen_and_no_byte_is_lost(world):
    def arrive():
        world.connection.inbox.post("message", 0)
        return b"data"

    verdict, _ = stay(world, arrive)
    while verdict == AGAIN:
        verdict = world.connection.run()
    assert world.calls == [("handle_info", "message"), ("handle_data", b"data")]


def test_bytes_that_came_with_a_message_are_read_by_its_callback(world):
    read = []
    world.reactions["handle_info"] = lambda socket: read.append(socket.recv(2))

    def arrive():
        world.connection.inbox.post("message", 0)
        return b"data"

    verdict, _ = stay(world, arrive, b"more")
    while verdict == AGAIN:
        verdict = world.connection.run()
    assert read == [b"da"]
    assert b"".join(data for name, data in world.calls if name == "handle_data") == b"tamore"


def test_unread_bytes_come_in_front(world):
    world.reactions["handle_data"] = lambda socket: None
    world.connection.machine.socket.unread(b"half ")
    verdict, _ = stay(world, b"a line")
    while verdict == AGAIN:
        verdict = world.connection.run()
    assert world.calls == [("handle_data", b"half a line")]


def test_a_connection_that_gets_messages_is_not_stayed_with(world):
    assert world.connection.may_stay()
    world.connection.inbox.post("message", 0)
    world.run()
    assert not world.connection.may_stay()


def test_nor_one_with_a_deadline_nor_a_stopping_one(world):
    world.connection.stop_begins()
    assert not world.connection.may_stay()


# ---- the policy -------------------------------------------------------------


class Silent(Task):
    """A task whose stays are all in vain, or all not."""

    came = False
    duration = 1.0

    def __init__(self, fd):
        super().__init__(fd)
        self.average, self.classified = 1.0, Classified.BLOCKING

    def may_stay(self):
        return True

    def stay(self, timeout, wanted):
        if self.came:
            wanted(self.duration)
        return PARK, self.came


@pytest.fixture
def scheduler():
    made = Scheduler(
        EpollPoller(), max_threads=4, name="test", ring=lambda: None, saturation=lambda *_: None
    )
    yield made
    made.close()


@contextlib.contextmanager
def somebody_polls(scheduler):
    """As far as the policy can see."""
    holders = scheduler._permits._holders
    holders.append(object())
    yield
    holders.clear()


def stays(scheduler, task, times):
    """How many of so many chances to stay are taken."""

    class One:
        turn = stayed = 0

    taken = []
    affinity = scheduler._runner._affinity
    begin = affinity._begin_stay
    with pytest.MonkeyPatch.context() as patched:
        counted = lambda _, task: taken.append(begin(task)) or taken[-1]  # noqa: E731
        patched.setattr(type(affinity), "_begin_stay", counted)
        for _ in range(times):
            if task.classified.blocks:
                task.classified = Classified.BLOCKING
            affinity.go_on(One(), task)
    return sum(taken)


@pytest.fixture
def silent(scheduler):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        task = Silent(ours.fileno())
        yield task
        scheduler._queue._poller.unregister(task.fd)


def test_stays_that_do_not_pay_become_rare_and_come_back(scheduler, silent):
    with somebody_polls(scheduler):
        assert stays(scheduler, silent, 10) == 10
        assert stays(scheduler, silent, 1_000) < 60
        silent.came = True
        stays(scheduler, silent, 1_000)
        assert stays(scheduler, silent, 100) == 100


def test_callbacks_that_do_not_block_after_all_end_it(scheduler, silent):
    silent.average, silent.came, silent.duration = 1e-3, True, 5e-6
    with somebody_polls(scheduler):
        stays(scheduler, silent, 1)
        assert silent.average < 1e-3
        stays(scheduler, silent, 12)
    assert not silent.classified.blocks


def test_a_connection_that_is_only_suspected_of_blocking_is_not_stayed_with(scheduler, silent):
    silent.classified = Classified.SUSPECT
    with somebody_polls(scheduler):
        assert not scheduler._runner._affinity._begin_stay(silent)


def test_nobody_stays_where_no_thread_is_to_spare_or_nobody_polls(scheduler, silent):
    assert stays(scheduler, silent, 10) == 0
    with somebody_polls(scheduler):
        scheduler._workers.count = scheduler._workers._bound
        assert stays(scheduler, silent, 10) == 0
        scheduler._workers.count = 0


# ---- a server ---------------------------------------------------------------


class Slow(Handler):
    """Blocks for two milliseconds, as a database would make it."""

    def handle_data(self, data, socket):
        time.sleep(0.002)
        socket.send(data)

    def handle_info(self, message, socket):
        socket.send(message)


def talk(sock, rounds):
    for number in range(rounds):
        request = b"%06d" % number
        sock.sendall(request)
        assert receive(sock, 6) == request


def talk_all(clients, rounds):
    threads = [threading.Thread(target=talk, args=(one, rounds)) for one in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)


def test_a_handler_that_blocks_is_served_by_threads_that_stay(serve, client):
    server = serve(Slow)
    scheduler = server._run.scheduler
    clients = [client(server) for _ in range(8)]
    talk_all(clients, 300)
    assert scheduler._runner._affinity._stays > 8
    # All that is left of it is over in no time: no thread is busy, all are parked again.
    assert eventually(lambda: server.info().busy_threads == 0)
    talk_all(clients, 3)


def test_a_message_and_an_end_reach_a_connection_that_is_stayed_with(serve, client):
    server = serve(Slow)
    clients = [client(server) for _ in range(4)]
    talk_all(clients, 50)
    for connection in server.connections():
        connection.post(b"hello")
    for sock in clients:
        assert receive(sock, 5) == b"hello"
    talk_all(clients, 20)
    for connection in server.connections():
        connection.close()
    for sock in clients:
        assert sock.recv(1) == b""


def test_a_stop_finds_them_all(serve, client):
    server = serve(Slow)
    clients = [client(server) for _ in range(8)]
    talk_all(clients, 50)
    assert server.stop(2_000)
    for sock in clients:
        assert sock.recv(1) == b""


# ---- alone ------------------------------------------------------------------


class Quick(Handler):
    def handle_data(self, data, socket):
        if data == b"sleeps":
            time.sleep(0.3)
        socket.send(data)

    def handle_info(self, message, socket):
        socket.send(message)


@pytest.fixture
def stayed(monkeypatch):
    """The steps of each stay with one that was alone (others may seem to block, where the
    machine is slow, and be stayed with for that). As with the GIL."""
    monkeypatch.setattr(_scheduler, "default_permits", lambda: 1)
    steps = []
    stay, stay_alone = ConnectionTask.stay, Affinity.stay_alone
    here = threading.local()

    def counted(connection, timeout, wanted):
        socket = connection.machine.socket
        before = socket._reader.recv_count
        try:
            return stay(connection, timeout, wanted)
        finally:
            if getattr(here, "alone", False):
                steps.append(socket._reader.recv_count - before)

    def alone(affinity, worker):
        here.alone = True
        try:
            return stay_alone(affinity, worker)
        finally:
            here.alone = False

    monkeypatch.setattr(ConnectionTask, "stay", counted)
    monkeypatch.setattr(Affinity, "stay_alone", alone)
    return steps


def test_with_the_only_one_who_says_anything_a_thread_stays(stayed, serve, client):
    server = serve(Quick)
    sock = client(server)
    assert eventually(lambda: talk(sock, 2 * ALONE) or sum(stayed) > 5 * ALONE)
    assert eventually(lambda: server.info().busy_threads == 0)
    assert server.info().handler_threads <= 3
    talk(sock, 3)


def test_nor_where_several_poll_as_it_is(stayed, serve, client, monkeypatch):
    monkeypatch.setattr(_scheduler, "default_permits", lambda: 2)
    talk(client(serve(Quick)), 3 * ALONE)
    assert stayed == []


def test_not_before_it_has_been_so_for_a_while(stayed, serve, client):
    talk(client(serve(Quick)), ALONE - 10)
    assert stayed == []


def test_nor_where_two_take_turns(stayed, serve, client):
    server = serve(Quick)
    one, other = client(server), client(server)
    for _ in range(3 * ALONE):
        talk(one, 1)
        talk(other, 1)
    assert stayed == []


def test_it_ends_when_anybody_else_says_anything(stayed, serve, client):
    server = serve(Quick)
    chatting, other = client(server), client(server)
    over = threading.Event()

    def chat():
        while not over.is_set():
            talk(chatting, 1)

    thread = threading.Thread(target=chat)
    thread.start()
    try:
        assert eventually(lambda: sum(stayed) > ALONE)
        ended = len(stayed)
        talk(other, 20)
        talk(client(server), 20)
        assert eventually(lambda: len(stayed) > ended)
    finally:
        over.set()
        thread.join()


def test_nobody_waits_for_a_callback_of_one_that_is_stayed_with(stayed, serve, client):
    server = serve(Quick)
    chatting, other = client(server), client(server)
    assert eventually(lambda: talk(chatting, 2 * ALONE) or stayed)
    talk(chatting, 2 * ALONE)
    chatting.sendall(b"sleeps")
    began = time.monotonic()
    talk(other, 20)
    assert time.monotonic() - began < 0.2
    assert receive(chatting, 6) == b"sleeps"


def test_messages_and_ends_reach_the_one_that_is_stayed_with(stayed, serve, client):
    server = serve(Quick)
    sock = client(server)
    assert eventually(lambda: talk(sock, 3 * ALONE) or stayed)
    (connection,) = server.connections()
    connection.post(b"hello")
    assert receive(sock, 5) == b"hello"
    talk(sock, 3 * ALONE)  # not stayed with any more: it gets messages
    connection.close()
    assert sock.recv(1) == b""
    sock, before = client(server), len(stayed)
    assert eventually(lambda: talk(sock, 3 * ALONE) or len(stayed) > before)
    talk(sock, 2 * ALONE)
    assert server.stop(2_000)
    assert sock.recv(1) == b""


def test_nothing_holds_on_to_one_that_has_ended(stayed, serve, client):
    held = weakref.WeakSet()

    class Remembered(Quick):
        def handle_connection(self, socket):
            held.add(self)

    server = serve(Remembered)
    for rounds in (3, 3 * ALONE):
        sock = client(server)
        talk(sock, rounds)
        sock.close()
        assert eventually(lambda: server.info().active_connections == 0)
        assert eventually(lambda: gc.collect() >= 0 and not held)


def test_a_peer_that_goes_is_noticed_there_too(stayed, serve, client):
    server = serve(Quick)
    sock = client(server)
    assert eventually(lambda: talk(sock, 3 * ALONE) or stayed)
    talk(sock, 2 * ALONE)
    sock.close()
    assert eventually(lambda: server.info().active_connections == 0)
