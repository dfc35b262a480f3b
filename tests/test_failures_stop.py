"""Failures of stopping and restarting, by their ids in the catalogue
(docs/explanation/reliability.md)."""

import contextlib
import os
import random
import socket
import subprocess
import sys
import threading
import time

import pytest

from tests.programs import ROOT
from tests.support import (
    Echo,
    busy_seconds,
    echoes,
    eventually,
    journal,
    receive,
    receive_all,
    running,
)
from thousand_island_sync import (
    TLS,
    Close,
    Continue,
    Handler,
    ListenError,
    SocketClosed,
    ThousandIsland,
)


@contextlib.contextmanager
def stopping(server, timeout_ms=5_000):
    """Stops a server beside the block; what `stop` returned is in the list."""
    result = []
    thread = threading.Thread(target=lambda: result.append(server.stop(timeout_ms)))
    thread.start()
    assert eventually(lambda: server.status in ("stopping", "stopped"))
    yield result
    thread.join(timeout_ms / 1_000 + 5)
    assert not thread.is_alive()


# ---- C1, C2: in time ----------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
def test_c1_a_server_without_clients_stops_at_once(kind, authority, tmp_path, record):
    recorder = record("acceptor.accept", "acceptor.accept_error", "handler.start")
    options = {"host": f"unix:{tmp_path}/s"} if kind == "unix" else {"host": "127.0.0.1", "port": 0}
    if kind == "tls":
        options |= {"transport_cls": TLS, "transport_options": authority.options}
    took = []
    for _ in range(100):
        server = ThousandIsland(handler_cls=Echo, **options).start()
        began = time.monotonic()
        assert server.stop() is True
        took.append(time.monotonic() - began)
    assert sorted(took)[95] < 0.1
    assert recorder.told == [], "nobody connects to itself, no errno is reported"


def test_c2_idle_busy_and_stuck_within_one_deadline(serve, client):
    release = threading.Event()
    goodbyes = []

    class Works(Handler):
        def handle_data(self, data, socket):
            if data == b"busy":
                release.wait(0.4)
                socket.send(b"done")
            else:
                time.sleep(3)

        def handle_shutdown(self, socket):
            goodbyes.append(socket.connection_id)

    server = serve(Works)
    idle = [client(server) for _ in range(20)]
    busy = [client(server) for _ in range(5)]
    stuck = client(server)
    assert eventually(lambda: server.info().active_connections == 26)
    for sock in busy:
        sock.sendall(b"busy")
    stuck.sendall(b"stuck")
    assert eventually(lambda: server.info().busy_threads == 6)
    began = time.monotonic()
    assert server.stop(1_000) is False, "one was cut"
    assert 0.9 < time.monotonic() - began < 1.5
    for sock in idle:
        assert receive_all(sock) == b"", "FIN, not RST"
    for sock in busy:
        assert receive_all(sock) == b"done"
    assert len(goodbyes) == 25
    assert receive_all(stuck) == b""
    assert eventually(lambda: len(goodbyes) == 26, 5), "its last callback comes when it returns"


# ---- C3: from inside ----------------------------------------------------------


@pytest.mark.parametrize(
    "callback",
    ["connection", "data", "eof", "info", "call", "close", "error", "timeout", "shutdown", "end"],
)
def test_c3_stop_from_any_callback_twice_and_from_two_threads(callback, serve, client):
    results = []

    def stops(self, *arguments):
        server = self.options[0]
        if not results:
            results.append("begun")
            other = threading.Thread(target=lambda: results.append(server.stop(2_000)))
            other.start()
            results.append(server.stop(2_000))
            results.append(server.stop(2_000))
            self.options.append(other)

    def fails(self, data, socket):
        raise ConnectionError("told so")

    attributes = {
        "handle_connection": lambda self, socket: socket.connection.post("x"),
        "handle_data": Echo.handle_data,
        f"handle_{callback}": stops,
    }
    if callback == "error":
        attributes["handle_data"] = fails
    if callback == "timeout":
        attributes["handle_connection"] = lambda self, socket: Continue(timeout_ms=1)
    options = []
    server = serve(type("Stops", (Handler,), attributes), handler_options=options)
    options.append(server)
    with client(server) as sock:
        if callback == "call":
            assert eventually(server.connections)
            server.connections()[0].call("x")
        elif callback == "shutdown":
            assert eventually(server.connections)
            server.connections()[0].close()
        else:
            with contextlib.suppress(OSError):
                if callback != "timeout":
                    sock.sendall(b"x")
                    sock.shutdown(socket.SHUT_WR)
        assert server.wait(4_000)
        assert eventually(lambda: len(results) == 4), results
        assert set(results[1:]) <= {True}
    options[1].join(5)
    assert server.status == "stopped"


