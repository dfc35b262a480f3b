"""`HealthServer` and HAProxy's `Agent`: what they answer, to whom, and that nobody notices."""

import http.client
import json
import os
import re
import signal
import socket
import threading
import time
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.programs import Script
from tests.support import echoes, eventually, receive_all, running
from thousand_island_sync import (
    ConfigError,
    Handler,
    ListenError,
    ServerNotRunning,
    ThousandIsland,
    ThousandIslandError,
)
from thousand_island_sync.__main__ import main
from thousand_island_sync._health import readiness, small_server
from thousand_island_sync._health.http import Page, Pages
from thousand_island_sync.contrib.haproxy import Agent
from thousand_island_sync.health import HealthServer


class Echo(Handler):
    def handle_data(self, data, socket):
        socket.send(data)


class Blocks(Handler):
    def handle_data(self, data, socket):
        if data == b"block":
            self.options.wait(30)
        socket.send(data)


@pytest.fixture
def health():
    """Starts health servers and agents on free ports; stops them afterwards."""
    made = []

    def start(*servers, kind=HealthServer, **options):
        made.append(kind(*servers, **options))
        return made[-1].start()

    yield start
    for one in made:
        one.stop()


def connect(server):
    address = server.local_address
    if isinstance(address, tuple):
        return socket.create_connection(address, timeout=10)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect("\0" + address[1:] if address.startswith("@") else address)
    return sock


def say(server, data):
    """Everything that is answered, until the end."""
    with connect(server) as sock:
        sock.sendall(data)
        return receive_all(sock)


def get(server, path, method="GET", version="1.1"):
    """Status, fields, and what the body says."""
    request = f"{method} {path} HTTP/{version}\r\nHost: x\r\nConnection: close\r\n\r\n"
    return one_answer(say(server, request.encode()), method)


def one_answer(raw, method="GET"):
    """As `get`; there is exactly one."""
    head, end, body = raw.partition(b"\r\n\r\n")
    assert end, raw
    first, *lines = head.decode().split("\r\n")
    status = re.fullmatch(r"HTTP/1\.1 (\d{3}) [A-Z][A-Za-z -]+", first)
    assert status, first
    fields = dict(line.split(": ", 1) for line in lines)
    assert fields["Content-Type"] == "application/json"
    assert len(body) == (0 if method == "HEAD" else int(fields["Content-Length"]))
    return int(status[1]), fields, json.loads(body) if body else None


def readiness_of(server):
    status, _, content = get(server, "/readyz")
    assert (status == 200) == content["ready"]
    assert status in (200, 503)
    return content.get("reason")


# ---- what is answered ---------------------------------------------------------------


def test_live_and_ready(serve, health):
    probes = health(serve(Echo))
    assert get(probes, "/livez")[0] == 200
    status, fields, content = get(probes, "/readyz")
    assert (status, content) == (200, {"ready": True})
    assert fields["Cache-Control"] == "no-store"
    assert get(probes, "/readyz?verbose=1")[0] == 200
    assert get(probes, "http://somewhere/readyz")[0] == 200


def test_info_is_that_of_the_server(serve, health):
    server = serve(Echo, name="one")
    _, _, content = get(health(server), "/info")
    assert content["name"] == "one"
    assert content["status"] == "running"
    assert content["local_address"] == list(server.local_address)
    assert content["active_connections"] == content["bytes_sent_total"] == 0


def test_info_of_several_is_summed_and_listed(serve, health, client):
    servers = [serve(Echo, name=name) for name in ("one", "two")]
    for server in servers:
        echoes(client(server))
    _, _, content = get(health(*servers), "/info")
    assert content["accepted_total"] == 2
    assert [one["name"] for one in content["servers"]] == ["one", "two"]


def test_metrics_name_their_extra(serve, health):
    status, _, content = get(health(serve(Echo)), "/metrics")
    assert status == 404
    assert "prometheus" in content["error"]


def test_what_is_not_there_is_404_and_another_method_405(serve, health):
    probes = health(serve(Echo))
    for path in ("/", "/livez/", "/Livez", "*", "/%6civez"):
        assert get(probes, path)[0] == 404, path
    for method in ("POST", "DELETE", "OPTIONS", "get"):
        status, fields, _ = get(probes, "/livez", method)
        assert (status, fields["Allow"]) == (405, "GET, HEAD")


