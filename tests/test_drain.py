"""`ThousandIsland.drain`: it says so, goes on accepting for a while, and stops."""

import contextlib
import logging
import os
import signal
import threading
import time
from collections import deque

import pytest

from tests.support import Echo, echoes, eventually, receive_all, running
from thousand_island_sync import (
    Handler,
    ThousandIsland,
    ThousandIslandError,
    attach_logger,
    events,
)

#: Milliseconds that no test waits.
LONG = 60_000


def begin(server, delay_ms=LONG):
    """Drains on a thread of its own; the thread, and a list that gets what it returned."""
    returned = []
    thread = threading.Thread(target=lambda: returned.append(server.drain(delay_ms)))
    thread.start()
    assert eventually(lambda: server.status != "running")
    return thread, returned


# ---- what it does -------------------------------------------------------------


def test_it_says_so_and_goes_on_accepting_until_the_delay_is_over(serve, client, record):
    recorder = record("listener.drain", "listener.shutdown")
    server = serve(Echo)
    assert server.info().draining is False
    address, began = server.local_address, time.monotonic()
    thread, returned = begin(server, 300)
    assert server.status == "draining"
    assert server.info().draining is True
    assert server.info().status == "draining"
    assert server.local_address == address
    late = client(server)
    echoes(late)
    thread.join(10)
    assert returned == [True]
    assert time.monotonic() - began >= 0.3
    assert server.status == "stopped"
    assert server.info().draining is False
    drain, shutdown = recorder.told
    assert (drain.name, shutdown.name) == ("listener.drain", "listener.shutdown")
    assert recorder.senders[0] is server
    assert drain.measurements.keys() == {"delay_ns", "monotonic_time_ns"}
    assert drain.measurements["delay_ns"] == 300_000_000
    assert drain.metadata == {"local_address": address}


def test_without_a_delay_it_stops_at_once(serve, client, record):
    recorder = record("listener.drain")
    server = serve(Echo)
    sock = client(server)
    echoes(sock)
    assert server.drain() is True
    assert receive_all(sock) == b""
    assert server.status == "stopped"
    assert recorder.told[0].measurements["delay_ns"] == 0


def test_it_returns_false_where_a_connection_was_cut(serve, client):
    inside, go = threading.Event(), threading.Event()

    class Stays(Handler):
        def handle_data(self, data, socket):
            inside.set()
            go.wait(20)

    server = serve(Stays, shutdown_timeout_ms=100)
    client(server).sendall(b"x")
    inside.wait(5)
    began = time.monotonic()
    assert server.drain(100) is False
    assert 0.2 <= time.monotonic() - began < 0.2 + 0.5 + 0.1
    go.set()


def test_the_stop_has_its_whole_time_after_the_delay(serve, client):
    began, inside = time.monotonic(), threading.Event()

    class TakesHalfASecond(Handler):
        def handle_data(self, data, socket):
            inside.set()
            while time.monotonic() < began + 0.5:
                threading.Event().wait(0.01)

    server = serve(TakesHalfASecond, shutdown_timeout_ms=5_000)
    client(server).sendall(b"x")
    inside.wait(5)
    assert server.drain(250) is True


def test_it_is_logged_at_info(serve, caplog):
    caplog.set_level(logging.INFO, "thousand_island_sync")
    attach_logger("info")
    server = serve(Echo)
    server.drain()
    (line,) = [one for one in caplog.records if "listener.drain" in one.getMessage()]
    assert line.levelno == logging.INFO
    assert events.CATALOGUE["listener.drain"].level == "info"


@pytest.mark.parametrize("wrong", [-1, "1", True, float("nan"), [5]])
def test_a_delay_is_a_number_of_milliseconds(serve, wrong):
    server = serve(Echo)
    with pytest.raises(ValueError, match=r"drain: delay_ms: got .*, takes a number of"):
        server.drain(wrong)
    assert server.status == "running"


def test_none_is_until_somebody_stops_it(serve, client, record):
    recorder = record("listener.drain")
    server = serve(Echo)
    thread, returned = begin(server, None)
    echoes(client(server))
    assert server.stop() is True
    thread.join(5)
    assert returned == [True]
    assert recorder.told[0].measurements["delay_ns"] is None


def test_a_drained_server_can_be_started_and_drained_again(serve, client):
    server = serve(Echo)
    for _ in range(3):
        assert server.drain(1) is True
        server.start()
        assert server.status == "running"
        echoes(client(server))
    thread, returned = begin(server)
    server.stop()
    thread.join(5)
    assert returned == [True]


def test_over_a_unix_socket(serve, client, record, tmp_path):
    recorder = record("listener.drain")
    path = str(tmp_path / "socket")
    server = serve(Echo, host=f"unix:{path}")
    thread, _ = begin(server)
    echoes(client(server))
    server.stop()
    thread.join(5)
    assert recorder.told[0].metadata == {"local_address": path}
    assert not os.path.exists(path)


# ---- in the other statuses ------------------------------------------------------


def test_on_a_new_server_it_does_nothing(record):
    recorder = record("listener.drain")
    server = ThousandIsland(handler_cls=Echo, port=0)
    assert server.drain(LONG) is True
    assert server.status == "new"
    assert recorder.told == []


def test_on_a_stopped_server_it_does_nothing(serve, record):
    server = serve(Echo)
    server.stop()
    recorder = record("listener.drain")
    assert server.drain(LONG) is True
    assert server.status == "stopped"
    assert recorder.told == []


