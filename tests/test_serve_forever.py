"""`serve_forever` in this process, with signals sent to it."""

import os
import signal
import threading

import pytest

from tests.support import Echo, eventually
from thousand_island_sync import ConfigError, ListenError, ThousandIsland, ThousandIslandError
from thousand_island_sync._server.serving import _Serving


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
    with pytest.raises(
        TypeError, match=r"serve_forever: got 0\.5, takes further ThousandIsland servers"
    ):
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


# ---- SIGHUP, and a drain ----------------------------------------------------


def while_it_serves(server, steps, **options):
    """`serve_forever` on this thread, and `steps` on another one once it serves; then SIGTERM."""
    raised = []

    def run():
        try:
            assert eventually(lambda: server.status == "running")
            # Its handlers are set before it starts anything.
            steps()
        except BaseException as error:
            raised.append(error)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=run)
    thread.start()
    server.serve_forever(**options)
    thread.join()
    if raised:
        raise raised[0]


def hang_up():
    os.kill(os.getpid(), signal.SIGHUP)


@pytest.fixture
def fatal_hangup():
    """SIGHUP would end this process, but for who serves."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    signal.signal(signal.SIGHUP, before)


def test_sighup_calls_reload_on_the_main_thread(fatal_hangup):
    threads = []

    def steps():
        for count in range(1, 4):
            hang_up()
            assert eventually(lambda n=count: len(threads) == n)

    while_it_serves(make(), steps, reload=lambda: threads.append(threading.current_thread()))
    assert set(threads) == {threading.main_thread()}


def test_without_reload_sighup_is_ignored_while_it_serves(fatal_hangup, client):
    server = make()

    def steps():
        hang_up()
        sock = client(server)
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"

    while_it_serves(server, steps)


def test_what_reload_raises_is_logged_and_it_serves_on(fatal_hangup, client, caplog):
    server = make()

    def reload():
        raise LookupError("no such file")

    def steps():
        hang_up()
        assert eventually(lambda: "no such file" in caplog.text)
        sock = client(server)
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"

    while_it_serves(server, steps, reload=reload)
    (told,) = [one for one in caplog.records if "has raised" in one.getMessage()]
    assert told.exc_info[0] is LookupError


def test_signals_that_come_amid_a_reload_are_one_more_afterwards(fatal_hangup):
    calls, goes_on = [], threading.Event()

    def reload():
        calls.append(1)
        assert goes_on.wait(20)

    def steps():
        hang_up()
        assert eventually(lambda: calls)
        for _ in range(5):
            hang_up()
        goes_on.set()
        assert eventually(lambda: len(calls) == 2)

    while_it_serves(make(), steps, reload=reload)
    assert len(calls) == 2


def test_a_reload_that_does_not_return_holds_up_no_stop(fatal_hangup):
    server, began = make(), threading.Event()

    def reload():
        began.set()
        assert server.wait(20_000)

    def steps():
        hang_up()
        assert began.wait(20)

    while_it_serves(server, steps, reload=reload)
    assert server.status == "stopped"


def test_sigterm_begins_a_drain_and_a_second_one_ends_its_delay(client, record):
    server, recorder = make(), record("listener.drain")

    def steps():
        os.kill(os.getpid(), signal.SIGTERM)
        assert eventually(lambda: server.status == "draining")
        sock = client(server)  # it goes on accepting
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"

    while_it_serves(server, steps, drain_delay_ms=600_000)
    (told,) = recorder.told
    assert told.measurements["delay_ns"] == 600_000_000_000


class OfTwoThreads:
    """Signals of which each has a byte that another thread writes, before or after the handler."""

    def __init__(self):
        self.handled = {signal.SIGTERM: 0}
        self.waiting = b""

    def noted(self):
        noted, self.waiting = self.waiting, b""
        return noted


@pytest.mark.parametrize("handler_first", [True, False])
def test_a_signal_counts_once_whichever_of_its_marks_comes_first(handler_first):
    """A second one would cut."""
    signals = OfTwoThreads()
    serving = _Serving((), signals, {}, 0)
    for times in (1, 2):
        for by_handler in (handler_first, not handler_first):
            if by_handler:
                signals.handled[signal.SIGTERM] += 1
            else:
                signals.waiting = bytes([signal.SIGTERM])
            serving._count_signals()
            assert serving._seen[signal.SIGTERM] == times


def test_sigint_has_no_delay(record):
    server, recorder = make(), record("listener.drain")

    def send():
        assert eventually(lambda: server.status == "running")
        os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=send)
    sender.start()
    server.serve_forever(drain_delay_ms=600_000)
    sender.join()
    assert recorder.told == []


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"reload": 5}, TypeError, "reload: got 5, takes a function"),
        ({"drain_delay_ms": -1}, ConfigError, "drain_delay_ms: got -1"),
        ({"drain_delay_ms": None}, ConfigError, "drain_delay_ms: got None"),
    ],
)
def test_wrong_arguments_are_told_before_anything_starts(options, error, says):
    server = make()
    with pytest.raises(error, match=says):
        server.serve_forever(**options)
    assert server.status == "new"
