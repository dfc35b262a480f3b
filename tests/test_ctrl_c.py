"""Ctrl-C, and whatever else is raised between two lines of the program's own thread (G17)."""

import contextlib
import gc
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.support import Echo, eventually, receive
from thousand_island_sync import Handler, ThousandIsland, events
from thousand_island_sync.testing._leaks import open_descriptors

LIFE = ["start", "stop", "suspend", "resume"]


def is_dropped(frame):
    """Whether a weakref's callback or `__del__` called it: Python prints what those raise, and
    goes on."""
    while frame is not None:
        if frame.f_code.co_name in ("_forget", "_remove", "remove", "__del__"):
            return True
        frame = frame.f_back
    return False


def interrupted(call, number, install=sys.settrace):
    """Whether `call` came to its event of that number, where KeyboardInterrupt is raised."""
    seen = 0

    def raises(frame, event, argument):
        nonlocal seen
        if frame.f_code is interrupted.__code__ or is_dropped(frame):
            return raises
        seen += 1
        if seen == number:
            install(None)
            raise KeyboardInterrupt
        return raises

    before = sys.gettrace() if install is sys.settrace else sys.getprofile()  # coverage's, perhaps
    gc.disable()  # whose callbacks are those as well
    install(raises)
    try:
        call()
    except KeyboardInterrupt:
        assert seen >= number
    else:
        assert seen < number, "it is passed on"
    finally:
        install(before)
        gc.enable()
    return seen >= number


def refused(port):
    """Nobody of this process listens there. Not asked by a connection: the port may be that of
    another process's server by now, and who connects to a free port may even meet himself."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = {f"socket:[{row[9]}]" for row in rows if row[3] == "0A" and is_of(row[1], port)}
    return not listening & set(open_descriptors().values())


def is_of(address, port):
    return int(address.partition(":")[2], 16) == port


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def nothing_left(name):
    """No thread that runs; one that never began may be listed."""
    return not [
        one for one in threading.enumerate() if one.name.startswith(name) and one.is_alive()
    ]


def interrupt_everywhere(method, install, step=1):
    """Interrupts one call of a server's life at each of its points, and stops the server then."""
    before, number = descriptors(), 1
    while True:
        server = ThousandIsland(
            port=0, host="127.0.0.1", handler_cls=Echo, num_acceptors=2, name=f"swept-{number}"
        )
        port = None
        if method != "start":
            server.start()
            port = server.local_port
        if method == "resume":
            server.suspend()
        more = interrupted(getattr(server, method), number, install)
        if method == "start" and more:
            assert server.status in ("new", "running"), server.status
        began = time.monotonic()
        assert server.stop(5_000) is True
        assert time.monotonic() - began < 2
        assert server.status in ("stopped", "new")
        assert eventually(lambda name=server.name: nothing_left(name)), threading.enumerate()
        assert port is None or refused(port)
        assert eventually(lambda: descriptors() <= before)
        if not more:
            return number
        number += step


@pytest.mark.parametrize("method", LIFE)
def test_an_interrupt_at_any_line_leaves_what_the_next_stop_ends(method):
    assert interrupt_everywhere(method, sys.settrace, step=4) > 40


@pytest.mark.heavy
@pytest.mark.parametrize("install", [sys.settrace, sys.setprofile], ids=["lines", "calls"])
@pytest.mark.parametrize("method", LIFE)
def test_an_interrupt_at_any_line_or_call_at_all(method, install):
    assert interrupt_everywhere(method, install) > 20


@contextlib.contextmanager
def ctrl_c_after(seconds):
    """By a timer of the kernel's."""

    def ctrl_c(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ctrl_c)
    gc.disable()  # in whose callbacks, Hypothesis has one, what is raised is lost
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
        finally:  # it may come just now
            signal.signal(signal.SIGALRM, before)
            gc.enable()


