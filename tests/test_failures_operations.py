"""Failures of operating a server, by their ids in the catalogue (docs/explanation/reliability.md).
F2, F3, and LISTEN_FDS of F4, are not there yet."""

import errno
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time

import pytest

from tests.programs import ROOT
from tests.support import Echo, echoes, eventually, receive, receive_all, reset, running
from thousand_island_sync import (
    Close,
    ConfigError,
    Handler,
    ListenError,
    NotSupported,
    SocketClosed,
    SocketError,
    ThousandIsland,
    ThousandIslandError,
)
from thousand_island_sync._listener import accept_turns
from thousand_island_sync._scheduler import scheduler as _scheduler

# ---- F1: how full it is ------------------------------------------------------------


@pytest.mark.heavy
def test_f1_the_counts_are_right_after_ten_thousand_connections(serve):
    server = serve(Echo, max_connections=50)

    def visits():
        for _ in range(2_500):
            with socket.create_connection(server.local_address, timeout=10) as sock:
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"

    asked, pause = 0, threading.Event()
    with running(*[visits] * 4) as threads:
        while any(thread.is_alive() for thread in threads):
            info = server.info()
            assert 0 <= info.active_connections <= info.peak_connections <= 50
            assert info.rejected_total == 0
            asked += 1
            pause.wait(0.01)
    assert asked > 10
    assert eventually(lambda: server.info().active_connections == 0)
    info = server.info()
    assert (info.accepted_total, info.rejected_total) == (10_000, 0)
    assert 1 <= info.peak_connections <= 50
    assert (info.busy_threads, info.waiting_connections) == (0, 0)


def test_f1_info_is_quick_with_many_connections(serve, client, monkeypatch):
    monkeypatch.setenv("THOUSAND_ISLAND_DEBUG", "0")  # its looks hold the lock for a while
    server = serve(Echo)
    began = time.perf_counter()
    for _ in range(1_000):
        server.info()
    few = time.perf_counter() - began
    socks = [client(server) for _ in range(500)]
    assert eventually(lambda: server.info().active_connections == len(socks))
    began = time.perf_counter()
    for _ in range(1_000):
        server.info()
    assert time.perf_counter() - began < 5 * few + 0.05, "O(1)"


# ---- F4: inherited sockets -------------------------------------------------------------

ROLLING = """
import socket, sys
from thousand_island_sync import Close, Handler, ThousandIsland

class Hello(Handler):
    def handle_data(self, data, sock):
        if b"\\r\\n\\r\\n" not in data:
            return sock.unread(data)
        sock.send(b"HTTP/1.0 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nhi")
        return Close()

inherited = socket.socket(fileno=int(sys.argv[1]))
server = ThousandIsland(handler_cls=Hello, transport_options={"sockets": [inherited]})
server.start()
print("serving", flush=True)
server.serve_forever()
"""


def test_f4_a_rolling_restart_on_an_inherited_socket_fails_no_request():
    """Two processes take over from one another while four clients never pause."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    address = listener.getsockname()
    over, failures, answered = threading.Event(), [], []

    def visits():
        while not over.is_set():
            try:
                with socket.create_connection(address, timeout=10) as sock:
                    sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    assert receive_all(sock).endswith(b"hi")
                answered.append(1)
            except (OSError, AssertionError) as error:
                failures.append(error)

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", ROLLING, str(listener.fileno())],
            cwd=ROOT,
            pass_fds=[listener.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline() == "serving\n"
        return process

    clients = [threading.Thread(target=visits) for _ in range(4)]
    process = start()
    for one in clients:
        one.start()
    codes, errors = [], []
    for _ in range(6):
        successor = start()
        process.send_signal(signal.SIGTERM)
        codes.append(process.wait(20))
        errors.append(process.communicate()[1])
        process = successor
        before = len(answered)
        assert eventually(lambda before=before: len(answered) > before + 50)
    over.set()
    for one in clients:
        one.join(10)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    process.communicate()
    listener.close()
    assert (codes, errors) == ([0] * 6, [""] * 6)
    assert not failures
    assert len(answered) > 300


def test_f4_an_inherited_unix_socket_keeps_its_file_and_its_family(serve, client, tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as inherited:
        inherited.bind(path)
        inherited.listen()
        for _ in range(2):
            server = serve(Echo, transport_options={"sockets": [inherited]})
            assert server.local_address == path
            with pytest.raises(NotSupported):
                _ = server.local_port
            echoes(client(server))
            server.stop()
            assert os.path.exists(path)


# ---- F5, F6: ports and families -----------------------------------------------------------


def test_f5_port_0_with_three_listening_sockets_is_one_port(serve, record):
    started = record("listener.start", "acceptor.accept")
    server = serve(
        Echo, num_listen_sockets=3, num_acceptors=3, transport_options={"reuse_port": True}
    )
    for _ in range(60):
        with socket.create_connection(server.local_address, timeout=5) as sock:
            echoes(sock)
    (told,) = started.of("listener.start")
    assert told.measurements["port"] == server.local_port
    used = {one.metadata["acceptor_id"] for one in started.of("acceptor.accept")}
    assert used == {1, 2, 3}, "each listening socket has an acceptor that serves it"


@pytest.mark.parametrize(
    "options",
    [
        {"num_listen_sockets": 2},
        {"num_listen_sockets": 3, "num_acceptors": 2, "transport_options": {"reuse_port": True}},
        {"num_listen_sockets": 2, "host": "unix:/tmp/never-made"},
    ],
    ids=["without reuse_port", "more than acceptors", "of a Unix socket"],
)
def test_f5_several_listening_sockets_where_they_cannot_be(options):
    with pytest.raises(ConfigError, match="num_listen_sockets"):
        ThousandIsland(handler_cls=Echo, **options)


def test_f6_localhost_is_an_address_that_clients_find(serve):
    server = serve(Echo, host="localhost")
    with socket.create_connection(("localhost", server.local_port), timeout=5) as sock:
        echoes(sock)


# ---- F7 to F9: Unix sockets -----------------------------------------------------------------


def test_f7_twenty_starters_in_two_processes_one_wins(tmp_path):
    program = f"""
