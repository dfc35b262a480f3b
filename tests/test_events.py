"""Telemetry: what is sent, in what order, and that receivers cannot do harm."""

import logging
import threading

import pytest

from tests.support import Echo, Recorder, eventually, journal, receive, receive_all, reset
from thousand_island_sync import (
    ConfigError,
    Error,
    Handler,
    ListenError,
    SwitchTransport,
    ThousandIsland,
    attach_logger,
    detach_logger,
    events,
)
from thousand_island_sync._telemetry import receiver_failures
from thousand_island_sync._telemetry.receiver_failures import ReceiverFailures

LIFE = ["handler.start", "socket.handshake", "handler.async_recv", "socket.send"]


def test_the_names_are_attributes_and_in_all():
    assert len(events.ALL) == 29
    for name, signal in events.ALL.items():
        assert getattr(events, name.replace(".", "_")) is signal


def test_a_connections_events_come_in_order(wire, record):
    recorder = record()
    server = wire.serve(Echo)
    sock = wire.connect(server)
    sock.sendall(b"hello")
    assert receive(sock, 5) == b"hello"
    sock.close()
    recorder.wait_for("socket.close")
    names = [one for one in recorder.names() if one.partition(".")[0] in ("handler", "socket")]
    assert names == [*LIFE, "handler.shutdown", "socket.close"]
    server.stop()
    assert recorder.names()[-1] == "listener.shutdown"
    assert len(recorder.of("acceptor.shutdown")) == 2
    ids = {one.metadata["connection_id"] for one in recorder.of("socket.close")}
    assert {*recorder.senders} == {server}
    for one in recorder.told:
        assert isinstance(one.measurements["monotonic_time_ns"], int)
        if "connection_id" in one.metadata:
            assert one.metadata["connection_id"] in ids
    start = recorder.of("listener.start")[0]
    assert start.metadata["local_address"]
    assert start.metadata["transport_cls"].__name__ in ("TCP", "TLS")
    accept = recorder.of("acceptor.accept")[0]
    assert accept.measurements["wait_time_ns"] >= 0
    if wire.name == "unix":
        assert (accept.metadata["remote_address"], accept.metadata["remote_port"]) == ("", None)
    else:
        assert accept.metadata["remote_address"] == "127.0.0.1"
    assert recorder.of("handler.async_recv")[0].measurements["data"] == b"hello"
    assert recorder.of("socket.send")[0].measurements["bytes_sent"] == 5
    assert recorder.of("acceptor.shutdown")[0].metadata["reason"] == "shutdown"


def test_a_callbacks_own_receives_are_socket_recv(serve, client, record):
    recorder = record("socket.recv", "socket.recv_error", "handler.async_recv")

    class Reads(Handler):
        def handle_connection(self, socket):
            socket.recv()
            socket.recv(timeout_ms=0)

    server = serve(Reads)
    client(server).sendall(b"x")
    recorder.wait_for("socket.recv_error")
    assert recorder.names() == ["socket.recv", "socket.recv_error"]


@pytest.mark.parametrize("end", ["close", "reset", "error", "timeout", "stop", "local"])
def test_whatever_ends_it_each_connection_has_one_start_one_end_and_one_close(
    end, serve, client, record
):
    recorder = record()
    Base = journal()

    class Ends(Base):
        def handle_connection(self, socket):
            if end == "error":
                raise ValueError
            if end == "local":
                socket.close()

    server = serve(Ends, read_timeout_ms=50 if end == "timeout" else None)
    socks = [client(server) for _ in range(20)]
    for sock in socks:
        if end == "close":
            sock.close()
        elif end == "reset":
            reset(sock)
    if end == "stop":
        server.stop()
    recorder.wait_for("socket.close", 20)
    assert eventually(lambda: server.info().active_connections == 0)
    by_id = {}
    for one in recorder.told:
        if "connection_id" in one.metadata:
            by_id.setdefault(one.metadata["connection_id"], []).append(one.name)
    assert len(by_id) == 20
    ending = "handler.error" if end == "error" else "handler.shutdown"
    expected = ["acceptor.accept", "handler.start", "socket.handshake", ending, "socket.close"]
    assert list(by_id.values()) == [expected] * 20
    assert Ends.names().count("end") == 20


def test_a_receiver_that_raises_is_logged_once_and_stays_connected(serve, client, caplog, record):
    calls = []

    def bad(server, *, event, **rest):
        calls.append(event)
        raise LookupError("bad receiver")

    for signal in events.ALL.values():
        signal.connect(bad)
    recorder = record("socket.close")
    try:
        server = serve(Echo)
        for _ in range(3):
            sock = client(server)
            sock.sendall(b"x")
            assert receive(sock, 1) == b"x"
            sock.close()
        recorder.wait_for("socket.close", 3)
        server.stop()
        logged = [one.args[0] for one in caplog.records if "stays connected" in one.message]
        assert len(logged) == len(set(logged)) >= 10, "one traceback for each event"
        assert all(one.exc_info for one in caplog.records)
        assert eventually(lambda: calls.count("socket.close") == 3)
        assert bad in [*events.ALL["socket.close"].receivers_for(server)]
    finally:
        for signal in events.ALL.values():
            signal.disconnect(bad)


