"""The admin socket: each command, who may ask, and what it does with what is none."""

import contextlib
import json
import logging
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.programs import ROOT
from tests.support import Echo, echoes, eventually
from thousand_island_sync import (
    TLS,
    ConfigError,
    Handler,
    ListenError,
    ServerNotRunning,
    ThousandIsland,
    ThousandIslandError,
    attach_logger,
    events,
)
from thousand_island_sync.admin import AdminServer


class Asking:
    """A client of the admin socket."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(str(path))
        self.file = self.sock.makefile("rb")

    def line(self, data):
        """The answer to a line of bytes; `None`: the end."""
        self.sock.sendall(data)
        return self.answer()

    def answer(self):
        line = self.file.readline()
        return json.loads(line) if line else None

    def __call__(self, do, **more):
        return self.line(json.dumps({"v": 1, "do": do, **more}).encode() + b"\n")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.file.close()
        self.sock.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "admin.sock"


@pytest.fixture
def asked(serve, path):
    """A server, and a client of its admin socket."""
    server = serve(Echo)
    with AdminServer(server, path=path), Asking(path) as ask:
        ask.server = server
        yield ask


def good(answer):
    assert answer.pop("ok") is True, answer
    return answer


def refused(answer):
    assert answer["ok"] is False
    assert set(answer) == {"ok", "error"}
    return answer["error"]


def test_nothing_of_it_is_imported_by_the_package():
    code = (
        "import sys, thousand_island_sync;"
        "print([one for one in sys.modules if 'admin' in one or one.endswith('.systemd')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


# ---- the socket -------------------------------------------------------------------


def test_it_is_a_context_manager_with_start_stop_and_an_address(serve, path):
    server = serve(Echo)
    admin = AdminServer(server, path=path)
    with pytest.raises(ServerNotRunning):
        admin.local_address  # noqa: B018
    admin.stop()
    for _ in range(2):
        assert admin.start() is admin
        assert admin.local_address == str(path)
        with pytest.raises(ThousandIslandError, match="already"):
            admin.start()
        with Asking(path) as ask:
            assert good(ask("info"))["info"]["status"] == "running"
        admin.stop()
        admin.stop()
        assert not path.exists()


def test_the_mode_is_0600_before_it_listens(serve, path, monkeypatch):
    modes = []
    listen = socket.socket.listen

    def noting(sock, *args):
        modes.append(stat.S_IMODE(path.stat().st_mode))
        return listen(sock, *args)

    server = serve(Echo)
    monkeypatch.setattr(socket.socket, "listen", noting)
    before = os.umask(0)
    try:
        with AdminServer(server, path=path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert modes == [0o600]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_another_user_is_refused_although_the_file_lets_him(serve):
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        path = Path(folder) / "a"
        with AdminServer(serve(Echo), path=path), Asking(path) as root:
            path.chmod(0o666)
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                try:
                    os.setuid(65534)
                    with Asking(path) as ask:
                        os.write(writing, json.dumps([ask.answer(), ask.answer()]).encode())
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
            os.close(writing)
            with os.fdopen(reading) as file:
                answer, end = json.load(file)
            assert "only the user" in refused(answer)
            assert end is None
            good(root("info"))


def test_a_live_socket_a_file_and_a_missing_folder_are_listen_errors(asked, path, tmp_path):
    for place in (path, tmp_path, tmp_path / "none" / "a", tmp_path / ("x" * 200)):
        with pytest.raises(ListenError):
            AdminServer(asked.server, path=place).start()
    good(asked("info"))


def test_a_stale_socket_is_replaced(serve, path):
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with AdminServer(serve(Echo), path=path), Asking(path) as ask:
        good(ask("info"))


def test_a_relative_path_is_made_absolute(serve, tmp_path, monkeypatch):
    server = serve(Echo)
    monkeypatch.chdir(tmp_path)
    admin = AdminServer(server, path="a.sock")
    monkeypatch.chdir("/")
    with admin:
        assert admin.local_address == str(tmp_path / "a.sock")


@pytest.mark.parametrize("wrong", ["", "@a", "a\0b", 5, None])
def test_a_wrong_path_is_a_config_error(wrong, serve):
    with pytest.raises(ConfigError, match="path"):
        AdminServer(serve(Echo), path=wrong)


def test_what_is_no_server_is_a_config_error(path):
    with pytest.raises(ConfigError, match="AdminServer"):
        AdminServer(path=path)
    with pytest.raises(ConfigError, match="AdminServer"):
        AdminServer("x", path=path)


def test_a_ninth_client_is_told_and_closed(asked, path):
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Asking(path)) for _ in range(7)]
        assert all(good(client("info")) for client in clients)
        with Asking(path) as ninth:
            assert refused(ninth.answer()) == "8 clients are here already; try again"
            assert ninth.answer() is None
        good(asked("info"))

    def is_answered():
        with Asking(path) as again, contextlib.suppress(OSError):
            return again("info")["ok"]

    assert eventually(is_answered)


def test_who_says_nothing_is_told_and_closed_after_2_s(asked, path):
    began = time.monotonic()
    with Asking(path) as silent:
        silent.sock.sendall(b'{"v": 1')
        assert "within 2 s" in refused(silent.answer())
        assert silent.answer() is None
    assert 1.9 < time.monotonic() - began < 5


def test_a_long_line_is_told_and_closed(asked, path):
    fits = b'{"v": 1, "do": "info", "x": "%s"}'
    fits %= b"x" * (65_536 - len(fits) + 2)
    assert len(fits) == 65_536
    assert "'x': info takes nothing else" in refused(asked.line(fits + b"\n"))
    with Asking(path) as ask:
        assert "65536 bytes" in refused(ask.line(b"x" * 65_537))
        assert ask.answer() is None
    with Asking(path) as ask:
        with contextlib.suppress(OSError):
            ask.sock.sendall(b"x" * 5_000_000)
        assert "65536 bytes" in refused(ask.answer())


def test_who_does_not_read_holds_up_nobody(asked, path):
    with Asking(path) as deaf:
        deaf.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        with contextlib.suppress(OSError):
            deaf.sock.settimeout(0.2)
            while True:
                deaf.sock.sendall(b'{"v": 1, "do": "dump"}\n' * 100)
        good(asked("info"))


def test_a_stop_lets_an_answer_go_out(serve, path):
    server = serve(Echo)
    admin = AdminServer(server, path=path).start()
    with Asking(path) as ask:
        good(ask("info"))
        began = time.monotonic()
        admin.stop()
        assert time.monotonic() - began < 1
        assert ask.answer() is None


def test_in_a_forked_child_it_is_the_parents(serve, path):
    admin = AdminServer(serve(Echo), path=path).start()
    with Asking(path) as asked:
        good(asked("info"))
        child = os.fork()
        if child == 0:
            code = 1
            try:
                admin.stop()
                left = [
                    number
                    for number in os.listdir("/proc/self/fd")
                    if os.path.exists(f"/proc/self/fd/{number}")
                    and socket_path(int(number)) == str(path)
                ]
                code = 0 if not left and path.exists() else 2
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        good(asked("info"))
    admin.stop()


def socket_path(number):
    """The path that a descriptor is bound to, if it is a Unix socket."""
    try:
        with socket.socket(socket.AF_UNIX, fileno=os.dup(number)) as sock:
            return sock.getsockname()
    except OSError:
        return None


# ---- lines ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({}, "v: got None, takes 1"),
        ({"v": 2, "do": "info"}, "v: got 2, takes 1"),
        ({"v": True, "do": "info"}, "v: got True"),
        ({"v": 1}, "do: got None, takes info, workers"),
        ({"v": 1, "do": "inof"}, "the nearest is info"),
        ({"v": 1, "do": ["info"]}, "do: got ['info']"),
        ({"v": 1, "do": "connections", "limt": 1}, "the nearest is limit"),
        ({"v": 1, "do": "connections", "limit": -1}, "limit: got -1, takes a whole number"),
        ({"v": 1, "do": "connections", "limit": True}, "limit: got True"),
        ({"v": 1, "do": "connections", "limit": None}, "limit: got None"),
        ({"v": 1, "do": "close"}, "id: got None"),
        ({"v": 1, "do": "close", "id": "x-1"}, "no open connection 'x-1'"),
        ({"v": 1, "do": "log-level"}, "level: got None"),
        ({"v": 1, "do": "log-level", "level": "loud"}, "takes error, info, debug, trace"),
        ({"v": 1, "do": "reload", "wait": 1}, "wait: got 1, takes true or false"),
    ],
)
def test_a_wrong_command_is_refused_and_the_client_goes_on(line, says, asked):
    assert says in refused(asked.line(json.dumps(line).encode() + b"\n"))
    good(asked("info"))


@pytest.mark.parametrize("line", [b"", b"info", b"[1]", b"\xff\xfe", b"[" * 60_000, b"1" * 5_000])
def test_what_is_no_object_gets_one_answer_and_the_end(line, asked):
    refused(asked.line(line + b"\n" + b"garbage\n" * 3))
    assert asked.answer() is None


def test_a_last_line_needs_no_end(asked):
    asked.sock.sendall(b'{"v": 1, "do": "info"}')
    asked.sock.shutdown(socket.SHUT_WR)
    good(asked.answer())
    assert asked.answer() is None


def test_lines_may_come_together_and_byte_by_byte(asked):
    line = b'{"v": 1, "do": "workers"}\n'
    asked.sock.sendall(line * 3)
    for _ in range(3):
        good(asked.answer())
    for byte in line:
        asked.sock.sendall(bytes([byte]))
    good(asked.answer())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
HARMLESS = st.sampled_from(["info", "workers", "connections", "close", "dump", "log-level"])
LINES = st.one_of(
    st.binary(max_size=300),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(st.sampled_from(["v", "do", "limit", "id", "level", "x"]), JSON).map(
        lambda value: json.dumps(value).encode()
    ),
    st.builds(
        lambda do, key, value: json.dumps({"v": 1, "do": do, key: value}).encode(),
        HARMLESS,
        st.sampled_from(["limit", "id", "level", "x"]),
        JSON,
    ),
)


@settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(line=LINES, ends=st.booleans())
def test_garbage_gets_one_answer_and_the_clients_never_notice(line, ends, asked, path, client):
    line = line.replace(b"\n", b" ")
    if not hasattr(asked, "served"):
        asked.served = client(asked.server)
    with Asking(path) as ask:
        ask.sock.sendall(line + (b"\n" if ends else b""))
        ask.sock.shutdown(socket.SHUT_WR)
        if line or ends:
            answer = ask.answer()
            assert answer["ok"] is True or set(answer) == {"ok", "error"}
        assert ask.answer() is None
    echoes(asked.served)


# ---- commands -----------------------------------------------------------------------


def test_info_is_that_of_the_server(asked, client):
    echoes(client(asked.server))
    info = good(asked("info"))["info"]
    assert info["status"] == "running"
    assert info["name"] == asked.server.name
    assert tuple(info["local_address"]) == asked.server.local_address
    assert info["active_connections"] == info["accepted_total"] == 1


def test_of_several_servers_info_has_the_sums_and_each(serve, path, client):
    one, other = serve(Echo, name="one"), serve(Echo, name="other")
    with AdminServer(one, other, path=path), Asking(path) as ask:
        clients = [client(one), client(other), client(other)]
        for sock in clients:
            echoes(sock)
        info = good(ask("info"))["info"]
        assert info["active_connections"] == 3
        assert [(each["name"], each["active_connections"]) for each in info["servers"]] == [
            ("one", 1),
            ("other", 2),
        ]
        assert {each["server"] for each in good(ask("connections"))["connections"]} == {
            "one",
            "other",
        }
        other.suspend()
        assert good(ask("info"))["info"]["status"] == "suspended"


def test_a_server_that_was_not_started_is_new(path):
    server = ThousandIsland(handler_cls=Echo)
    with AdminServer(server, path=path), Asking(path) as ask:
        assert good(ask("info"))["info"]["status"] == "new"
        assert good(ask("connections")) == {"connections": [], "total": 0}
        assert good(ask("workers"))["workers"][0]["state"] == "starting"
        assert "ServerNotRunning" not in refused(ask("suspend"))


def test_workers_is_this_process(asked):
    (worker,) = good(asked("workers"))["workers"]
    assert worker["pid"] == os.getpid()
    assert worker["state"] == "ready"


def test_connections_are_listed_up_to_a_limit(asked, client):
    socks = [client(asked.server) for _ in range(3)]
    for sock in socks:
        echoes(sock)
    answer = good(asked("connections"))
    assert answer["total"] == 3
    peers = {"{}:{}".format(*sock.getsockname()) for sock in socks}
    assert {one["peer"] for one in answer["connections"]} == peers
    ids = {one.id for one in asked.server.connections()}
    assert {one["id"] for one in answer["connections"]} == ids
    answer = good(asked("connections", limit=2))
    assert (len(answer["connections"]), answer["total"]) == (2, 3)
    assert good(asked("connections", limit=0))["connections"] == []


def test_close_ends_a_connection(asked, client):
    sock, other = client(asked.server), client(asked.server)
    echoes(other)
    echoes(sock)
    peer = "{}:{}".format(*sock.getsockname())
    listed = good(asked("connections"))["connections"]
    (wanted,) = [one["id"] for one in listed if one["peer"] == peer]
    assert good(asked("close", id=wanted)) == {}
    assert sock.recv(1) == b""
    echoes(other)
    assert eventually(lambda: "no open connection" in asked("close", id=wanted).get("error", ""))


def test_suspend_and_resume(asked, client):
    sock = client(asked.server)
    address = asked.server.local_address
    assert good(asked("suspend")) == {}
    assert asked.server.status == "suspended"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, 5)
    assert good(asked("resume")) == {}
    echoes(sock)
    echoes(client(asked.server))


def test_a_resume_that_fails_is_refused(asked):
    address = asked.server.local_address
    good(asked("suspend"))
    with socket.create_server(address):
        assert "choose another address or port" in refused(asked("resume"))
    good(asked("resume"))


def test_drain_begins_a_drain(asked):
    drained = []

    def note(server, **event):
        drained.append(server)

    events.listener_drain.connect(note, sender=asked.server)
    assert good(asked("drain")) == {}
    assert asked.server.wait(10_000)
    assert drained == [asked.server]
    assert good(asked("info"))["info"]["status"] == "stopped"


def test_stop_begins_a_stop(asked):
    assert good(asked("stop")) == {}
    assert asked.server.wait(10_000)


def test_reload_reads_the_certificates_again(serve, path, authority, tmp_path):
    file = tmp_path / "all.pem"
    file.write_bytes(authority.chain + authority.key)
    server = serve(Echo, transport_cls=TLS, transport_options={"certfile": str(file)})
    with AdminServer(server, path=path), Asking(path) as ask:
        assert good(ask("reload")) == {}
        assert good(ask("reload", wait=True, certificates=True)) == {}
        file.write_text("nonsense")
        assert "certfile" in refused(ask("reload", certificates=True))


def test_log_level_changes_what_is_written_where_it_was_written(asked, client):
    mine = logging.getLogger("mine")
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    mine.addHandler(handler)
    try:
        attach_logger("error", mine)
        assert good(asked("log-level", level="debug")) == {}
        echoes(client(asked.server))
        assert eventually(lambda: [one for one in records if "handler.start" in one.getMessage()])
        assert good(asked("log-level", level="error")) == {}
        records.clear()
        echoes(client(asked.server))
        assert not records
        assert mine.level == logging.WARNING
    finally:
        mine.removeHandler(handler)
        mine.setLevel(logging.NOTSET)


# ---- a server that stands --------------------------------------------------------------


class Blocks(Handler):
    """Stays in its callback until it is let go of."""

    go = threading.Event()

    def handle_data(self, data, socket):
        self.secret = data
        socket.send(data)
        self.go.wait(30)


@pytest.fixture
def blocking():
    Blocks.go = threading.Event()
    yield Blocks
    Blocks.go.set()


def test_dump_shows_which_callback_of_which_client_holds_a_thread_and_how_long(
    serve, path, client, blocking
):
    server = serve(Blocks, max_handler_threads=2)
    with AdminServer(server, path=path), Asking(path) as ask:
        socks = [client(server) for _ in range(3)]
        began = time.monotonic()
        for sock in socks[:2]:
            sock.sendall(b"my password")
            assert sock.recv(20) == b"my password"
        socks[2].sendall(b"x")
        assert eventually(lambda: good(ask("info"))["info"]["waiting_connections"] == 1)
        stacks = []

        def have_run_for_a_while():
            stacks[:] = good(ask("dump"))["stacks"]
            return all(one["running_ms"] >= 250 for one in stacks if "callback" in one)

        assert eventually(have_run_for_a_while)
        passed_ms = (time.monotonic() - began) * 1000
        holders = [one for one in stacks if "callback" in one]
        assert stacks[:2] == holders
        assert {one["peer"] for one in holders} == {
            "{}:{}".format(*sock.getsockname()) for sock in socks[:2]
        }
        ids = {one.id for one in server.connections()}
        for one in holders:
            assert one["callback"] == "handle_data"
            assert one["connection"] in ids
            assert one["thread"].startswith(f"{server.name}-handler-")
            assert one["running_ms"] <= passed_ms
            assert any(
                __file__ in line and line.endswith("in handle_data") for line in one["stack"]
            )
            assert one["stack"][-1].endswith(("in wait", "in acquire"))
        names = {one["thread"] for one in stacks}
        assert {"MainThread", f"{server.name}-listener"} <= names
        assert "password" not in json.dumps(stacks)
        blocking.go.set()


def test_it_answers_while_every_thread_blocks(serve, path, client, blocking):
    server = serve(Blocks, max_handler_threads=1)
    with AdminServer(server, path=path):
        sock = client(server)
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        for do in ("info", "workers", "connections", "dump", "suspend", "resume"):
            with Asking(path) as ask:
                good(ask(do))
        blocking.go.set()


def test_the_time_of_one_callback_is_not_that_of_the_next(serve, path, client):
    """They come one after the other on one thread: none seems to run for long."""

    class Busy(Handler):
        def handle_data(self, data, socket):
            time.sleep(0.01)
            socket.send(data)

    server = serve(Busy, max_handler_threads=1)
    with AdminServer(server, path=path), Asking(path) as ask:
        sock = client(server)
        until = time.monotonic() + 0.6
        while time.monotonic() < until:
            sock.sendall(b"x")
            stacks = good(ask("dump"))["stacks"]
            assert sock.recv(1) == b"x"
            assert all(one.get("running_ms", 0) < 300 for one in stacks)


def test_a_callback_that_was_set_anew_and_a_constructor_are_named(serve, path, client, blocking):
    class Other(Blocks):
        def __init__(self, options):
            super().__init__(options)
            if options == "slow":
                self.go.wait(30)

        def handle_connection(self, socket):
            self.handle_data = self.later

        def later(self, data, socket):
            socket.send(data)
            self.go.wait(30)

    for options, name in (("slow", "__init__"), (None, "later")):
        server = serve(Other, handler_options=options)
        with AdminServer(server, path=path), Asking(path) as ask:
            sock = client(server)
            sock.sendall(b"x")
            assert eventually(
                lambda: [
                    one
                    for one in good(ask("dump"))["stacks"]
                    if one.get("callback") == name  # noqa: B023
                ]
            )
    blocking.go.set()