import threading
from thousand_island_sync import Handler, ListenError, ThousandIsland
servers, refused = [], []
def start():
    try:
        servers.append(ThousandIsland(handler_cls=Handler, host="unix:{tmp_path}/s").start())
    except ListenError:
        refused.append(1)
threads = [threading.Thread(target=start) for _ in range(10)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(servers), len(refused), flush=True)
input()
for server in servers: server.stop()
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    counts = [tuple(map(int, process.stdout.readline().split())) for process in processes]
    for process in processes:
        process.communicate("\n", timeout=20)
    assert sorted(counts) == [(0, 10), (1, 9)]
    assert os.listdir(tmp_path) == [] or os.listdir(tmp_path) == ["s.lock"]


def test_f8_nobody_gets_in_before_the_mode_is_set(tmp_path, monkeypatch):
    """Until `listen` every connect is refused; by then the mode is there, umask untouched."""
    path = tmp_path / "s"
    umask = os.umask(0o022)
    os.umask(umask)
    listen = socket.socket.listen
    modes, refused = [], []

    def looked_at(sock, *backlog):
        modes.append((stat.S_IMODE(path.stat().st_mode), os.umask(umask)))
        with socket.socket(socket.AF_UNIX) as early:
            refused.append(early.connect_ex(str(path)))
        listen(sock, *backlog)

    monkeypatch.setattr(socket.socket, "listen", looked_at)
    for mode in (0o600, 0o660, 0o777):
        with ThousandIsland(
            handler_cls=Echo, host=f"unix:{path}", transport_options={"unix_mode": mode}
        ):
            assert stat.S_IMODE(path.stat().st_mode) == mode
        assert modes.pop() == (mode, umask)
        assert refused.pop() == errno.ECONNREFUSED
    assert not path.exists()


def test_f9_an_abstract_name_is_never_unlinked_and_credentials_are_told(serve, client):
    seen = []

    class Who(Handler):
        def handle_connection(self, socket):
            seen.append(socket.peer_credentials())
            return Close()

    name = f"@thousand-island-{os.getpid()}-f9"
    server = serve(Who, host=f"unix:{name}")
    assert server.local_address == name
    assert receive_all(client(server)) == b""
    assert seen == [(os.getpid(), os.getuid(), os.getgid())]
    server.stop()
    assert not os.path.exists(name)


# ---- F11: fork ------------------------------------------------------------------------------


def test_f11_descriptors_are_not_inherited_and_the_child_leaves_the_parent_serving(serve, client):
    server = serve(Echo)
    sock = client(server)
    echoes(sock)
    inheritable = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
            if target.startswith(("socket:", "anon_inode:")) and os.get_inheritable(int(name)):
                inheritable.append(target)
        except OSError:
            continue
    assert inheritable == []
    child = os.fork()
    if not child:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    echoes(sock)
    echoes(client(server))