# What a signal raises in a callback of the interpreter's own is lost: that of a `WeakSet`, say.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored while calling weakref:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("method", LIFE)
def test_signals_that_raise_at_any_moment_of_real_time(method):
    """0 to 4 ms after the call began."""
    for number in range(40):
        server = ThousandIsland(
            port=0, host="127.0.0.1", handler_cls=Echo, num_acceptors=2, name="timed"
        )
        if method != "start":
            server.start()
        if method == "resume":
            server.suspend()
        with contextlib.suppress(KeyboardInterrupt), ctrl_c_after(0.000_05 + number * 0.0001):
            getattr(server, method)()
        assert server.stop(5_000) is True
        assert server.status in ("stopped", "new")
        assert eventually(lambda: nothing_left("timed"))


def test_g17_the_next_stop_finishes_what_was_broken_off_and_tells_its_outcome(serve, client):
    release = threading.Event()
    ends = []

    class Slow(Handler):
        def handle_data(self, data, socket):
            if data == b"slow":
                release.wait(10)
            socket.send(b"ok")

        def handle_shutdown(self, socket):
            ends.append("shutdown")

        def handle_end(self, socket):
            ends.append("end")

    server = serve(Slow)
    slow, quick = client(server), client(server)
    quick.sendall(b"x")
    assert receive(quick, 2) == b"ok"
    slow.sendall(b"slow")
    assert eventually(lambda: server.info().busy_threads)

    with ctrl_c_after(0.1), pytest.raises(KeyboardInterrupt):
        server.stop(10_000)
    assert server.status == "stopping"
    assert eventually(lambda: ends == ["shutdown", "end"]), "it goes on by itself"
    threading.Timer(0.1, release.set).start()
    assert server.stop(10_000) is True
    assert ends == ["shutdown", "end"] * 2
    assert server.status == "stopped"
    assert server.start().status == "running"


def test_a_stop_that_cut_after_ctrl_c_says_so_to_the_next_call_and_only_to_that(serve, client):
    class Stuck(Handler):
        def handle_connection(self, socket):
            socket.recv(timeout_ms=None)

    server = serve(Stuck)
    client(server)
    assert eventually(lambda: server.info().busy_threads)

    with ctrl_c_after(0.05), pytest.raises(KeyboardInterrupt):
        server.stop(300)
    assert eventually(lambda: server.status == "stopped")
    assert server.stop() is False
    assert server.stop() is True


def test_a_start_that_ctrl_c_ends_leaves_the_status_before(record):
    """Here in a receiver, once all of it was open."""

    def ctrl_c(server, **event):
        raise KeyboardInterrupt

    server = ThousandIsland(port=0, host="127.0.0.1", handler_cls=Echo)
    ports = []
    recorder = record("listener.start", "listener.shutdown")
    for status in ("new", "stopped"):
        events.listener_start.connect(ctrl_c)
        try:
            with pytest.raises(KeyboardInterrupt):
                server.start()
        finally:
            events.listener_start.disconnect(ctrl_c)
        assert server.status == status
        ports += [one.measurements["port"] for one in recorder.of("listener.start")]
        assert all(map(refused, ports))
        assert nothing_left(server.name)
        server.start()
        assert server.stop() is True


@pytest.mark.parametrize("event", ["suspend", "resume", "shutdown"])
def test_g17_ctrl_c_in_a_receiver_of_each_change_is_passed_on(event, serve):
    def ctrl_c(server, **event):
        raise KeyboardInterrupt

    server = serve(Echo)
    if event == "resume":
        server.suspend()
    signal_ = events.ALL[f"listener.{event}"]
    signal_.connect(ctrl_c)
    try:
        with pytest.raises(KeyboardInterrupt):
            getattr(server, "stop" if event == "shutdown" else event)()
    finally:
        signal_.disconnect(ctrl_c)
    assert server.status == {"suspend": "suspended", "resume": "running"}.get(event, "stopped")