def test_head_is_get_without_the_body(serve, health):
    probes = health(serve(Echo))
    status, fields, content = get(probes, "/livez", "HEAD")
    assert (status, content) == (200, None)
    assert fields["Content-Length"] == get(probes, "/livez")[1]["Content-Length"]


def test_a_connection_may_be_kept_and_is_not_in_http_1_0_unless_asked(serve, health):
    probes = health(serve(Echo))
    connection = http.client.HTTPConnection(*probes.local_address, timeout=10)
    for path in ("/livez", "/readyz", "/nowhere", "/livez"):
        connection.request("GET", path)
        connection.getresponse().read()
        assert connection.sock is not None, "it was closed"
    connection.close()
    assert one_answer(say(probes, b"GET /livez HTTP/1.0\r\n\r\n"))[0] == 200
    both = say(
        probes,
        b"GET /livez HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\nGET /livez HTTP/1.0\r\n\r\n",
    )
    assert both.count(b"HTTP/1.1 200 OK") == 2
    assert b"Connection: keep-alive" in both


def test_each_of_many_requests_in_a_row_is_answered_in_order(serve, health):
    probes = health(serve(Echo))
    paths = ["/livez", "/nowhere"] * 300
    asked = "".join(f"GET {path} HTTP/1.1\r\n\r\n" for path in paths)
    answers = say(probes, asked.encode() + b"GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n")
    found = re.findall(rb"HTTP/1\.1 (\d{3})", answers)
    assert found == [b"200", b"404"] * 300 + [b"200"]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /livez HTTP/1.1\r\nX: a\r\n  folded\r\n\tagain\r\nConnection: close\r\n\r\n", 200),
        (b"GET /livez HTTP/1.1\nConnection: close\n\n", 200),
        (b"\r\n\r\nGET /livez HTTP/1.0\r\n\r\n", 200),
        (b"GET /livez HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc", 200),
        (b"GET /livez HTTP/1.1\r\nno field\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nX : a\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nContent-Length: -3\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nContent-Length: 99999\r\n\r\n", 413),
        (b"POST /livez HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
        (b"GET /livez HTTP/2.0\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET /livez\r\n\r\n", 400),
        (b"GET  /livez HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nX: " + b"a" * 5_000 + b"\r\n\r\n", 431),
        (b"a" * 100_000, 431),
    ],
)
def test_whatever_comes_gets_one_answer(request_, status, serve, health):
    assert one_answer(say(health(serve(Echo)), request_))[0] == status


def test_a_client_that_ends_amid_a_request_is_answered(serve, health):
    with connect(health(serve(Echo))) as sock:
        sock.sendall(b"GET /liv")
        sock.shutdown(socket.SHUT_WR)
        assert one_answer(receive_all(sock))[0] == 400


def test_a_request_byte_by_byte(serve, health):
    with connect(health(serve(Echo))) as sock:
        for byte in b"GET /livez HTTP/1.0\r\n\r\n":
            sock.sendall(bytes([byte]))
        assert one_answer(receive_all(sock))[0] == 200


pages = Pages({"/livez": lambda: Page(http.HTTPStatus.OK, {})})
lines = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"GET /livez HTTP/1.1", b"\r\n", b"\n", b" x", b"Connection: close", b":"]),
)


@given(st.lists(lines, max_size=12).map(b"".join), st.integers(0, 60))
def test_garbage_of_any_kind_in_any_pieces_never_raises_and_ends(data, cut):
    """In memory: every answer uses bytes up, or is the last."""
    received, answers = data[:cut], 0
    for over in (False, True):
        while (answer := pages.answer(received, over)) is not None:
            answers += 1
            assert answer.data.startswith(b"HTTP/1.1 ")
            if not answer.goes_on:
                return
            assert 0 < answer.used <= len(received)
            received = received[answer.used :]
        received += data[cut:] if not over else b""
    assert answers or not received.strip(b"\r\n")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(lines, min_size=1, max_size=12).map(b"".join))
