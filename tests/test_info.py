"""`ThousandIsland.info`: bytes, backlogs, handshakes and waits, at any rate and on any thread."""

import socket
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import echoes, eventually, receive, receive_all, running
from thousand_island_sync import TLS, Close, Handler, SwitchTransport
from thousand_island_sync._base import locks
from thousand_island_sync._listener import backlog_size, traffic
from thousand_island_sync._listener.traffic import Traffic
from thousand_island_sync._scheduler.oldest_wait import OldestWait

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells")


class Twice(Handler):
    """Answers each piece with twice as much."""

    def handle_data(self, data, socket):
        socket.send(data * 2)


class Says(Handler):
    """Ends after its first answer."""

    def handle_data(self, data, socket):
        socket.send(data)
        return Close()


class Blocks(Handler):
    def handle_data(self, data, socket):
        self.options.wait(30)
        socket.send(data)


# ---- bytes ----------------------------------------------------------------------


class Moving:
    """A connection, as far as its bytes go."""

    def __init__(self):
        self.reader = SimpleNamespace(bytes_received=0)
        self.writer = SimpleNamespace(bytes_sent=0, buffer=None)
        self.machine = SimpleNamespace(stream=self)

    @property
    def moved(self):
        return self.reader.bytes_received, self.writer.bytes_sent


class World:
    """Connections, what they have received and sent, and a clock."""

    def __init__(self):
        self.time = 0.0
        self.open = []
        self.ended = [0, 0]
        self.lock = locks.lock("connection.limit")
        self.count(lambda: list(self.open), traffic.bytes_of)

    def count(self, connections, measure):
        self.traffic = Traffic(
            connections, self.open.__contains__, self.lock, measure, lambda: self.time
        )

    def begin(self):
        self.open.append(Moving())

    def move(self, which, received, sent):
        for connection in self.chosen(which):
            connection.reader.bytes_received += received
            connection.writer.bytes_sent += sent

    def end(self, which):
        for connection in self.chosen(which):
            with self.lock:
                self.open.remove(connection)
                received, sent = connection.moved
                self.ended = [self.ended[0] + received, self.ended[1] + sent]
                self.traffic.ends(connection)

    def chosen(self, which):
        return [self.open[which % len(self.open)]] if self.open else []

    def moved(self):
        """All that was ever received and sent."""
        return tuple(
            self.ended[at] + sum(connection.moved[at] for connection in self.open) for at in (0, 1)
        )

    def told(self):
        self.traffic.look()
        return self.traffic.received, self.traffic.sent


numbers = st.integers(0, 5)
steps = st.one_of(
    st.tuples(st.just("begin")),
    st.tuples(st.just("move"), numbers, st.integers(0, 99), st.integers(0, 99)),
    st.tuples(st.just("end"), numbers),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.25, 0.875, 1.0, 7.0])),
    st.tuples(st.just("look")),
)


@given(st.lists(steps, max_size=60))
def test_totals_never_fall_never_say_too_much_and_are_a_second_old_at_most(played):
    world = World()
    history = [(0.0, (0, 0))]  # when, and what had been moved by then
    told = (0, 0)
    for name, *arguments in [*played, ("look",)]:
        if name == "wait":
            world.time += arguments[0]
        elif name == "look":
            before, told = told, world.told()
            assert told[0] >= before[0], "bytes received fell"
            assert told[1] >= before[1], "bytes sent fell"
            truth = world.moved()
            old = [moved for when, moved in history if when < world.time - 1] or [(0, 0)]
            for at in (0, 1):
                assert world.ended[at] <= told[at] <= truth[at], "counted twice, or not at all"
                assert old[-1][at] <= told[at], "older than a second"
        else:
            getattr(world, name)(*arguments)
        history.append((world.time, world.moved()))
    world.time += 1
    assert world.told() == world.moved()


def test_nothing_is_walked_twice_within_a_second():
    world, looks = World(), []
    world.begin()
    world.count(lambda: looks.append(world.time) or list(world.open), traffic.bytes_of)
    for tenth in range(31):
        world.time = tenth / 10
        world.told()
    assert looks == [0.0, 1.0, 2.0, 3.0]


