"""Sends of several threads, and whoever looks after what waits, at the worst moments."""

import errno
import os
import selectors
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import eventually, receive, receive_all
from tests.test_connection import Script, Scripted, World
from tests.test_unsent import Full
from tests.test_unsent import World as Books
from thousand_island_sync import (
    TLS,
    Handler,
    SendBufferFull,
    SocketClosed,
    SocketTimeout,
    SwitchTransport,
)
from thousand_island_sync._base import waits
from thousand_island_sync._connection import outflow
from thousand_island_sync._scheduler.poller import SelectorPoller
from thousand_island_sync._scheduler.registrations import Registrations
from thousand_island_sync._scheduler.task import PARK
from thousand_island_sync._scheduler.write_poller import EpollWrites
from thousand_island_sync._server import run
from thousand_island_sync._stream.send_buffer import SendBuffer
from thousand_island_sync._stream.states import ON_BARRIER, ON_BARRIER_GONE
from thousand_island_sync._stream.taking import Taking


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
        buffer.on(ON_BARRIER)
        connection.send(b"pushed")

    stream.writer._sink = TakesAPart(stream.sock, 3, upgrade_begins)
    assert sock.send(b"abcdefgh") == 8
    assert receive(peer, 8) == b"abcdefgh"
    assert connection.unsent == 6
    buffer.on(ON_BARRIER_GONE)
    buffer.settle()
    assert receive(peer, 6) == b"pushed"


class TakesWhatItIsTold(Script):
    """A channel whose kernel takes so many bytes of each send, behind which others send: by way of
    the socket or of the connection, on a thread of their own."""

    def __init__(self):
        super().__init__()
        self.takes, self.others_send = [], lambda way: None

    def send(self, data, flags=0):
        count, ways = self.takes.pop(0) if self.takes else (0, ())
        count = super().send(data[:count], flags)
        for way in ways:
            other = threading.Thread(target=self.others_send, args=(way,))
            other.start()
            other.join()
        return count


WAYS = st.sampled_from(["socket", "connection"])
#: Of which nothing was taken yet may come behind.
TAKES = st.lists(
    st.tuples(st.integers(1, 60), st.lists(WAYS, max_size=2)) | st.just((0, ())), max_size=3
)


@settings(deadline=None)
@given(st.lists(st.tuples(WAYS, st.integers(1, 40), TAKES), min_size=1, max_size=8))
def test_each_send_is_whole_and_in_its_place_whatever_the_kernel_takes_and_others_send(sends):
    """Whoever has the turn may have sent a part. What others send meanwhile comes behind the rest
    of that, though it is kept first."""
    with World() as world:
        channel = TakesWhatItIsTold()
        world.connection.machine._transport = Scripted(channel)
        world.run()
        expected = []

        def send(way, size=20):
            expected.append(bytes([len(expected)]) * size)
            where = world.connection.machine.socket if way == "socket" else world.connection.handle
            where.send(expected[-1])

        channel.others_send = send
        for way, size, takes in sends:
            channel.takes = takes
            send(way, size)
        buffer = world.connection.machine.stream.writer.buffer
        while buffer is not None and buffer.waits:
            channel.takes = [(1_000, ())]
            buffer.drive()
        assert channel.sent == b"".join(expected)


# ---- the last byte goes out while the owner looks whether any waits -----------------------


class Drains:
    """Stands for a send buffer whose last byte goes out right behind the `at`th look whether any
    waits. Who sent it tells the owner if he is taken to wait (`settle`), so many looks later."""

    failure, over_half = None, False

    def __init__(self, connection, at, later):
        self._connection, self._at, self._told_at, self._looks = connection, at, at + later, 0

    @property
    def waits(self):
        self._looks += 1
        waits = self._looks <= self._at
        if self._looks == self._told_at:
            self.tell()
        return waits

    def tell(self):
        if self._connection.deaf:
            self._connection.look_again()

    def is_told(self):
        return self._looks >= self._told_at

    def go_out(self):
        """If they have not yet."""
        if not self.is_told():
            self._at = self._told_at = self._looks
            self.tell()


@pytest.mark.parametrize("sent_by", ["a callback", "another thread"])
@pytest.mark.parametrize("later", range(3))
@pytest.mark.parametrize("at", range(1, 6))
def test_what_has_come_is_delivered_whenever_the_last_byte_goes_out(at, later, sent_by):
    with World() as world:
        connection = world.connection

        def run(*incoming):
            while world.run(*incoming) == PARK and world.pool.ready:  # as the scheduler does
                world.pool.ready.clear()
                incoming = ()

        def send(socket=None):
            connection.machine.stream.writer.buffer = buffer
            connection.alert = True

        buffer = Drains(connection, at, later)
        world.run()
        if sent_by == "a callback":
            world.reactions["handle_data"] = send
            run(b"a question")
            world.reactions.clear()
            assert not (connection.deaf and buffer.is_told())
        else:
            send()
        run(b"another one")
        buffer.go_out()
        if world.pool.ready:
            run()
        assert world.calls[-1] == ("handle_data", b"another one")
        assert not connection.deaf
        assert connection.deadline == world.time + 10