def test_garbage_over_a_socket_is_answered_and_the_clients_never_notice(garbage_world, data):
    probes, client_ = garbage_world
    with connect(probes) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        answered = receive_all(sock)
    assert answered == b"" or answered.startswith(b"HTTP/1.1 ")
    echoes(client_)


@pytest.fixture
def garbage_world(serve, health, client):
    server = serve(Echo)
    sock = client(server)
    echoes(sock)
    return health(server), sock


def test_a_page_that_raises_is_500_and_a_line_of_the_log(caplog):
    broken = Pages({"/": lambda: 1 / 0})
    answer = broken.answer(b"GET / HTTP/1.0\r\n\r\n", False)
    assert b" 500 " in answer.data
    assert "could not be answered" in caplog.text


# ---- ready, and why not -----------------------------------------------------------------


def test_reasons_over_the_life_of_a_server(health):
    server = ThousandIsland(handler_cls=Echo, host="127.0.0.1", port=0)
    probes = health(server)
    assert readiness_of(probes) == "starting"
    server.start()
    assert readiness_of(probes) is None
    server.suspend()
    assert readiness_of(probes) == "suspended"
    server.resume()
    assert readiness_of(probes) is None
    with running(lambda: server.drain(60_000)):
        assert eventually(lambda: readiness_of(probes) == "draining")
        assert get(probes, "/livez")[0] == 200
        server.stop()
    assert readiness_of(probes) == "draining", "it is not started again by itself"
    assert get(probes, "/livez")[0] == 200
    assert get(probes, "/info")[2]["status"] == "stopped"


def test_at_the_limit_of_connections_it_is_not_ready_and_is_answered(serve, health, client):
    server = serve(Echo, max_connections=1)
    probes = health(server)
    sock = client(server)
    echoes(sock)
    assert readiness_of(probes) == "limit"
    sock.close()
    assert eventually(lambda: readiness_of(probes) is None)


def test_without_a_free_thread_for_2_s_it_is_not_ready_and_is_answered(serve, health, client):
    release = threading.Event()
    server = serve(Blocks, handler_options=release, max_handler_threads=2)
    probes = health(server)
    socks = [client(server) for _ in range(3)]
    began = time.monotonic()
    for sock in socks:
        sock.sendall(b"block")
    assert readiness_of(probes) is None
    assert eventually(lambda: readiness_of(probes) == "no free thread", 10)
    assert time.monotonic() - began >= 2
    assert get(probes, "/livez")[0] == 200
    release.set()
    assert eventually(lambda: readiness_of(probes) is None)


def test_a_thread_that_comes_free_begins_the_2_s_anew(serve, client, monkeypatch):
    server, free, time_ = serve(Echo), [1], [0.0]
    monkeypatch.setattr(readiness, "load_of", lambda server: (free[0], 4))
    ready = readiness.Readiness([server], lambda: time_[0])

    def after(seconds, threads):
        time_[0] += seconds
        free[0] = threads
        return ready.why_not()

    assert after(0, 0) is None
    assert after(1.9, 0) is None
    assert after(0.1, 0) == "no free thread"
    assert after(0, 1) is None
    assert after(0, 0) is None
    assert after(1.9, 0) is None
    assert after(5, 1) is None


def test_several_are_ready_when_all_are(serve, health):
    one, two = serve(Echo), serve(Echo)
    probes = health(one, two)
    assert readiness_of(probes) is None
    two.suspend()
    assert readiness_of(probes) == "suspended"
    two.resume()
    assert readiness_of(probes) is None


# ---- a listener of its own ---------------------------------------------------------------


def test_one_silent_client_holds_up_no_other_and_is_closed_in_2_s(serve, health):
    probes = health(serve(Echo))
    began = time.monotonic()
    with connect(probes) as silent, connect(probes) as slow:
        slow.sendall(b"GET /")
        for _ in range(20):
            assert get(probes, "/livez")[0] == 200
        assert time.monotonic() - began < 2
        assert receive_all(silent) == b""
        assert one_answer(receive_all(slow))[0] == 408
    assert 1.9 < time.monotonic() - began < 8


