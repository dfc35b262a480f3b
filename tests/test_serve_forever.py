"""`serve_forever` in this process, with signals sent to it."""

import os
import signal
import threading

import pytest

from tests.support import Echo, eventually
from thousand_island_sync import ListenError, ThousandIsland, ThousandIslandError


def make(**options):
    return ThousandIsland(handler_cls=Echo, host="127.0.0.1", port=0, num_acceptors=1, **options)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_c11_a_signal_begins_a_graceful_stop(number):
    server = make()
    before = signal.getsignal(number)

    def send():
        assert eventually(lambda: server.status == "running")
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    server.serve_forever()
    sender.join()
    assert server.status == "stopped"
    assert signal.getsignal(number) is before


def test_a_signal_of_somebody_else_is_no_reason_to_stop(client):
    server, seen = make(), []
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append(server.status))

    def send():
        assert eventually(lambda: server.status == "running")
        os.kill(os.getpid(), signal.SIGUSR1)
        assert eventually(lambda: seen)
        sock = client(server)
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        server.serve_forever()
    finally:
        signal.signal(signal.SIGUSR1, before)
        sender.join()
    assert seen == ["running"]


def test_what_is_no_server_is_told_before_anything_starts():
    server = make()
    with pytest.raises(TypeError, match=r"serve_forever: got 0\.5, takes further servers"):
        server.serve_forever(0.5)  # socketserver's poll_interval
    assert server.status == "new"


def test_it_may_have_been_started_and_may_be_stopped_otherwise():
    server, other = make().start(), make()

    def stop():
        assert eventually(lambda: other.status == "running")
        server.stop()

    stopper = threading.Thread(target=stop)
    stopper.start()
    server.serve_forever(other)
    stopper.join()
    assert (server.status, other.status) == ("stopped", "stopped")


def test_c11_main_thread_only():
    seen = []

    def call():
        try:
            make().serve_forever()
        except ThousandIslandError as error:
            seen.append(str(error))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert "main thread" in seen[0]


def test_if_one_cannot_listen_the_others_are_stopped_again(serve):
    taken = serve(Echo)
    first = make()
    second = ThousandIsland(handler_cls=Echo, host="127.0.0.1", port=taken.local_port)
    with pytest.raises(ListenError):
        first.serve_forever(second)
    assert first.status == "stopped"
    assert second.status == "new"