# ---- C4: races ----------------------------------------------------------------


@pytest.mark.heavy
def test_c4_starts_and_stops_at_any_moment(tmp_path):
    """Five hundred rounds: a start here, a stop there a few milliseconds later, and a client
    meanwhile. Each ends stopped, with its port free and no thread."""
    chance = random.Random(4)
    for _ in range(500):
        server = ThousandIsland(handler_cls=Echo, host="127.0.0.1", port=0, num_acceptors=2)
        starting = threading.Thread(target=server.start)
        starting.start()
        threading.Event().wait(chance.random() * 0.005)
        try:
            address = server.local_address
        except OSError:
            address = None
        except Exception:
            address = None
        if address is not None:
            with contextlib.suppress(OSError), socket.create_connection(address, 5) as sock:
                sock.sendall(b"x")
                assert receive_all_or_reset(sock, server) in (b"", b"x")
        server.stop(2_000)
        starting.join(5)
        assert server.stop(2_000) is True
        assert server.status == "stopped"
        if address is not None:
            with socket.create_server(address):
                pass
    assert threading.active_count() == 1


def receive_all_or_reset(sock, server):
    server.stop(2_000)
    try:
        return receive_all(sock)
    except ConnectionResetError:
        return b""


# ---- C5 to C9: nothing lost ---------------------------------------------------


def test_c5_fifty_clients_in_the_backlog_are_answered(serve):
    began, release = threading.Event(), threading.Event()

    class First(Handler):
        def handle_data(self, data, socket):
            if data == b"hold":
                began.set()
                release.wait(10)
            socket.send(data)

    # One connection at most, so the others wait in the backlog; it ends with the stop.
    server = serve(First, num_acceptors=1, max_connections=60, max_connections_wait_ms=10_000)
    server.suspend()
    server.resume()
    holder = socket.create_connection(server.local_address, timeout=5)
    holder.sendall(b"hold")
    assert began.wait(5)
    waiting = []
    with stall_acceptors():
        for number in range(50):
            sock = socket.create_connection(server.local_address, timeout=10)
            sock.sendall(b"%02d" % number)
            waiting.append(sock)
        with stopping(server) as result:
            release.set()
    assert result == [True]
    assert receive_all(holder) == b"hold"
    for number, sock in enumerate(waiting):
        assert receive_all(sock) == b"%02d" % number
        sock.close()
    holder.close()


@contextlib.contextmanager
def stall_acceptors():
    """Acceptors accept nothing meanwhile, so clients stay in the kernel's backlog."""
    from thousand_island_sync._listener import acceptor

    accept = acceptor.Acceptor._may_accept
    acceptor.Acceptor._may_accept = lambda self: threading.Event().wait(0.001)
    try:
        yield
    finally:
        acceptor.Acceptor._may_accept = accept


def test_c6_new_clients_are_refused_while_a_stop_waits(serve, client):
    release, began, pause = threading.Event(), threading.Event(), threading.Event()

    class Slow(Handler):
        def handle_data(self, data, socket):
            began.set()
            release.wait(10)
            socket.send(data)

    server = serve(Slow)
    address = server.local_address
    sock = client(server)
    sock.sendall(b"x")
    assert began.wait(5)
    before = time.monotonic()
    with stopping(server) as result:
        while True:
            try:
                socket.create_connection(address, timeout=1).close()
            except ConnectionRefusedError:
                break
            except ConnectionResetError:
                pass  # in its handshake at the very moment
            # Not without a pause: those who come while the backlog is drained are served.
            pause.wait(0.005)
        assert time.monotonic() - before < 0.2
        release.set()
    assert result == [True]
    assert receive_all(sock) == b"x"


