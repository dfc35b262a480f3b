"""The pool takes clients in while it has a thread at hand, and acceptors do when it has none."""

import errno
import threading

import pytest

from tests.support import Echo, answers, eventually, receive
from thousand_island_sync import Handler, events
from thousand_island_sync._listener import accept_turns, acceptor
from thousand_island_sync._scheduler import scheduler as _scheduler


@pytest.fixture(autouse=True)
def one_thread_at_a_time(monkeypatch):
    """As with the GIL."""
    monkeypatch.setattr(accept_turns, "default_permits", lambda: 1)
    monkeypatch.setattr(_scheduler, "default_permits", lambda: 1)


@pytest.fixture
def by_acceptors(monkeypatch):
    """The clients that acceptors looked at."""
    looks = []
    may_accept = acceptor.Acceptor._may_accept

    def counted(self):
        looks.append(self.number)
        return may_accept(self)

    monkeypatch.setattr(acceptor.Acceptor, "_may_accept", counted)
    return looks


def inline_of(server):
    return server._run.listener._shared[0].inline


def test_the_pool_takes_clients_after_the_first(serve, client, by_acceptors):
    server = serve(Echo)
    assert answers(client(server))
    assert eventually(inline_of(server).attended)
    assert all(answers(client(server)) for _ in range(20))
    assert len(by_acceptors) == 1


def test_acceptors_do_where_threads_run_at_once(serve, client, by_acceptors, monkeypatch):
    monkeypatch.setattr(accept_turns, "default_permits", lambda: 4)
    server = serve(Echo, num_acceptors=1)
    assert all(answers(client(server)) for _ in range(10))
    assert len(by_acceptors) == 10
    assert inline_of(server) is None


def test_acceptors_take_clients_while_every_thread_is_in_a_callback(serve, client, by_acceptors):
    go, inside = threading.Event(), threading.Semaphore(0)

    class Blocks(Handler):
        def handle_data(self, data, socket):
            if data == b"b":
                inside.release()
                go.wait(10)
            socket.send(data)

    server = serve(Blocks, max_handler_threads=2)
    assert answers(client(server))
    assert eventually(inline_of(server).attended)
    blocked = [client(server) for _ in range(2)]
    for sock in blocked:
        sock.sendall(b"b")
        assert inside.acquire(timeout=10)
    assert eventually(lambda: not inline_of(server).attended())
    before = len(by_acceptors)
    late = [client(server) for _ in range(5)]
    assert eventually(lambda: server.info().active_connections == 8)
    assert len(by_acceptors) > before
    go.set()
    assert all(answers(sock) for sock in late)

    def by_the_pool_alone():
        before = len(by_acceptors)
        assert all(answers(client(server)) for _ in range(5))
        return len(by_acceptors) == before

    # On a busy machine a thread of the pool may be late once, and an acceptor steps in.
    assert eventually(by_the_pool_alone)


def test_acceptors_have_it_while_somebody_listens(serve, client, by_acceptors):
    told = []

    def receiver(server, **event):
        told.append(threading.current_thread().name)

    server = serve(Echo)
    assert answers(client(server))
    assert eventually(inline_of(server).attended)
    with events.acceptor_accept.connected_to(receiver):
        assert all(answers(client(server)) for _ in range(5))
        assert eventually(lambda: len(told) == 5)  # the last is told while it is served
    assert all("acceptor" in name for name in told)
    assert answers(client(server))
    assert eventually(inline_of(server).attended)


def test_at_the_limit_acceptors_wait_for_room(serve, client):
    server = serve(Echo, max_connections=2, max_connections_wait_ms=10_000)
    first, second = client(server), client(server)
    assert answers(first)
    assert answers(second)
    third = client(server)
    third.sendall(b"x")
    limit = server._run.limit
    assert eventually(lambda: limit._waiters >= 1)
    first.close()
    assert receive(third, 1) == b"x"
    third.close()
    assert answers(client(server))