def test_a_suspended_server_does_not_wait(serve, client, record):
    server = serve(Echo)
    address = server.local_address
    sock = client(server)
    echoes(sock)
    server.suspend()
    recorder = record("listener.drain")
    began = time.monotonic()
    assert server.drain(LONG) is True
    assert time.monotonic() - began < 5
    assert server.status == "stopped"
    assert receive_all(sock) == b""
    assert recorder.told[0].metadata == {"local_address": address}


def test_suspend_and_resume_do_nothing_in_a_drain(serve, client):
    server = serve(Echo)
    thread, _ = begin(server)
    server.suspend()
    assert server.status == "draining"
    server.resume()
    assert server.status == "draining"
    echoes(client(server))
    with pytest.raises(ThousandIslandError, match="draining already"):
        server.start()
    server.stop()
    thread.join(5)


# ---- together with other calls -----------------------------------------------------


def test_stop_ends_the_delay(serve):
    server = serve(Echo)
    thread, returned = begin(server)
    assert server.stop() is True
    thread.join(5)
    assert returned == [True]


def test_leaving_with_ends_the_delay():
    with ThousandIsland(handler_cls=Echo, port=0, host="127.0.0.1") as server:
        thread, returned = begin(server)
    thread.join(5)
    assert returned == [True]


def test_many_drain_and_one_says_when(serve, record):
    recorder = record("listener.drain", "listener.shutdown")
    server = serve(Echo)
    returned = []
    jobs = [lambda ms=ms: returned.append(server.drain(ms)) for ms in (LONG, 200, None, LONG)]
    began = time.monotonic()
    with running(*jobs):
        assert server.wait(5_000)
    assert time.monotonic() - began < 5
    assert returned == [True] * 4
    assert recorder.names() == ["listener.drain", "listener.shutdown"]


def test_many_drain_and_stop_at_once(serve, client, record):
    server = serve(Echo)
    for _ in range(10):
        recorder = record("listener.drain", "listener.shutdown")
        sock = client(server)
        echoes(sock)
        returned = deque()
        drains = [lambda to=returned: to.append(server.drain(LONG))] * 4
        stops = [lambda to=returned: to.append(server.stop())] * 4
        with running(*drains, *stops):
            assert server.wait(10_000)
        assert list(returned) == [True] * 8
        assert recorder.names().count("listener.shutdown") == 1
        assert recorder.names().count("listener.drain") <= 1
        server.start()


def test_called_in_a_callback_it_waits_for_the_others(serve, client):
    class Drains(Handler):
        def handle_data(self, data, socket):
            if data == b"drain":
                socket.send(b"%d" % socket.connection.server.drain(200))
            else:
                socket.send(data)

    server = serve(Drains)
    other, sock = client(server), client(server)
    echoes(other)
    sock.sendall(b"drain")
    assert eventually(lambda: server.status == "draining")
    echoes(other)
    echoes(client(server))
    assert receive_all(sock) == b"1"
    assert server.wait(5_000)


def test_a_receiver_may_stop_it(serve):
    server = serve(Echo)
    returned = []

    def stop(sender, *, event, measurements, metadata):
        returned.append(sender.stop())

    with connected("listener.drain", stop):
        assert server.drain(LONG) is True
    assert server.wait(5_000)
    assert eventually(lambda: len(returned) == 1)


def test_a_receiver_that_blocks_holds_up_no_stop(serve):
    server = serve(Echo)
    go = threading.Event()

    def block(sender, **rest):
        go.wait(20)

    with connected("listener.drain", block):
        thread, returned = begin(server)
        began = time.monotonic()
        assert server.stop(500) is False  # not every event has been sent
        assert time.monotonic() - began < 1
        thread.join(5)
        assert returned == [False]
        go.set()


def test_what_a_receiver_raises_for_the_program_comes_from_the_call(serve):
    server = serve(Echo)

    def give_up(sender, **rest):
        raise SystemExit(3)

    with connected("listener.drain", give_up), pytest.raises(SystemExit):
        server.drain()
    assert server.wait(5_000)


@contextlib.contextmanager
def connected(name, receiver):
    events.ALL[name].connect(receiver, weak=False)
    try:
        yield
    finally:
        events.ALL[name].disconnect(receiver)


# ---- signals, and a fork --------------------------------------------------------------


def test_ctrl_c_ends_the_waiting_and_not_the_drain(serve, client):
    server = serve(Echo)

    def press():
        assert eventually(lambda: server.status == "draining")
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with running(press), pytest.raises(KeyboardInterrupt):
        server.drain(LONG)
    assert server.status == "draining"
    echoes(client(server))
    assert server.stop() is True


def test_a_signals_handler_may_drain_and_stop_inside_a_drain(serve):
    server = serve(Echo)
    returned = []
    before = signal.signal(signal.SIGUSR1, lambda *_: returned.append(server.drain(LONG)))
    try:

        def press():
            assert eventually(lambda: server.status == "draining")
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            assert eventually(lambda: returned)
            assert server.status == "draining"
            server.stop()

        with running(press):
            assert server.drain(LONG) is True
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert returned == [False]  # begun, and not waited for on the thread that is in another


def test_in_a_forked_child_it_is_the_parents(serve):
    server = serve(Echo)
    thread, returned = begin(server)
    pid = os.fork()
    if not pid:
        status = 1
        try:
            server.drain()
        except ThousandIslandError:
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert server.status == "draining"
    server.stop()
    thread.join(5)
    assert returned == [True]


def test_a_drain_whose_thread_is_broken_off_stops_all_the_same(serve, monkeypatch, caplog):
    from thousand_island_sync._server.drain import Drain

    def broken(self, until):
        raise RuntimeError("out of nothing")

    monkeypatch.setattr(Drain, "wait", broken)
    server = serve(Echo)
    assert server.drain(LONG) is True
    assert server.status == "stopped"
    assert "broken off" in caplog.text
