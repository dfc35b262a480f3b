"""The fields of log records: those of `attach_logger`, and what `ConnectionFilter` adds to a user's
own; as python-json-logger and structlog read them."""

import json
import logging
import queue
import socket
import ssl
import threading

import pytest
import structlog
from pythonjsonlogger.json import JsonFormatter

from tests.support import Echo, answers, eventually, receive_all, reset
from thousand_island_sync import (
    TLS,
    Close,
    Error,
    Handler,
    attach_logger,
    detach_logger,
    events,
)
from thousand_island_sync.logger import ConnectionFilter
from thousand_island_sync.testing import call

NAMES = (
    *("event_name", "server_name", "connection_id", "client_address", "client_port"),
    *("duration_ms", "bytes_received", "bytes_sent", "reason", "error_type"),
)
OF_CLIENT = {"event_name", "server_name", "connection_id", "client_address", "client_port"}
AT_ITS_END = OF_CLIENT | {"duration_ms", "bytes_received", "bytes_sent", "reason"}


@pytest.fixture(autouse=True)
def _attached():
    yield
    detach_logger()


def fields(record):
    return {name: vars(record)[name] for name in NAMES if name in vars(record)}


def of(caplog, event, count=1):
    """The fields of so many records of one event."""

    def found():
        return [fields(one) for one in caplog.records if vars(one).get("event_name") == event]

    assert eventually(lambda: len(found()) >= count), [one.message for one in caplog.records]
    return found()


def attached(caplog, level="trace"):
    caplog.set_level(logging.DEBUG, "thousand_island_sync")
    attach_logger(level)


# ---- which fields, for each event -------------------------------------------


def test_a_connections_records_say_whose_they_are(serve, client, caplog):
    attached(caplog)
    server = serve(Echo, name="shop")
    sock = client(server)
    assert answers(sock)
    host, port = sock.getsockname()
    sock.close()
    (closed,) = of(caplog, "socket.close")
    of_client = {one: closed[one] for one in OF_CLIENT - {"event_name"}}
    assert of_client["server_name"] == "shop"
    assert (of_client["client_address"], of_client["client_port"]) == (host, port)
    names = ["acceptor.accept", "handler.start", "handler.async_recv", "socket.handshake"]
    for event in (*names, "socket.send", "handler.shutdown", "socket.close"):
        (found,) = of(caplog, event)
        assert found.items() >= {**of_client, "event_name": event}.items()


def test_an_end_says_how_and_after_how_long_and_what_was_moved(serve, client, caplog):
    attached(caplog)
    server = serve(Echo)
    sock = client(server)
    assert answers(sock)
    sock.close()
    (end,) = of(caplog, "handler.shutdown")
    assert set(end) == AT_ITS_END
    assert (end["reason"], end["bytes_received"], end["bytes_sent"]) == ("peer_closed", 1, 1)
    assert 0 < end["duration_ms"] < 10_000
    (closed,) = of(caplog, "socket.close")
    assert set(closed) == OF_CLIENT | {"bytes_received", "bytes_sent"}


class Ends(Handler):
    """In the way that the client asks for."""

    def handle_data(self, data, socket):
        if data == b"close":
            return Close()
        if data == b"error":
            return Error(ValueError("no"))
        if data == b"words":
            return Error("no")
        if data == b"raise":
            raise KeyError("a bug")
        return None


@pytest.mark.parametrize(
    ("data", "reason", "error_type"),
    [
        (b"close", "local_closed", None),
        (b"error", "error", "ValueError"),
        (b"words", "error", None),
        (b"raise", "error", "KeyError"),
        (b"silence", "timeout", None),
    ],
)
def test_each_way_to_end_has_its_reason(data, reason, error_type, serve, client, caplog):
    attached(caplog)
    sock = client(serve(Ends, read_timeout_ms=200))
    sock.sendall(data)
    assert receive_all(sock) == b""
    event = "handler.error" if reason == "error" else "handler.shutdown"
    (end,) = of(caplog, event)
    assert end["reason"] == reason
    assert end.get("error_type") == error_type
    assert end["client_port"] == sock.getsockname()[1]
    assert end["duration_ms"] > 0


