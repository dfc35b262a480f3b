"""Nothing of the user's holds up a `stop`, and all of it may ask for one (G7, C3)."""

import gc
import logging
import signal
import socket
import ssl
import threading
import time

import pytest

from tests.support import Echo, echoes, eventually, receive_all, running
from thousand_island_sync import (
    TLS,
    Handler,
    ServerNotRunning,
    ThousandIsland,
    ThousandIslandError,
    attach_logger,
    detach_logger,
    events,
)
from thousand_island_sync._base.latch import Latch
from thousand_island_sync._server.status import ANSWERS, Answer, Ask, Turns


class Blocker:
    """Blocks whoever comes to it, until it is released."""

    def __init__(self):
        self.inside = threading.Event()
        self.go = threading.Event()

    def __call__(self, *arguments, **rest):
        self.inside.set()
        self.go.wait(20)


@pytest.fixture
def blocks():
    blocker = Blocker()
    yield blocker
    blocker.go.set()


@pytest.fixture
def connect_receiver():
    """Connects receivers to events by name, and disconnects them afterwards."""
    connected = []

    def connect(name, receiver):
        connected.append((name, receiver))
        events.ALL[name].connect(receiver, weak=False)

    yield connect
    for name, receiver in connected:
        events.ALL[name].disconnect(receiver)


def timed_stop(server, timeout_ms):
    """What `stop` returned; never later than it may be."""
    began = time.monotonic()
    result = server.stop(timeout_ms)
    assert time.monotonic() - began < timeout_ms / 1_000 + 0.5
    return result


# ---- beside what blocks ---------------------------------------------------------

ON_THREADS_OF_OURS = [
    "acceptor.start",
    "acceptor.accept",
    "acceptor.limit_reached",
    "handler.start",
    "handler.async_recv",
    "socket.handshake",
    "socket.send",
]
IN_THE_STOP = ["acceptor.shutdown", "listener.shutdown", "handler.shutdown", "socket.close"]


@pytest.mark.parametrize("name", ON_THREADS_OF_OURS)
def test_beside_a_receiver_that_blocks_already(name, serve, client, blocks, connect_receiver):
    connect_receiver(name, blocks)
    server = serve(Echo, max_connections=1 if "limit" in name else 100, num_acceptors=1)
    sock = client(server)
    sock.sendall(b"x")
    assert blocks.inside.wait(5)
    assert timed_stop(server, 300) is False, "not every event has been sent"
    assert server.status == "stopped"
    blocks.go.set()
    sock.settimeout(5)
    try:
        assert receive_all(sock) in (b"", b"x")
    except ConnectionError:
        pass  # cut


@pytest.mark.parametrize("name", IN_THE_STOP)
def test_beside_a_receiver_that_blocks_in_it(name, serve, client, blocks, connect_receiver):
    server = serve(Echo)
    echoes(client(server))
    connect_receiver(name, blocks)
    assert timed_stop(server, 300) is False
    assert blocks.inside.is_set()


def test_other_connections_end_in_order_though_a_receiver_of_the_stop_blocks(
    serve, client, blocks, connect_receiver
):
    goodbyes = []

    class Says(Echo):
        def handle_shutdown(self, socket):
            goodbyes.append(socket.send(b"bye"))

    server = serve(Says)
    socks = [client(server) for _ in range(5)]
    for sock in socks:
        echoes(sock)
    connect_receiver("listener.shutdown", blocks)
    assert timed_stop(server, 500) is False
    assert [receive_all(sock) for sock in socks] == [b"bye"] * 5


def test_beside_a_log_handler_that_blocks(serve, client, blocks):
    class Blocks(logging.Handler):
        def emit(self, record):
            blocks()

    logger = logging.getLogger("thousand_island_sync")
    handler = Blocks()
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.DEBUG)
    attach_logger("trace")
    try:
        server = ThousandIsland(port=0, host="127.0.0.1", handler_cls=Echo, num_acceptors=2)
        thread = threading.Thread(target=server.start)  # `listener.start` is told on it
        thread.start()
        assert blocks.inside.wait(5)
        assert eventually(lambda: server.status == "running")
        assert timed_stop(server, 300) is False
        blocks.go.set()
        thread.join(5)
    finally:
        detach_logger("error")
        logger.removeHandler(handler)
        logger.setLevel(level)


