"""What a service says to systemd: `notify`, and what the command line says by itself."""

import itertools
import os
import select
import socket
import threading
import time

import pytest

from tests.notified import NotifySocket
from tests.support import Echo, echoes, eventually, running
from thousand_island_sync import Handler, ThousandIsland, systemd
from thousand_island_sync._base.clock import FOREVER
from thousand_island_sync._command.service import Service, _Beats, watchdog_interval


@pytest.fixture(params=["path", "abstract"])
def notified(request, tmp_path, monkeypatch):
    """systemd's socket."""
    address = f"@{tmp_path}/n" if request.param == "abstract" else tmp_path / "notify"
    with NotifySocket(address) as one:
        monkeypatch.setenv("NOTIFY_SOCKET", one.address)
        yield one


@pytest.fixture
def heard(tmp_path, monkeypatch):
    with NotifySocket(tmp_path / "notify") as one:
        monkeypatch.setenv("NOTIFY_SOCKET", one.address)
        yield one


# ---- notify ----------------------------------------------------------------------


def test_notify_sends_all_in_one_datagram(notified):
    assert systemd.notify("READY=1", "STATUS=ready to göo") is True
    notified.wait_for("STATUS=")
    assert notified.said == [["READY=1", "STATUS=ready to göo"]]


def test_where_nobody_listens_it_is_false(monkeypatch, tmp_path):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert systemd.notify("READY=1") is False
    for address in (
        "",
        "relative",
        "/",
        "@",
        str(tmp_path / "none"),
        "/" + "x" * 300,
        str(tmp_path),
    ):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        assert systemd.notify("READY=1") is False


def test_vsock_is_told_as_not_supported(monkeypatch, caplog):
    monkeypatch.setenv("NOTIFY_SOCKET", "vsock:2:1234")
    assert systemd.notify("READY=1") is False
    assert "vsock is not supported" in caplog.text


def test_it_never_raises(heard):
    for wrong in ((), (5,), (None,), (b"READY=1", "x"), ("\ud800",), ("x" * 5_000_000,), ("a\0b",)):
        assert systemd.notify(*wrong) in (True, False)
    assert systemd.notify() is False
    assert systemd.notify(5) is False


def test_it_waits_for_room_but_not_for_good(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as full:
        full.bind(str(tmp_path / "full"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "full"))
        with systemd.Notifications() as notifications:
            while notifications.send("X=1", wait=False):
                pass
        began = time.monotonic()
        assert systemd.notify("READY=1") is False
        assert 0.9 < time.monotonic() - began < 5

        def make_room():
            while full.recv(100) != b"READY=1":
                pass

        thread = threading.Thread(target=make_room)
        thread.start()
        assert systemd.notify("READY=1") is True
        thread.join(10)
        assert not thread.is_alive()


# ---- a service -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "interval"),
    [
        ({}, FOREVER),
        ({"WATCHDOG_USEC": "3000000"}, 1.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 1.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, FOREVER),
        ({"WATCHDOG_USEC": "0"}, FOREVER),
        ({"WATCHDOG_USEC": "-5"}, FOREVER),
        ({"WATCHDOG_USEC": "x"}, FOREVER),
    ],
)
def test_the_interval_of_the_watchdog(environment, interval):
    assert watchdog_interval(environment) == interval


def make(handler_cls=Echo, **options):
    return ThousandIsland(
        handler_cls=handler_cls, port=0, host="127.0.0.1", num_acceptors=2, **options
    )


def test_ready_once_and_stopping_once(heard):
    servers = [make(name="one"), make(name="other")]
    with Service(servers, {}) as service:
        for server in servers:
            server.start()
        assert heard.lines() == []
        service.ready()
        service.ready()
        heard.wait_for("READY=1")
        (status,) = heard.wait_for("STATUS=")
        assert status.count("running on 127.0.0.1:") == 2
        for server in servers:
            server.stop()
    heard.wait_for("STOPPING=1")
    systemd.notify("LAST=1")
    heard.wait_for("LAST=1")
    lines = heard.lines()
    assert lines.count("READY=1") == lines.count("STOPPING=1") == 1
    assert lines.index("READY=1") < lines.index("STOPPING=1")


def test_what_finds_no_room_is_told_as_soon_as_there_is_some(tmp_path, monkeypatch, client, waits):
    server = make(waits)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as full:
        full.bind(str(tmp_path / "full"))
        full.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "full"))

        def fill():
            with systemd.Notifications() as notifications:
                while notifications.send("X=1", wait=False):
                    pass

        def heard(line):
            while line not in full.recv(1000).decode().split("\n"):
                pass

        with Service([server], {}) as service, server:
            fill()
            service.ready()
            heard("READY=1")
            sock = client(server)
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            fill()
            with running(server.stop):
                assert eventually(lambda: server.status == "stopping")
                heard("STOPPING=1")
                waits.go.set()


