"""The server: starting, stopping, suspending, and what it says of itself."""

import os
import socket
import threading
import time
from functools import partial

import pytest

from tests.support import Echo, eventually, journal, receive, receive_all, received
from thousand_island_sync import (
    Close,
    ConfigError,
    Handler,
    ListenError,
    NotSupported,
    ServerNotRunning,
    ThousandIsland,
    ThousandIslandError,
    events,
)

# ---- starting ---------------------------------------------------------------


def test_a_new_server_has_opened_nothing():
    server = ThousandIsland(handler_cls=Echo)
    assert server.status == "new"
    assert server.connections() == []
    assert server.info().status == "new"
    assert server.stop() is True
    assert server.status == "new"
    with pytest.raises(ServerNotRunning):
        _ = server.local_port
    with pytest.raises(ServerNotRunning):
        server.suspend()
    with pytest.raises(ServerNotRunning):
        server.resume()


def test_with_starts_and_stops(client):
    with ThousandIsland(handler_cls=Echo, port=0, host="127.0.0.1") as server:
        assert server.status == "running"
        sock = client(server)
        sock.sendall(b"x")
        assert receive(sock, 1) == b"x"
        port = server.local_port
        assert server.local_address == ("127.0.0.1", port)
    assert server.status == "stopped"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_a_second_start_is_an_error_and_a_start_after_a_stop_is_not(serve, client):
    server = serve(Echo)
    with pytest.raises(ThousandIslandError):
        server.start()
    server.stop()
    assert server.start() is server
    sock = client(server)
    sock.sendall(b"again")
    assert receive(sock, 5) == b"again"


def test_a_port_in_use_is_a_listen_error_that_names_the_address(serve):
    server = serve(Echo)
    other = ThousandIsland(handler_cls=Echo, host="127.0.0.1", port=server.local_port)
    with pytest.raises(ListenError, match=f"127.0.0.1 port {server.local_port}") as caught:
        other.start()
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == 98
    assert other.status == "new"


def test_an_address_that_is_not_ours_leaves_nothing_behind():
    server = ThousandIsland(handler_cls=Echo, host="192.0.2.1", port=0)
    for _ in range(3):
        with pytest.raises(ListenError):
            server.start()
    assert threading.active_count() == 1


