"""Acceptors take turns, and hold up nobody while they do."""

import threading

from tests.support import Echo, eventually, receive
from thousand_island_sync import events
from thousand_island_sync._accept_turns import Turn


def answers(sock):
    sock.sendall(b"x")
    return receive(sock, 1) == b"x"


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


def test_acceptors_that_wait_at_the_limit_leave_the_turn(serve, client, record):
    recorder = record("acceptor.limit_reached", "acceptor.limit_cleared")
    server = serve(Echo, num_acceptors=3, max_connections=1)
    one = client(server)
    assert answers(one)
    two, three = client(server), client(server)
    one.close()
    assert answers(two)
    two.close()
    assert answers(three)
    recorder.wait_for("acceptor.limit_reached", 3)
    assert eventually(lambda: server.info().accepted_total == 3)


def test_a_stop_ends_those_that_wait_for_their_turn(serve, stopwatch):
    server = serve(Echo, num_acceptors=10)
    began = stopwatch()
    assert server.stop()
    assert stopwatch() - began < 1