def test_f11_a_server_may_be_started_in_a_child_that_was_forked_before(tmp_path):
    program = """
import os, socket
from tests.support import Echo
from thousand_island_sync import ThousandIsland
listener = socket.create_server(("127.0.0.1", 0))
children = []
for _ in range(2):
    read, write = os.pipe()
    child = os.fork()
    if not child:
        with ThousandIsland(handler_cls=Echo, transport_options={"sockets": [listener]}) as server:
            os.write(write, b"x")
            server.wait(3_000)
        os._exit(0)
    children.append(child)
    os.read(read, 1)
served = 0
for _ in range(50):
    with socket.create_connection(listener.getsockname(), timeout=5) as sock:
        sock.sendall(b"x")
        served += sock.recv(1) == b"x"
import signal
for child in children:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
print(served)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "50\n", done.stderr


def test_f11_what_a_forked_child_does_with_a_running_server_is_an_error(serve):
    server = serve(Echo)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            server.stop()
        except ThousandIslandError as error:
            os.write(write, str(error).encode()[:500])
        os._exit(0)
    os.close(write)
    said = os.read(read, 500).decode()
    os.close(read)
    os.waitpid(child, 0)
    assert "fork" in said


# ---- F12, F13: other systems ------------------------------------------------------------------


def test_f12_a_second_server_on_a_port_fails(serve):
    server = serve(Echo)
    with pytest.raises(ListenError) as caught:
        ThousandIsland(handler_cls=Echo, host="127.0.0.1", port=server.local_port).start()
    assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("number", [errno.EPROTOTYPE, errno.EPIPE, errno.ESHUTDOWN])
def test_f13_errnos_of_a_peer_that_has_gone(number, serve, client, monkeypatch):
    """macOS gives EPROTOTYPE where a send meets a socket that is being closed."""
    caught = []

    class Gone:
        def send(self, data, flags):
            raise OSError(number, os.strerror(number))

    class Sends(Handler):
        def handle_data(self, data, sock):
            sock._writer._sink = Gone()
            try:
                sock.send(b"x")
            except SocketError as error:
                caught.append(error)
                raise

    server = serve(Sends)
    client(server).sendall(b"x")
    assert eventually(lambda: caught)
    assert isinstance(caught[0], SocketClosed)
    assert eventually(lambda: server.info().active_connections == 0)


# ---- F15, F16 ------------------------------------------------------------------------------------


def test_f15_one_line_for_a_bug_and_none_for_the_network(serve, client, caplog):
    class Buggy(Handler):
        def handle_data(self, data, socket):
            if data == b"bug":
                raise ZeroDivisionError("a bug")

    caplog.set_level(logging.DEBUG, "thousand_island_sync")
    server = serve(Buggy, read_timeout_ms=100)
    reset(client(server))
    client(server).close()
    assert receive_all(client(server)) == b"", "a timeout"
    assert eventually(lambda: server.info().active_connections == 0)
    assert caplog.records == []
    with client(server) as sock:
        sock.sendall(b"bug")
        assert receive_all(sock) == b""
        peer = "{}:{}".format(*sock.getsockname())
    (line,) = caplog.records
    assert line.exc_info is not None
    message = line.getMessage()
    assert peer in message
    assert "thread thousand-island-handler-" in message
    assert "Buggy.handle_data" in message


def test_f16_a_second_server_answers_while_the_first_is_full(serve, client):
    release = threading.Event()

    class Blocks(Handler):
        def handle_connection(self, socket):
            release.wait(10)

    class Health(Handler):
        def handle_connection(self, socket):
            info = full.info()
            socket.send(b"%d of 2\n" % info.active_connections)
            return Close()

    full = serve(Blocks, max_handler_threads=2, max_connections=2)
    health = serve(Health)
    for _ in range(3):
        client(full)
    assert eventually(lambda: full.info().busy_threads == 2 and full.info().active_connections == 2)
    began = time.monotonic()
    assert receive(client(health), 7) == b"2 of 2\n"
    assert time.monotonic() - began < 0.3
    release.set()


# ---- F14: free-threaded Python ------------------------------------------------------


@pytest.mark.parametrize(
    ("gil", "cores", "permits"), [(True, 8, 1), (False, 8, 8), (False, None, 1), (None, 8, 1)]
)
def test_f14_as_many_permits_as_threads_can_run_at_once(gil, cores, permits, monkeypatch):
    if gil is None:  # an interpreter that knows of no other
        monkeypatch.delattr(sys, "_is_gil_enabled", raising=False)
    else:
        monkeypatch.setattr(sys, "_is_gil_enabled", lambda: gil, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert _scheduler.default_permits() == permits


@pytest.mark.parametrize("permits", [2, 8])
def test_f14_with_several_permits_nothing_is_lost(permits, serve, monkeypatch):
    """As a free-threaded build has it: several threads poll and run, acceptors do not take
    turns. The servers of the tests check themselves meanwhile."""
    for module in (_scheduler, accept_turns):
        monkeypatch.setattr(module, "default_permits", lambda: permits)
    server = serve(Echo, num_acceptors=4)

    def visits():
        for _ in range(60):
            with socket.create_connection(server.local_address, timeout=10) as sock:
                for size in (1, 100, 5_000):
                    echoes(sock, b"x" * size)

    with running(*[visits] * 8):
        pass
    assert server.info().accepted_total == 480
    assert eventually(lambda: server.info().active_connections == 0)