def test_each_type_of_exception_has_one_traceback_and_then_a_count_each_minute(caplog):
    clock = iter([0, 1, 2, 3, 59, 60, 61, 200]).__next__
    failures = ReceiverFailures("some.event", clock)

    def bad():
        pass

    for kind in (KeyError, KeyError, ValueError, KeyError, KeyError, KeyError, KeyError, KeyError):
        failures.note(bad, kind("told"))
    assert [(one.getMessage().partition(":")[0], bool(one.exc_info)) for one in caplog.records] == [
        ("a receiver of some.event raised; it stays connected", True),
        ("a receiver of some.event raised; it stays connected", True),
        ("a receiver of some.event raised KeyError 4 more times", False),
        ("a receiver of some.event raised KeyError 2 more times", False),
    ]


def test_a_receiver_that_comes_back_or_gets_anothers_id_begins_anew(monkeypatch):
    lines = []
    monkeypatch.setattr(
        receiver_failures._log, "error", lambda line, *args, **_: lines.append(line)
    )
    failures = ReceiverFailures("some.event", lambda: 0.0)

    class Receiver:
        def method(self):
            pass

    held = Receiver()
    for _ in range(3):
        failures.note(held.method, ValueError())  # a new bound method each time
    assert len(lines) == 1
    failures.forget(held.method)
    failures.note(held.method, ValueError())
    assert len(lines) == 2
    for count in range(3, 23):
        failures.note(Receiver().method, ValueError())  # gone at once, its id free again
        assert len(lines) == count
    assert len(failures._known) <= 2, "what has gone is not kept"


def interrupts(server, **rest):
    raise KeyboardInterrupt


def test_ctrl_c_in_a_receiver_on_the_users_thread_is_passed_on(record):
    """The other receivers are told first."""
    server = ThousandIsland(port=0, host="127.0.0.1", handler_cls=Handler, num_acceptors=2)
    events.listener_start.connect(interrupts)
    recorder = record("listener.start")
    try:
        with pytest.raises(KeyboardInterrupt):
            server.start()
    finally:
        events.listener_start.disconnect(interrupts)
        assert server.stop() is True
    assert recorder.names() == ["listener.start"]


def test_ctrl_c_in_a_receiver_on_a_thread_of_ours_is_logged(serve, client, caplog):
    names = (
        "acceptor.start",
        "acceptor.accept",
        "handler.start",
        "pool.saturated",
        "pool.relieved",
    )
    for name in names:
        events.ALL[name].connect(interrupts)
    release = threading.Event()

    class Waits(Handler):
        def handle_connection(self, socket):
            release.wait(10)

    def told(name):
        return any(one.args[0] == name for one in caplog.records)

    try:
        server = serve(Waits, max_handler_threads=1)
        socks = [client(server), client(server)]
        assert eventually(lambda: told("pool.saturated"))
        release.set()
        assert eventually(lambda: told("pool.relieved"))
        for sock in socks:
            sock.close()
        assert server.stop() is True
    finally:
        release.set()
        for name in names:
            events.ALL[name].disconnect(interrupts)
    assert {one.args[0] for one in caplog.records} == set(names)


def test_a_receiver_may_listen_to_one_server(serve, client):
    seen = []

    def receiver(server, **rest):
        seen.append(server)

    first, second = serve(Echo), serve(Echo)
    events.handler_start.connect(receiver, sender=second)
    try:
        client(first)
        client(second)
        assert eventually(lambda: seen)
        assert seen == [second]
    finally:
        events.handler_start.disconnect(receiver)


def test_a_listener_that_fails_tells(serve, record):
    recorder = record("listener.error", "listener.start")
    server = serve(Echo)
    other = ThousandIsland(handler_cls=Echo, host="127.0.0.1", port=server.local_port)
    with pytest.raises(ListenError):
        other.start()
    assert recorder.names() == ["listener.start", "listener.error"]
    assert recorder.senders[1] is other


# ---- the logger -------------------------------------------------------------


def lines(caplog):
    return [one.message.partition(" ")[0] for one in caplog.records]


def talk(serve, client):
    server = serve(Echo)
    sock = client(server)
    sock.sendall(b"x")
    assert receive(sock, 1) == b"x"
    sock.close()
    assert eventually(lambda: server.info().active_connections == 0)
    server.stop()


@pytest.mark.parametrize(
    ("level", "has", "has_not"),
    [
        ("error", [], ["listener.start"]),
        ("info", ["listener.start", "listener.shutdown"], ["handler.start"]),
        ("debug", ["listener.start", "handler.start", "handler.shutdown"], ["socket.send"]),
        ("trace", ["handler.start", "handler.async_recv", "socket.send", "socket.close"], []),
    ],
)
def test_each_level_includes_those_before(level, has, has_not, serve, client, caplog):
    caplog.set_level(logging.DEBUG, logger="thousand_island_sync")
    attach_logger(level)
    attach_logger(level)
    talk(serve, client)
    found = lines(caplog)
    assert set(has) <= set(found)
    assert not set(has_not) & set(found)
    assert found.count("listener.start") <= 1