def test_c6_suspend_keeps_connections_and_resume_the_port(serve, client, record):
    recorder = record("listener.suspend", "listener.resume", "handler.shutdown")
    server = serve(Echo)
    port = server.local_port
    old = client(server)
    echoes(old)
    for _ in range(20):
        server.suspend()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=1)
        echoes(old)
        server.resume()
        assert server.local_port == port
        with client(server) as new:
            echoes(new)
    assert recorder.names().count("listener.suspend") == 20


def test_c5_on_a_unix_socket_no_client_is_reset_at_any_moment(serve, tmp_path):
    """Whoever could connect is answered; the file goes before the backlog is looked at."""
    server = serve(Echo, host=f"unix:{tmp_path}/s")
    over, failures, answered = threading.Event(), [], []

    def visits():
        while not over.is_set():
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(10)
                try:
                    sock.connect(f"{tmp_path}/s")
                except (FileNotFoundError, ConnectionRefusedError):
                    continue
                try:
                    echoes(sock)
                    answered.append(1)
                except OSError as error:
                    failures.append(error)

    with running(*[visits] * 6, within=10):
        for _ in range(100):
            before = len(answered)
            server.suspend()
            server.resume()
            assert eventually(lambda before=before: len(answered) > before)
        over.set()
    assert not failures
    assert len(answered) > 200


def test_c7_silent_connections_are_closed_at_once(serve, client):
    server = serve(Echo)
    silent = [client(server) for _ in range(10)]
    assert eventually(lambda: server.info().active_connections == 10)
    threading.Event().wait(0.25)  # older than what a young one gets
    began = time.monotonic()
    assert server.stop(5_000) is True
    assert time.monotonic() - began < 0.2
    for sock in silent:
        assert receive_all(sock) == b""


def test_c8_fifty_megabytes_under_way_arrive_whole(wire):
    data = os.urandom(1_000_000)
    began = threading.Event()

    class Replies(Handler):
        def handle_data(self, asked, socket):
            began.set()
            for _ in range(50):
                socket.send(data)

    server = wire.serve(Replies)
    sock = wire.connect(server)
    sock.sendall(b"x")
    assert began.wait(5)
    with stopping(server, 20_000) as result:
        for _ in range(50):
            assert receive(sock, 1_000_000) == data
        assert sock.recv(1) == b""
    assert result == [True]


def test_c9_a_reply_is_not_cut_off_by_unread_input(wire):
    sent = threading.Event()

    class Replies(Handler):
        def handle_connection(self, socket):
            socket.recv_exactly(1)
            sent.wait(5)
            socket.send(bytes(200_000))
            return Close()

    server = wire.serve(Replies)
    for _ in range(20):
        sent.clear()
        sock = wire.connect(server)
        sock.sendall(bytes(100_000))
        sent.set()
        assert len(receive_all(sock)) == 200_000
        sock.close()
    assert eventually(lambda: server.info().active_connections == 0)


def test_c9_so_linger_is_never_set(serve, client):
    seen = []

    class Looks(Handler):
        def handle_connection(self, sock):
            seen.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))
            sock.send(b"x")

    receive(client(serve(Looks)), 1)
    assert seen[0][:4] == bytes(4)


# ---- C10: descriptors that are used again -------------------------------------