# ---- who sees to what waits ----------------------------------------------------------------


class Watches:
    """A driver that writes down whom it has; `meanwhile` is called once as one is let go."""

    def __init__(self):
        self.watched, self.meanwhile = {}, lambda: None

    def watch(self, buffer, fd, *, read):
        self.watched[fd] = buffer

    def unwatch(self, buffer, fd):
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        self.watched.pop(fd, None)

    def watches(self, buffer):
        return True


def test_what_is_kept_as_another_turn_ends_is_seen_to(served):
    _, connection, _ = served
    stream = stream_of(connection)
    buffer, total = stream.writer.buffered(), connection._inbox._link.env.unsent
    before, total.driver = total.driver, Watches()
    try:
        buffer.keep([memoryview(b"first")])
        buffer.settle()
        assert list(total.driver.watched.values()) == [buffer]

        def another_thread_keeps():
            buffer.keep([memoryview(b"second")])
            buffer.settle()

        total.driver.meanwhile = another_thread_keeps
        buffer.turn_begins()
        assert buffer.send_ahead(stream.channel)
        buffer.settle()
        assert buffer.size == len(b"second")
        assert list(total.driver.watched.values()) == [buffer]
    finally:
        total.driver = before
        buffer.settle()


def test_a_connection_that_has_ended_is_not_watched_by_the_number_that_another_has(served):
    _, connection, _ = served
    stream = stream_of(connection)
    driver = connection._inbox._link.env.unsent.driver
    ended = SendBuffer(stream, connection._inbox._link.env.unsent)
    ended.let_go()
    fd, living = stream.sock.fileno(), stream.writer.buffered()
    driver.watch(living, fd, read=False)
    driver.watch(ended, fd, read=False)
    driver.unwatch(ended, fd)
    assert driver._watched == {fd: living}
    driver.unwatch(living, fd)
    assert driver._watched == {}


def test_messages_come_below_half_whoever_has_sent_what_waited(served):
    _, connection, _ = served
    writer, total = stream_of(connection).writer, connection._inbox._link.env.unsent
    buffer, before, total.driver = writer.buffered(), total.driver, Watches()
    try:
        buffer.keep([memoryview(bytes(200_000))])
        buffer.settle()
        assert eventually(lambda: connection._inbox._link.deaf)
        connection.post("message")
        assert not eventually(lambda: connection.pending == 0, timeout=0.2)
        kernel = Full()
        kernel.room = 100_000
        assert writer.try_turn()
        buffer.send_ahead(kernel)
        writer.give_turn_back()
        assert eventually(lambda: connection.pending == 0)
        assert connection.unsent == 100_000
    finally:
        total.driver = before
        buffer.settle()


# ---- who is ended for others' sake, and who is not ---------------------------------------------


class Stuck(Taking):
    """A peer that has taken nothing for long, whatever the kernel says."""

    def look(self, sock, time_now, in_real_time):
        pass


def fill(connection):
    """Sends until it has no room, and makes its peer one that has taken nothing for long. Its
    buffer."""
    with pytest.raises(SendBufferFull):
        while True:
            connection.send(bytes(8_192))
    buffer, total = stream_of(connection).writer.buffer, connection._inbox._link.env.unsent
    buffer.taking = Stuck(buffer.taking.since - 10)
    total._nobody_before = 0.0
    return buffer


@pytest.mark.parametrize("size", [1, 1_000_000])
def test_who_pushes_more_than_one_may_have_ends_nobody(size, serve, client):
    server = serve(Idle, handler_options=[], transport_options={"send_buffer": 8_192})
    client(server)
    assert eventually(server.connections)
    (slow,) = server.connections()
    buffer = fill(slow)
    with pytest.raises(SendBufferFull):
        while True:
            slow.send(bytes(size))
    assert buffer.failure is None


def test_who_pushes_and_finds_the_total_reached_ends_the_slowest(serve, client):
    options = {"transport_options": {"send_buffer": 8_192}, "max_unsent_total": 100_000}
    server = serve(Idle, handler_options=[], **options)
    client(server)
    assert eventually(server.connections)
    (slow,) = server.connections()
    total = slow._inbox._link.env.unsent
    before, total.driver = total.driver, Watches()  # else the kernel may take some of it later
    try:
        buffer = fill(slow)
        client(server)
        assert eventually(lambda: len(server.connections()) == 2)
        (other,) = (one for one in server.connections() if one is not slow)
        assert other.send(bytes(90_000)) == 90_000
        assert isinstance(buffer.failure, SocketTimeout)
    finally:
        total.driver = before
        for one in server.connections():
            stream_of(one).writer.buffered().settle()


