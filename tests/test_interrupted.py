"""What may be called anywhere may be called amid our own: by a `__del__` or a weakref's callback,
which the collector runs wherever an object is made, and by a signal's handler, between any two
bytecodes of the main thread. None of it waits for a lock that its own thread has; a message that is
posted there arrives, and the server goes on."""

import errno
import gc
import signal
import ssl
import threading
import time
from collections import deque

import pytest

from tests.interruptions import Interrupter
from tests.support import answers, echoes, eventually, receive, running, task_of
from thousand_island_sync import (
    TLS,
    Close,
    Handler,
    MailboxFull,
    SocketClosed,
    SocketError,
    ThousandIslandError,
)
from thousand_island_sync._base import descriptors, locks, waits
from thousand_island_sync._connection import mailbox
from thousand_island_sync._connection.mailbox import Mailbox
from thousand_island_sync._scheduler import scheduler as _scheduler
from thousand_island_sync._scheduler import workers
from thousand_island_sync._scheduler.rousing import Calls
from thousand_island_sync._scheduler.states import PARKED
from thousand_island_sync._scheduler.timers import Timer

pytestmark = pytest.mark.skipif(not locks.watched, reason="by the watch it is known who has one")


class Everyone(Handler):
    """Does a bit of everything that takes a lock."""

    def handle_connection(self, sock):
        self.options["all"].append(sock.connection)

    def handle_data(self, data, sock):
        if data == b"q":
            return Close()
        sock.connection.post("soon")
        sock.connection.post("later", delay_ms=1)
        if data == b"b":
            time.sleep(0.003)
        sock.send(data)
        return None

    def handle_info(self, message, sock):
        if message == "count me":
            self.options["counted"].append(message)

    def handle_call(self, message, sock):
        return message


class Bystanders:
    """Connections that are there to be posted to and closed."""

    def __init__(self, server, client, options, count):
        self.server = server
        self.options = options
        self.socks = [client(server) for _ in range(count)]
        assert eventually(lambda: len(options["all"]) == count)
        self.kept = options["all"][0]
        self.to_close = deque(options["all"][1:])
        self.posted = 0

    def calls(self):
        return {
            "post": self.post,
            "post later": self.post_later,
            "close": self.close,
            "info": self.server.info,
            "connections": self.server.connections,
            "pending": lambda: self.kept.pending,
        }

    def post(self):
        self.kept.post("count me")
        self.posted += 1

    def post_later(self):
        self.kept.post("count me", delay_ms=1)
        self.posted += 1

    def close(self):
        if self.to_close:
            self.to_close.popleft().close()
        else:
            self.options["all"][-1].pending  # noqa: B018


def a_bit_of_everything(server, client, options, rounds):
    """A load in which all locks of the running server are taken."""

    def talk():
        for turn in range(rounds):
            sock = client(server)
            for data in (b"a", b"b", b"c"):
                echoes(sock, data)
            if turn % 2:
                sock.sendall(b"q")
                assert receive(sock, 1) == b""
            else:
                sock.close()

    def ask():
        for _ in range(rounds):
            server.info()
            for one in server.connections():
                if one is not options["all"][0]:
                    try:
                        one.post("hello")
                        one.call("hello", timeout_ms=2_000)
                    except ThousandIslandError:
                        pass  # it has ended

    with running(talk, talk, ask):
        pass


@pytest.mark.parametrize("connections", [4, 1_000], ids=["at the limit", "with room"])
def test_at_every_point_under_a_lock_in_its_own_thread(connections, serve, client):
    options = {"all": [], "counted": []}
    interrupter = Interrupter({})
    with interrupter.everywhere():  # of the server's threads, those that are started in it
        server = serve(
            Everyone,
            handler_options=options,
            max_pending_messages=None,
            max_connections=60 + connections,
            max_handler_threads=6,
        )
        bystanders = Bystanders(server, client, options, 60)
        interrupter.call(bystanders.calls())
        a_bit_of_everything(server, client, options, 8)
    assert eventually(lambda: len(options["counted"]) == bystanders.posted, 10), (
        len(options["counted"]),
        bystanders.posted,
    )
    assert not interrupter.errors, interrupter.errors
    assert {"scheduler", "mailbox", "connection.limit", "connection", "socket.guard"} <= (
        interrupter.locks
    )
    assert interrupter.made > 500
    for _ in range(3):
        assert answers(client(server))
    assert server.stop(5_000)


