"""Failures of accepting, by their ids in the catalogue (docs/explanation/reliability.md)."""

import contextlib
import errno
import os
import resource
import socket
import ssl
import threading
import time

import pytest

from tests.support import (
    Echo,
    busy_seconds,
    echoes,
    eventually,
    journal,
    receive,
    receive_all,
    reset,
)
from thousand_island_sync import TCP, TLS, Handler, HandshakeError, attach_logger, events
from thousand_island_sync._listener import accept_turns, acceptor
from thousand_island_sync._listener.accept_turns import ClientWait, SharedWakeUp

# ---- A1: out of descriptors ---------------------------------------------------


@contextlib.contextmanager
def no_descriptor_free():
    """Until the end of the block the process can open nothing more.

    The limit is a number, not a count, so every number below it is taken."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(highest)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(*taken, highest) + 1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)


def test_a1_no_descriptor_costs_no_cpu_no_flood_and_no_open_connection(
    serve, client, record, caplog
):
    recorder = record("acceptor.accept_error")
    # One acceptor: of several, one may serve the client with the place that another made.
    server = serve(Echo, num_acceptors=1)
    attach_logger("error")
    open_all_along = client(server)
    echoes(open_all_along)
    with socket.socket() as waiting:
        waiting.settimeout(5)
        with no_descriptor_free():
            waiting.connect(server.local_address)
            used = busy_seconds(2)
            assert receive_all(waiting) == b"", "the pending client is closed"
            echoes(open_all_along)
    assert used < 0.1
    told = recorder.of("acceptor.accept_error")
    assert 1 <= len(told) <= 25
    assert {one.measurements["error"].errno for one in told} == {errno.EMFILE}
    assert len(caplog.records) <= 25
    began = time.monotonic()
    echoes(client(server))
    assert time.monotonic() - began < 1.5


@pytest.mark.heavy
def test_a1_nor_does_a_row_of_clients_that_find_none(serve, client, record, caplog):
    recorder = record("acceptor.accept_error")
    server = serve(Echo, num_acceptors=4)
    attach_logger("error")
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(socket.socket()) for _ in range(20)]
        with no_descriptor_free():
            began = time.monotonic()
            for sock in waiting:
                sock.setblocking(False)
                sock.connect_ex(server.local_address)
            used = busy_seconds(1.5)
        took = time.monotonic() - began
        assert used < 0.1 * took
        # A pause of 100 ms after each, and acceptors that were under way already.
        most = 10 * took + 2 * 4
        assert len(recorder.of("acceptor.accept_error")) <= most
        assert len(caplog.records) <= most
        for sock in waiting:
            sock.settimeout(5)
            with contextlib.suppress(ConnectionError, BlockingIOError):
                sock.sendall(b"x")
                assert sock.recv(1) in (b"", b"x"), "closed or served"
    echoes(client(server))


def test_a1_an_acceptor_that_begins_then_waits_without_a_descriptor_of_its_own():
    """It would die of it, be started again a hundred times, and be given up."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as waiting:
        wake_up = SharedWakeUp()
        try:
            with no_descriptor_free(), ClientWait(listener, wake_up, exclusive=False) as clients:
                waiting.connect(listener.getsockname())
                clients.wait()
        finally:
            wake_up.release()


def test_a1_the_spare_descriptor_is_had_again_after_another_thread_took_its_place(serve, client):
    transport = type("Flaky", (Flaky,), {"errors": []})
    server = serve(Echo, transport_cls=transport, num_acceptors=1)
    server._run.listener._shortage.drop_spare()
    transport.errors.append(OSError(errno.EMFILE, "injected"))
    assert receive_all(client(server)) == b"", "turned away with it"
    echoes(client(server))


# ---- A2: one bad connection ----------------------------------------------------


class FlakyListener:
    """A listening socket whose `accept` first raises what it was given."""

    def __init__(self, sock, errors):
        self._sock = sock
        self._errors = errors
        self._lock = threading.Lock()

    def accept(self):
        with self._lock:
            if self._errors:
                raise self._errors.pop(0)
        return self._sock.accept()

    def __getattr__(self, name):
        return getattr(self._sock, name)


class Flaky(TCP):
    """A user's own transport."""

    errors: list = []

    def listen(self, port, count):
        listeners = super().listen(port, count)
        for listener in listeners:
            listener.socket = FlakyListener(listener.socket, self.errors)
        return listeners


