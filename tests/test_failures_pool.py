"""Failures of threads and pools, by their ids in the catalogue
(docs/explanation/reliability.md)."""

import contextlib
import gc
import os
import re
import socket
import subprocess
import threading
import time

import pytest

from tests.programs import UNCHECKED, Script, program
from tests.support import (
    Echo,
    busy_seconds,
    echoes,
    eventually,
    exchange,
    journal,
    memory_kib,
    receive,
    receive_all,
    reset,
    watch_sleeps,
)
from thousand_island_sync import (
    TLS,
    Close,
    Continue,
    Handler,
    SocketClosed,
    SocketError,
    SocketTimeout,
    ThousandIsland,
    attach_logger,
    events,
)
from thousand_island_sync.testing import hostile

# ---- B1, B2: more clients than threads -----------------------------------------------


def test_b1_ten_times_as_many_idle_clients_as_threads_delay_nobody(wire):
    server = wire.serve(Echo, max_handler_threads=4)
    idle = [wire.connect(server) for _ in range(40)]
    assert eventually(lambda: server.info().active_connections == 40)
    began = time.monotonic()
    late = wire.connect(server)
    echoes(late)
    assert time.monotonic() - began < 0.3
    assert server.info().handler_threads <= 4
    for sock in idle:
        echoes(sock)


def test_b1_nor_do_clients_that_dribble(serve, client):
    class Lines(Handler):
        def handle_data(self, data, socket):
            line, end, rest = data.partition(b"\n")
            if not end:
                return socket.unread(data)
            socket.unread(rest)
            return socket.send(line + end) and None

    server = serve(Lines, max_handler_threads=2)
    dribbling = [client(server) for _ in range(20)]
    for byte in b"slow":
        for sock in dribbling:
            sock.sendall(bytes([byte]))
        began = time.monotonic()
        echoes(client(server), b"quick\n")
        assert time.monotonic() - began < 0.3
    for sock in dribbling:
        sock.sendall(b"\n")
        assert receive(sock, 5) == b"slow\n"
    assert server.info().handler_threads <= 2


@pytest.mark.parametrize("checks", ["0", "1"])
def test_b1_nor_does_the_very_first_one_whose_first_callback_blocks(
    serve, client, monkeypatch, checks
):
    """Servers that check themselves look at everything every 20 ms, which hid that nobody did."""
    monkeypatch.setenv("THOUSAND_ISLAND_DEBUG", checks)
    release = threading.Event()

    class Waits(Handler):
        def handle_connection(self, socket):
            if self.options.pop() == "first":
                release.wait(10)
            socket.send(b"hello")

    server = serve(Waits, handler_options=["second", "first"])
    assert eventually(lambda: watch_sleeps(server))
    first, second = client(server), client(server)
    assert receive(second, 5) == b"hello"
    release.set()
    assert receive(first, 5) == b"hello"


@pytest.mark.parametrize("checks", ["0", "1"])
def test_b2_a_message_that_finds_no_thread_is_told_as_well(
    serve, client, record, monkeypatch, checks
):
    monkeypatch.setenv("THOUSAND_ISLAND_DEBUG", checks)
    recorder = record("pool.saturated")
    release = threading.Event()

    class Waits(Handler):
        def handle_data(self, data, socket):
            release.wait(10)

        def handle_info(self, message, socket):
            socket.send(b"here")

    server = serve(Waits, max_handler_threads=1)
    quiet = client(server)
    assert eventually(lambda: len(server.connections()) == 1)
    (connection,) = server.connections()
    client(server).sendall(b"x")
    assert eventually(lambda: server.info().busy_threads == 1)
    assert eventually(lambda: not server._run.scheduler.attended())
    assert eventually(lambda: watch_sleeps(server))  # it stands in
    connection.post("hello")
    recorder.wait_for("pool.saturated")
    release.set()
    assert receive(quiet, 4) == b"here"


