"""A `start` or `resume` that fails leaves nothing behind, wherever it failed (C13, G18)."""

import contextlib
import errno
import linecache
import os
import resource
import socket
import sys
import threading
import traceback
from pathlib import Path

import pytest

import thousand_island_sync
from tests.support import Echo, break_start_off, echoes, eventually, free_port
from thousand_island_sync import TLS, ListenError, ThousandIsland, ThousandIslandError
from thousand_island_sync._base import own_threads, supervised
from thousand_island_sync._base.clock import FOREVER, now
from thousand_island_sync._listener.listener_thread import ListenerThread

PACKAGE = str(Path(thousand_island_sync.__file__).parent)
KINDS = ["tcp", "unix", "tls", "several", "interrupt_reads"]


class Place:
    """Where a server listens, and what shall not be left of it."""

    def __init__(self, kind, authority, folder):
        self.kind = kind
        self.path = f"{folder}/socket"
        self.port = 0 if kind == "unix" else free_port()
        self.options = {
            "handler_cls": Echo,
            "port": self.port,
            "num_acceptors": 3,
            "name": "placed",
        }
        transport_options = {"host": f"unix:{self.path}" if kind == "unix" else "127.0.0.1"}
        if kind == "tls":
            transport_options |= authority.options
            self.options["transport_cls"] = TLS
        if kind == "several":
            transport_options["reuse_port"] = True
            self.options["num_listen_sockets"] = 3
        if kind == "interrupt_reads":
            self.options["interrupt_reads"] = True
        self.options["transport_options"] = transport_options
        self.descriptors = self.open_ones()

    def open_ones(self):
        return len(os.listdir("/proc/self/fd"))

    def threads(self):
        return [one.name for one in threading.enumerate() if one.name.startswith("placed")]

    def nobody_listens(self):
        if self.kind == "unix":
            return not os.path.exists(self.path)
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5):
            return False
        return True

    def is_clean(self, descriptors=None):
        descriptors = self.descriptors if descriptors is None else descriptors
        assert eventually(lambda: not self.threads()), self.threads()
        return self.nobody_listens() and eventually(lambda: self.open_ones() <= descriptors)


@pytest.fixture(params=KINDS)
def place(request, authority, tmp_path):
    return Place(request.param, authority, tmp_path)


@contextlib.contextmanager
def free_descriptors(count):
    """Exactly so many may still be opened meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    with contextlib.ExitStack() as fillers:
        top = null = os.open(os.devnull, os.O_RDONLY)
        fillers.callback(os.close, null)
        while top < highest + 1:  # no gap is left below
            top = os.dup(null)
            fillers.callback(os.close, top)
        resource.setrlimit(resource.RLIMIT_NOFILE, (top + 1 + count, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def listen_error(call):
    try:
        call()
    except ListenError as error:
        return error
    return None


def client_of(server):
    address = server.local_address
    if isinstance(address, str):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(address)
        return sock
    return socket.create_connection(address)


# ---- out of descriptors ---------------------------------------------------------


def test_c13_a_start_with_any_number_of_free_descriptors(place):
    failed = 0
    while True:
        server = ThousandIsland(**place.options)
        with free_descriptors(failed):
            error = listen_error(server.start)
        if error is None:
            break
        assert error.errno == errno.EMFILE
        assert "ulimit -n" in str(error)
        assert server.status == "new"
        assert server.info().local_address is None
        assert place.is_clean()
        failed += 1
    assert 5 <= failed <= 20
    if place.kind != "tls":
        with client_of(server) as sock:
            echoes(sock)
    assert server.stop() is True
    assert place.is_clean()


def test_g18_a_resume_with_any_number_of_free_descriptors(place):
    server = ThousandIsland(**place.options).start()
    server.suspend()
    assert eventually(lambda: not [one for one in place.threads() if "acceptor" in one])
    suspended, failed = place.open_ones(), 0
    while True:
        with free_descriptors(failed):
            error = listen_error(server.resume)
        if error is None:
            break
        assert error.errno == errno.EMFILE
        assert server.status == "suspended"
        failed += 1
        assert place.nobody_listens()
        assert eventually(lambda: place.open_ones() <= suspended)
        assert not [one for one in place.threads() if "acceptor" in one]
    assert failed >= 2
    if place.kind != "tls":
        with client_of(server) as sock:
            echoes(sock)
    assert server.stop() is True
    assert place.is_clean()


def test_a_stopped_server_is_stopped_still_after_a_start_that_failed(place):
    server = ThousandIsland(**place.options).start()
    assert server.stop() is True
    with pytest.raises(ListenError), free_descriptors(2):
        server.start()
    assert server.status == "stopped"
    assert server.wait(0) is True
    assert server.start().status == "running"
    assert server.stop() is True
    assert place.is_clean()


# ---- out of threads -------------------------------------------------------------


@pytest.fixture
def thread_number_fails(monkeypatch):
    """Makes the n-th thread of a server's from now on one that cannot be started."""
    start = threading.Thread.start
    left = [0]

    def starts(self):
        if self.name.startswith("placed") and not self.name.endswith("-change"):
            left[0] -= 1
            if not left[0]:
                raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", starts)
    return lambda number: left.__setitem__(0, number)


def test_c13_a_start_with_any_thread_that_cannot_be_started(place, thread_number_fails):
    """The listener's and three acceptors'."""
    for number in range(1, 5):
        server = ThousandIsland(**place.options)
        thread_number_fails(number)
        with pytest.raises(ThousandIslandError, match="can't start new thread") as caught:
            server.start()
        assert not isinstance(caught.value, OSError)
        assert server.status == "new"
        assert place.is_clean()
    thread_number_fails(0)
    server.start()
    assert server.stop() is True
    assert place.is_clean()