def test_of_a_stop_too(serve, client):
    """All that a stop does, on the thread that asks for it, with many connections."""
    options = {"all": [], "counted": []}
    server = serve(Everyone, handler_options=options, max_pending_messages=None)
    bystanders = Bystanders(server, client, options, 20)

    def post():
        try:
            bystanders.post()
        except SocketClosed:
            pass

    interrupter = Interrupter({**bystanders.calls(), "post": post, "post later": post})
    with interrupter.everywhere():
        assert server.stop(10_000)
    assert not interrupter.errors, interrupter.errors
    assert interrupter.made > 50


class Lease:
    """Says goodbye when the collector finds it."""

    def __init__(self, connection, said):
        self.connection, self.said, self.me = connection, said, self

    def __del__(self):
        try:
            self.connection.post("ended")
            self.said.append(1)
        except ThousandIslandError:
            pass


@pytest.fixture
def eager_collector():
    before = gc.get_threshold()
    gc.set_threshold(25)
    yield
    gc.set_threshold(*before)


def test_the_collector_runs_a_del_that_posts(serve, client, eager_collector):
    """bpo-14976: SimpleQueue exists because of this."""
    told, said = [], []

    class Leases(Handler):
        def handle_data(self, data, sock):
            for _ in range(3):
                Lease(sock.connection, said)
            sock.connection.post("tick", delay_ms=2)
            sock.send(data)

        def handle_info(self, message, sock):
            told.append(message)

    server = serve(Leases, max_pending_messages=None)
    socks = [client(server) for _ in range(4)]
    for _ in range(300):
        for sock in socks:
            sock.sendall(b"x")
        for sock in socks:
            assert receive(sock, 1) == b"x"
    gc.collect()
    assert eventually(lambda: told.count("ended") == len(said) and told.count("tick") == 1_200)


@pytest.mark.parametrize("first", ["lock", "descriptor"])
def test_the_collector_runs_a_del_in_a_thread_s_first_use_of(first):
    """What is kept for each thread is made at its first use, and the collector may run there."""
    errors = []

    def use():
        if first == "lock":
            locks.held_here()
        else:
            with descriptors.thread.no_fork:
                pass

    class Garbage:
        def __init__(self):
            self.me = self

        def __del__(self):
            if collects:
                Garbage()  # so that the next collection runs one as well
                try:
                    use()
                except AttributeError as error:
                    errors.append(str(error))

    def begins():
        Garbage()
        use()

    collects = True
    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(50):
            thread = threading.Thread(target=begins)
            thread.start()
            thread.join()
    finally:
        gc.set_threshold(*before)
        collects = False
        gc.collect()
    assert errors == []


def test_a_message_ends_under_no_lock(serve, client):
    """Dropped at the end of its connection, it may take any lock of the user's, or post."""
    gone = []

    class Message:
        def __init__(self, other):
            self.other = other

        def __del__(self):
            gone.append(locks.held_here())
            try:
                self.other.post("the other has ended")
            except SocketClosed:
                pass

    class Waits(Handler):
        def handle_connection(self, sock):
            self.options.append(sock.connection)

        def handle_data(self, data, sock):
            sock.connection.close()
            for _ in range(5):
                sock.connection.post(Message(self.options[1]))
                sock.connection.post(Message(self.options[1]), delay_ms=60_000)

    known = []
    server = serve(Waits, handler_options=known)
    first = client(server)
    assert eventually(lambda: len(known) == 1)
    client(server)
    assert eventually(lambda: len(known) == 2)
    first.sendall(b"x")
    assert receive(first, 1) == b""
    assert eventually(lambda: len(gone) == 10)
    assert gone == [[]] * 10