def test_a_drain_is_the_beginning_of_the_stop(heard):
    server = make()
    with Service([server], {}) as service, server:
        service.ready()
        thread = threading.Thread(target=server.drain, args=(60_000,))
        thread.start()
        heard.wait_for("STOPPING=1")
        assert server.status == "draining"
        server.stop()
        thread.join()


def test_a_suspended_server_says_that_it_stops(heard):
    server = make()
    with Service([server], {}) as service, server:
        service.ready()
        server.suspend()
        server.stop()
    heard.wait_for("STOPPING=1")


def test_a_forked_child_says_nothing(heard):
    server = make()
    with Service([server], {}) as service, server:
        service.ready()
        child = os.fork()
        if child == 0:
            try:
                service._notifications.send("CHILD=1")
                service.__exit__(None, None, None)
            finally:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    heard.wait_for("STOPPING=1")
    assert "CHILD=1" not in heard.lines()
    assert heard.lines().count("STOPPING=1") == 1


def test_what_never_served_says_nothing(heard):
    with Service([make()], {}):
        pass
    systemd.notify("LAST=1")
    heard.wait_for("LAST=1")
    assert heard.lines() == ["LAST=1"]


def test_reloading_with_its_time_and_ready_after_also_when_it_is_refused(heard):
    server = make()
    with Service([server], {}) as service, server:
        service.ready()
        before = time.monotonic_ns() // 1000
        with pytest.raises(ValueError), service.reloading():
            heard.wait_for("RELOADING=1")
            assert heard.lines().count("READY=1") == 1
            raise ValueError("refused")
        heard.wait_for("READY=1", 2)
        (both,) = [lines for lines in heard.said if "RELOADING=1" in lines]
        name, _, value = both[1].partition("=")
        assert len(both) == 2
        assert name == "MONOTONIC_USEC"
        assert before <= int(value) <= time.monotonic_ns() // 1000


def test_who_stops_amid_a_reload_is_not_ready(heard):
    server = make()
    with Service([server], {}) as service, server:
        service.ready()
        with service.reloading():
            server.stop()
            heard.wait_for("STOPPING=1")
    systemd.notify("LAST=1")
    heard.wait_for("LAST=1")
    assert heard.lines().count("READY=1") == 1


class Waits(Handler):
    """Waits in its callback."""

    go = threading.Event()

    def handle_data(self, data, socket):
        socket.send(data)
        self.go.wait(60)


@pytest.fixture
def waits():
    Waits.go = threading.Event()
    yield Waits
    Waits.go.set()


@pytest.mark.parametrize("suspended", [False, True])
def test_the_watchdog_is_told_each_third_of_its_time(heard, suspended, client):
    """With no client and no thread of the pool, too."""
    server = make()
    with Service([server], {"WATCHDOG_USEC": "600000"}) as service, server:
        service.ready()
        if suspended:
            server.suspend()
        heard.wait_for("WATCHDOG=1", 5)
    times = heard.when("WATCHDOG=1")[:5]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert min(gaps) > 0.15
    assert sum(gaps) < 4 * 0.6


def test_callbacks_that_wait_however_many_do_not_make_it_stale(heard, client, waits):
    server = make(waits, max_handler_threads=2)
    with Service([server], {"WATCHDOG_USEC": "600000"}) as service, server:
        service.ready()
        socks = [client(server) for _ in range(4)]
        for sock in socks:
            sock.sendall(b"x")
        # Whichever two of them.
        assert eventually(lambda: len(select.select(socks, [], [], 0)[0]) == 2)
        assert eventually(lambda: server.info().waiting_connections == 2)
        told = len(heard.when("WATCHDOG=1"))
        heard.wait_for("WATCHDOG=1", told + 5)
        waits.go.set()


def test_a_server_whose_poll_loop_stands_says_nothing(heard, client, monkeypatch):
    """All that polls waits for a lock, as for one that was never released."""
    server = make()
    with Service([server], {"WATCHDOG_USEC": "300000"}) as service, server:
        service.ready()
        heard.wait_for("WATCHDOG=1", 2)
        lock = server._run.scheduler._lock
        with lock:
            assert heard.falls_silent("WATCHDOG=1", 1)
        heard.wait_for("WATCHDOG=1", len(heard.when("WATCHDOG=1")) + 2)