def test_what_a_peer_says_is_shown_and_not_done(serve, client, caplog):
    """A terminal would obey it."""

    class Repeats(Handler):
        def handle_data(self, data, sock):
            return Error(ValueError(f"bad line {data.decode()}"))

    attached(caplog)
    sock = client(serve(Repeats))
    sock.sendall(b"\x1b[2J\r\nERROR forged")
    assert receive_all(sock) == b""
    of(caplog, "handler.error")
    (line,) = [one.message for one in caplog.records if "bad line" in one.message]
    assert r"ValueError(bad line \x1b[2J ERROR forged)" in line


def test_a_stop_is_a_reason_too(serve, client, caplog):
    attached(caplog)
    server = serve(Echo)
    assert answers(client(server))
    assert server.stop()
    assert of(caplog, "handler.shutdown")[0]["reason"] == "shutdown"


def test_what_was_received_and_sent_in_one_call_has_its_bytes(serve, client, caplog, tmp_path):
    (tmp_path / "file").write_bytes(b"12345678")

    class Serves(Handler):
        def handle_connection(self, sock):
            sock.recv_exactly(3)
            sock.send([b"ab", b"cd"])
            sock.sendfile(tmp_path / "file", 0, 5)
            sock.shutdown("write")

    attached(caplog)
    sock = client(serve(Serves))
    sock.sendall(b"123")
    assert len(receive_all(sock)) == 9
    assert of(caplog, "socket.recv")[0]["bytes_received"] == 3
    assert of(caplog, "socket.send")[0]["bytes_sent"] == 4
    assert of(caplog, "socket.sendfile")[0]["bytes_sent"] == 5
    assert set(of(caplog, "socket.shutdown")[0]) == OF_CLIENT


def test_a_send_of_another_thread_belongs_to_its_connection(serve, client, caplog):
    sockets = queue.SimpleQueue()

    class Gives(Handler):
        def handle_connection(self, sock):
            sockets.put(sock)

    attached(caplog)
    sock = client(serve(Gives))
    sender = threading.Thread(target=lambda: sockets.get(timeout=5).send(b"hello"))
    sender.start()
    sender.join()
    assert of(caplog, "socket.send")[0]["client_port"] == sock.getsockname()[1]


def test_what_is_about_the_server_has_its_name_alone(serve, caplog):
    attached(caplog)
    server = serve(Echo, name="shop")
    server.suspend()
    server.resume()
    server.stop()
    for event in ("listener.start", "listener.suspend", "listener.resume"):
        assert of(caplog, event) == [{"event_name": event, "server_name": "shop"}]
    (shutdown,) = of(caplog, "listener.shutdown")
    assert set(shutdown) == {"event_name", "server_name", "duration_ms"}
    ended = of(caplog, "acceptor.shutdown")[0]
    assert set(ended) == {"event_name", "server_name", "duration_ms", "reason"}


def test_a_client_that_was_not_served_has_no_id(serve, client, caplog):
    class Fails(Handler):
        def __init__(self, options):
            raise OSError("no")

    attached(caplog, "error")
    sock = client(serve(Fails))
    assert receive_all(sock) == b""
    (refused,) = of(caplog, "acceptor.spawn_error")
    assert set(refused) == (OF_CLIENT - {"connection_id"}) | {"error_type"}
    assert refused["error_type"] == "OSError"
    (traceback,) = [one for one in caplog.records if one.exc_info]
    assert vars(traceback)["client_port"] == sock.getsockname()[1]
    assert not hasattr(traceback, "event_name"), "that is the other record's"


def test_a_unix_peer_has_no_port(serve, tmp_path, caplog):
    attached(caplog)
    serve(Echo, host=f"unix:{tmp_path}/s")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"{tmp_path}/s")
        assert answers(sock)
    (end,) = of(caplog, "handler.shutdown")
    assert set(end) == AT_ITS_END - {"client_port"}
    assert end["client_address"] == ""


def test_the_events_themselves_tell_what_they_told(serve, client, record):
    recorder = record("handler.shutdown", "socket.close")
    sock = client(serve(Echo))
    assert answers(sock)
    sock.close()
    for told in recorder.wait_for("socket.close") + recorder.of("handler.shutdown"):
        assert isinstance(told.metadata, dict)
        assert list(told.metadata) == ["connection_id"]
        assert json.loads(json.dumps(told.metadata)) == told.metadata


# ---- who reads them -----------------------------------------------------------


