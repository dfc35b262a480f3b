"""Callbacks: what they may return, what they may raise, and what follows."""

import contextlib
import contextvars
import logging
import queue
import threading
import time

import pytest

from tests.support import Echo, eventually, journal, receive, receive_all, reset, task_of
from thousand_island_sync import (
    Close,
    ConfigError,
    Continue,
    Error,
    Handler,
    HandlerResultError,
    MailboxFull,
    NotSupported,
    ServerStopping,
    SocketClosed,
    SocketTimeout,
    ThousandIslandError,
    events,
)
from thousand_island_sync._connection.states import PARKED

# ---- what they return -------------------------------------------------------


@pytest.mark.parametrize("callback", ["handle_connection", "handle_data", "handle_eof"])
def test_close_is_handle_close_then_the_end(callback, serve, client, record):
    recorder = record("handler.shutdown")
    Base = journal()
    Closes = type("Closes", (Base,), {callback: lambda self, *args: Close()})
    server = serve(Closes)
    sock = client(server)
    with contextlib.suppress(OSError):  # the server may have ended it already
        sock.sendall(b"x")
        sock.shutdown(1)
        receive_all(sock)
    assert Closes.ended()
    assert Closes.lines == [("close", None), ("end", -1)]
    (told,) = recorder.wait_for("handler.shutdown")
    expected = "peer_closed" if callback == "handle_eof" else "local_closed"
    assert told.measurements["reason"] == expected


def test_error_is_handle_error_with_what_it_holds(serve, client, record):
    recorder = record("handler.error")
    Base = journal()

    class Fails(Base):
        def handle_data(self, data, socket):
            return Error({"any": "thing"})

    server = serve(Fails)
    client(server).sendall(b"x")
    assert Fails.ended()
    assert Fails.lines[0] == ("error", {"any": "thing"})
    assert recorder.wait_for("handler.error")[0].measurements["error"] == {"any": "thing"}


@pytest.mark.parametrize("value", [True, b"bytes", Close, 42])
def test_anything_else_is_a_handler_result_error_that_names_callback_and_value(
    value, serve, client, caplog
):
    Base = journal()

    class Returns(Base):
        def handle_data(self, data, socket):
            return value

    server = serve(Returns)
    client(server).sendall(b"x")
    assert Returns.ended()
    (name, error), _ = Returns.lines
    assert name == "error"
    assert isinstance(error, HandlerResultError)
    assert "handle_data" in str(error)
    assert repr(value) in str(error)
    assert any("handle_data" in record.message for record in caplog.records)


def test_continue_refuses_what_is_no_time():
    for wrong in (-1, "1", float("nan"), True):
        with pytest.raises(ConfigError):
            Continue(timeout_ms=wrong)
        with pytest.raises(ConfigError):
            Continue(deadline_ms=wrong)


@pytest.mark.parametrize("reading", ["callbacks", "a loop"])
def test_a_reset_that_a_send_met_is_not_taken_for_the_end_of_the_stream(reading, serve, client):
    """The kernel tells of it but once, and of an end of the stream from then on (tcp(7))."""
    Base = journal()
    came, is_gone = threading.Event(), threading.Event()

    class Acknowledges(Base):
        def acknowledge(self, socket):
            came.set()
            assert is_gone.wait(5)
            with pytest.raises(SocketClosed):
                socket.send(b"thank you")

        def handle_connection(self, socket):
            if reading == "a loop":
                while socket.recv():
                    self.acknowledge(socket)
                self.note("the end of the stream")

        def handle_data(self, data, socket):
            self.acknowledge(socket)

        def handle_eof(self, socket):
            self.note("the end of the stream")

    server = serve(Acknowledges)
    sock = client(server)
    sock.sendall(b"half a letter")
    assert came.wait(5)
    reset(sock)
    is_gone.set()
    assert Acknowledges.ended()
    assert Acknowledges.names() == ["close", "end"]


# ---- timeouts ---------------------------------------------------------------


def test_silence_is_handle_timeout_with_the_socket_open(serve, client, record):
    recorder = record("handler.shutdown")
    Base = journal()

    class Waits(Base):
        def handle_timeout(self, socket):
            socket.send(b"too late")
            super().handle_timeout(socket)

    server = serve(Waits, read_timeout_ms=80)
    before = time.monotonic()
    sock = client(server)
    assert receive_all(sock) == b"too late"
    assert 0.07 < time.monotonic() - before < 1
    assert Waits.ended()
    assert Waits.names() == ["timeout", "end"]
    assert recorder.of("handler.shutdown")[0].measurements["reason"] == "timeout"


