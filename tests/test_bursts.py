"""Much at once: signals by the hundred, changes of the status by several threads, threads that
cannot be started, receivers that stand still."""

import logging
import os
import signal
import threading
import time

import pytest

from tests.support import Echo, answers, busy_seconds, echoes, eventually, receive, task_of
from thousand_island_sync import Handler, ThousandIsland, attach_logger, detach_logger, events
from thousand_island_sync._base import starting
from thousand_island_sync._base.signal_handlers import NotedSignals
from thousand_island_sync._listener.acceptor import Acceptor
from thousand_island_sync._scheduler import mending
from thousand_island_sync._scheduler.rousing import Rousing
from thousand_island_sync._scheduler.states import PARKED
from thousand_island_sync._scheduler.worker import Worker
from thousand_island_sync._server import changes
from thousand_island_sync._server import status as _status
from thousand_island_sync._server.changes import Changes
from thousand_island_sync._server.status import STOPPED, STOPPING, Turns


def make(**options):
    return ThousandIsland(handler_cls=Echo, host="127.0.0.1", port=0, num_acceptors=1, **options)


@pytest.fixture
def handlers():
    """Handlers of signals, which are put back."""
    before = {}

    def put(number, handler):
        before.setdefault(number, signal.signal(number, handler))

    yield put
    for number, handler in before.items():
        signal.signal(number, handler)


# ---- signals ------------------------------------------------------------------------


@pytest.mark.parametrize("ends", ["by a signal", "by stop()"])
def test_serve_forever_returns_though_other_signals_have_taken_all_room(handlers, ends):
    """Each signal that somebody handles is a byte, and there is room for some hundreds."""
    server = make()

    def burst(*_):
        for _ in range(1_000):
            signal.raise_signal(signal.SIGUSR1)
        if ends == "by a signal":
            signal.raise_signal(signal.SIGTERM)
            return
        server.stop()
        assert eventually(lambda: not watching(), 5), "and that it has stopped was noted"

    def watching():
        """`serve_forever` has a thread that waits for the server's end."""
        return any(one.name == "serve-forever" for one in threading.enumerate())

    handlers(signal.SIGUSR1, lambda *_: None)
    handlers(signal.SIGUSR2, burst)
    late = threading.Event()

    def send():
        assert eventually(lambda: server.status == "running" and watching())
        os.kill(os.getpid(), signal.SIGUSR2)
        if not late.wait(10):
            os.kill(os.getpid(), signal.SIGTERM)  # it hangs: the assertion below says so
            if not late.wait(1):
                os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    began = time.monotonic()
    server.serve_forever()
    late.set()
    sender.join()
    assert time.monotonic() - began < 9
    assert server.status == "stopped"


def test_a_hundred_signals_are_one_stop_and_one_cut(client):
    stuck = threading.Event()

    class Stuck(Handler):
        def handle_data(self, data, socket):
            stuck.wait(20)

    server = ThousandIsland(handler_cls=Stuck, host="127.0.0.1", port=0, num_acceptors=1)
    most = []

    def send():
        assert eventually(lambda: server.status == "running")
        client(server).sendall(b"x")
        assert eventually(lambda: server.info().busy_threads)
        for _ in range(100):
            os.kill(os.getpid(), signal.SIGTERM)
            most.append(sum(one.name == "serve-forever" for one in threading.enumerate()))
            if server.status == "stopped":
                break
            time.sleep(0.002)

    sender = threading.Thread(target=send)
    sender.start()
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # some come when it is over
    try:
        server.serve_forever()
    finally:
        sender.join()
        signal.signal(signal.SIGTERM, before)
        stuck.set()
    assert max(most) <= 3, "one waits for the end, one stops, one cuts"


def test_ctrl_c_that_raises_again_finds_the_rest_restored(monkeypatch):
    """As soon as Ctrl-C has its own handler it may raise: in the middle of restoring."""
    real = signal.signal

    def restores(number, handler):
        real(number, handler)
        if handler is mine[number]:
            raise KeyboardInterrupt

    mine = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    signals = NotedSignals((signal.SIGINT, signal.SIGTERM)).__enter__()
    monkeypatch.setattr(signal, "signal", restores)
    with pytest.raises(KeyboardInterrupt):
        signals.__exit__()
    assert {one: signal.getsignal(one) for one in mine} == mine
    assert signal.set_wakeup_fd(-1) == -1
    assert signals.fileno() < 0