def every_record(serve, client, caplog, wire):
    """Those of a life, at the level that has all."""
    attached(caplog)
    server = wire.serve(Ends)
    for data in (b"error", b"words", b"raise", b"close"):
        sock = wire.connect(server)
        sock.sendall(data)
        assert receive_all(sock) == b""
    server.stop()
    assert {"listener.start", "handler.error", "handler.shutdown", "socket.close"} <= {
        vars(one).get("event_name") for one in caplog.records
    }
    return caplog.records


def test_python_json_logger_writes_each_as_one_line_with_its_fields(wire, serve, client, caplog):
    formatter = JsonFormatter()
    for record in every_record(serve, client, caplog, wire):
        line = formatter.format(record)
        assert "\n" not in line
        assert json.loads(line).items() >= fields(record).items()


def test_structlog_adds_them(wire, serve, client, caplog):
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder()],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(default=repr),
        ],
    )
    for record in every_record(serve, client, caplog, wire):
        assert json.loads(formatter.format(record)).items() >= fields(record).items()


# ---- what peers do ------------------------------------------------------------


class SaysGoodbye(Handler):
    """Sends to a peer that has gone, and waits for one that is silent."""

    def handle_data(self, data, sock):
        sock.recv(timeout_ms=10)

    def handle_close(self, sock):
        while True:
            sock.send(b"goodbye" * 10_000, timeout_ms=100)

    def handle_timeout(self, sock):
        sock.recv_exactly(10, timeout_ms=10)

    handle_error = handle_shutdown = handle_close


@pytest.mark.parametrize("what", ["reset", "close", "silence", "probe"])
def test_a_reset_a_timeout_and_a_probe_are_never_a_traceback(what, serve, client, caplog):
    def clients_end(server):
        sock = client(server)
        if what != "probe":
            sock.sendall(b"x" * 10)
        if what == "silence":
            assert receive_all(sock) == b""
        (reset if what in ("reset", "probe") else socket.socket.close)(sock)

    attached(caplog)
    server = serve(SaysGoodbye, read_timeout_ms=200)
    for _ in range(3):
        clients_end(server)
    of(caplog, "socket.close", 3)
    server.stop()
    assert [one.getMessage() for one in caplog.records if one.exc_info] == []


def test_a_send_on_what_the_handler_has_closed_itself_is_a_bug_of_its_own(serve, client, caplog):
    class Forgets(Handler):
        def handle_close(self, sock):
            sock.close()
            sock.send(b"too late")

    sock = client(serve(Forgets))
    sock.shutdown(socket.SHUT_WR)
    assert receive_all(sock) == b""
    assert eventually(lambda: any(one.exc_info for one in caplog.records))


def hello():
    """What a client of TLS says first."""
    wire = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        ssl._create_unverified_context().wrap_bio(ssl.MemoryBIO(), wire).do_handshake()
    return wire.read()


@pytest.mark.parametrize(
    "says",
    [
        lambda sock: sock.sendall(b"GET / HTTP/1.1\r\n\r\n"),
        lambda sock: (sock.sendall(hello()), sock.recv(1), reset(sock)),
        lambda sock: (sock.sendall(b"\x16\x03\x01\x00\xff"), sock.close()),
        lambda sock: sock.sendall(b"\x16"),
    ],
    ids=["plaintext", "reset", "closed", "half a hello"],
)
def test_one_failed_handshake_is_one_line(says, serve, client, caplog, authority, record):
    recorder = record("socket.close")
    attached(caplog, "info")
    options = {"certfile": authority.chain, "keyfile": authority.key}
    server = serve(Echo, transport_cls=TLS, transport_options=options, handshake_timeout_ms=100)
    says(client(server))
    recorder.wait_for("socket.close")
    (line,) = [one for one in caplog.records if vars(one)["event_name"] != "listener.start"]
    assert (
        fields(line).items()
        >= {
            "event_name": "socket.handshake_error",
            "reason": "error",
            "error_type": "HandshakeError",
        }.items()
    )
    assert {"connection_id", "client_address", "client_port", "duration_ms"} <= set(fields(line))
    assert line.levelno == logging.ERROR
    assert line.exc_info is None


