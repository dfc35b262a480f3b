"""The hot path in C: it does what the Python does, keeps nothing, and may be absent."""

import abc
import gc
import inspect
import logging
import os
import signal
import socket as stdlib_socket
import subprocess
import sys
import sysconfig
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import Echo, eventually, exchange
from tests.test_connection import World
from thousand_island_sync import TLS, Close, Continue, Error, Handler, Socket, SocketTimeout, events
from thousand_island_sync._base import compiled
from thousand_island_sync._connection.states import ON_STOP, State
from thousand_island_sync._connection.task import ConnectionTask
from thousand_island_sync._scheduler.task import Classified
from thousand_island_sync._scheduler.watchdog_timer import SLEEPS
from thousand_island_sync._server import accelerator
from thousand_island_sync._stream.buffer import CHUNK
from thousand_island_sync._stream.reader import Reader
from thousand_island_sync._stream.states import COMES
from thousand_island_sync.transports.tcp import TCPChannel

PURE = os.environ.get("THOUSAND_ISLAND_PURE") == "1"
POSSIBLE = sys.platform == "linux" and not sysconfig.get_config_var("Py_GIL_DISABLED")
in_c_only = pytest.mark.skipif(not accelerator.in_c, reason="this run tests the Python")


def test_the_hot_path_is_in_c_where_it_can_be():
    if PURE or not POSSIBLE:
        assert not accelerator.in_c
    elif os.environ.get("REQUIRE_PROGRAMS") or os.environ.get("REQUIRE_NATIVE"):
        assert accelerator.in_c, "the C module was not built, and this run requires it"


SERVES = """
import socket
from tests.support import Echo
from thousand_island_sync import ThousandIsland
from thousand_island_sync._server import accelerator
with ThousandIsland(port=0, host="127.0.0.1", handler_cls=Echo) as server:
    with socket.create_connection(("127.0.0.1", server.local_port)) as client:
        client.sendall(b"hello")
        print(accelerator.in_c, client.recv(100))
"""