class SendsMuch(Handler):
    def handle_data(self, data, socket):
        socket.send(data * 1_000_000)


def test_a_pool_of_one_thread_is_not_held_by_who_does_not_read(serve, client):
    server = serve(SendsMuch, transport_options={"send_buffer": 8_192}, max_handler_threads=1)
    client(server).sendall(b"12345678")
    assert eventually(lambda: server.info().busy_threads == 1)
    good = client(server)
    good.sendall(b"x")
    assert receive(good, 1_000_000) == b"x" * 1_000_000


# ---- no room for what tells of room --------------------------------------------------------------


def no_room(*arguments, **options):
    raise OSError(errno.ENOSPC, "no room")


MOST = 5_000_000


class Answers(Handler):
    def handle_data(self, data, socket):
        socket.send(bytes(MOST))
        socket.send(data)


@pytest.fixture(params=["a poller of its own", "a descriptor in it", "its place in the other one"])
def shortage(request, monkeypatch):
    """The system refuses it."""
    if request.param == "a poller of its own":
        monkeypatch.setattr(outflow, "new_write_poller", no_room)
    elif request.param == "a descriptor in it":
        monkeypatch.setattr(EpollWrites, "watch", no_room)
    else:
        attach = Registrations.attach

        def refuses(registrations, task):
            if isinstance(task, outflow._OutflowTask):
                no_room()
            attach(registrations, task)

        monkeypatch.setattr(Registrations, "attach", refuses)


@pytest.fixture
def asked(shortage, serve, client):
    """A server, and two clients for whom bytes wait."""
    options = {"transport_options": {"send_buffer": 8_192}, "max_unsent": 2 * MOST}
    server = serve(Answers, send_timeout_ms=5_000, **options)
    socks = [client(server) for _ in range(2)]
    for sock in socks:
        sock.sendall(b"the end")
    assert eventually(lambda: [one.unsent > 0 for one in server.connections()] == [True, True])
    return server, socks


def test_what_waits_goes_out_although_the_system_has_no_room_to_watch_it(asked):
    server, socks = asked
    for sock in socks:
        assert receive(sock, MOST + 7).endswith(b"the end")
    assert eventually(lambda: server.info().busy_threads == 0)
    assert len(server.connections()) == 2


def test_who_looks_at_what_cannot_be_watched_rests_in_between(asked):
    server, _ = asked
    used = time.process_time()
    assert not eventually(lambda: len(server.connections()) < 2, timeout=0.5)
    assert time.process_time() - used < 0.25


def test_a_poller_that_somebody_has_closed_by_its_number_is_not_closed_again(serve, client):
    server = serve(Answers, transport_options={"send_buffer": 8_192}, max_unsent=2 * MOST)
    socks = [client(server) for _ in range(2)]
    socks[0].sendall(b"the end")
    assert eventually(server.connections)
    driver = server.connections()[0]._inbox._link.env.unsent.driver
    assert eventually(lambda: driver._watched and server.info().busy_threads == 0)
    before = driver._poller
    number, null = before.fileno(), os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, number)
    try:
        socks[1].sendall(b"the end")
        for sock in socks:
            assert receive(sock, MOST + 7).endswith(b"the end")
        assert driver._poller is not before
        assert os.fstat(number).st_rdev == os.fstat(null).st_rdev
    finally:
        os.close(null)
        os.close(number)


# ---- an upgrade that waits --------------------------------------------------------------


def test_a_file_that_is_sent_while_an_upgrade_waits_comes_after_it(served, tmp_path):
    sock, connection, peer = served
    (tmp_path / "file").write_bytes(b"secret")
    buffer = stream_of(connection).writer.buffered()
    buffer.on(ON_BARRIER)
    sends = threading.Thread(target=sock.sendfile, args=(tmp_path / "file",))
    sends.start()
    peer.settimeout(0.2)
    with pytest.raises(TimeoutError):
        peer.recv(6)
    buffer.on(ON_BARRIER_GONE)
    peer.settimeout(10)
    assert receive(peer, 6) == b"secret"
    sends.join(10)


