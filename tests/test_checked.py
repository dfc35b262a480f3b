"""`THOUSAND_ISLAND_DEBUG=1`: what a broken scheduler would do is found and told.

Each test breaks one rule on purpose; all other tests run with the checks on and fail if
anything is found."""

import contextlib
import logging
import os
import socket as stdlib_socket
import threading

import pytest

from tests.support import Echo, echoes, eventually, receive, task_of, watch_sleeps
from thousand_island_sync import Close, Handler
from thousand_island_sync._base import reports
from thousand_island_sync._connection import machine
from thousand_island_sync._connection.machine import Machine
from thousand_island_sync._connection.outflow import Outflow
from thousand_island_sync._scheduler.poller import new_poller
from thousand_island_sync._scheduler.run_queue import RunQueue
from thousand_island_sync._scheduler.states import OWNED, PARKED
from thousand_island_sync._scheduler.watchdog_timer import WatchdogTimer
from thousand_island_sync._server import checked
from thousand_island_sync._server.checked import CheckedConnection, CheckedScheduler


@pytest.fixture(autouse=True)
def checks(monkeypatch):
    monkeypatch.setenv("THOUSAND_ISLAND_DEBUG", "1")


@pytest.fixture
def found(caplog):
    """What was found so far; it is expected here. Before `serve`: until a server has stopped the
    same may be found again."""
    caplog.set_level(logging.CRITICAL, "thousand_island_sync")
    yield reports.violations
    reports.violations.clear()


def the_only(server, scheduler=False):
    assert eventually(lambda: len(server.connections()) == 1)
    lifecycle = task_of(server.connections()[0])
    return lifecycle.env.pool if scheduler else lifecycle


def parked(server):
    lifecycle = the_only(server)
    assert eventually(lambda: lifecycle.ownership == PARKED)
    return lifecycle


@pytest.mark.parametrize("value", ["1", "0", "", None])
def test_it_is_decided_when_a_server_starts(value, serve, client, monkeypatch):
    if value is None:
        monkeypatch.delenv("THOUSAND_ISLAND_DEBUG")
    else:
        monkeypatch.setenv("THOUSAND_ISLAND_DEBUG", value)
    server = serve(Echo)
    echoes(client(server))
    lifecycle = the_only(server)
    assert isinstance(lifecycle, CheckedConnection) is (value == "1")
    assert isinstance(lifecycle.env.pool, CheckedScheduler) is (value == "1")


def test_nothing_is_found_where_nothing_is_wrong(found, serve, client):
    server = serve(Echo)
    socks = [client(server) for _ in range(10)]
    for _ in range(5):
        for sock in socks:
            echoes(sock)
    threading.Event().wait(1.5)
    assert found == []


def test_two_owners(found, serve, client, caplog):
    began, release = threading.Event(), threading.Event()

    class Waits(Handler):
        def handle_data(self, data, socket):
            began.set()
            release.wait(5)

    server = serve(Waits)
    client(server).sendall(b"x")
    assert began.wait(5)
    lifecycle = the_only(server)
    lifecycle.watch.enter(lifecycle)  # what a second thread would do
    release.set()
    assert found == [f"connection {lifecycle.id} has two owners"]
    assert "test_two_owners" in caplog.text, "with what every thread is doing"


def test_a_watch_that_sleeps(found, serve, client, monkeypatch):
    release = threading.Event()

    class Waits(Handler):
        def handle_connection(self, socket):
            release.wait(5)

    # Nor does it go on looking where the thread's start has woken it, before the task began.
    looks = WatchdogTimer.looks
    monkeypatch.setattr(WatchdogTimer, "begin_now", lambda timer: None)
    monkeypatch.setattr(WatchdogTimer, "looks", lambda timer, again: looks(timer, again=False))
    server = serve(Waits)
    assert eventually(lambda: watch_sleeps(server))
    client(server)
    assert eventually(lambda: found)
    release.set()
    assert server.stop(5_000)  # until then it is found again and again
    assert found[0] == "a thread with a permit runs a task, and the watchdog sleeps"


def test_a_run_without_ownership_and_after_the_end(found, serve, client):
    server = serve(Echo)
    sock = client(server)
    echoes(sock)
    lifecycle = parked(server)
    if lifecycle.watch.enter(lifecycle):
        lifecycle.watch.leave()
    assert found == [f"connection {lifecycle.id} is run, and nobody owns it"]
    sock.close()
    assert eventually(lambda: server.info().active_connections == 0)
    if lifecycle.watch.enter(lifecycle):
        lifecycle.watch.leave()
    assert found[-1] == f"connection {lifecycle.id} is run after its end"


def test_a_lost_wake_up(found, serve, client, monkeypatch):
    """The event comes, and the scheduler forgets it."""
    server = serve(Echo)
    sock = client(server)
    echoes(sock)
    lifecycle = parked(server)
    absorb = RunQueue.absorb

    def forgetful(self, events, worker):
        absorb(self, [one for one in events if one[0] != lifecycle.fd], worker)

    with monkeypatch.context() as patched:
        patched.setattr(RunQueue, "absorb", forgetful)
        sock.sendall(b"lost")
        assert eventually(lambda: found, 5)
    assert found[0].startswith(f"connection {lifecycle.id} has bytes that nobody was told of")
    # The next event brings them all.
    sock.sendall(b"!")
    assert receive(sock, 5) == b"lost!"