def test_no_message_is_compared_with_another(serve, client):
    """A call whose caller waits no longer is taken out of the queue, past what waits there."""
    compared, release = [], threading.Event()

    class Message:
        def __eq__(self, other):
            compared.append(other)
            return False

        __hash__ = None

    class Slow(Handler):
        def handle_data(self, data, sock):
            self.options.append(sock.connection)
            release.wait(10)

    known = []
    server = serve(Slow, handler_options=known)
    client(server).sendall(b"x")
    assert eventually(lambda: known)
    known[0].post(Message())
    with pytest.raises(ThousandIslandError):
        known[0].call("hello", timeout_ms=10)
    assert known[0].pending == 1
    release.set()
    assert compared == []


@pytest.mark.parametrize("asked", ["post", "post later", "close", "info", "connections", "pending"])
def test_a_signals_handler_amid_the_same_call(asked, serve, client):
    options = {"all": [], "counted": []}
    server = serve(Everyone, handler_options=options, max_pending_messages=None)
    bystanders = Bystanders(server, client, options, 60)
    call = bystanders.calls()[asked]
    inside = 0
    came = 0

    def handler(number, frame):
        nonlocal inside, came
        if not inside:
            inside, came = 1, came + 1
            try:
                call()
            finally:
                inside = 0

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            for one in bystanders.calls().values():
                one()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert came > 10
    assert eventually(lambda: len(options["counted"]) == bystanders.posted, 10)
    assert answers(client(server))


# ---- beside another thread ------------------------------------------------------------------


@pytest.mark.parametrize("listener", ["listens", "is in a receiver"])
@pytest.mark.parametrize("held", ["socket.guard", "mailbox", "connection.limit"])
def test_who_has_a_lock_does_not_wait_for_the_schedulers(
    held, listener, serve, client, monkeypatch
):
    """Or two that are interrupted, each with what the other asks for, wait for ever."""
    options = {"all": [], "counted": []}
    server = serve(Everyone, handler_options=options)
    if listener != "listens":
        monkeypatch.setattr(server._run.scheduler._errands, "_ring", lambda: None)
    bystanders = Bystanders(server, client, options, 2)
    assert eventually(lambda: task_of(bystanders.kept).ownership == PARKED)
    scheduler, taken, over = server._run.scheduler, threading.Event(), threading.Event()

    def other():
        with scheduler._lock:
            taken.set()
            over.wait(10)

    with running(other):
        assert taken.wait(5)
        with locks.lock(held):
            bystanders.post()
            bystanders.close()
            bystanders.post_later()
            server.info()
            server.connections()
        assert options["counted"] == []
        over.set()
        assert eventually(lambda: len(options["counted"]) == 2)
    assert eventually(lambda: server.info().active_connections == 1)


def test_a_message_is_put_in_without_a_lock_that_another_has():
    mail, taken, over = Mailbox(2), threading.Event(), threading.Event()

    def other():
        with mailbox._lock:
            taken.set()
            over.wait(10)

    with running(other):
        assert taken.wait(5)
        with locks.lock("connection.limit"):
            assert mail.put("now")
            assert mail.put_delayed(Timer(1.0))
            with pytest.raises(MailboxFull):
                mail.put("too many")
        over.set()
    assert len(mail) == 2
    assert mail.take() == "now"


def test_many_threads_post_at_once_each_with_a_lock(serve, client):
    """What is left for the listener's thread arrives as well."""
    options = {"all": [], "counted": []}
    server = serve(Everyone, handler_options=options, max_pending_messages=None)
    bystanders = Bystanders(server, client, options, 1)

    def post():
        for turn in range(200):
            with locks.lock("connection.limit"):
                bystanders.kept.post("count me", delay_ms=turn % 2)

    with running(*[post] * 4):
        pass
    assert eventually(lambda: len(options["counted"]) == 800)