def flaky(serve, errors, **options):
    transport = type("Flaky", (Flaky,), {"errors": list(errors)})
    options.setdefault("num_acceptors", 1)
    return serve(Echo, transport_cls=transport, **options)


OF_ONE_CLIENT = [
    errno.ECONNABORTED,
    errno.EINVAL,
    errno.ENETDOWN,
    errno.EPROTO,
    errno.ENOPROTOOPT,
    errno.EHOSTDOWN,
    errno.ENONET,
    errno.EHOSTUNREACH,
    errno.EOPNOTSUPP,
    errno.ENETUNREACH,
    errno.ETIMEDOUT,
    errno.EPERM,
    errno.EINTR,
    errno.ENOTCONN,
]
OF_THE_MACHINE = [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM]


@pytest.mark.parametrize("number", OF_ONE_CLIENT, ids=errno.errorcode.get)
def test_a2_no_errno_of_accept_ends_an_acceptor(number, serve, client, record):
    recorder = record("acceptor.accept_error", "acceptor.shutdown", "acceptor.start")
    server = flaky(serve, [OSError(number, os.strerror(number)) for _ in range(3)])
    echoes(client(server))
    assert recorder.names() == ["acceptor.start"] + ["acceptor.accept_error"] * 3
    assert {one.measurements["error"].errno for one in recorder.told[1:]} == {number}


@pytest.mark.parametrize("number", OF_THE_MACHINE, ids=errno.errorcode.get)
def test_a2_where_the_machine_is_out_of_something_one_client_is_closed(
    number, serve, client, record
):
    recorder = record("acceptor.accept_error", "acceptor.shutdown")
    server = flaky(serve, [OSError(number, os.strerror(number))])
    assert receive_all(client(server)) == b""
    echoes(client(server))
    assert [one.measurements["error"].errno for one in recorder.told] == [number]


def test_a2_all_of_them_in_a_row_with_one_open_connection(serve, client, record):
    recorder = record("acceptor.accept_error")
    errors = [OSError(number, "injected") for number in OF_ONE_CLIENT]
    transport = type("Flaky", (Flaky,), {"errors": []})
    server = serve(Echo, transport_cls=transport, num_acceptors=1)
    first = client(server)
    echoes(first)
    transport.errors.extend(errors)
    second = client(server)
    echoes(first)
    echoes(second)
    assert len(recorder.told) == len(OF_ONE_CLIENT)


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EMFILE], ids=errno.errorcode.get)
def test_a2_a_thousand_in_a_row_are_answered_with_pauses(number, serve, client, record):
    recorder = record("acceptor.accept_error")
    server = flaky(serve, [OSError(number, "injected") for _ in range(1_000)])
    client(server)
    recorder.wait_for("acceptor.accept_error")
    before = len(recorder.told)
    assert busy_seconds(1) < 0.1
    assert len(recorder.told) - before <= 25


def test_a2_an_acceptor_that_dies_is_started_again(serve, client, caplog, record):
    recorder = record("acceptor.start", "acceptor.shutdown", "acceptor.accept_error")
    # The place that it had reserved is free again, or the only client would find none.
    server = flaky(serve, [ZeroDivisionError("a bug")], max_connections=1)
    echoes(client(server))
    assert recorder.names().count("acceptor.start") == 2
    assert "started again" in caplog.text
    server.stop()


def test_a2_one_that_dies_again_and_again_is_tried_again_less_and_less_often(
    serve, client, caplog, record, monkeypatch
):
    """While none lives, the server does not claim to serve, and says so once."""
    monkeypatch.setattr("thousand_island_sync._listener.acceptor._LIVES_S", 0.2)
    recorder = record("acceptor.start", "acceptor.accept_error", "listener.error")

    class Bug(Exception):
        pass

    server = flaky(serve, [Bug("a bug") for _ in range(13)], num_acceptors=1)
    assert (server.status, server.info().status) == ("running", "running")
    sock = client(server)
    (told,) = recorder.wait_for("listener.error")
    assert (server.status, server.info().status) == ("suspended", "suspended")
    assert "no acceptor serves" in str(told.measurements["error"])
    assert "no acceptor serves" in caplog.text
    assert busy_seconds(0.05) < 0.05
    echoes(sock)  # who waited is served when it is over
    assert recorder.names().count("acceptor.start") == 14
    assert eventually(lambda: server.status == "running")
    assert len(recorder.of("listener.error")) == 1
    server.suspend()
    server.resume()
    echoes(client(server))


