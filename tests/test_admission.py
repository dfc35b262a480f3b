"""The way in, without a server: places, who is interrupted in an entrance, and backlogs."""

import socket
from types import SimpleNamespace

import pytest

from tests.support import receive_all
from thousand_island_sync import events
from thousand_island_sync._listener.acceptor_events import AcceptorEvents
from thousand_island_sync._listener.admission import BATCH, Admission, Rest
from thousand_island_sync._listener.backlog import Backlog
from thousand_island_sync._listener.connection_limit import ConnectionLimit, Places


class Interruption(BaseException):
    """As it is raised in a thread from elsewhere."""


class Connection:
    """What is made of a client."""

    def __init__(self, env, transport, sock, address, acceptor_id):
        env.made(self)
        self.sock, self.fd = sock, sock.fileno()
        self.machine = SimpleNamespace(stream=None)
        self.client = SimpleNamespace(
            peer_address=address, acceptor_id=acceptor_id, id=str(self.fd), accepted_at_ns=0
        )

    def broke(self):
        self.sock.close()


class World:
    """Everything that the way in leads to. `fails` is called where something may be interrupted."""

    current = "the transport"

    def __init__(self, limit=100):
        self.told, self.running = [], []
        self.fails = lambda where: None
        self.limit = ConnectionLimit(limit, 0, lambda *edge: self.told.append(edge))
        self.admission = Admission(
            self, self, Connection, self.limit, self, AcceptorEvents("the server")
        )

    def made(self, connection):
        self.fails("make")

    def add(self, *tasks):
        self.fails("add")
        self.running.extend(tasks)
        self.fails("added")

    def has(self, task):
        return task in self.running

    def interrupted(self):
        pass