@pytest.mark.parametrize("told", ["handler.start", "socket.handshake"])
def test_the_time_that_a_receiver_takes_is_not_the_peers(told, serve, client):
    """The read timeout begins when the handshake is done, and its receivers have run."""

    returned = []

    def takes_long(sender, **rest):
        time.sleep(0.01)
        returned.append(time.monotonic())

    server = serve(Echo, read_timeout_ms=60_000)
    with events.ALL[told].connected_to(takes_long, sender=server):
        client(server)
        assert eventually(
            lambda: any(task_of(one).machine.state is PARKED for one in server.connections())
        )
    (connection,) = server.connections()
    assert task_of(connection).machine.callbacks.read_deadline >= returned[0] + 60


def test_continue_with_a_timeout_holds_until_the_next_bytes_only(serve, client):
    Base = journal()

    class Once(Base):
        def handle_connection(self, socket):
            return Continue(timeout_ms=60)

        def handle_data(self, data, socket):
            socket.send(data)

    server = serve(Once, read_timeout_ms=5_000)
    silent = client(server)
    assert receive_all(silent) == b""
    assert Once.ended()
    assert Once.names() == ["timeout", "end"]
    spoken = client(server)
    spoken.sendall(b"x")
    assert receive(spoken, 1) == b"x"
    spoken.settimeout(0.25)
    with pytest.raises(TimeoutError):
        spoken.recv(1)


def test_a_persistent_timeout_replaces_the_connections_own(serve, client):
    Base = journal()

    class Short(Base):
        def handle_connection(self, socket):
            return Continue(timeout_ms=100, persistent=True)

        def handle_data(self, data, socket):
            socket.send(data)

    server = serve(Short, read_timeout_ms=5_000)
    sock = client(server)
    sock.sendall(b"x")
    assert receive(sock, 1) == b"x"
    assert receive_all(sock) == b""
    assert Short.ended()
    assert Short.names() == ["timeout", "end"]


def test_a_deadline_holds_however_many_bytes_come(serve, client):
    Base = journal()

    class Total(Base):
        def handle_connection(self, socket):
            return Continue(deadline_ms=150)

        def handle_data(self, data, socket):
            socket.send(data)

    server = serve(Total)
    sock = client(server)
    before = time.monotonic()
    with pytest.raises(OSError), sock:
        while True:
            sock.sendall(b"x")
            if not sock.recv(1):
                raise BrokenPipeError
    assert 0.1 < time.monotonic() - before < 2
    assert Total.ended()
    assert Total.names() == ["timeout", "end"]


def test_a_deadline_is_removed_by_none(serve, client):
    class Total(Handler):
        def handle_connection(self, socket):
            return Continue(deadline_ms=100)

        def handle_data(self, data, socket):
            socket.send(data)
            return Continue(deadline_ms=None)

    server = serve(Total)
    sock = client(server)
    sock.sendall(b"x")
    assert receive(sock, 1) == b"x"
    sock.settimeout(0.25)
    with pytest.raises(TimeoutError):
        sock.recv(1)


def test_sends_and_posts_do_not_restart_the_read_timeout(serve, client):
    class Beats(Handler):
        def handle_connection(self, socket):
            socket.connection.post("beat", delay_ms=20)

        def handle_info(self, message, socket):
            socket.send(b".")
            socket.connection.post("beat", delay_ms=20)

    server = serve(Beats, read_timeout_ms=150)
    before = time.monotonic()
    sock = client(server)
    assert receive_all(sock).startswith(b"...")
    assert time.monotonic() - before < 1


def test_handle_info_restarts_it_when_it_says_so(serve, client):
    Base = journal()

    class Extends(Base):
        def handle_info(self, message, socket):
            return Continue(timeout_ms=300)

    server = serve(Extends, read_timeout_ms=150)
    before = time.monotonic()
    sock = client(server)
    assert eventually(lambda: server.connections())
    server.connections()[0].post("x", delay_ms=100)
    assert receive_all(sock) == b""
    assert time.monotonic() - before > 0.3


def test_time_inside_handle_data_does_not_count(serve, client):
    class Works(Handler):
        def handle_data(self, data, socket):
            threading.Event().wait(0.2)
            socket.send(data)

    server = serve(Works, read_timeout_ms=100)
    sock = client(server)
    sock.sendall(b"x")
    assert receive(sock, 1) == b"x"


