"""Nothing of the user's runs while anything of ours is held: a receiver may call what it likes, and
whatever of the user's takes its time holds up its own thread and connection, never a stop."""

import logging
import threading
import time

import pytest

from tests.support import answers, eventually, reset, running
from thousand_island_sync import Close, Handler, SocketError, ThousandIslandError, events
from thousand_island_sync._base import locks

pytestmark = pytest.mark.skipif(not locks.watched, reason="by the watch it is known who has one")


@pytest.fixture
def receivers():
    """Connects receivers, which are gone afterwards."""
    connected = []

    def connect(name, receiver):
        events.ALL[name].connect(receiver, weak=False)
        connected.append((name, receiver))

    yield connect
    for name, receiver in connected:
        events.ALL[name].disconnect(receiver)


@pytest.fixture
def sockets(tmp_path):
    """By connection; and a file that takes its time."""
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(100_000_000)
    return {"large": large}


# ---- receivers ----------------------------------------------------------------------


DOES = [
    (b"x", "socket.send"),
    (b"s", "socket.send_error"),
    (b"f", "socket.sendfile"),
    (b"n", "socket.sendfile_error"),
    (b"r", "socket.recv_error"),
    (b"c", "socket.close"),
]


class Closing(Handler):
    """Each callback does what its byte says; the receivers find its socket by its connection."""

    def handle_connection(self, sock):
        self.options[sock.connection_id] = sock

    def handle_data(self, data, sock):
        if data == b"s":
            sock.send(b"x" * 20_000_000, timeout_ms=50)
        elif data == b"f":
            sock.sendfile(__file__)
        elif data == b"n":
            sock.sendfile(self.options["large"])
        elif data == b"r":
            sock.recv(10, timeout_ms=20)
        elif data == b"c":
            return Close()
        else:
            sock.send(data)
        return None


@pytest.mark.parametrize(("byte", "event"), [*DOES[:-1], (b"x", "handler.async_recv")])
@pytest.mark.parametrize("does", ["close", "send", "recv", "close from outside", "call others"])
def test_g7_a_receiver_may_use_the_socket_that_it_is_told_of(
    byte, event, does, serve, client, receivers, sockets
):
    told, met = threading.Event(), []

    def receiver(server, *, event, measurements, metadata):
        if told.is_set():
            return
        told.set()
        sock = sockets[metadata["connection_id"]]
        assert locks.held_here() == []
        try:
            if does == "close":
                sock.close()
            elif does == "send":
                sock.send(b"!", timeout_ms=50)
            elif does == "recv":
                sock.recv(1, timeout_ms=20)
            elif does == "close from outside":
                sock.connection.close()
            else:
                server.info()
                server.connections()
                sock.connection.post("hello")
                assert sock.connection.pending == 1
        except SocketError as error:
            met.append(error)

    receivers(event, receiver)
    server = serve(Closing, handler_options=sockets, send_timeout_ms=100)
    sock = client(server)
    assert eventually(lambda: len(sockets) == 2)
    sock.sendall(byte)
    assert told.wait(5)
    if does in ("close", "close from outside"):
        assert eventually(lambda: server.info().active_connections == 0)
    assert answers(client(server)), "the server goes on"


def test_g7_every_event_is_told_with_nothing_held(serve, client, receivers, sockets):
    """And each receiver asks for everything that any thread may ask for."""
    seen, failures = {}, []

    def receiver(server, *, event, measurements, metadata):
        if locks.held_here():
            failures.append((event, locks.held_here()))
        seen[event] = threading.current_thread().name
        server.info()
        for connection in server.connections():
            try:
                connection.post(event)
            except ThousandIslandError:
                pass

    for name in events.ALL:
        receivers(name, receiver)
    server = serve(
        Closing,
        handler_options=sockets,
        max_connections=3,
        max_handler_threads=2,
        num_acceptors=1,
        send_timeout_ms=50,
    )
    for byte, event in DOES:
        sock = client(server)
        sock.sendall(byte)
        assert eventually(lambda event=event: event in seen), event
        reset(sock)
        assert eventually(lambda: server.info().active_connections == 0)
    several = [client(server) for _ in range(3)]
    assert eventually(lambda: "acceptor.limit_reached" in seen)
    for sock in several:
        sock.close()
    assert eventually(lambda: "acceptor.limit_cleared" in seen)
    server.suspend()
    server.resume()
    assert answers(client(server))
    assert server.stop(2_000)
    assert failures == []
    assert {"listener.suspend", "listener.resume", "acceptor.accept"} <= set(seen)