def test_of_several_servers_each_must_be_alive(heard):
    servers = [make(name="one"), make(name="other")]
    with Service(servers, {"WATCHDOG_USEC": "300000"}) as service, servers[0], servers[1]:
        service.ready()
        heard.wait_for("WATCHDOG=1", 3)
        with servers[1]._run.scheduler._lock:
            assert heard.falls_silent("WATCHDOG=1", 1)
        told = len(heard.when("WATCHDOG=1"))
        heard.wait_for("WATCHDOG=1", told + 3)
        servers[1].stop()
        assert "STOPPING=1" in heard.wait_for("STOPPING=1")


def test_a_server_that_is_started_again_beats_on(heard):
    server = make()
    with Service([server], {"WATCHDOG_USEC": "300000"}) as service:
        with server:
            service.ready()
            heard.wait_for("WATCHDOG=1")
        with server:
            told = len(heard.when("WATCHDOG=1"))
            heard.wait_for("WATCHDOG=1", told + 2)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_beat_that_an_exception_has_cost_is_begun_anew(heard, lost, monkeypatch):
    fired, fire = [], _Beats.fire

    def lose_the_second(self, which):
        if which == lost:
            fired.append(which)
            if len(fired) == 2:
                return
        fire(self, which)

    monkeypatch.setattr(_Beats, "fire", lose_the_second)
    server = make()
    with Service([server], {"WATCHDOG_USEC": "300000"}) as service, server:
        service.ready()
        heard.wait_for("WATCHDOG=1", 10)
        assert eventually(lambda: len(fired) > 5)
    times = heard.when("WATCHDOG=1")
    assert max(after - before for before, after in itertools.pairwise(times)) < 0.9


def test_a_server_that_was_started_before_beats_too(heard):
    with make() as server, Service([server], {"WATCHDOG_USEC": "300000"}) as service:
        service.ready()
        heard.wait_for("WATCHDOG=1", 3)


def test_a_stop_that_takes_more_than_half_its_time_is_extended(heard, client, waits):
    server = make(waits, shutdown_timeout_ms=2_000)
    with Service([server], {}) as service, server:
        service.ready()
        sock = client(server)
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        began = time.monotonic()
        assert server.stop() is False
        waits.go.set()
    (stopping,) = heard.when("STOPPING=1")
    extended = heard.when("EXTEND_TIMEOUT_USEC=")
    assert stopping - began < 0.8
    assert len(extended) >= 2
    assert extended[0] - stopping >= 0.95
    values = [
        int(line.partition("=")[2])
        for line in heard.lines()
        if line.startswith("EXTEND_TIMEOUT_USEC=")
    ]
    assert all(2_000_000 <= value <= 3_100_000 for value in values)
    assert values == sorted(values, reverse=True)


def test_a_drain_is_extended_from_half_of_its_delay_on(heard):
    server = make(shutdown_timeout_ms=10_000)
    with Service([server], {}) as service, server:
        service.ready()
        assert server.drain(2_000) is True
    (stopping,) = heard.when("STOPPING=1")
    extended = heard.when("EXTEND_TIMEOUT_USEC=")
    assert len(extended) >= 2
    assert extended[0] - stopping >= 0.95
    (first,) = heard.wait_for("EXTEND_TIMEOUT_USEC=")
    assert 11_000_000 < int(first.partition("=")[2]) <= 13_100_000


def test_a_quick_stop_is_not_extended(heard):
    server = make()
    with Service([server], {}) as service, server:
        service.ready()
        server.stop()
    assert heard.when("EXTEND_TIMEOUT_USEC=") == []


def test_a_stop_without_a_limit_is_extended_again_and_again(heard, client, waits):
    server = make(waits, shutdown_timeout_ms=None)
    with Service([server], {}) as service, server:
        service.ready()
        sock = client(server)
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        thread = threading.Thread(target=server.stop)
        thread.start()
        assert heard.wait_for("EXTEND_TIMEOUT_USEC=", 2) == ["EXTEND_TIMEOUT_USEC=32000000"] * 2
        waits.go.set()
        thread.join()


def test_status_comes_at_most_every_5_s_and_only_when_it_changes(heard, client, monkeypatch):
    server = make()
    with Service([server], {"WATCHDOG_USEC": "300000"}) as service, server:
        service.ready()
        echoes(client(server))  # it is another text from now on
        heard.wait_for("STATUS=", 2)
        assert heard.falls_silent("STATUS=", 1)
    first, second = heard.when("STATUS=")
    assert 4.95 <= second - first < 6


def test_without_notify_socket_it_connects_to_nothing(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    server = make()
    with Service([server], {"WATCHDOG_USEC": "300000"}) as service, server:
        assert service._receivers == []
        service.ready()
        assert service._beats == {}
        with service.reloading():
            pass