def test_who_does_not_read_is_closed(serve, health, monkeypatch):
    monkeypatch.setattr(small_server, "REQUEST_S", 0.2)
    probes = health(serve(Echo))
    with connect(probes) as sock:
        sock.settimeout(0.5)
        with pytest.raises(OSError):
            while True:
                sock.sendall(b"GET /livez HTTP/1.1\r\n\r\n" * 1000)
    assert get(probes, "/livez")[0] == 200


def test_more_clients_than_it_has_room_for_push_the_oldest_out(serve, health, monkeypatch):
    monkeypatch.setattr(small_server, "MOST_CLIENTS", 4)
    probes = health(serve(Echo))
    silent = [connect(probes) for _ in range(8)]
    assert get(probes, "/livez")[0] == 200
    assert receive_all(silent[0]) == b""
    for sock in silent:
        sock.close()


@pytest.mark.parametrize("kind", [HealthServer, Agent])
def test_over_a_unix_socket(kind, serve, health, tmp_path):
    path = f"{tmp_path}/probes"
    probes = health(serve(Echo), kind=kind, host=f"unix:{path}")
    assert probes.local_address == path
    assert say(probes, b"GET /livez HTTP/1.0\r\n\r\n")
    probes.stop()
    assert not os.path.exists(path)


@pytest.mark.parametrize("kind", [HealthServer, Agent])
def test_an_address_that_cannot_be_had_is_a_listen_error_and_leaves_nothing(kind, serve, health):
    server = serve(Echo)
    taken = kind(server, port=server.local_port)
    for _ in range(2):
        with pytest.raises(ListenError, match=str(server.local_port)):
            taken.start()
    with pytest.raises(ServerNotRunning):
        _ = taken.local_address
    with pytest.raises(ListenError):
        kind(server, host="no-such-host.invalid").start()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"port": -1}, "port: got -1"),
        ({"port": 65_536}, "port"),
        ({"port": "80"}, "port: got '80'"),
        ({"port": True}, "port: got True"),
        ({"host": 7}, "host"),
        ({"host": "unix:/x", "port": 3}, "Unix"),
    ],
)
@pytest.mark.parametrize("kind", [HealthServer, Agent])
def test_wrong_options_are_config_errors(kind, options, said, serve):
    with pytest.raises(ConfigError, match=said):
        kind(serve(Echo), **options)


@pytest.mark.parametrize("kind", [HealthServer, Agent])
def test_it_takes_servers_one_at_least(kind):
    with pytest.raises(ConfigError, match="at least one server"):
        kind()
    with pytest.raises(ConfigError, match="takes ThousandIsland servers"):
        kind("server")


@pytest.mark.parametrize("kind", [HealthServer, Agent])
def test_it_starts_once_stops_as_often_as_one_likes_and_starts_again(kind, serve):
    probes = kind(serve(Echo))
    probes.stop()
    with probes as entered:
        assert entered is probes
        address = probes.local_address
        with pytest.raises(ThousandIslandError, match="started already"):
            probes.start()
    probes.stop()
    with pytest.raises(OSError):
        socket.create_connection(address, timeout=10)
    with probes:
        assert say(probes, b"GET /livez HTTP/1.0\r\n\r\n")


def test_probes_are_told_to_no_receiver(serve, health, record):
    server = serve(Echo)
    recorder = record("acceptor.accept", "handler.start", "socket.close", "listener.start")
    probes = health(server)
    get(probes, "/livez")
    assert server.info().accepted_total == 0
    assert recorder.told == []


def line_of(agent):
    said = say(agent, b"")
    assert said.endswith(b"\n")
    return said.decode().rstrip("\n")


def test_a_forked_child_keeps_nothing_of_it_and_cannot_stop_it(serve, health):
    probes = health(serve(Echo))
    with connect(probes) as silent:
        assert eventually(lambda: get(probes, "/livez")[0] == 200)
        in_child, release = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            try:
                probes.stop()
                os.write(in_child[1], b"x")
                os.read(release[0], 1)
            finally:
                os._exit(0)
        assert os.read(in_child[0], 1) == b"x"
        assert get(probes, "/livez")[0] == 200
        address = probes.local_address
        probes.stop()
        assert receive_all(silent) == b"", "the child keeps it open"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=10)
    os.write(release[1], b"x")
    assert os.waitpid(child, 0)[1] == 0
    for end in (*in_child, *release):
        os.close(end)