def test_no_receiver_is_compared_under_a_lock():
    held = []

    class Receiver:
        def __call__(self, server, **facts):
            raise ValueError("a bug of the user's")

        def __eq__(self, other):
            held.append(locks.held_here())
            return self is other

        __hash__ = object.__hash__

    one, other = Receiver(), Receiver()
    for receiver in (one, other):
        events.pool_relieved.connect(receiver, weak=False)
    logging.getLogger("thousand_island_sync").disabled = True
    try:
        for _ in range(2):
            events.emit(
                events.pool_relieved, None, {"busy_threads": 0, "waiting_connections": 0}, {}
            )
    finally:
        logging.getLogger("thousand_island_sync").disabled = False
        for receiver in (one, other):
            events.pool_relieved.disconnect(receiver)
    assert held
    assert not any(held)


# ---- a stop beside what takes its time ------------------------------------------------------


class Stuck:
    """Takes its time, once it was told to; a test ends it."""

    def __init__(self):
        self.wanted = threading.Event()
        self.began = threading.Event()
        self.over = threading.Event()

    def __call__(self, *arguments, **named):
        if self.wanted.is_set():
            self.began.set()
            self.over.wait(20)


@pytest.fixture
def stuck():
    made = Stuck()
    yield made
    made.over.set()


def stops_in_time(server, stuck, limit_ms=300):
    began = time.monotonic()
    ended = server.stop(limit_ms)
    took = time.monotonic() - began
    assert took < limit_ms / 1000 + 0.7, f"stop({limit_ms}) took {took:.2f} s"
    stuck.over.set()
    assert server.stop(5_000) is not None
    assert eventually(lambda: server.status == "stopped")
    return ended


@pytest.mark.parametrize(
    "event",
    [
        "acceptor.accept",
        "handler.start",
        "handler.async_recv",
        "socket.send",
        "socket.send_error",
        "handler.shutdown",
        "socket.close",
        "pool.saturated",
        "acceptor.limit_reached",
        "listener.shutdown",
        "acceptor.shutdown",
    ],
)
def test_a_stop_is_in_time_beside_a_receiver(event, serve, client, receivers, stuck):
    receivers(event, stuck)
    limits = {"max_connections": 1} if event == "acceptor.limit_reached" else {}
    server = serve(Closing, handler_options={}, max_handler_threads=1, **limits)
    if not limits:
        assert answers(client(server))
    stuck.wanted.set()
    sock = client(server)
    if event == "pool.saturated":
        others = [client(server) for _ in range(3)]
        for one in (sock, *others):
            one.sendall(b"r")
    elif event == "socket.send_error":
        sock.sendall(b"s")
    elif event in ("handler.shutdown", "socket.close"):
        sock.sendall(b"c")
    elif not event.endswith(".shutdown"):
        sock.sendall(b"x")
    if not event.endswith((".shutdown", ".saturated")) or event == "handler.shutdown":
        assert stuck.began.wait(5)
    stops_in_time(server, stuck)


def test_a_stop_is_in_time_beside_a_log_handler(serve, client, stuck):
    class Blocks(logging.Handler):
        def emit(self, record):
            stuck()

    class Fails(Handler):
        def handle_data(self, data, sock):
            raise ValueError("a bug of the user's")

    log, handler = logging.getLogger("thousand_island_sync"), Blocks()
    log.addHandler(handler)
    try:
        server = serve(Fails)
        stuck.wanted.set()
        client(server).sendall(b"x")
        assert stuck.began.wait(5)
        assert stops_in_time(server, stuck) is False
    finally:
        stuck.over.set()
        log.removeHandler(handler)


def test_a_stop_is_in_time_beside_a_constructor(serve, client, stuck):
    class Slow(Handler):
        def __init__(self, options):
            super().__init__(options)
            stuck()

    server = serve(Slow)
    stuck.wanted.set()
    client(server)
    assert stuck.began.wait(5)
    assert stops_in_time(server, stuck) is False


@pytest.mark.parametrize(
    "name", ["scheduler", "connection.limit", "mailbox", "connection", "listener"]
)
def test_a_stop_is_in_time_beside_a_del_that_the_collector_runs_under_a_lock(
    name, serve, client, stuck, monkeypatch
):
    """It holds up whoever wants that lock, and of the stop only its result."""

    class Posts(Handler):
        def handle_connection(self, sock):
            self.options.append(sock.connection)

        def handle_data(self, data, sock):
            sock.connection.post("hello")
            sock.send(data)

    known = []
    server = serve(Posts, handler_options=known)
    sock = client(server)
    assert answers(sock)
    taken = []

    def disturb(one, what):
        if what == locks.TOOK and not taken and locks.held_here()[-1] == name:
            taken.append(one)
            stuck.wanted.set()
            stuck()

    monkeypatch.setattr(locks, "disturb", disturb)
    with running(lambda: sock.sendall(b"x"), lambda: client(server).sendall(b"x")):
        pass
    began = time.monotonic()
    ended = server.stop(300)
    took = time.monotonic() - began
    assert took < 1, f"stop(300) took {took:.2f} s"
    assert taken, "nobody took it"
    assert ended is False
    stuck.over.set()
    server.stop(5_000)
    assert eventually(lambda: server.status == "stopped")