def test_a_resume_with_any_thread_that_cannot_be_started(place, thread_number_fails):
    server = ThousandIsland(**place.options).start()
    server.suspend()
    suspended = place.open_ones()
    for number in range(1, 4):
        thread_number_fails(number)
        with pytest.raises(ListenError, match=r"resume: .*can't start new thread") as caught:
            server.resume()
        assert caught.value.errno == errno.EAGAIN
        assert server.status == "suspended"
        assert place.nobody_listens()
        assert eventually(lambda: place.open_ones() <= suspended)
        assert eventually(lambda: not [one for one in place.threads() if "acceptor" in one])
    thread_number_fails(0)
    server.resume()
    if place.kind != "tls":
        with client_of(server) as sock:
            echoes(sock)
    assert server.stop() is True
    assert place.is_clean()


def test_without_any_thread_nothing_starts_and_what_runs_is_suspended_and_stopped(
    serve, client, monkeypatch
):
    server, other = serve(Echo), ThousandIsland(handler_cls=Echo, port=0, host="127.0.0.1")
    sock = client(server)
    echoes(sock)

    def no_thread(*arguments):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(own_threads._thread, "start_new_thread", no_thread)
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    with pytest.raises(ThousandIslandError, match="can't start new thread"):
        other.start()
    assert other.status == "new"
    server.suspend()
    assert server.status == "suspended"
    with pytest.raises(ListenError, match=r"resume: .*can't start new thread"):
        server.resume()
    assert server.status == "suspended"
    assert server.stop(2_000) is True
    assert server.status == "stopped"


def waits_for_work(thread):
    """In its poll, or until another's poll is over."""
    state = Path(f"/proc/self/task/{thread.native_id}/stat").read_text().rpartition(")")[2].split()
    frames = traceback.walk_stack(sys._current_frames().get(thread.ident))
    return state[0] == "S" and any("/_listener/" in one.f_code.co_filename for one, _ in frames)


@pytest.mark.parametrize("when", ["its thread runs", "its thread is yet to run"])
def test_a_start_broken_off_as_a_thread_comes_up(place, monkeypatch, when):
    """The listener's and three acceptors': whoever starts one is interrupted before it knows."""
    launch, late = supervised.start, []
    left = 0

    def broken_off(thread):
        nonlocal left
        if thread.name.startswith("placed"):
            left -= 1
        if left or not thread.name.startswith("placed"):
            return launch(thread)
        if when == "its thread runs":
            launch(thread)
            assert eventually(lambda: waits_for_work(thread))
        else:
            late.append(thread)
        raise MemoryError("injected")

    monkeypatch.setattr(supervised, "start", broken_off)
    for number in range(1, 5):
        left = number
        server = ThousandIsland(**place.options)
        with pytest.raises((MemoryError, ThousandIslandError)):
            server.start()
        assert server.status == "new"
        assert server.stop() is True
        for thread in late:
            launch(thread)
        late.clear()
        assert place.is_clean()


class Resting:
    """A scheduler with nothing to do."""

    def tend(self):
        return FOREVER

    def attended(self):
        return True

    def stand_in_fileno(self):
        return None

    def use_alarm(self, alarm):
        pass

    def ensure_acceptors(self):
        pass


def test_a_listeners_thread_that_sleeps_is_ended_though_its_start_was_broken_off(monkeypatch):
    break_start_off(monkeypatch, MemoryError, waits_for_work)
    thread = ListenerThread("placed")
    thread.open()
    with pytest.raises(MemoryError):
        thread.start(Resting(), Resting())
    assert thread.stop(now() + 5, lambda ident: False) is True
    assert not [one.name for one in threading.enumerate() if one.name.startswith("placed")]


# ---- an exception anywhere ------------------------------------------------------


class Failing:
    """Raises MemoryError at one line of ours, on the threads that make changes."""

    def __init__(self, number):
        self.left = number

    def __call__(self, frame, event, argument):
        # Not `current_thread`: a thread that is about to end would be listed again, for good.
        if not any(
            one.ident == threading.get_ident() and one.name.endswith("-change")
            for one in threading.enumerate()
        ):
            return None
        file = frame.f_code.co_filename
        if event != "line" or not file.startswith(PACKAGE):
            return self
        # Not in what watches locks: C calls it, and can pass nothing on. Nor where a `with` or
        # `try` begins or ends, or the gate of forks is given back: that makes nothing.
        line = linecache.getline(file, frame.f_lineno).split()[:1]
        if not file.endswith(("/locks.py", "/descriptors.py")) and line not in (["with"], ["try:"]):
            self.left -= 1
            if not self.left:
                failing_at.line = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                raise MemoryError("injected")
        return self


def failing_at(number, call):
    """Whether the call came to that line; it raises what was raised there."""
    failing = Failing(number)
    before = threading.gettrace()  # coverage's, where that is measured
    threading.settrace(failing)
    told, threading.excepthook = threading.excepthook, lambda _: None
    try:
        call()
    except (MemoryError, ThousandIslandError):
        pass
    finally:
        threading.settrace(before)
        threading.excepthook = told
    return failing.left <= 0


@pytest.mark.parametrize("method", ["start", "resume"])
def test_g18_an_exception_at_any_line_of_a_start_or_resume(method, tmp_path):
    place = Place("interrupt_reads", None, tmp_path)
    number = 1
    while True:
        server = ThousandIsland(**place.options)
        before = "new"
        if method == "resume":
            server.start()
            server.suspend()
            before = "suspended"
        came = failing_at(number, getattr(server, method))
        assert server.status in (before, "running")
        if server.status == before:
            assert place.nobody_listens()
        assert server.stop(5_000) is True
        assert place.is_clean(), failing_at.line
        if not came:
            break
        number += 7
    assert number > 100