def test_a2_nor_does_a_stop_wait_for_one_that_pauses(serve, client, monkeypatch, stopwatch):
    monkeypatch.setattr("thousand_island_sync._base.supervised._FIRST_PAUSE_S", 5.0)
    server = flaky(serve, [ZeroDivisionError("a bug") for _ in range(11)], num_acceptors=1)
    client(server)
    assert eventually(lambda: server.status == "suspended")
    assert server.stop(1_000)
    assert stopwatch() < 4


# ---- A3, A4: the limit -----------------------------------------------------------


def test_a3_acceptors_live_through_five_hundred_rounds_at_the_limit(serve, client, record):
    recorder = record("acceptor.spawn_error", "acceptor.start", "acceptor.shutdown")
    server = serve(Echo, num_acceptors=1, max_connections=1, max_connections_wait_ms=0)
    for number in range(500):
        with client(server) as first:
            echoes(first)
            if not number % 10:
                assert receive_all(client(server)) == b""
        assert eventually(lambda: server.info().active_connections == 0)
    assert recorder.names() == ["acceptor.start"] + ["acceptor.spawn_error"] * 50
    assert server.info().rejected_total == 50


def test_a3_who_comes_when_there_is_room_again_is_not_turned_away_with_the_others(
    serve, client, record
):
    """A place becomes free while those who waited too long are being refused."""
    first = []

    def refusing(server, **rest):
        if first:
            first.pop().close()
            assert eventually(lambda: server.info().active_connections == 0)
            late.connect(server.local_address)
            connected.set()

    connected = threading.Event()
    refused = record("acceptor.spawn_error")
    events.acceptor_spawn_error.connect(refusing)
    with socket.socket() as late:
        server = serve(Echo, num_acceptors=1, max_connections=1, max_connections_wait_ms=50)
        first.append(client(server))
        echoes(first[0])
        assert receive_all(client(server)) == b""
        late.settimeout(5)
        assert connected.wait(5)
        echoes(late)
    assert len(refused.told) == 1
    events.acceptor_spawn_error.disconnect(refusing)