def test_b2_a_blocked_pool_is_bounded_tells_and_serves_all_afterwards(serve, client, record):
    recorder = record("pool.saturated", "pool.relieved")
    release = threading.Event()
    order = []

    class Blocks(Handler):
        def handle_data(self, data, socket):
            release.wait(20)
            order.append(data)
            socket.send(data)

    server = serve(Blocks, max_handler_threads=4)
    clients = []
    for number in range(40):
        sock = client(server)
        sock.sendall(b"%02d" % number)
        clients.append(sock)
        # One after the other, so that an order is there to be kept.
        assert eventually(
            lambda n=number: (
                server.info().waiting_connections == max(0, n + 1 - 4)
                and server.info().busy_threads == min(n + 1, 4)
            )
        )
    recorder.wait_for("pool.saturated")
    assert server.info().handler_threads == 4
    assert busy_seconds(0.5) < 0.1, "a blocked pool costs nothing"
    release.set()
    for number, sock in enumerate(clients):
        assert receive(sock, 2) == b"%02d" % number
    # A machine that stands still for a moment may make an episode of its own meanwhile.
    assert eventually(lambda: recorder.names()[-1] == "pool.relieved")
    names = recorder.names()
    assert names == ["pool.saturated", "pool.relieved"] * (len(names) // 2)
    # In which order four threads note it is theirs; that of the queue is tested with one.
    assert sorted(order) == [b"%02d" % number for number in range(40)]


def test_b2_beyond_max_connections_each_client_waits_or_is_closed(serve, client, record):
    recorder = record("acceptor.spawn_error")
    release = threading.Event()

    class Blocks(Handler):
        def handle_connection(self, socket):
            release.wait(20)
            return Close()

    server = serve(Blocks, max_handler_threads=4, max_connections=8, max_connections_wait_ms=100)
    clients = [client(server) for _ in range(80)]
    threads = threading.active_count()
    recorder.wait_for("acceptor.spawn_error", 72)
    assert threading.active_count() <= threads + 4
    assert (server.info().handler_threads, server.info().active_connections) == (4, 8)
    release.set()
    for sock in clients:
        assert receive_all(sock) == b""


# ---- B3, B4: slow peers ----------------------------------------------------------------


def test_b3_a_byte_now_and_then_is_no_silence_but_a_deadline_is_total(serve, client):
    deadline_ms, read_timeout_ms = 600, 200

    class Total(journal()):
        def handle_connection(self, socket):
            return Continue(deadline_ms=deadline_ms)

    class Silence(journal()):
        pass

    for handler, closes in ((Total, True), (Silence, False)):
        server = serve(handler, read_timeout_ms=read_timeout_ms)
        began = time.monotonic()
        outcome = hostile.dribble(server.local_address, b"." * 1_000, 20, timeout_ms=900)
        took = time.monotonic() - began
        if closes:
            assert outcome.ended in ("eof", "reset")
            assert 0.54 < took < 0.66 + 0.2
            assert eventually(lambda names=handler.names: names() == ["timeout", "end"])
        else:
            assert outcome.ended == "timeout"
            assert "timeout" not in handler.names()


def test_b4_a_peer_that_never_reads_ends_a_send_in_total_time(wire, record):
    recorder = record("socket.send_error")
    caught = []

    class Floods(journal()):
        def handle_data(self, data, socket):
            try:
                socket.send(bytes(100_000_000))
            except SocketTimeout as error:
                caught.append(error)
                raise

    server = wire.serve(Floods, send_timeout_ms=700)
    sock = wire.connect(server)
    began = time.monotonic()
    sock.sendall(b"go")
    # It takes a little now and then: the time is for all of it, not for each step.
    pause = threading.Event()
    while not caught and time.monotonic() - began < 5:
        pause.wait(0.05)
        sock.recv(1_000)
    took = time.monotonic() - began
    assert Floods.ended()
    assert 0.6 < took < 1.2
    assert Floods.names() == ["error", "end"]
    assert eventually(lambda: server.info().active_connections == 0)
    # Two; one where who looks at what waits has found the peer stuck at that very moment.
    *tells, lost = recorder.of("socket.send_error")
    for told in tells:
        assert told.measurements["bytes_sent"] == caught[0].bytes_sent > 0
        assert told.measurements["bytes_lost"] == 0
    assert lost.measurements["bytes_lost"] > 0  # what the end finds still waiting


# ---- B5, B8: what handlers and receivers raise --------------------------------------------


class OwnBaseException(BaseException):
    pass


ANYTHING = [
    SystemExit,
    KeyboardInterrupt,
    GeneratorExit,
    MemoryError,
    RecursionError,
    OwnBaseException,
]
CALLBACKS = ["connection", "data", "eof", "info", "call", "close", "error", "timeout", "end"]


def raising(name, error):
    """A handler whose `handle_<name>` raises; the others see to it that it is called."""

    def raises(self, *arguments):
        raise error

    def fails(self, data, socket):
        raise ValueError(data)

    attributes = {"handle_data": Echo.handle_data}
    if name == "error":
        attributes["handle_data"] = fails
    if name == "timeout":
        attributes["handle_connection"] = lambda self, socket: Continue(timeout_ms=1)
    if name == "info":
        attributes["handle_connection"] = lambda self, socket: socket.connection.post("x")
    attributes[f"handle_{name}"] = raises
    return type("Raises", (Handler,), attributes)


@pytest.mark.heavy
@pytest.mark.parametrize("error", ANYTHING, ids=lambda error: error.__name__)
def test_b5_every_callback_raises_it_two_hundred_times(error, serve, client, record, caplog):
    caplog.set_level("CRITICAL", "thousand_island_sync")
    for name in CALLBACKS:
        raise_often(name, error, serve, client, record)


def raise_often(name, error, serve, client, record):
    recorder = record("handler.start", "handler.shutdown", "handler.error", "socket.close")
    Raises = raising(name, error)
    server = serve(Raises)
    for _ in range(200):
        with client(server) as sock, contextlib.suppress(ConnectionError):
            if name == "call":
                assert eventually(server.connections)
                with pytest.raises(error):
                    server.connections()[0].call("x")
            if name not in ("timeout", "connection", "info"):
                sock.sendall(b"x")
                if name in ("call", "eof", "close", "end"):
                    sock.shutdown(socket.SHUT_WR)
            assert receive_all(sock) in (b"", b"x")
        assert eventually(lambda: server.info().active_connections == 0)
    assert server.info().handler_threads <= 3
    assert eventually(lambda: len(recorder.of("socket.close")) == 200)
    recorder.close()
    names = recorder.names()
    assert names.count("handler.start") == 200
    assert names.count("handler.shutdown") + names.count("handler.error") == 200
    if name in ("connection", "data", "eof", "info"):
        told = {type(one.measurements["error"]) for one in recorder.of("handler.error")}
        assert told == {error}
    for attribute in CALLBACKS:
        if f"handle_{attribute}" in vars(Raises):
            delattr(Raises, f"handle_{attribute}")
    Raises.handle_data = Echo.handle_data
    echoes(client(server))
    assert server.stop() is True


def test_b8_a_receiver_that_raises_on_every_event_changes_nothing(
    request, serve, client, record, caplog
):
    seen = dict.fromkeys(events.ALL, 0)

    def raises(server, *, event, **rest):
        seen[event] += 1
        # On the user's own thread that would be passed on: see test_events.
        raise ValueError(event) if event.startswith("listener.") else OwnBaseException(event)

    for signal in events.ALL.values():
        signal.connect(raises)
        request.addfinalizer(lambda signal=signal: signal.disconnect(raises))
    later = record()
    server = serve(Echo)
    for _ in range(20):
        with client(server) as sock:
            echoes(sock)
    assert eventually(lambda: server.info().active_connections == 0)
    server.stop()
    told = {name for name, count in seen.items() if count}
    assert {"acceptor.accept", "handler.start", "socket.send", "socket.close"} <= told
    assert seen["socket.send"] == 20, "it stays connected"
    assert len(caplog.records) == len(told), "and each is logged once"
    assert set(later.names()) >= told
    assert later.names().count("socket.send") == 20


# ---- B6, B7: nothing grows -----------------------------------------------------------------


def connect(server, context):
    address = server.local_address
    sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    sock.settimeout(10)
    sock.connect(address)
    return sock if context is None else context.wrap_socket(sock, server_hostname="localhost")


def visit(server, context, number):
    """One short connection, of one of several kinds."""
    kind = number % 5
    if kind == 4 and context is not None:
        with connect(server, None) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")  # a failed handshake
            receive_all(sock)
        return
    with connect(server, context) as sock:
        if kind == 0:
            echoes(sock, b"x" * 100)
        elif kind == 1:
            reset(sock)
        elif kind < 4:
            sock.sendall(b"fail" if kind == 2 else b"close")
            receive_all(sock)


class Mixed(Handler):
    def handle_data(self, data, socket):
        if data == b"fail":
            raise ConnectionError("told so")
        if data == b"close":
            return Close()
        return socket.send(data) and None


@pytest.mark.heavy
def test_b6_b7_thousands_of_mixed_connections_leave_nothing(wire, caplog):
    caplog.set_level("CRITICAL", "thousand_island_sync")
    server = wire.serve(Mixed)
    context, rounds = wire.context(), 200 if wire.secure else 1_000
    for number in range(rounds):
        visit(server, context, number)
    assert eventually(lambda: server.info().active_connections == 0)
    caplog.clear()
    gc.collect()
    descriptors = len(os.listdir("/proc/self/fd"))
    threads = threading.active_count()
    memory = memory_kib()
    for number in range(4 * rounds):
        visit(server, context, number)
    assert eventually(lambda: server.info().active_connections == 0)
    assert server.connections() == []
    caplog.clear()
    gc.collect()
    assert eventually(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)
    assert threading.active_count() <= threads + 2
    assert memory_kib() - memory < 5_000


def test_b7_a_hundred_starts_and_stops_leave_nothing(tmp_path, authority):
    kinds = [
        {"host": "127.0.0.1", "port": 0},
        {"host": f"unix:{tmp_path}/s"},
        {
            "host": "127.0.0.1",
            "port": 0,
            "transport_cls": TLS,
            "transport_options": authority.options,
            "interrupt_reads": True,
        },
    ]

    def round_of(options):
        with ThousandIsland(handler_cls=Echo, num_acceptors=3, **options) as server:
            address = server.local_address
            family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
            with socket.socket(family) as sock:
                sock.connect(address)

    for options in kinds:
        round_of(options)
    gc.collect()
    descriptors, memory = len(os.listdir("/proc/self/fd")), memory_kib()
    for number in range(100):
        round_of(kinds[number % 3])
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert threading.active_count() == 1
    assert memory_kib() - memory < 3_000


@pytest.mark.heavy
def test_b6_fifty_thousand_short_connections_without_growth():
    """In a process of its own, so that what is measured is the server alone."""
    ab = program("ab")
    with Script("-m", "tests.served", "Hello", environment=UNCHECKED) as script:

        def crowd(count):
            done = subprocess.run(
                [ab, "-q", "-n", str(count), "-c", "20", f"http://127.0.0.1:{script.port}/"],
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == 0, done.stderr
            assert re.search(r"Failed requests:\s+0\n", done.stdout), done.stdout

        crowd(5_000)
        before = script.ask("facts")
        crowd(45_000)
        # `ab` leaves while the server still sees to those it has left.
        assert eventually(lambda: script.ask("facts")["active_connections"] == 0)
        after = script.ask("facts")
    assert after["accepted_total"] >= 50_000
    assert after["active_connections"] == 0
    assert after["memory_kib"] - before["memory_kib"] < 5_000
    assert after["descriptors"] <= before["descriptors"]
    # A machine that stood still made callbacks look slow: then at most one for each client.
    assert after["threads"] <= before["threads"] + 20


# ---- B9: balanced events -----------------------------------------------------------------------


def test_b9_failed_handshakes_too_have_one_start_one_end_and_one_close(
    serve, authority, client, record
):
    recorder = record("handler.start", "handler.shutdown", "handler.error", "socket.close")
    server = serve(
        Echo,
        transport_cls=TLS,
        transport_options=authority.options,
        handshake_timeout_ms=200,
    )
    for number in range(30):
        sock = client(server)
        if number % 3 == 0:
            sock.sendall(b"no TLS at all\r\n")
        elif number % 3 == 1:
            reset(sock)
    assert eventually(lambda: len(recorder.of("socket.close")) == 30)
    each = {}
    for one in recorder.told:
        each.setdefault(one.metadata["connection_id"], []).append(one.name)
    assert len(each) == 30
    for told in each.values():
        assert told[0] == "handler.start"
        assert told[1] in ("handler.shutdown", "handler.error")
        assert told[2:] == ["socket.close"]
    assert eventually(lambda: server.info().active_connections == 0)


def test_b9_the_gauges_return_to_zero_whatever_ends_a_connection(wire):
    attach_logger("error", _silent())
    server = wire.serve(Mixed, read_timeout_ms=300)
    socks = [wire.connect(server) for _ in range(10)]
    context = wire.context()
    for number in range(30):
        visit(server, context, number)
    assert eventually(lambda: server.info().active_connections == 0, 3)

    def at_rest():
        info = server.info()
        return (info.busy_threads, info.waiting_connections) == (0, 0)

    # A connection is gone before the thread that ended it has come to rest.
    assert eventually(at_rest)
    assert len({sock.fileno() for sock in socks}) == 10


def _silent():
    import logging

    logger = logging.getLogger("tests.silent")
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
    return logger


@pytest.mark.parametrize("peer", ["never reads", "has gone"])
@pytest.mark.parametrize("pieces", [1, 3])
def test_a_send_that_failed_holds_nothing_of_what_it_was_given(wire, peer, pieces):
    """Else a bytearray could not change its size, nor a mapping be closed, while the error is
    at hand: BufferError, in place of the error."""
    given = [bytearray(10_000_000) for _ in range(pieces)]
    results = []

    class Sends(Handler):
        def handle_data(self, data, socket):
            try:
                while True:
                    socket.send(given)
            except SocketError as error:
                for buffer in given:
                    buffer.clear()
                results.append(error)
            return Close()

    server = wire.serve(Sends, send_timeout_ms=200)
    sock = wire.connect(server)
    sock.sendall(b"x")
    if peer == "has gone":
        receive(sock, 1_000)
        reset(sock)
    assert eventually(lambda: results, 10)
    assert isinstance(results[0], SocketTimeout if peer == "never reads" else SocketClosed)
    assert given == [b""] * pieces


def test_b4_a_slow_reader_gets_every_byte(wire):
    """It only has to finish in time: 8 MB, read in small pieces."""
    data = os.urandom(8_000_000)

    class Replies(Handler):
        def handle_data(self, asked, socket):
            socket.send(data)

    server = wire.serve(Replies)
    assert exchange(wire.connect(server), b"x", len(data)) == data