@pytest.mark.parametrize("kind", ["EpollSelector", "PollSelector", "own"])
def test_a_message_may_upgrade_while_bytes_wait(kind, serve, client, authority, monkeypatch):
    if kind != "own":
        selector = getattr(selectors, kind)
        monkeypatch.setattr(run, "new_poller", lambda: SelectorPoller(selector))

    class Upgrades(Handler):
        def handle_data(self, data, socket):
            socket.send(data * MOST)

        def handle_info(self, message, socket):
            return SwitchTransport(TLS, authority.options)

        def handle_upgrade(self, socket):
            socket.send(b"hello")

    options = {"transport_options": {"host": "127.0.0.1", "send_buffer": 8_192}}
    server = serve(Upgrades, max_unsent=4 * MOST, **options)
    sock = client(server)
    sock.sendall(b"x")
    assert eventually(lambda: [one._inbox._link.deaf for one in server.connections()] == [True])
    (connection,) = server.connections()
    connection.post("upgrade")
    assert eventually(lambda: connection._inbox._link.machine.handshake is not None)
    assert receive(sock, MOST) == b"x" * MOST
    with authority.client_context().wrap_socket(sock, server_hostname="localhost") as secured:
        assert receive(secured, 5) == b"hello"


# ---- the books --------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [lambda buffer: buffer.end_as_stuck(1.0), SendBuffer.let_go])
def test_a_send_that_begins_to_wait_as_all_ends_is_not_counted(ends, monkeypatch):
    world = Books(senders=0)
    monkeypatch.setattr(waits, "current_worker", object)
    buffer = world.buffers[0]
    ends(buffer)
    counted = world.total.begins_to_wait(buffer, again=False)
    assert not world.total.crowded()
    world.total.ends_to_wait(buffer, counted)
    assert not world.total.crowded()
    assert world.total.faults() == []


class Takes(Full):
    """Takes nothing; meanwhile another thread does something, once."""

    def __init__(self, meanwhile):
        super().__init__()
        self._meanwhile = meanwhile

    def send(self, data, flags=0):
        meanwhile, self._meanwhile = self._meanwhile, None
        if meanwhile is not None:
            other = threading.Thread(target=meanwhile)
            other.start()
            other.join()
        return 0


def test_pushes_of_two_threads_keep_no_more_than_one_connection_may(served):
    _, connection, _ = served
    stream, outcomes = stream_of(connection), []

    def push():
        try:
            outcomes.append(connection.send(bytes(200_000)))
        except SendBufferFull:
            outcomes.append("full")

    stream.channel = Takes(push)
    assert connection.send(bytes(200_000)) == 200_000
    assert outcomes == ["full"]
    assert connection.unsent == 200_000
    assert connection.send(bytes(62_144)) == 62_144
    push()
    assert outcomes == ["full", "full"]
    connection.close(abort=True)
    assert connection._inbox._client.env.unsent.room() == 67_108_864


# ---- its end, while somebody sends ------------------------------------------------------


def test_a_push_to_a_connection_that_ends_meanwhile_says_that_it_has_ended(served):
    sock, connection, _ = served

    def pieces():
        yield b"one"
        sock.close()
        assert eventually(lambda: connection.closed and connection._inbox._link is None)
        yield b"two"

    with pytest.raises(SocketClosed):
        connection.send(pieces())


def test_a_shutdown_waits_for_the_rest_of_a_record(serve, client, authority):
    class Ends(Handler):
        sent = 0

        def handle_data(self, data, socket):
            socket.send(b"x" * 10_000)
            self.sent += 10_000
            while not (buffer := socket._writer.buffer) or buffer.size or not buffer.record:
                if buffer and buffer.size:
                    socket.flush()
                socket.send(b"x" * 10_000)
                self.sent += 10_000
            found.append(self.sent)
            socket.shutdown("write")

    found = []
    given = {**authority.options, "host": "127.0.0.1", "send_buffer": 8_192}
    server = serve(Ends, transport_cls=TLS, transport_options=given)
    context = authority.client_context()
    with context.wrap_socket(client(server), server_hostname="localhost") as sock:
        sock.sendall(b"x")
        assert eventually(lambda: found)
        assert len(receive_all(sock)) == found[0]


class BreaksOff(Full):
    """Sends, and meets an exception that another thread has raised here."""

    def send(self, data, flags=0):
        raise KeyboardInterrupt


def test_a_connection_ends_if_it_is_not_known_how_much_of_it_went_out(served):
    _, connection, peer = served
    stream = stream_of(connection)
    buffer, total = stream.writer.buffered(), connection._inbox._link.env.unsent
    before, total.driver = total.driver, Watches()
    try:
        stream.channel = BreaksOff()
        buffer.keep([memoryview(b"once")])
        with pytest.raises(KeyboardInterrupt):
            buffer.drive()
        assert peer.recv(1) == b""
        assert eventually(lambda: connection.closed)
        assert total.bytes == 0
    finally:
        total.driver = before