def test_one_that_ends_while_others_are_walked_over_is_counted_once(monkeypatch):
    """Whether the walk has come to it before, or finds that it is open no more."""
    world = World()
    for _ in range(200):
        world.begin()
    world.move(199, 7, 9)
    monkeypatch.setattr(traffic, "_AT_ONCE", 1)
    walked = []

    def measure(connection):
        walked.append(connection)
        if connection is first:
            ending.start()
        return traffic.bytes_of(connection)

    first = world.open[0]
    ending = threading.Thread(target=world.end, args=(199,))
    world.count(lambda: list(world.open), measure)
    assert world.told() in ((0, 0), (7, 9))  # it adds its rest during the walk, or after it
    ending.join()
    assert first in walked
    assert world.told() == (7, 9)


def test_a_walk_does_not_wait_for_a_lock_that_is_held_on():
    world = World()
    world.begin()
    world.move(0, 3, 4)
    held, release = threading.Event(), threading.Event()

    def hold():
        with world.lock:
            held.set()
            release.wait(10)

    with running(hold):
        assert held.wait(10)
        assert world.told() == (0, 0)
        release.set()
    assert world.told() == (3, 4)


def test_code_that_interrupts_us_under_a_lock_gets_what_is_known():
    world = World()
    world.begin()
    world.move(0, 1, 1)
    with locks.lock("mailbox"):
        assert world.told() == (0, 0)
    assert world.told() == (1, 1)


def test_bytes_of_all_connections_are_counted_those_that_have_ended_too(serve, client):
    server = serve(Twice)
    stays, goes = client(server), client(server)
    stays.sendall(b"12345")
    receive(stays, 10)
    goes.sendall(b"1")
    receive(goes, 2)
    goes.close()
    assert eventually(lambda: server.info().bytes_received_total == 6)
    assert eventually(lambda: server.info().bytes_sent_total == 12)
    server.stop()
    assert server.info().bytes_received_total == 6
    assert server.info().bytes_sent_total == 12


def test_bytes_of_a_connection_that_ends_are_counted_at_once(serve, client):
    server = serve(Says)
    server.info()  # the next walk is a second away
    sock = client(server)
    sock.sendall(b"1234")
    assert receive_all(sock) == b"1234"
    assert eventually(lambda: server.info().active_connections == 0)
    assert server.info().bytes_received_total == server.info().bytes_sent_total == 4


def test_over_tls_the_payload_is_counted_as_the_events_do(serve, authority, secure, record):
    recorder = record("socket.close")
    server = serve(Twice, transport_cls=TLS, transport_options=authority.options)
    sock = secure(server, authority.client_context())
    sock.sendall(b"1234")
    receive(sock, 8)
    sock.close()
    (told,) = recorder.wait_for("socket.close")
    assert eventually(lambda: server.info().active_connections == 0)
    info = server.info()
    assert info.bytes_received_total == told.measurements["bytes_received"] == 4
    assert info.bytes_sent_total == told.measurements["bytes_sent"] == 8


def test_totals_never_fall_while_connections_come_and_go(serve, client, monkeypatch):
    monkeypatch.setattr(traffic, "_APART_S", 0.0)  # each look walks
    server, over = serve(Twice), threading.Event()
    address = server.local_address

    def come_and_go():
        for turn in range(60):
            with socket.create_connection(address, timeout=10) as sock:
                for _ in range(turn % 4):
                    sock.sendall(b"x" * (turn + 1))
                    receive(sock, 2 * (turn + 1))

    def look():
        said = 0, 0
        while not over.is_set():
            info = server.info()
            now_said = info.bytes_received_total, info.bytes_sent_total
            assert now_said[0] >= said[0]
            assert now_said[1] >= said[1]
            said = now_said

    with running(look, look):
        try:
            with running(*[come_and_go] * 4):
                pass
        finally:
            over.set()
    expected = 4 * sum((turn + 1) * (turn % 4) for turn in range(60))
    assert eventually(lambda: server.info().active_connections == 0)
    assert server.info().bytes_received_total == expected
    assert server.info().bytes_sent_total == 2 * expected