@pytest.mark.heavy
def test_c10_no_byte_reaches_a_stranger(serve, client):
    """Threads close each other's connections while socket pairs with a pattern of their own
    take the numbers over: nothing foreign may be read from them."""
    handles = []

    class Chatty(Handler):
        def handle_connection(self, socket):
            handles.append(socket)

        def handle_data(self, data, socket):
            socket.send(b"S" * 512)

    server = serve(Chatty)
    over = threading.Event()
    foreign = []

    def churn():
        while not over.is_set():
            pairs = [socket.socketpair() for _ in range(8)]
            for one, other in pairs:
                one.sendall(b"p" * 64)
                got = other.recv(4_096)
                if got.strip(b"p"):
                    foreign.append(got)
            for pair in pairs:
                for end in pair:
                    end.close()

    def sends():
        while not over.is_set():
            for handle in handles[-20:]:
                with contextlib.suppress(SocketClosed):
                    handle.send(b"S" * 100)

    def closes():
        chance = random.Random(1)
        while not over.is_set():
            for handle in handles[-10:]:
                if chance.random() < 0.3:
                    handle.close()

    def visits():
        while not over.is_set():
            with socket.create_connection(server.local_address, timeout=5) as sock:
                with contextlib.suppress(ConnectionError):
                    sock.sendall(b"x")
                    got = sock.recv(4_096)
                    if got.strip(b"S"):
                        foreign.append(got)

    with running(*[churn, sends, closes, visits] * 8, within=10):
        assert eventually(lambda: len(handles) > 100, 30)
        over.set()
    assert not foreign
    for handle in handles:
        handle.close()
        with pytest.raises(SocketClosed):
            handle.send(b"late")
        with pytest.raises(SocketClosed):
            handle.recv(1)
        assert handle.fileno() == -1


# ---- C12: the interpreter's end -----------------------------------------------


@pytest.mark.heavy
@pytest.mark.parametrize("state", ["idle", "in a callback", "waiting in recv"])
def test_c12_an_interpreter_exits_cleanly_without_a_stop(state, authority, tmp_path):
    (tmp_path / "chain.pem").write_bytes(authority.chain + authority.key)
    program = f"""
import socket, sys, threading, time
from thousand_island_sync import TLS, Handler, ThousandIsland

class Busy(Handler):
    def handle_data(self, data, socket):
        began.set()
        if {state == "in a callback"}:
            time.sleep(60)
        elif {state == "waiting in recv"}:
            socket.recv()

began = threading.Event()
plain = ThousandIsland(handler_cls=Busy, host="127.0.0.1", port=0).start()
secure = ThousandIsland(handler_cls=Busy, host="127.0.0.1", port=0, transport_cls=TLS,
    transport_options={{"certfile": sys.argv[1]}}).start()
socks = [socket.create_connection(one.local_address) for one in (plain, secure) * 3]
socks[0].sendall(b"x")
began.wait(10)
"""
    for _ in range(6):
        before = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "chain.pem")],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert time.monotonic() - before < 5


# ---- C13: half a start --------------------------------------------------------


def test_c13_a_start_that_fails_leaves_nothing(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as blocker:
        port = blocker.getsockname()[1]
        before, threads = set(os.listdir("/proc/self/fd")), set(threading.enumerate())
        for options in (
            {"host": "127.0.0.1", "port": port},
            {
                "host": "127.0.0.1",
                "port": port,
                "num_listen_sockets": 3,
                "transport_options": {"reuse_port": True},
            },
            {"host": f"unix:{tmp_path}/missing/s"},
        ):
            server = ThousandIsland(handler_cls=Echo, **options)
            with pytest.raises(ListenError):
                server.start()
            assert server.status == "new"
            assert eventually(lambda: set(threading.enumerate()) <= threads)
            assert set(os.listdir("/proc/self/fd")) == before
        assert os.listdir(tmp_path) == []
    with ThousandIsland(handler_cls=Echo, host="127.0.0.1", port=port) as server:
        assert server.local_port == port


def test_c2_a_stop_costs_no_cpu_while_it_waits(serve, client):
    began, release = threading.Event(), threading.Event()

    class Slow(journal()):
        def handle_data(self, data, socket):
            began.set()
            release.wait(10)

    server = serve(Slow)
    client(server).sendall(b"x")
    assert began.wait(5)
    with stopping(server, 4_000):
        assert busy_seconds(1) < 0.1
        release.set()


def test_a_stop_at_the_limit_counts_once_each_client_that_it_refuses(serve, client):
    server = serve(
        Echo,
        max_connections=1,
        num_listen_sockets=3,
        num_acceptors=3,
        transport_options={"reuse_port": True},
    )
    inside = client(server)
    echoes(inside)
    waiting = [client(server) for _ in range(24)]
    server.stop(0)
    assert all(receive_all(sock) == b"" for sock in waiting)
    assert server.info().rejected_total == 24