def test_beside_an_sni_callable_that_blocks(serve, client, authority, blocks):
    server = serve(Echo, transport_cls=TLS, transport_options={**authority.options, "sni": blocks})
    context = authority.client_context()

    def do_handshake():
        try:
            context.wrap_socket(client(server), server_hostname="localhost").close()
        except (OSError, ssl.SSLError):
            pass  # cut

    with running(do_handshake):
        assert blocks.inside.wait(5)
        assert timed_stop(server, 300) is False
        blocks.go.set()


def test_beside_a_constructor_that_blocks(serve, client, blocks):
    class Made(Handler):
        def __init__(self, options):
            blocks()

    server = serve(Made)
    client(server)
    assert blocks.inside.wait(5)
    assert timed_stop(server, 300) is False


def test_beside_a_del_that_blocks(serve, client, blocks):
    class Dies(Handler):
        def __del__(self):
            blocks()

    server = serve(Dies)
    client(server).close()
    assert blocks.inside.wait(5)
    timed_stop(server, 300)
    assert server.status == "stopped"


def test_suspend_beside_a_receiver_that_blocks_takes_a_moment(
    serve, client, blocks, connect_receiver
):
    server = serve(Echo, num_acceptors=1)
    connect_receiver("acceptor.accept", blocks)
    port = server.local_port
    client(server)
    assert blocks.inside.wait(5)
    waits = socket.create_connection(("127.0.0.1", port))  # in the backlog
    began = time.monotonic()
    server.suspend()
    assert time.monotonic() - began < 0.5
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    blocks.go.set()
    with waits:
        echoes(waits)
    server.resume()
    assert server.local_port == port


def test_a_stop_beside_a_suspend_whose_receivers_block(serve, client, blocks, connect_receiver):
    server = serve(Echo)
    connect_receiver("acceptor.accept", blocks)
    client(server)
    assert blocks.inside.wait(5)
    with running(server.suspend):
        assert timed_stop(server, 100) is False
        blocks.go.set()


# ---- asked for by receivers -----------------------------------------------------


@pytest.mark.parametrize("method", ["suspend", "resume", "stop", "info", "wait"])
def test_receivers_of_those_who_wait_in_the_backlog_may_call_it(
    method, serve, client, connect_receiver
):
    """While a `suspend` takes them in, which the first of them asks for."""
    called, first = [], threading.Event()

    def on_accept(server, **event):
        if not first.is_set():
            first.set()
            held.wait(5)
            server.suspend()
            return
        arguments = (0,) if method == "wait" else ()
        called.append(getattr(server, method)(*arguments))

    held = threading.Event()
    server = serve(Echo, num_acceptors=1)
    connect_receiver("acceptor.accept", on_accept)
    socks = [client(server) for _ in range(4)]
    assert first.wait(5)
    held.set()
    assert eventually(lambda: len(called) == 3)
    assert timed_stop(server, 1_000) in (True, False)
    for sock in socks:
        sock.close()


@pytest.mark.parametrize("name", ["listener.suspend", "listener.resume", "listener.start"])
@pytest.mark.parametrize("method", ["suspend", "resume", "stop"])
def test_receivers_of_a_change_may_ask_for_another(name, method, serve, connect_receiver):
    once, asked = threading.Lock(), []

    def ask(server, **event):
        if once.acquire(blocking=False):
            asked.append(getattr(server, method)())

    server = ThousandIsland(port=0, host="127.0.0.1", handler_cls=Echo)
    connect_receiver(name, ask)
    server.start()
    if server.status != "stopped":
        server.suspend()
    if server.status != "stopped":
        server.resume()
    assert eventually(lambda: len(asked) == 1)
    assert server.stop() is True


# ---- asked for by a signal's handler, or by the collector ------------------------