# ---- who waits outside -----------------------------------------------------------


@linux
@pytest.mark.parametrize("family", ["tcp", "unix", "abstract"])
def test_the_backlog_is_told_and_its_limit(family, serve, client, tmp_path):
    host = {
        "tcp": "127.0.0.1",
        "unix": f"unix:{tmp_path}/socket",
        "abstract": f"unix:@{tmp_path}",
    }[family]
    options = {"host": host, "backlog": 9}
    server = serve(Twice, transport_options=options, max_connections=1)
    assert (server.info().backlog, server.info().backlog_limit) == (0, 9)
    first = client(server)
    echoes_twice(first)
    waiting = [client(server) for _ in range(3)]
    assert eventually(lambda: server.info().backlog == 3)
    first.close()
    echoes_twice(waiting[0])
    assert eventually(lambda: server.info().backlog == 2)
    server.suspend()
    assert (server.info().backlog, server.info().backlog_limit) == (None, None)


def echoes_twice(sock):
    sock.sendall(b"x")
    assert receive(sock, 2) == b"xx"


@linux
def test_of_several_listening_sockets_the_backlogs_are_added(serve):
    options = {"host": "127.0.0.1", "backlog": 7, "reuse_port": True}
    server = serve(Twice, transport_options=options, num_listen_sockets=2)
    assert (server.info().backlog, server.info().backlog_limit) == (0, 14)


def test_a_server_that_does_not_listen_and_a_system_that_does_not_tell_have_none(
    serve, monkeypatch
):
    server = serve(Twice)
    monkeypatch.setattr(backlog_size, "_LINUX", False)
    assert (server.info().backlog, server.info().backlog_limit) == (None, None)
    server.stop()
    monkeypatch.undo()
    assert (server.info().backlog, server.info().backlog_limit) == (None, None)


@linux
def test_a_socket_that_does_not_listen_has_no_backlog():
    for family in (socket.AF_INET, socket.AF_UNIX):
        with socket.socket(family) as sock:
            assert backlog_size.of_one(sock) is None
        assert backlog_size.of_one(sock) is None, "it is closed"


# ---- who is in a handshake --------------------------------------------------------


def test_handshakes_that_wait_for_their_peer_are_counted(serve, authority, client, secure):
    server = serve(Twice, transport_cls=TLS, transport_options=authority.options)
    silent = [client(server) for _ in range(3)]
    assert eventually(lambda: server.info().handshaking == 3)
    assert server.info().active_connections == 3
    done = secure(server, authority.client_context())
    done.sendall(b"x")
    receive(done, 2)
    assert server.info().handshaking == 3
    silent[0].close()
    silent[1].sendall(b"no hello\r\n")
    assert eventually(lambda: server.info().handshaking == 1)
    server.stop()
    assert server.info().handshaking == 0


def test_an_upgrade_that_waits_for_its_peer_is_counted(serve, authority, client):
    class Upgrades(Handler):
        def handle_data(self, data, sock):
            return SwitchTransport(TLS, authority.options)

        def handle_upgrade(self, sock):
            sock.send(b"!")

    server = serve(Upgrades)
    sock = client(server)
    assert server.info().handshaking == 0
    sock.sendall(b"upgrade")
    assert eventually(lambda: server.info().handshaking == 1)
    wrapped = authority.client_context().wrap_socket(sock, server_hostname="localhost")
    with wrapped:
        assert receive(wrapped, 1) == b"!"
        assert server.info().handshaking == 0


# ---- who waits for a thread --------------------------------------------------------


class Pool:
    """A queue of letters, threads that take from it, and a clock."""

    def __init__(self):
        self.ready, self.time, self.taken = [], 0.0, 0
        self.oldest = OldestWait(self, self, self, lambda: self.time)

    def snapshot(self):
        return list(self.ready)

    def counted(self, ready):
        return [task for task in ready if task != "-"]

    def turns(self):
        return self.taken

    def come(self, letters):
        self.ready += letters

    def take(self, count=1):
        for _ in range(count):
            del self.ready[0]
            self.taken += 1

    def after(self, seconds):
        """The longest wait, that much later."""
        self.time += seconds
        self.oldest.look()
        return round(self.oldest.seconds(), 6)