def test_tracebacks_of_one_kind_are_ten_a_second_then_how_many_more(serve, client, caplog, record):
    recorder = record("handler.error")
    attached(caplog, "error")
    server = serve(Ends, name="shop")
    for _ in range(50):
        client(server).sendall(b"raise")
    recorder.wait_for("handler.error", 50)
    server.stop()
    detach_logger()
    tracebacks = [one for one in caplog.records if one.exc_info]
    left_out = [one for one in caplog.records if "left out" in one.message]
    assert 10 <= len(tracebacks) < 50
    assert len(tracebacks) + sum(one.args[1] for one in left_out) == 50
    assert fields(left_out[0]) == {
        "event_name": "handler.error",
        "error_type": "KeyError",
        "server_name": "shop",
    }


def test_who_attaches_no_logger_gets_every_traceback(serve, client, caplog, record):
    recorder = record("handler.error")
    server = serve(Ends)
    for _ in range(30):
        client(server).sendall(b"raise")
    recorder.wait_for("handler.error", 30)
    assert len([one for one in caplog.records if one.exc_info]) == 30


# ---- ConnectionFilter ---------------------------------------------------------


class Lines(logging.Handler):
    """What a user's handler makes of records, with the filter."""

    def __init__(self):
        super().__init__()
        self.addFilter(ConnectionFilter())
        self.setFormatter(logging.Formatter("%(connection_id)s %(client_address)s %(message)s"))
        self.lines = []

    def emit(self, record):
        self.lines.append(self.format(record))


@pytest.fixture
def lines():
    handler, log = Lines(), logging.getLogger("app")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield handler.lines
    log.removeHandler(handler)


class Logs(Handler):
    """In every callback."""

    def handle_connection(self, sock):
        self.says("connection")

    def handle_data(self, data, sock):
        sock.recv(timeout_ms=5_000)  # a wait gives the thread's permit away
        self.says("data")
        thread = threading.Thread(target=self.says, args=["elsewhere"])
        thread.start()
        thread.join()

    def handle_close(self, sock):
        self.says("close")

    def handle_end(self, sock):
        self.says("end")

    def says(self, what):
        logging.getLogger("app").info(what)


def test_lines_inside_callbacks_say_whose_they_are_and_elsewhere_a_dash(
    serve, client, lines, record
):
    recorder = record("handler.start", "socket.close")
    server = serve(Logs)
    logging.getLogger("app").info("before")
    sock = client(server)
    sock.sendall(b"x")
    assert eventually(lambda: "connection" in str(lines))
    sock.sendall(b"y")
    sock.close()
    assert eventually(lambda: "end" in str(lines))
    whose = f"{recorder.of('handler.start')[0].metadata['connection_id']} 127.0.0.1"
    assert lines == [
        "- - before",
        f"{whose} connection",
        f"{whose} data",
        "- - elsewhere",
        f"{whose} close",
        f"{whose} end",
    ]


def test_two_connections_are_told_apart_on_the_same_thread(serve, client, lines):
    class Says(Handler):
        def handle_data(self, data, sock):
            logging.getLogger("app").info(sock.connection_id)
            sock.send(data)

    server = serve(Says, max_handler_threads=1)
    socks = [client(server) for _ in range(3)]
    for sock in socks * 2:
        assert answers(sock)
    assert len(lines) == 6
    assert all(line.split()[0] == line.split()[2] for line in lines)
    assert len({line.split()[0] for line in lines}) == 3


def test_receivers_and_handlers_in_memory_are_inside_callbacks_too(serve, client, lines):
    def receiver(server, **told):
        logging.getLogger("app").info("receiver")

    events.handler_start.connect(receiver)
    assert answers(client(serve(Echo)))
    call(Logs, b"x", b"y", peer=("192.0.2.7", 50_000))
    assert "127.0.0.1 receiver" in lines[0]
    assert [line.split()[1] for line in lines[1:]][:2] == ["192.0.2.7", "192.0.2.7"]
    logging.getLogger("app").info("after")
    assert lines[-1] == "- - after"


def test_what_a_record_has_already_stays(caplog, serve, client):
    attached(caplog, "debug")
    handler = Lines()
    log = logging.getLogger("thousand_island_sync")
    log.addHandler(handler)
    try:
        sock = client(serve(Echo))
        assert answers(sock)
        sock.close()
        (end,) = of(caplog, "handler.shutdown")
    finally:
        log.removeHandler(handler)
    whose = f"{end['connection_id']} 127.0.0.1 handler.shutdown"
    assert any(line.startswith(whose) for line in handler.lines)
    assert any(line.startswith("- - listener.start") for line in handler.lines)
