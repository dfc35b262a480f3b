"""Acceptors take turns, and hold up nobody while they do."""

import threading

import pytest

from tests.support import Echo, answers, eventually
from thousand_island_sync import events
from thousand_island_sync._listener.accept_turns import Turn


def test_one_at_a_time():
    turn = Turn(shared=False)
    entered = threading.Event()

    def other():
        with turn:
            entered.set()

    with turn:
        thread = threading.Thread(target=other)
        thread.start()
        assert not entered.wait(0.02)
        with turn.given_away():
            assert entered.wait(5)
            thread.join(5)


def test_all_at_once_where_threads_run_at_once():
    turn = Turn(shared=True)
    with turn, turn, turn.given_away():
        pass


def test_the_turn_is_given_away_though_a_receiver_raises(serve, client):
    def bad(server, **event):
        raise ValueError("a receiver's fault")

    server = serve(Echo, num_acceptors=3)
    with events.acceptor_accept.connected_to(bad):
        assert all(answers(client(server)) for _ in range(5))


def test_a_receiver_that_takes_its_time_holds_up_one_client_only(serve, client):
    go, entered = threading.Event(), threading.Event()

    def slow(server, **event):
        if not entered.is_set():
            entered.set()
            go.wait(10)

    server = serve(Echo, num_acceptors=3)
    with events.acceptor_accept.connected_to(slow):
        first = client(server)
        assert entered.wait(5)
        assert all(answers(client(server)) for _ in range(5))
        go.set()
        assert answers(first)


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "when all acceptors wait"])
def test_acceptors_that_wait_at_the_limit_leave_the_turn(waits, serve, client, record):
    """Whoever has the turn must see a client that another was woken for."""
    recorder = record("acceptor.limit_reached", "acceptor.limit_cleared")
    server = serve(Echo, num_acceptors=3, max_connections=1)
    limit = server._run.limit
    clients = [client(server) for _ in range(6)]
    for sock in clients:
        assert answers(sock)
        if waits and sock is not clients[-1]:
            assert eventually(lambda: limit._waiters == 3)
        sock.close()
    recorder.wait_for("acceptor.limit_reached", 6)
    assert eventually(lambda: server.info().accepted_total == 6)


def test_a_stop_ends_those_that_wait_for_their_turn(serve, stopwatch):
    server = serve(Echo, num_acceptors=10)
    began = stopwatch()
    assert server.stop()
    assert stopwatch() - began < 1