class Floods(Handler):
    def handle_data(self, data, socket):
        socket.send(bytes(200_000))


def test_bytes_that_wait_and_that_nobody_watches(found, serve, client, monkeypatch):
    """They are kept, and the driver is never told."""
    server = serve(Floods, transport_options={"send_buffer": 8_192})
    sock = client(server)
    monkeypatch.setattr(Outflow, "watch", lambda *_, **__: None)
    sock.sendall(b"x")
    assert eventually(lambda: found, 5)
    assert "nobody watches for room" in found[0]
    server.connections()[0].close(abort=True)


#: As if it were the machine's own: it waits for what is unsent before the connection parks.
_FLUSHES = """
def park(self):
    if self.stream.writer.unsent:
        try:
            self.stream.writer.flush(20)
        except OSError:
            pass
    return parks(self)
"""


@pytest.mark.parametrize("by_user", [False, True])
def test_a_thread_that_waits_for_what_is_unsent(by_user, found, serve, client, monkeypatch):
    """In a callback that asks for it, it may."""

    class Waits(Floods):
        def handle_data(self, data, socket):
            super().handle_data(data, socket)
            if by_user:
                with contextlib.suppress(OSError):
                    socket.flush(20)
            flushed.set()

    flushed = threading.Event()
    if not by_user:
        names = {"parks": Machine.park}
        exec(compile(_FLUSHES, machine.__file__, "exec"), names)
        monkeypatch.setattr(Machine, "park", names["park"])
    server = serve(Waits, transport_options={"send_buffer": 8_192})
    client(server).sendall(b"x")
    assert flushed.wait(10)
    task = the_only(server)
    assert eventually(lambda: task.ownership == PARKED)
    assert task.machine.stream.writer.unsent
    if by_user:
        assert not found
    else:
        assert f"no callback of connection {task.id} runs" in found[0]
    server.connections()[0].close(abort=True)


class _Books:
    """A scheduler's books, to be falsified; nothing runs."""

    def __init__(self):
        scheduler = CheckedScheduler(
            new_poller(),
            max_threads=4,
            name="t",
            ring=lambda: None,
            saturation=lambda *_: None,
            permits=1,
        )
        self.poller = scheduler._queue._poller
        self.queue, self.permits = scheduler._queue, scheduler._permits
        self.workers, self.inspection = scheduler._workers, scheduler._inspection
        self.worker = self.permits.employ()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.poller.close()


class _Owned:
    ownership = OWNED


FALSE = {
    "1 permits free, 1 held, of 1": lambda books: setattr(books.permits, "free", 1),
    "listed twice": lambda books: books.permits._holders.append(books.worker),
    "does not know it": lambda books: setattr(books.worker, "permit", False),
    "rests with a permit": lambda books: books.permits._resting.append(books.worker),
    "queue twice": lambda books: books.queue._ready.extend([one := _Owned(), one]),
    "nobody owns it": lambda books: books.queue._ready.append(
        type("Loose", (), {"ownership": PARKED})()
    ),
}


class SecondOwner(Handler):
    """Closes a number that is the server's, and has something else in its place."""

    def handle_data(self, data, socket):
        number = socket.fileno()
        with contextlib.ExitStack() as held:
            if data == b"detach":
                socket.detach()
            elif data == b"a copy":
                number = os.dup(number)
            other = held.enter_context(open(os.devnull))
            stdlib_socket.socket(fileno=number).close()
            if data == b"close":
                os.dup2(other.fileno(), number)  # as the next client's would be
        return Close()


@pytest.mark.parametrize("how", [b"close", b"detach", b"a copy"])
def test_a_second_owner_of_a_descriptor_is_found(how, found, serve, client):
    server = serve(SecondOwner)
    client(server).sendall(how)
    assert eventually(lambda: server.info().accepted_total and not server.connections())
    assert len(found) == (how == b"close")
    assert all("without detach()" in one for one in found)


@pytest.mark.parametrize("says", FALSE)
def test_false_books(says, found):
    with _Books() as books:
        books.inspection.check_books()
        assert found == []
        FALSE[says](books)
        books.inspection.check_books()
    assert any(says in one for one in found), found


@pytest.mark.parametrize(
    ("idle", "count", "free", "told"),
    [(1, 1, 1, True), (0, 0, 1, True), (0, 4, 1, False), (1, 1, 0, False)],
    ids=["a thread rests", "one may be started", "at the bound", "no permit is free"],
)
def test_a_ready_task_that_nobody_takes(idle, count, free, told, found, monkeypatch):
    time_now = 0.0
    monkeypatch.setattr(checked, "now", lambda: time_now)
    with _Books() as books:
        inspection, queue = books.inspection, books.queue
        books.permits._resting, books.workers.count = [books.worker] * idle, count
        books.permits.free = free
        queue._ready.append(_Owned())
        for _ in range(100):
            inspection.look_at_the_queue()
            time_now += 0.02
            if not 0.9 < time_now < 1.2:
                assert bool(found) is (told and time_now > 1), time_now
        queue.clear()
        inspection.look_at_the_queue()
        assert inspection._head[2] == 0