# ---- HAProxy's agent ----------------------------------------------------------------------


def test_the_agent_says_how_much_of_the_pool_is_free(serve, health, client):
    release = threading.Event()
    server = serve(Blocks, handler_options=release, max_handler_threads=4)
    agent = health(server, kind=Agent)
    assert say(agent, b"") == b"up ready 100%\n"
    socks = [client(server) for _ in range(4)]
    for taken, expected in enumerate([b"75", b"50", b"25", b"1"]):
        socks[taken].sendall(b"block")
        line = b"up ready " + expected + b"%\n"
        assert eventually(lambda line=line: say(agent, b"") == line), expected
    release.set()
    assert eventually(lambda: say(agent, b"anything") == b"up ready 100%\n")


def test_the_agent_says_drain_in_a_drain_and_where_nobody_is_accepted(health):
    server = ThousandIsland(handler_cls=Echo, host="127.0.0.1", port=0)
    agent = health(server, kind=Agent)
    assert line_of(agent) == "drain"
    server.start()
    assert line_of(agent) == "up ready 100%"
    with running(lambda: server.drain(60_000)):
        assert eventually(lambda: say(agent, b"") == b"drain\n")
        server.stop()
    assert line_of(agent) == "drain"


def test_of_several_servers_the_agent_tells_of_the_busiest(serve, health, client):
    release = threading.Event()
    busy = serve(Blocks, handler_options=release, max_handler_threads=2)
    agent = health(serve(Echo), busy, kind=Agent)
    client(busy).sendall(b"block")
    assert eventually(lambda: line_of(agent) == "up ready 50%")
    release.set()
    busy.suspend()
    assert line_of(agent) == "drain"


# ---- on the command line ------------------------------------------------------------------


def test_flags_of_the_command_line(tmp_path):
    health_path, agent_path = f"{tmp_path}/health", f"{tmp_path}/agent"
    flags = ["--port", "0", "--health", f"unix:{health_path}", "--agent", f"unix:{agent_path}"]
    with Script("-m", "thousand_island_sync", *flags, announcement=r"(127\.0\.0\.1:\d+)"):
        probes = SimpleNamespace(local_address=health_path)
        assert eventually(lambda: readiness_of(probes) is None)
        assert line_of(SimpleNamespace(local_address=agent_path)) == "up ready 100%"
    assert not os.path.exists(health_path)
    assert not os.path.exists(agent_path)


def test_sigterm_makes_it_not_ready_while_it_still_accepts_and_live_until_the_end(tmp_path):
    path, agent = f"{tmp_path}/health", f"{tmp_path}/agent"
    flags = ["--port", "0", "--health", f"unix:{path}", "--agent", f"unix:{agent}"]
    flags += ["--drain-delay-ms", "3000"]
    probes, agent = SimpleNamespace(local_address=path), SimpleNamespace(local_address=agent)
    with Script("-m", "thousand_island_sync", *flags, announcement=r"(127\.0\.0\.1:\d+)") as script:
        assert eventually(lambda: readiness_of(probes) is None)
        script.process.send_signal(signal.SIGTERM)
        assert eventually(lambda: readiness_of(probes) == "draining")
        assert line_of(agent) == "drain"
        assert get(probes, "/livez")[0] == 200
        with socket.create_connection(("127.0.0.1", int(script.port)), timeout=10) as late:
            echoes(late)
        assert script.process.wait(20) == 0


@pytest.mark.parametrize("flag", ["--health", "--agent"])
@pytest.mark.parametrize(
    "place", ["nonsense", "127.0.0.1:99999", "127.0.0.1:", "::1:80", "unix:", "", "a:-1", "taken"]
)
def test_a_place_that_cannot_be_had_is_one_line_and_exit_2(flag, place, serve, capsys):
    if place == "taken":
        place = f"127.0.0.1:{serve(Echo).local_port}"
    assert main(["--port", "0", flag, place]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1
    assert place.rpartition(":")[2] in error