def test_threads_that_cannot_be_started_leave_nothing_behind(monkeypatch):
    server = ThousandIsland(handler_cls=Echo, host="127.0.0.1", port=0, num_acceptors=4)
    started = threading.Thread.start

    def start(thread):
        if "acceptor-3" in thread.name:
            raise RuntimeError("can't start new thread")
        started(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(ThousandIslandError, match="can't start new thread"):
        server.start()
    assert server.status == "new"


# ---- stopping ---------------------------------------------------------------


def test_stop_without_clients_is_quick():
    took = []
    for _ in range(20):
        server = ThousandIsland(handler_cls=Echo, host="127.0.0.1", port=0).start()
        began = time.monotonic()
        server.stop()
        took.append(time.monotonic() - began)
    assert sorted(took)[10] < 0.25  # no thread waits for its next look


def test_stop_again_and_from_several_threads_at_once(serve, client):
    server = serve(Echo)
    client(server)
    results = []
    threads = [threading.Thread(target=lambda: results.append(server.stop())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert results == [True] * 4
    assert server.stop() is True
    assert server.status == "stopped"


def test_a_callback_that_finishes_in_time_is_waited_for(serve, client):
    began, go = threading.Event(), threading.Event()
    Base = journal()

    class Slow(Base):
        def handle_data(self, data, socket):
            began.set()
            go.wait(5)
            assert eventually(lambda: socket.stopping)
            socket.send(b"done")

    server = serve(Slow)
    sock = client(server)
    address = server.local_address
    sock.sendall(b"x")
    assert began.wait(5)
    result = []
    stopping = threading.Thread(target=lambda: result.append(server.stop(5_000)))
    stopping.start()
    assert eventually(lambda: server.info().local_address is None)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=5)
    go.set()
    stopping.join(5)
    assert result == [True]
    assert receive_all(sock) == b"done"
    assert Slow.ended()
    assert Slow.names() == ["shutdown", "end"]


def test_stop_never_outlives_its_timeout_whatever_handlers_do(serve, client, stopwatch):
    began, release = threading.Semaphore(0), threading.Event()

    class Stuck(Handler):
        def handle_data(self, data, socket):
            began.release()
            release.wait(20)

    idle = journal()

    class Either(Stuck, idle):
        pass

    server = serve(Either, max_handler_threads=3)
    stuck = [client(server) for _ in range(3)]
    for sock in stuck:
        sock.sendall(b"x")
    for _ in stuck:
        assert began.acquire(timeout=5)
    others = [client(server) for _ in range(5)]
    assert eventually(lambda: server.info().active_connections == 8)
    before = time.monotonic()
    assert server.stop(600) is False
    assert time.monotonic() - before < 1.1
    # Every pool thread is stuck, and the idle ones got their last callback all the same.
    assert Either.names().count("shutdown") == 5
    for sock in others:
        assert receive_all(sock) == b""
    release.set()
    assert eventually(lambda: Either.names().count("shutdown") == 8)
    assert eventually(lambda: Either.names().count("end") == 8)


def test_a_blocked_recv_is_cut_at_the_end_of_the_stops_time(serve, client):
    Base = journal()
    waiting = threading.Event()

    class Waits(Base):
        def handle_connection(self, socket):
            waiting.set()
            socket.recv()

    server = serve(Waits)
    client(server)
    assert waiting.wait(5)
    assert server.stop(100) is False
    assert Waits.ended()
    assert Waits.names() == ["shutdown", "end"]


def test_interrupt_reads_wakes_a_recv_between_requests(serve, client):
    Base = journal()

    class Loops(Base):
        def handle_connection(self, socket):
            while data := socket.recv():
                socket.send(data)
            return Close()

        def handle_shutdown(self, socket):
            socket.send(b"bye")
            super().handle_shutdown(socket)

    server = serve(Loops, interrupt_reads=True)
    sock = client(server)
    sock.sendall(b"ping")
    assert receive(sock, 4) == b"ping"
    assert server.stop(5_000) is True
    assert receive_all(sock) == b"bye"
    assert Loops.ended()
    assert Loops.names() == ["shutdown", "end"]


class Lines(Handler):
    def handle_connection(self, socket):
        while line := socket.recv_until(b"\n"):
            socket.send(line)


def test_interrupt_reads_lets_a_request_that_has_begun_finish(serve, client):
    server = serve(Lines, interrupt_reads=True)
    sock = client(server)
    sock.sendall(b"half ")
    assert eventually(partial(received, server, 5))
    result = []
    thread = threading.Thread(target=lambda: result.append(server.stop(5_000)))
    thread.start()
    assert eventually(lambda: server.status == "stopping")
    sock.sendall(b"a line\n")
    assert receive_all(sock) == b"half a line\n"
    thread.join(5)
    assert result == [True]


@pytest.mark.parametrize(
    "callback",
    [
        "handle_connection",
        "handle_data",
        "handle_eof",
        "handle_close",
        "handle_end",
        "handle_info",
    ],
)
def test_stop_from_a_callback_waits_for_the_others_only(callback, serve, client):
    results = []

    class Stops(Handler):
        def handle_connection(self, socket):
            socket.connection.post("x")

    def stop(self, *arguments):
        if not results:
            results.append(None)
            results[0] = self.options[0].stop(3_000)

    setattr(Stops, callback, stop)
    box = []
    server = serve(Stops, handler_options=box)
    box.append(server)
    sock = client(server)
    sock.sendall(b"x")
    sock.shutdown(1)
    assert server.wait(5_000)
    assert eventually(lambda: results == [True])
    assert server.stop() is True


@pytest.mark.parametrize(
    "event",
    [
        "listener.start",
        "acceptor.start",
        "acceptor.accept",
        "acceptor.shutdown",
        "handler.start",
        "handler.async_recv",
        "handler.shutdown",
        "socket.close",
        "listener.shutdown",
    ],
)
def test_stop_from_a_receiver_does_not_wait_for_itself(event, serve, client, stopwatch):
    results = []
    once = threading.Lock()

    def receiver(server, **rest):
        if once.acquire(blocking=False):
            results.append(server.stop(4_000))

    events.ALL[event].connect(receiver)
    try:
        server = serve(Echo)
        try:
            sock = client(server)
            sock.sendall(b"x")
            sock.close()
        except (OSError, ServerNotRunning):
            pass  # it has stopped already
        if event in ("acceptor.shutdown", "listener.shutdown"):
            server.stop()
        assert server.wait(5_000)
    finally:
        events.ALL[event].disconnect(receiver)
    assert eventually(lambda: results == [True])
    assert stopwatch() < 3


def test_clients_in_the_backlog_are_answered_before_the_stop(serve, client):
    go = threading.Event()

    class Slow(Handler):
        def handle_data(self, data, socket):
            socket.send(data)

    def hold(server, **rest):
        go.wait(5)

    events.acceptor_accept.connect(hold)
    try:
        server = serve(Slow, num_acceptors=1)
        socks = [client(server) for _ in range(20)]
        for sock in socks:
            sock.sendall(b"request")
        thread = threading.Thread(target=server.stop, args=(5_000,))
        thread.start()
        assert eventually(lambda: server.status == "stopping")
        go.set()
        assert [receive_all(sock) for sock in socks] == [b"request"] * 20
        thread.join(5)
    finally:
        events.acceptor_accept.disconnect(hold)


def test_a_reply_under_way_arrives_whole(serve, client):
    began = threading.Event()

    class Big(Handler):
        def handle_data(self, data, socket):
            began.set()
            socket.send(b"x" * 20_000_000)

    server = serve(Big)
    sock = client(server)
    sock.sendall(b"go")
    assert began.wait(5)
    result = []
    thread = threading.Thread(target=lambda: result.append(server.stop(10_000)))
    thread.start()
    assert len(receive_all(sock)) == 20_000_000
    thread.join(10)
    assert result == [True]


def test_a_young_silent_connection_gets_200_ms_to_speak(serve, client):
    server = serve(Echo)
    sock = client(server)
    assert eventually(lambda: server.info().active_connections == 1)
    thread = threading.Thread(target=server.stop, args=(5_000,))
    thread.start()
    assert eventually(lambda: server.status == "stopping")
    sock.sendall(b"just in time")
    assert receive_all(sock) == b"just in time"
    thread.join(5)


def test_wait_returns_when_stopped(serve):
    server = serve(Echo)
    assert server.wait(10) is False
    thread = threading.Thread(target=server.stop)
    thread.start()
    assert server.wait(5_000) is True
    thread.join(5)


# ---- suspending -------------------------------------------------------------


def test_suspend_keeps_connections_and_resume_the_port(serve, client, record):
    recorder = record("listener.suspend", "listener.resume")
    server = serve(Echo)
    port = server.local_port
    sock = client(server)
    sock.sendall(b"a")
    assert receive(sock, 1) == b"a"
    server.suspend()
    assert server.status == "suspended"
    with pytest.raises(ServerNotRunning):
        _ = server.local_port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    sock.sendall(b"b")
    assert receive(sock, 1) == b"b"
    server.suspend()
    server.resume()
    assert server.local_port == port
    server.resume()
    other = client(server)
    other.sendall(b"c")
    assert receive(other, 1) == b"c"
    assert recorder.names() == ["listener.suspend", "listener.resume"]


def test_a_resume_that_fails_leaves_it_suspended_and_is_told(serve, record):
    server = serve(Echo)
    port = server.local_port
    recorder = record("listener.error", "listener.resume")
    server.suspend()
    with socket.create_server(("127.0.0.1", port)):
        with pytest.raises(ListenError):
            server.resume()
        assert server.status == "suspended"
    assert recorder.names() == ["listener.error"]
    server.resume()
    assert server.status == "running"


def test_a_suspended_server_can_be_stopped(serve):
    server = serve(Echo)
    server.suspend()
    assert server.stop() is True
    assert server.status == "stopped"


# ---- what it says -----------------------------------------------------------


def test_f1_info_counts(serve, client):
    server = serve(Echo, name="counted")
    socks = [client(server) for _ in range(3)]
    for sock in socks:
        sock.sendall(b"x")
        assert receive(sock, 1) == b"x"
    info = server.info()
    assert (info.active_connections, info.peak_connections, info.accepted_total) == (3, 3, 3)
    assert info.rejected_total == 0
    assert info.handler_threads >= 1
    assert info.status == "running"
    assert info.local_address == server.local_address
    assert len(server.connections()) == 3
    socks[0].close()
    assert eventually(lambda: server.info().active_connections == 2)
    assert server.info().peak_connections == 3
    assert eventually(lambda: server.info().busy_threads == 0)
    assert server.info().waiting_connections == 0
    assert server.name == "counted"
    assert any(thread.name.startswith("counted-") for thread in threading.enumerate())


def test_a_unix_server_has_a_path_and_no_port(serve, tmp_path):
    server = serve(Echo, host=f"unix:{tmp_path}/s")
    assert server.local_address == f"{tmp_path}/s"
    with pytest.raises(NotSupported):
        _ = server.local_port


def test_reload_refuses_what_belongs_to_the_listening_socket(serve, client):
    server = serve(Echo)
    with pytest.raises(ConfigError, match="backlog"):
        server.reload_transport(backlog=5)
    with pytest.raises(ConfigError, match="nodelaj"):
        server.reload_transport(nodelaj=True)
    server.reload_transport(nodelay=False)
    sock = client(server)
    sock.sendall(b"x")
    assert receive(sock, 1) == b"x"


def test_f11_after_a_fork_the_childs_server_refuses_everything(serve, client):
    server = serve(Echo)
    sock = client(server)
    sock.sendall(b"x")
    assert receive(sock, 1) == b"x"
    read, write = os.pipe()
    child = os.fork()
    if not child:
        refused = 0
        for call in (
            server.start,
            server.stop,
            server.suspend,
            server.resume,
            server.info,
            server.connections,
            lambda: server.status,
            lambda: server.local_port,
            lambda: server.wait(0),
            lambda: server.reload_transport(nodelay=True),
        ):
            try:
                call()
            except ThousandIslandError:
                refused += 1
        os.write(write, bytes([refused]))
        os._exit(0)
    os.close(write)
    assert os.read(read, 1) == bytes([10])
    os.close(read)
    os.waitpid(child, 0)
    sock.sendall(b"y")
    assert receive(sock, 1) == b"y"


def test_two_servers_in_one_process_are_independent(serve, client):
    first, second = serve(Echo), serve(Echo)
    one, two = client(first), client(second)
    first.stop()
    assert receive_all(one) == b""
    two.sendall(b"x")
    assert receive(two, 1) == b"x"


# ---- limits -----------------------------------------------------------------


def test_at_the_limit_clients_wait_in_the_backlog_and_are_served_when_there_is_room(
    serve, client, record
):
    recorder = record("acceptor.limit_reached", "acceptor.limit_cleared", "acceptor.spawn_error")
    server = serve(Echo, max_connections=2)
    first, second = client(server), client(server)
    assert eventually(lambda: server.info().active_connections == 2)
    third = client(server)
    third.sendall(b"waiting")
    recorder.wait_for("acceptor.limit_reached")
    first.close()
    assert receive(third, 7) == b"waiting"
    assert eventually(lambda: server.info().active_connections == 2)
    second.close()
    third.close()
    assert eventually(lambda: server.info().active_connections == 0)
    assert eventually(
        lambda: recorder.names() == ["acceptor.limit_reached", "acceptor.limit_cleared"] * 2
    ), recorder.names()


def test_clients_that_waited_too_long_at_the_limit_are_refused_and_it_counts_anew(
    serve, client, record
):
    recorder = record("acceptor.spawn_error")
    server = serve(Echo, max_connections=1, max_connections_wait_ms=150, num_acceptors=4)
    first = client(server)
    assert eventually(lambda: server.info().active_connections == 1)
    for count in (1, 2):
        before = time.monotonic()
        refused = client(server)
        assert receive_all(refused) == b""
        assert 0.1 < time.monotonic() - before < 2
        (*_, told) = recorder.wait_for("acceptor.spawn_error", count)
        assert "max_connections" in str(told.measurements["error"])
        assert server.info().rejected_total == count
    first.sendall(b"x")
    assert receive(first, 1) == b"x"
    assert server.info().accepted_total == 1


def test_who_comes_back_when_refused_waits_as_long_again(serve, client):
    server = serve(Echo, max_connections=1, max_connections_wait_ms=100, num_acceptors=4)
    first, came_back = client(server), []
    assert eventually(lambda: server.info().active_connections == 1)

    def comes_back(sender, **more):
        if len(came_back) < 5:
            came_back.append((client(server), time.monotonic()))

    with events.acceptor_spawn_error.connected_to(comes_back):
        assert receive_all(client(server)) == b""
        for count in range(1, 6):
            assert eventually(lambda n=count: len(came_back) >= n)
            sock, since = came_back[count - 1]
            assert receive_all(sock) == b""
            assert time.monotonic() - since > 0.08
    first.sendall(b"x")
    assert receive(first, 1) == b"x"


def test_idle_connections_hold_no_thread(serve, client):
    server = serve(Echo, max_handler_threads=2)
    socks = [client(server) for _ in range(60)]
    assert eventually(lambda: server.info().active_connections == 60)
    assert server.info().handler_threads <= 2
    late = client(server)
    late.sendall(b"served at once")
    assert receive(late, 14) == b"served at once"
    for sock in socks:
        sock.sendall(b"x")
    assert [receive(sock, 1) for sock in socks] == [b"x"] * 60


def test_a_saturated_pool_tells_and_serves_in_order_afterwards(serve, client, record):
    recorder = record("pool.saturated", "pool.relieved")
    began, release = threading.Event(), threading.Event()
    order = []

    class Blocks(Handler):
        def handle_data(self, data, socket):
            if data == b"block":
                began.set()
                release.wait(10)
            order.append(data)
            socket.send(data)

    # One thread: of several, one may begin before another and finish after it.
    server = serve(Blocks, max_handler_threads=1)
    late = [client(server) for _ in range(5)]
    for sock in late:
        sock.sendall(b"-")
        assert receive(sock, 1) == b"-"
    client(server).sendall(b"block")
    assert began.wait(5)
    del order[:]
    for number, sock in enumerate(late):
        sock.sendall(b"%d" % number)
        assert eventually(lambda n=number: server.info().waiting_connections == n + 1)
    (told,) = recorder.wait_for("pool.saturated")
    assert told.measurements["busy_threads"] == 1
    assert told.measurements["waiting_connections"] >= 1
    assert server.info().handler_threads == 1
    release.set()
    assert [receive(sock, 1) for sock in late] == [b"0", b"1", b"2", b"3", b"4"]
    assert order == [b"block", b"0", b"1", b"2", b"3", b"4"]
    recorder.wait_for("pool.relieved")
    assert recorder.names() == ["pool.saturated", "pool.relieved"]