def test_ctrl_c_before_all_is_noted_finds_all_as_it_was(monkeypatch):
    real = signal.signal

    def interrupted(number, handler):
        real(number, handler)
        if number == signal.SIGTERM and handler is not mine[number]:
            raise KeyboardInterrupt

    mine = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(signal, "signal", interrupted)
    signals = NotedSignals((signal.SIGINT, signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        signals.__enter__()
    assert {one: signal.getsignal(one) for one in mine} == mine
    assert signal.set_wakeup_fd(-1) == -1
    assert signals.fileno() < 0


# ---- the status ---------------------------------------------------------------------


def test_a_second_stop_that_comes_as_the_first_ends_leaves_it_stopped(monkeypatch):
    """It saw that a stop is under way, and that ended before it went on."""
    looked = threading.Event()

    class Slow(dict):
        def __getitem__(self, key):
            if key == (STOPPING, _status.Ask.STOP):
                looked.set()
                assert eventually(lambda: server._changes.status == STOPPED)
            return super().__getitem__(key)

    monkeypatch.setattr(changes, "ANSWERS", Slow(_status.ANSWERS))
    server = make().start()
    stop, finished = server._run.stop, server._run.stop._steps[-1]

    def finish():
        second.start()
        assert looked.wait(5)
        finished()

    stop._steps[-1] = finish
    second = threading.Thread(target=server.stop)
    assert server.stop() is True
    second.join()
    assert server.status == "stopped"
    server.start()
    assert server.stop() is True


def test_who_waits_learns_of_a_stop_though_it_is_started_again_at_once(monkeypatch):
    class AtOnce(Changes):
        @property
        def status(self):
            return vars(self)["status"]

        @status.setter
        def status(self, status):
            vars(self)["status"] = status
            if status == STOPPED and again:
                starter = threading.Thread(target=again.pop().start)
                starter.start()
                starter.join()

    again = []
    server = make()
    server._changes.__class__ = AtOnce
    server.start()
    again.append(server)
    waiter = threading.Thread(target=server.wait, daemon=True)
    waiter.start()
    assert eventually(lambda: server._changes._stopped._waiting)
    server.stop()
    waiter.join(5)
    assert not waiter.is_alive()
    assert server.status == "running"
    assert server.wait(0) is False
    assert server.stop() is True


@pytest.mark.parametrize("when", ["it waits", "it has it"])
def test_who_is_interrupted_as_it_takes_its_turn_holds_up_nobody(monkeypatch, when):
    """A change is made by the thread that asked for it where no other can be started."""
    turns = Turns()
    take = Turns._take

    def interrupted(self, mine):
        taken = take(self, mine)
        if taken == (when == "it has it"):
            monkeypatch.undo()
            raise KeyboardInterrupt
        return taken

    if when == "it waits":
        turns.__enter__()
    monkeypatch.setattr(Turns, "_take", interrupted)
    interruption = []

    def asks():
        try:
            turns.__enter__()
        except KeyboardInterrupt as error:
            interruption.append(error)
        over.wait(20)

    over = threading.Event()
    asking = threading.Thread(target=asks)
    asking.start()
    assert eventually(lambda: interruption)
    if when == "it waits":
        turns.__exit__()
    got = threading.Event()

    def next_one():
        with turns:
            got.set()

    other = threading.Thread(target=next_one, daemon=True)
    other.start()
    try:
        assert got.wait(5)
    finally:
        over.set()
        asking.join()


def test_acceptors_that_have_gone_are_forgotten(serve):
    server = serve(Echo)
    for _ in range(20):
        server.suspend()
        server.resume()
    leaving = server._run.listener._acceptors._leaving
    assert all(isinstance(one, Acceptor) for one, _ in leaving)
    assert len(leaving) <= 2 * server._config.num_acceptors


# ---- threads ------------------------------------------------------------------------


def test_where_no_thread_can_be_started_the_watch_does_not_spin(serve, client, monkeypatch):
    over = threading.Event()

    class Blocks(Handler):
        def handle_data(self, data, socket):
            if data == b"b":
                over.wait(20)
            socket.send(data)

    def none(*arguments):
        tries.append(arguments)
        raise RuntimeError("can't start new thread")

    tries = []
    server = serve(Blocks)
    stuck, other = client(server), client(server)
    for one in (stuck, other):
        echoes(one)
    assert server.info().handler_threads == 1
    monkeypatch.setattr(starting._thread, "start_new_thread", none)
    try:
        stuck.sendall(b"b")
        other.sendall(b"x")
        assert eventually(lambda: tries)
        before = len(tries)
        assert busy_seconds(0.5) < 0.25
        assert len(tries) - before < 200, "it is tried again all the same, now and then"
        assert len(tries) > before
    finally:
        monkeypatch.undo()
        over.set()
    assert other.recv(1) == b"x"
    assert stuck.recv(1) == b"b"


def test_threads_are_listed_without_the_lock(serve, client, monkeypatch):
    """`threading.enumerate` takes a lock of the standard library's; a signal's handler that came
    while its thread has that may post a message, and wait for the scheduler's."""
    # The books are made anew on a thread that is none of the server's, which may see a worker
    # between two steps: a server that checks itself said so once.
    monkeypatch.setenv("THOUSAND_ISLAND_DEBUG", "0")
    server = serve(Echo)
    assert answers(client(server))
    scheduler, held = server._run.scheduler, []
    real = threading.enumerate

    class Watched:
        def __getattr__(self, name):
            return getattr(threading, name)

        def enumerate(self):
            held.append(scheduler._lock._is_owned())
            return real()

    monkeypatch.setattr(mending, "threading", Watched())
    ended = threading.Thread(target=int)
    ended.start()
    ended.join()
    workers = scheduler._workers
    dead = Worker(scheduler._permits)
    dead.permit = False
    with scheduler._lock:
        workers._threads[dead] = ended
        workers.count += 1
    scheduler._mending.put_right()
    assert held
    assert not any(held)
    assert dead not in workers._threads
    assert answers(client(server))


def test_the_books_are_right_whenever_the_lock_is_free(serve, client, monkeypatch):
    """Between a dead thread's taking out and the rest of what is made good, others look."""
    monkeypatch.setenv("THOUSAND_ISLAND_DEBUG", "0")
    server = serve(Echo, max_handler_threads=4)
    assert answers(client(server))
    scheduler = server._run.scheduler
    ended = threading.Thread(target=int)
    ended.start()
    ended.join()
    dead = Worker(scheduler._permits)
    with scheduler._lock:
        dead.permit = True
        scheduler._permits._holders.append(dead)
        scheduler._workers._threads[dead] = ended
        scheduler._permits.true_up(scheduler._workers.all())
        scheduler._workers.recount()
    seen = []

    def looks(worker):
        with scheduler._lock:
            seen.append((worker is dead, list(scheduler._permits.faults())))

    with monkeypatch.context() as patches:
        patches.setattr(type(scheduler._mending), "_stop_short", lambda _, one: looks(one))
        scheduler._mending.put_right()
    assert seen == [(True, [])]
    assert answers(client(server))


# ---- receivers and log handlers ---------------------------------------------------------


def test_a_receiver_of_saturation_that_blocks_does_not_stop_the_watch(serve, client):
    """Else a callback that blocks would hold up every other connection."""
    block, again, told, over = (threading.Event() for _ in range(4))
    heard = []

    class Blocks(Handler):
        def handle_data(self, data, socket):
            if data != b"x":
                (block if data == b"1" else again).wait(20)
            socket.send(data)

    def saturated(server, *, event, **_):
        heard.append((event, threading.current_thread().name))
        told.set()
        over.wait(20)

    for signal_ in (events.pool_saturated, events.pool_relieved):
        signal_.connect(saturated, weak=False)
    try:
        server = serve(Blocks, max_handler_threads=2)
        first = [client(server) for _ in range(3)]
        for one in first:
            one.sendall(b"1")
        assert told.wait(5)
        block.set()
        for one in first:
            assert one.recv(1) == b"1"
        other = client(server)
        for _ in range(1_000):  # it does not look as if it blocked, then
            echoes(first[0])
            echoes(other)
        first[0].sendall(b"2")
        for _ in range(20):
            echoes(other)
        over.set()
        assert eventually(lambda: len(heard) >= 2)
        assert [event for event, _ in heard[:2]] == ["pool.saturated", "pool.relieved"]
        again.set()
        assert first[0].recv(1) == b"2"
        assert server.stop() is True
    finally:
        for one in (block, again, over):
            one.set()
        for signal_ in (events.pool_saturated, events.pool_relieved):
            signal_.disconnect(saturated)


@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
def test_a_log_handler_that_raises_costs_lines_and_nothing_else(serve, client, error):
    class Raises(logging.Handler):
        def emit(self, record):
            # On a thread of the user's what is no Exception would be passed on.
            if error is RuntimeError or "-handler-" in record.threadName:
                raise error("no disk")

    log, handler = logging.getLogger("thousand_island_sync"), Raises()
    log.addHandler(handler)
    before = log.level
    log.setLevel(logging.DEBUG)
    attach_logger("trace")
    try:
        server = serve(Echo)
        for _ in range(5):
            with client(server) as sock:
                echoes(sock)
        assert server.status == "running"
        assert eventually(lambda: server.info().active_connections == 0)
        assert server.stop() is True
        assert server.info().accepted_total == 5
    finally:
        detach_logger()
        log.removeHandler(handler)
        log.setLevel(before)


# ---- what breaks off inside a callback --------------------------------------------------


def test_a_callback_in_which_our_code_breaks_off_is_not_taken_for_lost(serve, client, monkeypatch):
    """An exception from another thread falls into its `post`; the books are made anew there, and
    its own connection is in the hands of the thread that does it."""
    other, in_post, over, went_on = [], [], threading.Event(), threading.Event()

    class Posts(Handler):
        def handle_data(self, data, socket):
            if data == b"a":
                in_post.append(threading.get_ident())
                with pytest.raises(KeyboardInterrupt):
                    other[0].post("hello")
                went_on.set()
                over.wait(20)
            socket.send(data)

    server = serve(Posts)
    first = client(server)
    echoes(first)
    other += server.connections()
    sock = client(server)
    echoes(sock)
    connection = task_of(next(one for one in server.connections() if one not in other))
    rouse, run, runs = Rousing._rouse_no_new_one, type(connection).run, []

    def raises(self):
        if threading.get_ident() in in_post:
            in_post.clear()
            raise KeyboardInterrupt
        rouse(self)

    def counts(self):
        runs.append(self)
        return run(self)

    monkeypatch.setattr(Rousing, "_rouse_no_new_one", raises)
    sock.sendall(b"a")
    assert went_on.wait(5)
    monkeypatch.setattr(type(connection), "run", counts)
    sock.sendall(b"b")
    for _ in range(20):
        echoes(first)
    assert connection not in runs, "another thread is in it"
    over.set()
    assert receive(sock, 2) == b"ab"


def test_a_log_handler_that_blocks_as_a_connection_breaks_off_holds_up_nobody_else(serve, client):
    over, logs = threading.Event(), threading.Event()

    class Blocks(logging.Handler):
        def emit(self, record):
            logs.set()
            over.wait(20)

    server = serve(Echo)
    broken, other = client(server), client(server, timeout=5)
    for one in (broken, other):
        echoes(one)
    (connection,) = [
        task_of(one) for one in server.connections() if one.peername == broken.getsockname()
    ]

    class Breaks(type(connection)):
        __slots__ = ()

        def run(self):
            self.__class__ = before
            raise MemoryError

    log, handler = logging.getLogger("thousand_island_sync"), Blocks()
    assert eventually(lambda: connection.ownership == PARKED)
    before, connection.__class__ = connection.__class__, Breaks
    log.addHandler(handler)
    try:
        broken.sendall(b"x")
        assert logs.wait(5)
        for _ in range(20):
            echoes(other)
        assert not over.is_set()
        over.set()
        assert eventually(lambda: connection.handle.closed)
    finally:
        over.set()
        log.removeHandler(handler)


@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
def test_all_callbacks_run_though_the_log_handler_raises(serve, client, error):
    ran = []

    class Raises(logging.Handler):
        def emit(self, record):
            raise error("no disk")

    class Fails(Handler):
        def handle_data(self, data, socket):
            raise ValueError("a bug")

        def handle_error(self, reason, socket):
            ran.append(repr(reason))
            raise ValueError("another")

        def handle_end(self, socket):
            ran.append("end")

    log, handler = logging.getLogger("thousand_island_sync"), Raises()
    log.addHandler(handler)
    try:
        server = serve(Fails)
        client(server).sendall(b"x")
        assert eventually(lambda: ran == ["ValueError('a bug')", "end"])
        assert server.stop() is True
    finally:
        log.removeHandler(handler)