def test_a4_each_episode_at_the_limit_has_two_edges_and_the_backlog_waits(serve, client, record):
    recorder = record("acceptor.limit_reached", "acceptor.limit_cleared", "acceptor.spawn_error")
    server = serve(Echo, max_connections=5, num_acceptors=4)
    for _ in range(3):
        inside = [client(server) for _ in range(5)]
        for sock in inside:
            echoes(sock)
        waiting = [client(server) for _ in range(5)]
        for sock in waiting:
            sock.sendall(b"served when there is room")
        for sock in inside:
            sock.close()
        for sock in waiting:
            assert receive(sock, 25) == b"served when there is room"
            sock.close()
        assert eventually(lambda: server.info().active_connections == 0)
    names = recorder.names()
    assert "acceptor.spawn_error" not in names
    edges = ["acceptor.limit_reached", "acceptor.limit_cleared"]
    assert names == edges * (len(names) // 2), "never twice the same edge"
    assert 3 <= len(names) // 2 <= 3 * 6


# ---- A5, A6: handshakes ------------------------------------------------------------


def test_a5_a6_silent_and_dribbling_clients_delay_nobody(serve, authority, client, secure):
    journal_of_echo = journal(Echo)
    server = serve(
        journal_of_echo,
        transport_cls=TLS,
        transport_options=authority.options,
        max_connections=100,
        max_handler_threads=4,
        handshake_timeout_ms=1_500,
    )
    began = time.monotonic()
    silent = [client(server) for _ in range(50)]
    dribbling = [client(server) for _ in range(10)]
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)
    good_took = []
    for position in range(8):
        for sock in dribbling:
            sock.sendall(hello[position : position + 1])
        before = time.monotonic()
        with secure(server, authority.client_context()) as good:
            good.sendall(b"x")
            assert good.recv(1) == b"x"
        good_took.append(time.monotonic() - before)
    assert sorted(good_took)[len(good_took) // 2] < 0.3
    assert server.info().handler_threads <= 4
    for sock in silent + dribbling:
        assert receive_all(sock) == b""
    assert 1.0 < time.monotonic() - began < 6
    assert eventually(lambda: server.info().active_connections == 0)
    errors = [what for name, what in journal_of_echo.lines if name == "error"]
    assert len(errors) == 60
    assert all(isinstance(error, HandshakeError) for error in errors)


# ---- A7: a handler that cannot be started ---------------------------------------------


def test_a7_a_thread_that_cannot_be_started_is_a_spawn_error(serve, client, monkeypatch, record):
    recorder = record("acceptor.spawn_error")
    server = serve(Echo)
    start = threading.Thread.start

    def refuse(thread):
        if "handler" in thread.name:
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        for _ in range(100):
            with client(server, timeout=1) as sock:
                assert receive_all(sock) == b""
    assert len(recorder.wait_for("acceptor.spawn_error", 100)) == 100
    assert eventually(lambda: server.info().active_connections == 0)
    assert server.info().rejected_total == 100
    echoes(client(server))


def test_a7_nor_does_a_constructor_that_fails_leak_or_end_anything(serve, client, record, caplog):
    recorder = record("acceptor.spawn_error", "acceptor.shutdown", "handler.start")

    class Fails(Handler):
        def __init__(self, options):
            if options:
                raise options[0]

        handle_data = Echo.handle_data

    options = []
    server = serve(Fails, handler_options=options)
    open_all_along = client(server)
    echoes(open_all_along)
    for error in (ValueError("no"), SystemExit(1), KeyboardInterrupt(), MemoryError()):
        options[:] = [error]
        for _ in range(25):
            with client(server, timeout=1) as sock:
                assert receive_all(sock) == b""
    told = recorder.wait_for("acceptor.spawn_error", 100)
    assert {type(one.measurements["error"]) for one in told} == {
        ValueError,
        SystemExit,
        KeyboardInterrupt,
        MemoryError,
    }
    assert recorder.names().count("handler.start") == 1
    echoes(open_all_along)
    options.clear()
    echoes(client(server))


# ---- A8, A9, A10 ----------------------------------------------------------------------


def test_a8_descriptor_numbers_beyond_1024(serve, client):
    many = [os.open(os.devnull, os.O_RDONLY) for _ in range(1_100)]
    try:
        server = serve(Echo)
        sock = client(server)
        assert sock.fileno() > 1_024
        echoes(sock)
        assert busy_seconds(0.3) < 0.05
        echoes(sock)
        server.stop()
    finally:
        for fd in many:
            os.close(fd)


def test_a9_clients_that_reset_at_once_leave_balanced_events(serve, client, record, caplog):
    recorder = record("handler.start", "handler.shutdown", "handler.error", "socket.close")
    accepted = record("acceptor.accept")
    server = serve(Echo)
    for _ in range(200):
        reset(client(server))
    assert eventually(lambda: server.info().accepted_total == 200)
    assert eventually(lambda: server.info().active_connections == 0)
    names = recorder.names()
    assert names.count("handler.start") == names.count("socket.close") == 200
    assert names.count("handler.shutdown") + names.count("handler.error") == 200
    for one in recorder.of("handler.start") + accepted.of("acceptor.accept"):
        assert one.metadata["remote_address"] == "127.0.0.1"
        assert one.metadata["remote_port"] > 0
    assert caplog.text == ""
    assert busy_seconds(0.3) < 0.05


@pytest.mark.parametrize("permits", [1, 4], ids=["they take turns", "EPOLLEXCLUSIVE"])
def test_a10_a_client_does_not_wake_a_herd(permits, serve, monkeypatch):
    """Looks at the listener for each client: about one, of ten acceptors; also where they do
    not take turns, as on a free-threaded build."""
    looks = []
    may_accept = acceptor.Acceptor._may_accept

    def counted(self):
        looks.append(1)
        return may_accept(self)

    monkeypatch.setattr(acceptor.Acceptor, "_may_accept", counted)
    monkeypatch.setattr(accept_turns, "default_permits", lambda: permits)
    server = serve(Echo, num_acceptors=10)
    for _ in range(200):
        with socket.create_connection(server.local_address, timeout=5) as sock:
            echoes(sock)
    assert len(looks) <= 260, "fewer, where the pool takes them itself"


def test_a5_the_deadline_of_a_handshake_is_total(serve, authority, client):
    """A byte before each would-be timeout does not buy time."""
    server = serve(
        Echo,
        transport_cls=TLS,
        transport_options=authority.options,
        handshake_timeout_ms=400,
    )
    sock = client(server)
    began = time.monotonic()
    pause = threading.Event()
    with pytest.raises((ConnectionError, ssl.SSLError)):
        for byte in b"\x16\x03\x01\x02\x00\x01" + bytes(200):
            sock.sendall(bytes([byte]))
            pause.wait(0.03)
    assert 0.3 < time.monotonic() - began < 4  # 200 bytes take 6 s