def test_what_acceptors_count_includes_what_the_pool_took(serve, client, record):
    recorder = record("acceptor.shutdown")
    server = serve(Echo, num_acceptors=3)
    for _ in range(12):
        with client(server) as sock:
            assert answers(sock)
    server.stop()
    recorder.wait_for("acceptor.shutdown", 3)
    counted = [one.measurements["accepted"] for one in recorder.of("acceptor.shutdown")]
    assert sum(counted) == server.info().accepted_total == 12


def test_an_error_of_accept_goes_to_an_acceptor(serve, client, monkeypatch):
    server = serve(Echo, num_acceptors=1)
    assert answers(client(server))
    inline = inline_of(server)
    assert eventually(inline.attended)
    accepts, failed = inline._entrance._accept, []

    def failing(coming):
        if not failed:
            failed.append(1)
            raise OSError(errno.ECONNABORTED, "injected")
        return accepts(coming)

    inline._entrance._accept = failing
    assert answers(client(server))
    assert failed
    assert eventually(inline.attended)
    assert all(answers(client(server)) for _ in range(3))


def test_an_inline_accept_that_breaks_leaves_it_to_the_acceptors(
    serve, client, by_acceptors, caplog
):
    server = serve(Echo, num_acceptors=1)
    assert answers(client(server))
    inline = inline_of(server)
    assert eventually(inline.attended)

    def broken(coming):
        raise ZeroDivisionError

    inline._entrance._accept = broken
    assert all(answers(client(server)) for _ in range(5))
    assert len(by_acceptors) == 6
    assert "is a bug" in caplog.text
    caplog.clear()


def test_an_inline_accept_is_closed_and_opened_again(serve, client):
    server = serve(Echo)
    assert answers(client(server))
    for _ in range(20):
        assert eventually(inline_of(server).attended)
        server.suspend()
        assert server._run.listener._shared == []
        server.resume()
        assert answers(client(server))
    # The acceptor offers it once the client is handed over, who may be answered by then.
    assert eventually(lambda: server._run.scheduler._table._uncounted == [inline_of(server)._task])


def test_a_receiver_that_is_called_inline_may_stop_the_server(serve, client):
    """A limit is told where the last place is taken, and its receiver may have come since."""
    server = serve(Echo, max_connections=2)
    assert answers(client(server))
    assert eventually(inline_of(server).attended)
    stopped = threading.Event()

    def stop(server, **event):
        stopped.set()
        server.stop(1_000)

    inline = inline_of(server)
    accepts = inline._entrance._accept

    def with_a_listener(coming):
        events.acceptor_limit_reached.connect(stop)
        return accepts(coming)

    inline._entrance._accept = with_a_listener

    def by_the_pool():
        assert eventually(inline.attended)
        with client(server):
            return stopped.wait(1)

    try:
        # On a busy machine a thread of the pool may be late once, and an acceptor steps in.
        assert eventually(by_the_pool)
        assert eventually(lambda: server.info().status == "stopped", 10)
    finally:
        events.acceptor_limit_reached.disconnect(stop)


def test_an_inline_accept_that_is_added_after_its_close_is_forgotten(serve, client, monkeypatch):
    """As where a stop could not wait for the scheduler's lock, and an acceptor gets it later."""
    server = serve(Echo)
    inline, scheduler = inline_of(server), server._run.scheduler
    come, go_on = threading.Event(), threading.Event()

    def add_late(self, one):
        come.set()
        assert go_on.wait(5)
        add(self, one)

    add = type(scheduler).add_uncounted
    monkeypatch.setattr(type(scheduler), "add_uncounted", add_late)
    client(server).sendall(b"x")  # after the first client acceptors offer it
    assert come.wait(5)
    inline.close(0)  # it waits for nobody
    go_on.set()
    with inline._lock:  # the acceptor has added it
        pass
    assert inline._task not in scheduler.tasks()
    assert server.stop(2_000)
    assert not scheduler.threads()