def test_attaching_to_a_running_server_and_detaching_again(serve, client, caplog):
    caplog.set_level(logging.DEBUG, logger="thousand_island_sync")
    server = serve(Echo)
    receive_all_of_one(client(server))
    # The client sees the end before the events of the end are told.
    assert eventually(lambda: server.info().active_connections == 0)
    attach_logger("trace")
    receive_all_of_one(client(server))
    assert eventually(lambda: "socket.close" in lines(caplog))
    detach_logger("info")
    count = len(caplog.records)
    receive_all_of_one(client(server))
    assert eventually(lambda: server.info().accepted_total == 3)
    assert len(caplog.records) == count
    assert events.handler_error.receivers
    detach_logger()
    detach_logger()
    assert not events.handler_error.receivers


def receive_all_of_one(sock):
    sock.shutdown(1)
    assert receive_all(sock) == b""


def test_another_logger_replaces_the_one_before(serve, caplog):
    caplog.set_level(logging.DEBUG)
    attach_logger("info", logging.getLogger("first"))
    attach_logger("info", logging.getLogger("second"))
    serve(Echo)
    assert [one.name for one in caplog.records] == ["second"]


def test_an_unknown_level_is_a_config_error():
    for call in (attach_logger, detach_logger):
        with pytest.raises(ConfigError, match="loud"):
            call("loud")


def test_what_is_no_logger_is_a_config_error_and_attaches_nothing():
    for given in ("app", logging, 20):
        with pytest.raises(ConfigError, match=r"logger: got .*logging\.getLogger"):
            attach_logger("info", given)
    assert not events.listener_start.receivers


def test_an_adapter_is_a_logger(serve, caplog):
    caplog.set_level(logging.INFO)
    attach_logger("info", logging.LoggerAdapter(logging.getLogger("app"), {}))
    serve(Echo)
    assert [one.name for one in caplog.records] == ["app"]


def test_errors_are_logged_at_their_levels(serve, client, caplog):
    class Fails(Handler):
        def __init__(self, options):
            raise ValueError

    attach_logger("error")
    server = serve(Fails)
    receive_all(client(server))
    assert eventually(lambda: "acceptor.spawn_error" in lines(caplog))
    (told,) = [one for one in caplog.records if one.message.startswith("acceptor.spawn_error")]
    assert told.levelno == logging.WARNING


class Bugs(Handler):
    """Does what each byte says."""

    def handle_data(self, data, socket):
        match data:
            case b"r":
                raise ZeroDivisionError("a bug")
            case b"b":
                return "no result"
            case b"s":
                return SwitchTransport(int)
            case b"e":
                return Error("no such user\nand more")


@pytest.mark.parametrize("what", [b"r", b"b", b"s"])
def test_a_bug_in_a_callback_is_one_record_and_has_its_traceback(what, serve, client, caplog):
    attach_logger()
    server = serve(Bugs)
    sock = client(server)
    sock.sendall(what)
    assert receive_all(sock) == b""
    server.stop()
    (told,) = caplog.records
    assert told.exc_info is not None


def test_a_logger_of_ones_own_hears_of_a_bug_too(serve, client, caplog):
    attach_logger("error", logging.getLogger("own"))
    server = serve(Bugs)
    sock = client(server)
    sock.sendall(b"r")
    assert receive_all(sock) == b""
    server.stop()
    assert [one.name for one in caplog.records] == ["thousand_island_sync", "own"]


def test_an_error_that_is_no_bug_is_one_line(serve, client, caplog):
    attach_logger()
    server = serve(Bugs)
    sock = client(server)
    sock.sendall(b"e")
    assert receive_all(sock) == b""
    server.stop()
    (told,) = caplog.records
    assert told.message.startswith("handler.error ")
    assert told.levelno == logging.ERROR


def test_the_metadata_of_what_was_told_already_is_a_dict_like_any_other(serve, client, record):
    recorder = record("handler.error")
    sock = client(serve(Bugs))
    sock.sendall(b"r")
    (told,) = recorder.wait_for("handler.error")
    assert isinstance(told.metadata, dict)
    assert told.metadata == {"connection_id": told.metadata["connection_id"]}


def test_what_clients_cause_is_written_ten_times_a_second_then_how_often_more(
    serve, client, caplog, record
):
    recorder = record("handler.error")
    attach_logger()
    server = serve(Bugs)
    for _ in range(60):
        client(server).sendall(b"e")
    recorder.wait_for("handler.error", 60)
    server.stop()
    detach_logger()
    written = [one for one in caplog.records if one.message.startswith("handler.error server=")]
    left_out = [one for one in caplog.records if "more like these were left out" in one.message]
    assert len(written) < 60
    assert "handler.error: " in left_out[0].message
    assert all(one.levelno == logging.ERROR for one in left_out)
    assert len(written) + sum(one.args[1] for one in left_out) == 60


def test_recorders_are_receivers_like_any_other():
    recorder = Recorder(("handler.start",))
    assert events.handler_start.receivers
    recorder.close()
    assert not events.handler_start.receivers