@pytest.fixture
def alarms():
    """Runs a function on the main thread so many seconds from now, by a signal."""
    before = signal.getsignal(signal.SIGALRM)

    def after(seconds, call):
        signal.signal(signal.SIGALRM, lambda *_: call())
        signal.setitimer(signal.ITIMER_REAL, seconds)

    yield after
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_signals_handler_calls_each_method_in_the_middle_of_a_stop(serve, client, alarms):
    """They are begun and return at once; `wait` says that it would wait for itself."""
    release, said = threading.Event(), {}

    class Slow(Handler):
        def handle_connection(self, socket):
            release.wait(20)

    def handler():
        for method in ("stop", "suspend", "resume", "info"):
            began = time.monotonic()
            said[method] = getattr(server, method)()
            assert time.monotonic() - began < 0.2
        with pytest.raises(ThousandIslandError, match="wait for itself"):
            server.wait()
        release.set()

    server = serve(Slow)
    client(server)
    assert eventually(lambda: server.info().busy_threads)
    alarms(0.1, handler)
    assert server.stop(10_000) is True
    assert said["stop"] is False
    assert said["info"].status == "stopping"


@pytest.mark.parametrize("method", ["start", "suspend", "resume", "stop"])
def test_a_stop_by_a_signals_handler_at_any_moment_of_a_change(method, alarms):
    results = []
    for number in range(25):
        server = ThousandIsland(port=0, host="127.0.0.1", handler_cls=Echo, num_acceptors=2)
        if method != "start":
            server.start()
        if method == "resume":
            server.suspend()
        results.clear()
        alarms(
            0.000_05 + number * 0.000_2, lambda server=server: results.append(server.stop(1_000))
        )
        try:
            getattr(server, method)()
        except ServerNotRunning:
            assert method != "start"  # it was stopped already
        assert eventually(lambda: results)
        assert server.stop(1_000) is True
        assert server.status in ("stopped", "new")


def test_a_del_that_the_collector_runs_may_stop_the_server(serve, client):
    """On whichever thread: a connection that makes many objects makes the collector run there."""
    results = []

    class Stops:
        def __init__(self, server):
            self.server, self.itself = server, self

        def __del__(self):
            results.append(self.server.stop(2_000))

    class Collects(Handler):
        def handle_data(self, data, socket):
            Stops(self.options[0])
            gc.collect()

    options = []
    server = serve(Collects, handler_options=options)
    options.append(server)
    client(server).sendall(b"x")
    assert server.wait(5_000) is True
    assert eventually(lambda: results == [True])


# ---- the pieces -----------------------------------------------------------------


def test_every_status_has_an_answer_to_everything_that_is_asked():
    statuses = {status for status, _ in ANSWERS}
    assert statuses == {"new", "running", "suspended", "draining", "stopping", "stopped"}
    assert len(ANSWERS) == len(statuses) * len(Ask)
    for status in statuses:
        told = status in ("running", "suspended", "draining", "stopping")
        assert (ANSWERS[status, Ask.START] is Answer.GO) is not told
        assert (ANSWERS[status, Ask.STOP] is Answer.GO) is told


def test_turns_go_in_the_order_of_those_who_came_and_past_the_dead():
    turns, order = Turns(), []

    def take(number):
        with turns:
            order.append(number)

    def dies():
        turns.__enter__()

    threading.Thread(target=dies).start()
    assert eventually(lambda: turns._owner is not None and not turns._owner.is_alive())
    take(0)
    turns.__enter__()
    threads = []
    for number in range(1, 6):
        threads.append(threading.Thread(target=take, args=(number,)))
        threads[-1].start()
        assert eventually(lambda number=number: len(turns._queue) == number)
    turns.__exit__()
    for thread in threads:
        thread.join(5)
    assert order == [0, 1, 2, 3, 4, 5]


def test_a_latch_lets_go_all_who_wait_and_all_who_come():
    latch, came = Latch(), []
    assert latch.wait(0) is False
    assert latch.wait(0.01) is False
    with running(*[lambda: came.append(latch.wait(5))] * 8):
        assert eventually(lambda: len(latch._waiting) == 8)
        latch.open()
    assert came == [True] * 8
    assert latch.wait() is True
    assert not latch._waiting