def test_who_asks_starts_no_thread(serve, client, monkeypatch):
    """One that begins takes locks of the standard library's, which who was interrupted may have;
    so the listener's thread starts it."""
    monkeypatch.setattr(_scheduler, "default_permits", lambda: 8)
    options = {"all": [], "counted": []}
    server = serve(Everyone, handler_options=options)
    bystanders = Bystanders(server, client, options, 1)
    begun, start = [], workers.start

    def noted(thread):
        begun.append(threading.get_ident())
        start(thread)

    somebody = Calls.somebody

    def rather_a_new_one(calls):
        if calls._permits.free:
            calls.heir()
        else:
            somebody(calls)

    monkeypatch.setattr(workers, "start", noted)
    monkeypatch.setattr(Calls, "somebody", rather_a_new_one)
    for count in range(1, 8):
        bystanders.post()
        assert eventually(lambda count=count: len(options["counted"]) == count)
    assert begun
    assert threading.get_ident() not in begun


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_a_session_is_closed_amid_its_own_reads_and_writes(
    version, serve, secure, authority, monkeypatch
):
    """By what the collector runs where its lock is held."""
    last, here = [], threading.local()

    class Echoes(Handler):
        def handle_connection(self, sock):
            here.connection = None

        def handle_data(self, data, sock):
            here.connection = sock.connection
            sock.send(data)

        def handle_shutdown(self, sock):
            last.append("shutdown")

        def handle_error(self, reason, sock):
            last.append(reason)

    def disturb(one, what):
        connection = getattr(here, "connection", None)
        if connection is not None and locks.held_here()[-1] == "tls":
            here.connection = None
            connection.close()

    server = serve(Echoes, transport_cls=TLS, transport_options=authority.options)
    monkeypatch.setattr(locks, "disturb", disturb)
    context = authority.client_context(getattr(ssl.TLSVersion, version))
    for _ in range(5):
        sock = secure(server, context)
        sock.sendall(b"x")
        assert receive(sock, 2) == b"x"
    assert eventually(lambda: len(last) == 5)
    assert last == ["shutdown"] * 5


class Talks(Handler):
    """Waits for its second byte in a call; by `options` others find its socket."""

    def handle_data(self, data, sock):
        self.options.append(sock)
        sock.send(data)
        sock.send(sock.recv(1))


ASKED = ["close", "close from outside", "info", "post"]
AMID = {"socket.sending": [*ASKED, "send"], "socket.receiving": [*ASKED, "recv"], "tls": ASKED}


@pytest.mark.parametrize(
    ("turn", "asks"), [(turn, asks) for turn, calls in AMID.items() for asks in calls]
)
def test_a_socket_is_asked_amid_its_own_call(
    turn, asks, serve, client, secure, authority, monkeypatch
):
    """What would wait for the call that it interrupts raises, or is done when that is over."""
    socks, met, asked = [], [], []
    calls = {
        "close": lambda sock: sock.close(),
        "close from outside": lambda sock: sock.connection.close(),
        "info": lambda sock: server.info(),
        "post": lambda sock: sock.connection.post("hello"),
        "send": lambda sock: sock.send(b"!"),
        "recv": lambda sock: sock.recv(1),
    }

    def disturb(one, what):
        here = waits.current_task()
        if here is None or not socks or asked or locks.held_here()[-1] != turn:
            return
        asked.append(turn)
        try:
            calls[asks](socks[0])
        except SocketError as error:
            met.append(error.errno)

    options = {}
    if turn == "tls":
        options = {"transport_cls": TLS, "transport_options": authority.options}
    server = serve(Talks, handler_options=socks, **options)
    monkeypatch.setattr(locks, "disturb", disturb)
    sock = secure(server, authority.client_context()) if turn == "tls" else client(server)
    sock.sendall(b"a")
    assert eventually(lambda: asked)
    if asks.startswith("close"):
        assert eventually(lambda: server.info().active_connections == 0)
    else:
        assert receive(sock, 1) in (b"a", b"!")
        sock.sendall(b"bc")
        assert receive(sock, 1) in (b"a", b"b", b"!")
    assert met == ([errno.EDEADLK] if asks in ("send", "recv") else [])