def test_without_it_the_python_serves():
    done = subprocess.run(
        [sys.executable, "-c", SERVES],
        env={**os.environ, "THOUSAND_ISLAND_PURE": "1"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.stdout, done.stderr) == ("False b'hello'\n", "")


STALE = """
import runpy, sys, threading, types

def bind(**things):
    if "slot" in sys.argv:
        raise AttributeError("Task has no nothing")

module = types.ModuleType("thousand_island_sync._native")
module.Lock, module.bind, module.CHUNK = threading.Lock, bind, 1
if "slot" in sys.argv:
    vars(module).update(CHUNK=65_536, ALONE=64, STAY_STEPS=256, LOOK_MOST=64, SAMPLE_SHIFT=4)
    vars(module).update(HAND_OFF_NS=50_000, JOINED_MOST=16_384, HANGUP=0x2018, STAYS=3)
if "source" not in sys.argv:
    known = runpy.run_path("thousand_island_sync/_base/native_sources.py")
    module.SOURCES, module.__file__ = known["expected"](), "an old file"
sys.modules[module.__name__] = module
"""


@pytest.mark.parametrize(
    ("differs", "said"),
    [
        ("slot", "Task has no nothing"),
        ("number", "CHUNK: 1 and 65536"),
        ("source", "it is not made of the C sources that are here"),
    ],
)
def test_what_was_compiled_for_another_version_is_told_of_and_not_used(differs, said):
    done = subprocess.run(
        [sys.executable, "-c", STALE + SERVES, differs],
        env={name: value for name, value in os.environ.items() if "PURE" not in name},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout == "False b'hello'\n"
    assert said in done.stderr
    assert "install again, from the same source" in done.stderr


OTHER_NUMBERS = """
import importlib.util, sys
name = "thousand_island_sync._native"
spec = importlib.util.spec_from_file_location(name, sys.argv[1])
module = sys.modules[name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.CHUNK = 1
import thousand_island_sync
"""


@in_c_only
def test_types_in_c_that_work_on_nothing_are_no_server():
    """The package alone was copied, beside an older module: its connections would all end."""
    done = subprocess.run(
        [sys.executable, "-c", OTHER_NUMBERS, compiled.native.__file__],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert "ImportError: thousand_island_sync: the compiled module does not fit" in done.stderr
    assert "install again, from the same source" in done.stderr


TWICE = """
import sys
import thousand_island_sync
before = thousand_island_sync._server.accelerator.in_c
for name in [name for name in sys.modules if name.startswith("thousand_island_sync")]:
    if not name.endswith("_native"):
        del sys.modules[name]
"""


@in_c_only
def test_who_imports_it_a_second_time_has_the_python():
    """Another interpreter in the process, say: the C works on one set of classes."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{TWICE}{SERVES}print(before)"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.stdout, done.stderr) == ("False b'hello'\nTrue\n", "")


@in_c_only
def test_blinker_keeps_the_dict_of_a_signals_receivers():
    """C code looks whether it is empty."""
    signal_ = events.socket_send
    receivers = signal_.receivers
    signal_.connect(print)
    assert signal_.receivers is receivers
    assert receivers
    signal_.disconnect(print)
    signal_.connect(print, sender=signal_)
    signal_.disconnect(print, sender=signal_)
    signal_._clear_state()
    assert signal_.receivers is receivers
    assert not receivers


@pytest.mark.parametrize(
    ("name", "takes"),
    [("send", "data flags timeout_ms"), ("recv", "length flags timeout_ms")],
)
def test_what_a_socket_takes_is_told_to_who_asks(name, takes):
    method = getattr(Socket, name)
    parameters = inspect.signature(method).parameters
    assert list(parameters) == ["self", *takes.split()]
    assert parameters["timeout_ms"].kind is inspect.Parameter.KEYWORD_ONLY
    assert "Raises:" in inspect.getdoc(method)


# ---- a step, both ways --------------------------------------------------------


class Slow(ConnectionTask):
    """A connection without accelerator."""

    __slots__ = ()
    if accelerator.in_c:
        run = compiled.equals["Connection"].run
        stay = compiled.equals["Connection"].stay


def fails(kind, *what):
    """Raises a new error each time: one that is raised again keeps where it was before."""

    def fail(*_):
        raise kind(*what)

    return fail


ARRIVALS = [b"a", bytearray(b"no bytes"), b"two words", b"x" * CHUNK, None, b""]
ARRIVALS += [fails(ConnectionResetError, 104, "reset"), fails(OSError, 5, "input/output error")]
ARRIVALS += [fails(BlockingIOError, 11, "not yet")]
REACTIONS = [
    None,
    Continue(),
    Continue(timeout_ms=50),
    Continue(timeout_ms=70, persistent=True),
    Close(),
    Error("enough"),
    "nonsense",
    fails(ValueError, "oh"),
    fails(SystemExit, 3),
    lambda socket: socket.send(b"answer"),
    lambda socket: socket.unread(b"again "),
    lambda socket: socket.close(),
    lambda socket: socket.settimeout(0.5),
]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(ARRIVALS),
        st.sampled_from(REACTIONS),
        st.sampled_from(["run", "stay", "alert", "stopping", "blocks", "later", "heard"]),
    ),
    max_size=6,
)


def told(steps, connection_cls):
    """What a connection does, says and keeps, step by step."""
    seen = []

    def receiver(sender, **what):
        seen.append(("told", what["event"], what["measurements"]["data"]))

    with World(connection_cls=connection_cls) as world:
        connection = world.connection
        world.run()
        socket = connection.machine.socket
        for arrival, reaction, how in steps:
            world.reactions["handle_data"] = reaction
            if arrival is not None:
                world.channel.incoming.append(arrival)
            connection.alert = connection.alert or how == "alert"
            connection.classified = Classified.BLOCKING if how == "blocks" else Classified.QUICK
            if how == "stopping":
                world.env.move(ON_STOP)
            world.time += 11 if how == "later" else 1
            if how == "heard":
                events.handler_async_recv.connect(receiver)
            if how == "stay" and connection.may_stay():
                seen.append(connection.stay(0.004, lambda duration: duration == 0))
            else:
                seen.append(connection.run())
            events.handler_async_recv.disconnect(receiver)
            buffer = socket._reader.buffer
            seen.append((world.state, connection.alert, connection.deadline, socket.stats()))
            seen.append(None if buffer is None else buffer.peek(100))
            if world.state is State.CLOSED:
                break
        seen.extend((name, repr(what)) for name, what in world.calls)
        seen.append(world.channel.sent)
    return seen


@in_c_only
@settings(max_examples=400, deadline=None)
@given(STEPS)
def test_a_step_is_the_same_in_c_and_in_python(steps):
    assert told(steps, ConnectionTask) == told(steps, Slow)


# ---- nothing is kept ------------------------------------------------------------


def kept(play, rounds=300):
    """References and memory blocks more, for each time it is played, of what is shared."""
    shared = [State.PARKED, State.RUNNING, None, True, False, Slow, ConnectionTask]
    shared += [events.handler_async_recv, events.socket_send]
    counts = []
    for _ in range(3):
        for _ in range(rounds):
            play()
        gc.collect()
        counts.append([sys.getallocatedblocks(), *map(sys.getrefcount, shared)])
    return [(after - before) / rounds for before, after in zip(*counts[1:], strict=True)]


@in_c_only
@pytest.mark.parametrize("arrival", ARRIVALS, ids=lambda one: repr(one)[:20])
@pytest.mark.parametrize("how", ["run", "stay", "blocks", "alert"])
def test_no_reference_is_kept(arrival, how, caplog):
    # What is logged is kept by pytest.
    caplog.set_level(logging.CRITICAL + 1, logger="thousand_island_sync")

    def play():
        for reaction in REACTIONS:
            told([(arrival, reaction, how), (b"more", None, how)], ConnectionTask)

    assert max(kept(play, 20)) < 1


@in_c_only
def test_a_served_message_keeps_nothing(serve, client):
    sock = client(serve(Echo))

    def play():
        exchange(sock, b"x" * 100, 100)

    assert max(kept(play, 500)) < 0.5


class Asks(Handler):
    """Sends in each way that it may."""

    def handle_data(self, data, socket):
        for wrong in ((), (b"a", 0, 0), ("text",), (b"a", b"b")):
            with pytest.raises(TypeError):
                socket.send(*wrong)
        with pytest.raises(TypeError):
            socket.send(b"a", unknown=1)
        sent = socket.send(data), socket.send(data, 0), socket.send(data=data, timeout_ms=500)
        sent += socket.send(bytearray(data)), socket.send([data, data]), socket.send(b"")
        assert sent == (4, 4, 4, 4, 8, 0)
        assert socket.send(data, timeout_ms=None) == 4
        with pytest.raises(TypeError):
            socket.recv("long")
        with pytest.raises(ValueError, match="recv: length"):
            socket.recv(-1)
        with pytest.raises(ValueError, match="recv: length"):
            socket.recv(-(1 << 70))
        assert socket.recv(3, timeout_ms=2_000) == b"abc"
        assert socket.recv(2) == b"de"
        assert socket.recv(length=1) == b"f"
        socket.send(b"done")


def test_the_arguments_of_send_and_recv_are_as_documented(serve, client):
    sock = client(serve(Asks))
    assert exchange(sock, b"1234", 28) == b"1234" * 7
    assert exchange(sock, b"abcdef", 4) == b"done"


# ---- a server that does not check itself: that one looks in Python ----------------------


@pytest.fixture
def unchecked(monkeypatch):
    monkeypatch.setenv("THOUSAND_ISLAND_DEBUG", "0")


class Slowly(Handler):
    """Blocks as long as it is told to; answers with what it got."""

    def handle_data(self, data, socket):
        self.options.setdefault("begun", []).append(data)
        self.options[data].wait(10)
        socket.send(data)


def test_what_comes_while_a_callback_stands_still_is_not_forgotten(unchecked, serve, client):
    """Another thread looks meanwhile, and finds an event of a connection that is owned."""
    first, second, others = threading.Event(), threading.Event(), threading.Event()
    second.set()
    others.set()
    options = {b"1": first, b"2": second, b"o": others}
    server = serve(Slowly, handler_options=options)
    sock, other = client(server), client(server)
    sock.sendall(b"1")
    assert eventually(lambda: options.get("begun") == [b"1"])
    assert exchange(other, b"o", 1) == b"o"  # so the permit is another thread's
    sock.sendall(b"2")
    assert exchange(other, b"o", 1) == b"o"  # so that thread has looked
    first.set()
    assert exchange(sock, b"", 2) == b"12"


def test_a_callback_that_stands_still_is_found_out(unchecked, serve, client):
    """By the listener's thread, which rests until it is rung for."""
    first, others = threading.Event(), threading.Event()
    others.set()
    server = serve(Slowly, handler_options={b"1": first, b"o": others})
    sock, other = client(server), client(server)
    for _ in range(3):
        assert exchange(other, b"o", 1) == b"o"
    assert eventually(lambda: server._run.scheduler._watchdog_timer.state == SLEEPS)
    sock.sendall(b"1")
    assert exchange(other, b"o", 1) == b"o"
    first.set()
    assert exchange(sock, b"", 1) == b"1"


def test_a_deadline_is_kept_where_nothing_else_happens(unchecked, serve, client):
    sock = client(serve(Echo, read_timeout_ms=100))
    assert exchange(sock, b"x", 1) == b"x"
    assert sock.recv(1) == b""


class Fills(Handler):
    """Sends what fits and a little more, and says whether a send left anything behind."""

    def handle_data(self, data, socket):
        left = []
        try:
            while len(left) < 20_000:
                socket.send(b"x" * 1_000)
                left.append(socket._stream.channel.unfinished)
        except SocketTimeout as error:
            self.options.append((len(left), any(left), error.bytes_sent))
            raise


def test_a_record_that_found_no_room_is_waited_for(unchecked, serve, secure, authority):
    """Where nothing is kept, a send that has returned has left nothing with us."""
    seen = []
    server = serve(
        Fills,
        handler_options=seen,
        send_timeout_ms=100,
        max_unsent=0,
        transport_cls=TLS,
        transport_options={**authority.options, "send_buffer": 20_000},
    )
    sock = secure(server, authority.client_context())
    sock.sendall(b"go")
    assert eventually(lambda: seen)
    ((sent, any_left, _),) = seen
    assert sent > 5
    assert not any_left


# ---- the lock -----------------------------------------------------------------------


@pytest.fixture(params=[threading.Lock, *([compiled.native.Lock] if compiled.native else [])])
def lock(request):
    return request.param()


def test_a_lock_is_held_by_one(lock):
    assert lock.acquire() is True
    assert lock.locked()
    assert lock.acquire(False) is False
    assert lock.acquire(blocking=False) is False
    assert lock.acquire(timeout=0.01) is False
    lock.release()
    assert not lock.locked()
    with lock as got:
        assert got is True
        assert lock.locked()
    assert not lock.locked()


@pytest.mark.parametrize("wrong", [(False, 1), (True, -2), (True, 1e30), (True, float("nan"))])
def test_a_lock_refuses_times_that_make_no_sense(lock, wrong):
    with pytest.raises((ValueError, OverflowError)):
        lock.acquire(*wrong)
    assert not lock.locked()


@pytest.mark.parametrize(
    ("given", "named"),
    [((1, 2, 3), {}), ((), {"wait": 1}), ((True,), {"blocking": True}), (("a", "b"), {})],
)
def test_a_lock_refuses_what_it_does_not_take(lock, given, named):
    with pytest.raises(TypeError):
        lock.acquire(*given, **named)
    assert not lock.locked()


def test_what_is_not_held_is_not_released(lock):
    with pytest.raises(RuntimeError):
        lock.release()


def test_a_lock_is_waited_for_and_released_by_any_thread(lock):
    lock.acquire()
    got = []
    thread = threading.Thread(target=lambda: got.append(lock.acquire(timeout=10)))
    thread.start()
    lock.release()
    thread.join()
    assert got == [True]
    assert lock.locked()
    lock.release()


def test_a_lock_excludes_threads_from_each_other(lock):
    count = 0

    def work():
        nonlocal count
        for _ in range(2_000):
            with lock:
                seen = count
                time.sleep(0)
                count = seen + 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count == 8_000


def test_a_signal_ends_the_wait_for_a_lock_if_its_handler_raises(lock):
    lock.acquire()

    def interrupt(number, frame):
        raise InterruptedError("by a signal")

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(InterruptedError, match="by a signal"):
            lock.acquire(timeout=10)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    lock.release()


def test_a_lock_that_goes_while_it_is_held_leaves_nothing(lock):
    kind = type(lock) if type(lock) is not type(threading.Lock()) else threading.Lock
    for _ in range(1_000):
        held = kind()
        held.acquire()
        del held


# ---- what is wrong with a call is told -------------------------------------------------------


def test_a_socket_takes_so_many_arguments(serve, client):
    server = serve(Echo)
    exchange(client(server), b"x", 1)
    (connection,) = server.connections()
    sock = connection._inbox._link.machine.socket
    for arguments, named in (((1, 0, 5), {}), ((1, 0), {"a": 1, "b": 2, "c": 3, "d": 4})):
        with pytest.raises(TypeError):
            sock.recv(*arguments, **named)
        with pytest.raises(TypeError):
            sock.send(*arguments, **named)


def test_a_channel_waits_for_a_length_and_a_time():
    ours, theirs = stdlib_socket.socketpair()
    with ours, theirs:
        channel = TCPChannel(ours)
        theirs.sendall(b"abc")
        with pytest.raises(TypeError):
            channel.wait_recv(1)
        with pytest.raises(OverflowError):
            channel.wait_recv(1 << 70, 5.0)
        assert channel.wait_recv(3, 5.0) == b"abc"


def test_a_class_is_called_as_it_is_at_that_moment():
    class Other(Reader):
        __slots__ = ()

    stream, given = object(), []
    for kind in (Reader, Other):
        for _ in range(3):  # the first call is the long way, in C
            assert kind(stream, COMES).incoming is COMES
        for wrong in ((stream,), (stream, COMES, 1)):
            with pytest.raises(TypeError):
                kind(*wrong)
        with pytest.raises(TypeError):
            kind(stream, incoming=COMES)
        assert kind(stream, COMES)._stream is stream
    Other.__init__ = lambda self, *names, **more: given.append((names, more))
    for _ in range(2):
        Other(1, more=2)
    assert given == [((1,), {"more": 2})] * 2
    del Other.__init__
    made = [Other(stream, COMES) for _ in range(3)]
    assert [one.incoming for one in made] == [COMES] * 3
    Other.__new__ = staticmethod(lambda kind, *names: made[0])
    assert Other(stream, COMES) is made[0]


def test_a_class_that_becomes_abstract_makes_no_more_objects():
    class Other(Reader, abc.ABC):
        pass

    for _ in range(3):  # the first call is the long way, in C
        Other(object(), COMES).attribute = 1
    Other.close = abc.abstractmethod(lambda self: None)
    abc.update_abstractmethods(Other)
    for _ in range(3):
        with pytest.raises(TypeError, match="abstract"):
            Other(object(), COMES)


@in_c_only
def test_only_a_method_of_the_c_is_documented():
    for arguments in ((1, 2, 3), (Echo, "handle_data", "text"), (Echo, "nothing", "text")):
        with pytest.raises((TypeError, AttributeError)):
            compiled.native.document(*arguments)