@pytest.fixture
def listeners():
    """Two listening sockets, which do not wait."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as two:
        one.setblocking(False)
        two.setblocking(False)
        yield one, two


@pytest.fixture
def connect():
    """Connects so many clients; they are closed in the end, as what was accepted is."""
    clients = []

    def connected(listener, count=1):
        number = listener.getsockname()[1]
        new = [socket.create_connection(("127.0.0.1", number), timeout=5) for _ in range(count)]
        clients.extend(new)
        return new

    yield connected
    for sock in clients:
        sock.close()


@pytest.fixture
def worlds():
    made = []

    def world(**options):
        made.append(World(**options))
        return made[-1]

    yield world
    for one in made:
        for connection in one.running:
            connection.sock.close()


def places_of(limit, count):
    """That many more may be reserved."""
    places = limit.places()
    got = sum(places.reserve() for _ in range(count + 1))
    places.give_back()
    return got == count


def test_many_places_are_given_where_there_are_many_and_one_where_there_are_few():
    limit = ConnectionLimit(10, 0, lambda *edge: None)
    first, second = limit.places(), limit.places()
    assert first.reserve(5)
    assert first.count == 5
    assert second.reserve(5)
    assert second.count == 1
    first.give_back()
    assert places_of(limit, 9)
    first.reserve(4)
    first.become(1, ["one", "two"])
    assert limit.active == 2
    assert places_of(limit, 7), "those that were left over are free again"


def test_the_edges_of_the_limit_are_told_in_order_though_one_is_made_in_a_receiver():
    told = []

    def tell(reached, active, acceptor_id):
        told.append((reached, active, acceptor_id))
        if reached:
            limit.ended(two)
            assert told[-1][0], "it is told once this one has returned"

    class Counted:
        client = SimpleNamespace(acceptor_id=3)
        machine = SimpleNamespace(stream=None)

    one, two = Counted(), Counted()
    limit = ConnectionLimit(2, 0, tell)
    places = limit.places()
    places.reserve()
    places.become(3, [one])
    places.reserve()
    places.become(3, [two])
    limit.edges.tell()
    assert told == [(True, 2, 3), (False, 1, 3)]
    limit.ended(one)
    assert limit.active == 0
    assert len(told) == 2


def test_clients_are_taken_until_nobody_waits_there_is_no_place_or_it_is_enough(
    listeners, connect, worlds
):
    world = worlds(limit=2 * BATCH + 5)
    entrance = world.admission.entrance(listeners[0], 7)
    assert entrance.take() is Rest.NOBODY
    assert not entrance
    assert places_of(world.limit, 2 * BATCH + 5)
    connect(listeners[0], 2 * BATCH + 10)
    assert entrance.take() is Rest.MORE
    entrance.hand_over()
    assert len(world.running) == entrance.count() == BATCH
    ends = []
    while world.limit.has_room():
        ends.append(entrance.take())
        entrance.hand_over()
    assert entrance.take() is Rest.NO_PLACE
    assert len(world.running) == world.limit.active == 2 * BATCH + 5
    assert {one.client.acceptor_id for one in world.running} == {7}
    assert world.told == [(True, 2 * BATCH + 5, 7)]


@pytest.mark.parametrize("where", ["make", "become", "add", "added"])
@pytest.mark.parametrize("nth", [1, 2])
def test_who_is_interrupted_loses_nobody_and_counts_nobody_twice(
    where, nth, listeners, connect, worlds, monkeypatch
):
    world, calls, become = worlds(limit=3), [], Places.become

    def fails(here):
        calls.append(here)
        if calls.count(where) == nth and here == where:
            raise Interruption

    def becomes(places, *arguments):
        become(places, *arguments)
        fails("become")

    monkeypatch.setattr(Places, "become", becomes)
    world.fails = fails
    entrance = world.admission.entrance(listeners[0], 1)
    for _ in range(2):
        connect(listeners[0])
        try:
            entrance.take()
            entrance.hand_over()
        except Interruption:
            entrance.rescue()
    assert calls.count(where) >= nth
    assert len(world.running) == len({one.fd for one in world.running}) == world.limit.active == 2
    assert places_of(world.limit, 1)
    assert not entrance


def test_who_has_gone_when_it_is_rescued_is_closed(listeners, connect, worlds):
    world = worlds()

    def fails(here):
        raise Interruption

    entrance = world.admission.entrance(listeners[0], 1)
    (client,) = connect(listeners[0])
    world.fails = fails
    with pytest.raises(Interruption):
        entrance.take()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    entrance.rescue()
    assert world.limit.active == 0
    assert places_of(world.limit, 100)


def test_whom_nobody_can_run_is_refused_and_told(listeners, connect, worlds, record):
    recorder = record("acceptor.spawn_error")
    world = worlds()

    def fails(here):
        if here == "add":
            raise RuntimeError("no thread")

    world.fails = fails
    entrance = world.admission.entrance(listeners[0], 1)
    (client,) = connect(listeners[0])
    assert entrance.reserve()
    assert entrance.take(1) is Rest.MORE
    entrance.introduce(0)
    assert receive_all(client) == b""
    assert (world.limit.active, world.limit.rejected) == (0, 1)
    assert [str(one.measurements["error"]) for one in recorder.told] == ["no thread"]


def test_each_client_of_several_backlogs_is_refused_once(listeners, connect, worlds):
    world = worlds(limit=2)
    first, second = listeners
    clients = connect(first, 3) + connect(second, 4)
    told = []

    def refused(server, *, measurements, metadata, **rest):
        told.append(str(measurements["error"]))

    backlog = Backlog(world.admission, 0, "name")
    with events.acceptor_spawn_error.connected_to(refused):
        assert backlog.take(first, 3)
        assert not backlog.take(second, 100)
        assert world.limit.rejected == 5
        assert not told, "before all are taken"
        backlog.settle()
    assert len(told) == 5
    assert not backlog
    assert len(world.running) == world.limit.active == 2
    assert world.limit.rejected == 5
    assert [receive_all(client) for client in clients[2:]] == [b""] * 5