# ---- what they raise --------------------------------------------------------


class OwnBaseException(BaseException):
    pass


ANYTHING = [
    ValueError("x"),
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    MemoryError(),
    RecursionError(),
    OwnBaseException(),
]


@pytest.mark.parametrize("error", ANYTHING, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("callback", ["handle_connection", "handle_data", "handle_eof"])
def test_whatever_a_callback_raises_ends_its_own_connection_only(
    callback, error, serve, client, caplog, record
):
    recorder = record("handler.error")
    Base = journal()

    def raises(self, *arguments):
        if self.guilty:
            raise error

    class Raises(Base):
        guilty = True

    setattr(Raises, callback, raises)
    server = serve(Raises)
    sock = client(server)
    with contextlib.suppress(OSError):  # the server may have ended it already
        sock.sendall(b"x")
        sock.shutdown(1)
        receive_all(sock)
    assert Raises.ended()
    assert Raises.lines == [("error", error), ("end", -1)]
    assert recorder.wait_for("handler.error")[0].measurements["error"] is error
    logged = [one for one in caplog.records if one.name == "thousand_island_sync"]
    assert len(logged) == 1
    assert logged[0].exc_info
    Raises.guilty = False
    again = client(server)
    again.sendall(b"y")
    assert eventually(lambda: server.info().active_connections == 1)


@pytest.mark.parametrize("callback", ["handle_close", "handle_end"])
def test_a_last_callback_that_raises_is_logged_and_changes_nothing(
    callback, serve, client, caplog, record
):
    recorder = record("handler.shutdown", "socket.close", "handler.error")

    def raises(self, *arguments):
        raise SystemExit(1)

    Fails = type("Fails", (Handler,), {callback: raises})
    server = serve(Fails)
    client(server).close()
    recorder.wait_for("socket.close")
    assert eventually(lambda: server.info().active_connections == 0)
    assert recorder.names() == ["handler.shutdown", "socket.close"]
    assert [callback in one.message for one in caplog.records] == [True]


def test_a_constructor_that_raises_closes_the_client_and_is_a_spawn_error(
    serve, client, caplog, record
):
    recorder = record()

    class Fails(Handler):
        def __init__(self, options):
            raise SystemExit("no")

    server = serve(Fails)
    socks = [client(server) for _ in range(20)]
    for sock in socks:
        assert receive_all(sock) == b""
    told = recorder.wait_for("acceptor.spawn_error", 20)
    assert isinstance(told[0].measurements["error"], SystemExit)
    assert told[0].metadata["remote_port"] in [sock.getsockname()[1] for sock in socks]
    assert eventually(lambda: server.info().active_connections == 0)
    info = server.info()
    assert (info.accepted_total, info.rejected_total) == (0, 20)
    assert not recorder.of("handler.start")
    assert len(caplog.records) == 20


@pytest.mark.parametrize(
    ("raises", "last"),
    [
        (lambda socket: socket.recv(timeout_ms=10), "timeout"),
        (lambda socket: socket.recv_exactly(5, timeout_ms=10), "timeout"),
        (lambda socket: socket.send(b"x" * 50_000_000, timeout_ms=30), "error"),
        (lambda socket: socket.recv_until(b"\n", limit=1), "error"),
    ],
    ids=["recv times out", "recv_exactly times out", "send times out", "limit"],
)
def test_errors_of_the_own_socket_lead_to_their_callback_and_are_not_logged(
    raises, last, serve, client, caplog
):
    Base = journal()

    class Raises(Base):
        def handle_connection(self, socket):
            raises(socket)

    server = serve(Raises)
    sock = client(server)
    sock.sendall(b"xy") if last == "error" else None
    assert Raises.ended()
    assert Raises.names() == [last, "end"]
    assert not caplog.records


def test_a_peer_that_has_gone_is_handle_close(serve, client, caplog, record):
    recorder = record("handler.shutdown")
    Base = journal()

    class Sends(Base):
        def handle_connection(self, socket):
            while True:
                socket.send(b"x" * 100_000)

    server = serve(Sends)
    reset(client(server))
    assert Sends.ended()
    assert Sends.names() == ["close", "end"]
    assert recorder.wait_for("handler.shutdown")[0].measurements["reason"] == "peer_closed"
    assert not caplog.records


def test_a_reset_between_callbacks_is_handle_close(serve, client, caplog):
    Recording = journal()
    server = serve(Recording)
    sock = client(server)
    assert eventually(lambda: server.info().active_connections == 1)
    reset(sock)
    assert Recording.ended()
    assert Recording.names() == ["close", "end"]
    assert not caplog.records


def test_an_error_of_another_connections_socket_is_anything_else(serve, client, caplog):
    Base = journal()
    others = []

    class Meddles(Base):
        def handle_connection(self, socket):
            others.append(socket)

        def handle_data(self, data, socket):
            others[0].recv(timeout_ms=5)

    server = serve(Meddles)
    first = client(server)
    assert eventually(lambda: others)
    second = client(server)
    second.sendall(b"x")
    assert Meddles.ended()
    assert Meddles.names()[0] == "error"
    assert isinstance(Meddles.lines[0][1], SocketTimeout)
    assert len(caplog.records) == 1
    first.close()


def test_f15_the_default_log_is_silent_for_everything_that_is_no_bug(serve, client, caplog):
    caplog.set_level(logging.DEBUG)
    server = serve(Echo, read_timeout_ms=50)
    socks = [client(server) for _ in range(5)]
    socks[0].close()
    reset(socks[1])
    socks[2].sendall(b"x")
    for sock in socks[2:]:
        receive_all(sock)
    assert eventually(lambda: server.info().active_connections == 0)
    assert not caplog.records


# ---- contexts ---------------------------------------------------------------

variable = contextvars.ContextVar("variable", default="none")


def test_each_connection_has_a_context_of_its_own_copied_from_starts(serve, client):
    ended = []

    class Remembers(Handler):
        def __init__(self, options):
            super().__init__(options)
            self.initial = variable.get()

        def handle_data(self, data, socket):
            before = variable.get()
            variable.set(data.decode())
            socket.send(f"{self.initial} {before};".encode())

        def handle_end(self, socket):
            ended.append(variable.get())

    token = variable.set("from start")
    server = serve(Remembers, max_handler_threads=1)
    variable.reset(token)
    first, second = client(server), client(server)
    for sock, data, expected in (
        (first, b"one", b"from start from start;"),
        (second, b"two", b"from start from start;"),
        (first, b"x", b"from start one;"),
        (second, b"y", b"from start two;"),
    ):
        sock.sendall(data)
        assert receive(sock, len(expected)) == expected
    first.close()
    second.close()
    assert eventually(lambda: sorted(ended) == ["x", "y"])


# ---- messages ---------------------------------------------------------------


class Listener(Handler):
    def handle_info(self, message, socket):
        socket.send(f"{message};".encode())

    def handle_call(self, message, socket):
        if message == "raise":
            raise KeyError("asked for")
        return [message, socket.connection_id]


def the_connection(server):
    assert eventually(lambda: server.connections())
    (connection,) = server.connections()
    return connection


def test_posts_come_in_order_and_delayed_ones_later(serve, client):
    server = serve(Listener)
    sock = client(server)
    connection = the_connection(server)
    connection.post("late", delay_ms=60)
    for number in range(10):
        connection.post(number)
    expected = b"0;1;2;3;4;5;6;7;8;9;late;"
    assert receive(sock, len(expected)) == expected
    assert connection.pending == 0


def test_a_call_returns_what_handle_call_returns_and_raises_what_it_raises(serve, client):
    server = serve(Listener)
    sock = client(server)
    connection = the_connection(server)
    assert connection.call("x") == ["x", connection.id]
    with pytest.raises(KeyError, match="asked for"):
        connection.call("raise")
    connection.post("still here")
    assert receive(sock, 11) == b"still here;"


def test_a_handler_without_handle_call_says_so_to_the_caller(serve, client):
    server = serve(Echo)
    sock = client(server)
    with pytest.raises(NotSupported):
        the_connection(server).call("x")
    sock.sendall(b"x")
    assert receive(sock, 1) == b"x"


def test_a_call_from_the_own_callback_is_an_error_at_once(serve, client):
    seen = []

    class Selfish(Handler):
        def handle_data(self, data, socket):
            try:
                socket.connection.call("x")
            except ThousandIslandError as error:
                seen.append(type(error))
            socket.send(data)

    server = serve(Selfish)
    sock = client(server)
    sock.sendall(b"x")
    assert receive(sock, 1) == b"x"
    assert seen == [ThousandIslandError]


def test_a_call_that_is_not_answered_in_time(serve, client):
    began, go = threading.Event(), threading.Event()

    class Busy(Handler):
        def handle_data(self, data, socket):
            began.set()
            go.wait(5)

    server = serve(Busy)
    sock = client(server)
    sock.sendall(b"x")
    connection = the_connection(server)
    assert began.wait(5)
    with pytest.raises(SocketTimeout):
        connection.call("x", timeout_ms=30)
    assert connection.pending == 0
    go.set()


def test_handlers_may_call_each_other(serve, client):
    class Relays(Listener):
        def handle_data(self, data, socket):
            others = [
                c for c in socket.connection.server.connections() if c is not socket.connection
            ]
            socket.send(others[0].call("hello")[0].encode())

    server = serve(Relays)
    first = client(server)
    assert eventually(lambda: len(server.connections()) == 1)
    second = client(server)
    second.sendall(b"x")
    assert receive(second, 5) == b"hello"
    first.close()


def test_a_mailbox_has_a_limit(serve, client):
    began, go = threading.Event(), threading.Event()

    class Busy(Listener):
        def handle_data(self, data, socket):
            began.set()
            go.wait(5)

    server = serve(Busy, max_pending_messages=3)
    sock = client(server)
    sock.sendall(b"x")
    connection = the_connection(server)
    assert began.wait(5)
    connection.post(1)
    connection.post(2, delay_ms=10)
    connection.post(3)
    assert connection.pending == 3
    with pytest.raises(MailboxFull):
        connection.post(4)
    with pytest.raises(MailboxFull):
        connection.call(4)
    go.set()
    assert len(receive(sock, 6)) == 6


def test_a_connection_that_has_ended_takes_nothing(serve, client):
    server = serve(Listener)
    sock = client(server)
    connection = the_connection(server)
    assert not connection.closed
    connection.post("never", delay_ms=60_000)
    assert connection.pending == 1
    sock.close()
    assert eventually(lambda: connection.closed)
    for call in (lambda: connection.post(1), lambda: connection.call(1)):
        with pytest.raises(SocketClosed):
            call()
    connection.close()
    assert connection.pending == 0
    assert connection.server is server
    assert connection.peername[0] == "127.0.0.1"
    assert connection.accepted_at_ns <= time.monotonic_ns()
    assert {connection: 1}[connection] == 1


def test_close_from_outside_is_handle_shutdown_but_no_stop(serve, client):
    Base = journal()
    stopping = []

    class Asked(Base):
        def handle_shutdown(self, socket):
            stopping.append(socket.stopping)
            socket.send(b"bye")
            super().handle_shutdown(socket)

    server = serve(Asked)
    sock = client(server)
    the_connection(server).close()
    assert receive_all(sock) == b"bye"
    assert Asked.ended()
    assert Asked.names() == ["shutdown", "end"]
    assert stopping == [False]


def test_close_from_outside_wakes_a_waiting_recv(serve, client):
    Base = journal()
    seen = []

    class Waits(Base):
        def handle_connection(self, socket):
            try:
                socket.recv()
            except SocketClosed as error:
                seen.append(type(error))
                raise

    server = serve(Waits)
    client(server)
    connection = the_connection(server)
    assert eventually(lambda: not task_of(connection).attached)
    connection.close()
    assert Waits.ended()
    assert Waits.names() == ["shutdown", "end"]
    assert seen == [ServerStopping]


def test_callbacks_of_one_connection_never_run_at_the_same_time(serve, client):
    running, overlaps = [], []

    class Exclusive(Handler):
        def enter(self):
            running.append(self)
            if running.count(self) > 1:
                overlaps.append(self)
            threading.Event().wait(0.0005)
            running.remove(self)

        def handle_data(self, data, socket):
            self.enter()
            socket.send(data)

        def handle_info(self, message, socket):
            self.enter()

    server = serve(Exclusive, max_pending_messages=None)
    sock = client(server)
    connection = the_connection(server)

    def post():
        for number in range(50):
            connection.post(number)

    threads = [threading.Thread(target=post) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        sock.sendall(b"x")
    assert receive(sock, 1) == b"x"
    for thread in threads:
        thread.join()
    assert eventually(lambda: connection.pending == 0)
    assert not overlaps


class EndsBySurprise(Handler):
    def __init__(self, ends):
        super().__init__(ends)
        self.handle_end = lambda socket: ends.put(socket.connection.sockname)

    def handle_data(self, data, socket):
        return Close()


def test_a_handle_end_that_is_set_on_the_instance_finds_the_facts(serve, client):
    ends = queue.SimpleQueue()
    server = serve(EndsBySurprise, handler_options=ends)
    client(server).sendall(b"x")
    assert ends.get(timeout=5)[1] == server.local_port