def test_the_oldest_wait_goes_by_who_is_in_front():
    pool = Pool()
    assert pool.after(0.01) == 0
    pool.come("ab")
    assert pool.after(0.01) == 0
    pool.come("c")
    assert pool.after(0.5) == 0.5
    pool.take()
    assert pool.after(0.5) == 1.0, "b"
    pool.take()
    assert pool.after(0.5) == 1.0, "c came half a second later"
    pool.take()
    assert pool.after(0.5) == 0


def test_who_was_served_and_is_ready_again_waits_anew():
    pool = Pool()
    pool.come("a")
    pool.after(0.01)
    pool.take()
    pool.come("a")
    assert pool.after(3) == 0
    assert pool.after(3) == 3


def test_what_is_no_connection_does_not_count():
    pool = Pool()
    pool.come("-")
    assert pool.after(1) == pool.after(1) == 0
    pool.come("a-")
    assert (pool.after(1), pool.after(1)) == (0, 1)


def test_once_a_thread_is_to_spare_nobody_waits():
    pool = Pool()
    pool.come("a")
    assert (pool.after(1), pool.after(1)) == (0, 1)
    pool.oldest.is_over()
    assert pool.oldest.seconds() == 0


@given(st.lists(st.sampled_from(["come", "take", "again", "look"]), max_size=50))
def test_nobody_is_said_to_have_waited_longer_than_he_has(played):
    pool, came, made = Pool(), {}, 0
    for step in played:
        pool.time += 0.02
        if step == "come":
            made += 1
            came[made] = pool.time
            pool.come([made])
        elif pool.ready and step in ("take", "again"):
            task = pool.ready[0]
            pool.take()
            if step == "again":
                came[task] = pool.time
                pool.come([task])
        told = pool.after(0.0)
        truth = pool.time - came[pool.ready[0]] if pool.ready else 0
        assert told <= truth + 1e-9


def test_the_oldest_wait_is_that_of_who_came_first(serve, client):
    release = threading.Event()
    server = serve(Blocks, handler_options=release, max_handler_threads=1)
    socks = [client(server) for _ in range(3)]
    assert server.info().oldest_wait_ms == 0
    socks[0].sendall(b"x")
    assert eventually(lambda: server.info().busy_threads == 1)
    began = time.monotonic()
    socks[1].sendall(b"x")
    assert eventually(lambda: server.info().oldest_wait_ms >= 300)
    assert 0.3 <= time.monotonic() - began < 2
    socks[2].sendall(b"x")
    assert eventually(lambda: server.info().waiting_connections == 2)
    assert server.info().oldest_wait_ms >= 300
    release.set()
    for sock in socks:
        assert receive(sock, 1) == b"x"
    assert eventually(lambda: server.info().oldest_wait_ms == 0)


def test_who_came_later_does_not_inherit_the_wait_of_who_was_served(serve, client):
    class Waits(Handler):
        def handle_data(self, data, sock):
            if data in self.options:
                self.options[data].wait(30)
            sock.send(data)

    release = {name: threading.Event() for name in (b"1", b"2", b"3")}
    server = serve(Waits, handler_options=release, max_handler_threads=1)
    socks = {name: client(server) for name in release}
    for sock in socks.values():
        echoes(sock)  # else it is ready from when it was accepted
    socks[b"1"].sendall(b"1")
    assert eventually(lambda: server.info().busy_threads == 1)
    socks[b"2"].sendall(b"2")
    assert eventually(lambda: server.info().oldest_wait_ms >= 400)
    came = time.monotonic()
    socks[b"3"].sendall(b"3")
    assert eventually(lambda: server.info().waiting_connections == 2)
    release[b"1"].set()
    assert receive(socks[b"1"], 1) == b"1"
    # The pool looks again a moment after it was taken.
    assert eventually(lambda: 0 < server.info().oldest_wait_ms <= (time.monotonic() - came) * 1000)
    assert server.info().waiting_connections == 1
    for one in release.values():
        one.set()
    for name in (b"2", b"3"):
        assert receive(socks[name], 1) == name
