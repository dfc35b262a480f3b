"""What follows from a client's first words: session tickets or none, which host it gets, by a
callable of the user's that may take its time, and the server name that it has really sent."""

import contextlib
import ssl
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

from tests.support import Echo, echoes, eventually, journal, receive, running, task_of
from tests.test_tls import Tells, tls, told
from tests.test_tls_wire import Pair
from thousand_island_sync import TLS, Handler, SocketClosed, SocketTimeout, SwitchTransport
from thousand_island_sync._stream.turns import guard
from thousand_island_sync.transports._tls import gaps
from thousand_island_sync.transports._tls import hello as _tls_hello

VERSIONS = pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"]
)


class Asked:
    """A client of OpenSSL's, of TLS 1.3, that sends a key of a group the server does not take, so
    that it is asked for another hello (RFC 8446, 4.1.4)."""

    def __init__(self, sock, name=b"localhost"):
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        assert gaps.set_groups(context, b"P-521:P-256")
        self._sock = sock
        self._tls = SSL.Connection(context)
        self._tls.set_tlsext_host_name(name)
        self._tls.set_connect_state()

    def do_handshake(self, then=lambda connection: None):
        """`then` is called with the connection before each answer of the server's is read."""
        while True:
            try:
                self._tls.do_handshake()
            except SSL.WantReadError:
                self._send()
                then(self._tls)
                self._receive()
            else:
                self._send()
                return

    def recv(self):
        while True:
            try:
                return self._tls.recv(65_536)
            except SSL.WantReadError:
                self._receive()

    def _send(self):
        with contextlib.suppress(SSL.WantReadError):
            self._sock.sendall(self._tls.bio_read(65_536))

    def _receive(self):
        data = self._sock.recv(65_536)
        if not data:
            raise ConnectionError("the server has gone")
        self._tls.bio_write(data)

    @property
    def tickets(self):
        """Whether one came, of all that was received."""
        session = self._tls.get_session()
        return session is not None and self._tls.get_protocol_version_name() == "TLSv1.3"


# ---- session tickets ----------------------------------------------------------------


class Greets(Handler):
    def handle_connection(self, socket):
        socket.send(b"hello")


@VERSIONS
@pytest.mark.parametrize("name", ["localhost", None])
@pytest.mark.parametrize("tickets", [None, True, False])
def test_g10_tickets_are_sent_unless_they_are_switched_off(
    tickets, name, version, serve, authority, client
):
    more = {} if tickets is None else {"session_tickets": tickets}
    server = tls(serve, authority, Greets, more)
    context = authority.client_context(version)
    context.check_hostname = False
    with context.wrap_socket(client(server), server_hostname=name) as sock:
        assert receive(sock, 5) == b"hello"  # tickets would lie before it
        assert sock.session.has_ticket == (tickets is not False)
        assert (sock.session.id != b"") == (tickets is not False)


class Counts(Handler):
    """A slow reader of uploads."""

    def handle_connection(self, socket):
        self.count = 0

    def handle_data(self, data, socket):
        self.count += len(data)
        threading.Event().wait(0.001)

    def handle_end(self, socket):
        self.options.append((self.count, socket.truncated))


def upload(sock, context, size):
    """As a client that only writes, and closes: it never reads behind the handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    shaken = False
    while not shaken:
        try:
            session.do_handshake()
            shaken = True
        except ssl.SSLWantReadError:
            sock.sendall(outgoing.read())
            incoming.write(sock.recv(65_536))
    for _ in range(0, size, 10_000):
        session.write(bytes(10_000))
        sock.sendall(outgoing.read())
    with contextlib.suppress(ssl.SSLWantReadError):
        session.unwrap()
    sock.sendall(outgoing.read())
    sock.close()


@VERSIONS
def test_g10_without_tickets_an_upload_by_who_only_writes_is_whole(
    version, serve, authority, client
):
    """With two tickets unread the kernel resets it, and its end is lost: 0 of 10 came whole."""
    counts = []
    server = tls(serve, authority, Counts, {"session_tickets": False}, handler_options=counts)
    for _ in range(3):
        upload(client(server), authority.client_context(version), 1_000_000)
    assert eventually(lambda: len(counts) == 3, 20)
    assert counts == [(1_000_000, False)] * 3


def test_g10_nor_are_there_tickets_for_who_had_to_say_hello_again(serve, authority, client):
    server = tls(serve, authority, Tells, {"session_tickets": False})
    asked, hellos = Asked(client(server)), []
    asked.do_handshake(then=hellos.append)
    assert len(hellos) == 2
    assert eval(asked.recv()) == ("TLSv1.3", None, "localhost", False, None)
    server = tls(serve, authority, Tells)
    asked = Asked(client(server))
    asked.do_handshake()
    assert eval(asked.recv())[2] == "localhost"


@VERSIONS
def test_g10_no_session_is_resumed_then(version, serve, authority, client):
    server = tls(serve, authority, Tells, {"session_tickets": False})
    context, session = authority.client_context(version), None
    for _ in range(3):
        sock = context.wrap_socket(client(server), server_hostname="localhost", session=session)
        assert told(sock)[3] is False
        session = sock.session
        sock.close()


def test_a_session_that_is_resumed_all_the_same_is_refused(
    serve, authority, secure, record, monkeypatch
):
    recorder = record("socket.handshake_error")
    monkeypatch.setattr(gaps, "resumed", lambda connection: True)
    server = tls(serve, authority, Tells, {"session_tickets": False})
    with contextlib.suppress(OSError):
        secure(server, authority.client_context()).recv(10)
    (one,) = recorder.wait_for("socket.handshake_error")
    assert "although resumption is off" in str(one.measurements["error"])


# ---- the server name ------------------------------------------------------------------


def hosts(authority, kind):
    """Two hosts that nothing keeps apart, by each way to say so."""
    if kind == "none":
        return {}
    if kind == "mapping":
        return {"sni": {"a.example": authority.options, "b.example": authority.options}}
    return {"sni": lambda name: None}


@VERSIONS
@pytest.mark.parametrize("kind", ["none", "mapping", "callable"])
@pytest.mark.parametrize("names", [["a.example"] * 3, ["a.example", "b.example", "a.example"]])
def test_it_is_the_one_that_was_sent_whichever_session_is_resumed(
    names, kind, version, serve, authority, client
):
    server = tls(serve, authority, Tells, hosts(authority, kind))
    context, session = authority.client_context(version), None
    heard, resumed = [], []
    for name in names:
        sock = context.wrap_socket(client(server), server_hostname=name, session=session)
        _, _, server_name, resumed_, _ = told(sock)
        heard.append(server_name)
        resumed.append(resumed_)
        session = sock.session
        sock.close()
    assert heard == names
    assert resumed == [False] + [kind != "callable"] * 2


def test_the_host_is_chosen_by_it_too(serve, authority, client, record):
    """Else what the second host demands would not hold for a session of the first."""
    recorder = record("socket.handshake_error")
    strict = {**authority.options, "min_version": "1.3"}
    more = {"sni": {"a.example": authority.options, "b.example": strict}}
    server = tls(serve, authority, Tells, more)
    context = authority.client_context(ssl.TLSVersion.TLSv1_2)
    sock = context.wrap_socket(client(server), server_hostname="a.example")
    assert told(sock)[2] == "a.example"
    with contextlib.suppress(OSError):
        refused = context.wrap_socket(
            client(server), server_hostname="b.example", session=sock.session
        )
        with refused:
            assert refused.recv(10) == b""
    sock.close()
    (one,) = recorder.wait_for("socket.handshake_error")
    assert "min_version of b.example" in str(one.measurements["error"])


@pytest.mark.parametrize("kind", ["mapping", "callable"])
def test_who_changes_it_between_two_hellos_is_refused(kind, serve, authority, client, record):
    recorder = record("socket.handshake_error")
    Base = journal()
    server = tls(serve, authority, Base, hosts(authority, kind))
    asked = Asked(client(server), b"a.example")

    def change(connection):
        connection.set_tlsext_host_name(b"b.example")

    with pytest.raises(ConnectionError):
        asked.do_handshake(then=change)
        asked.recv()
    (one,) = recorder.wait_for("socket.handshake_error")
    assert "changed its server name" in str(one.measurements["error"])
    assert Base.ended()
    assert Base.names() == ["error", "end"]


def test_where_no_host_was_chosen_there_is_no_connection(
    serve, authority, secure, record, monkeypatch
):
    """An exception may be raised into any thread, between any two calls."""
    recorder = record("socket.handshake_error")
    monkeypatch.setattr(_tls_hello, "_choose", lambda *arguments: None)
    server = tls(serve, authority, Tells, hosts(authority, "mapping"))
    with contextlib.suppress(OSError):
        secure(server, authority.client_context()).recv(10)
    recorder.wait_for("socket.handshake_error")


def hello_of(name, context=None):
    """What a client says first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = context or ssl.create_default_context()
    context.check_hostname = False
    session = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


def in_records_of(hello, size):
    """The same in several records."""
    message = hello[5:]
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(hello[:3] + len(piece).to_bytes(2, "big") + piece for piece in pieces)


@VERSIONS
@pytest.mark.parametrize("size", [1, 3, 100, 16_384])
@pytest.mark.parametrize("name", ["a.example", "x" * 63 + ".example", None])
def test_it_is_read_from_the_clients_own_words(name, size, version):
    context = ssl.create_default_context()
    context.minimum_version = context.maximum_version = version
    hello = in_records_of(hello_of(name, context), size)
    assert _tls_hello.server_name(hello) == (name and name.encode())
    assert _tls_hello.server_name(hello + b"\x17\x03\x03\0\1x") == (name and name.encode())


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_words_that_were_cut_or_changed_are_none_or_others_but_no_error(data):
    hello = bytearray(hello_of("a.example"))
    for _ in range(data.draw(st.integers(0, 3))):
        hello[data.draw(st.integers(0, len(hello) - 1))] = data.draw(st.integers(0, 255))
    _tls_hello.server_name(bytes(hello[: data.draw(st.integers(0, len(hello)))]))


@pytest.mark.parametrize("name", [b"a\0b", b"x" * 256, b"\xff"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ValueError):
        _tls_hello._readable(name)


# ---- a callable that takes its time ---------------------------------------------------


class Slow:
    """An `sni` callable that waits, for one name, until it is told to go on."""

    def __init__(self):
        self.began, self.go_on = threading.Event(), threading.Event()

    def __call__(self, name):
        if name == "localhost":
            self.began.set()
            self.go_on.wait(20)


@pytest.fixture
def slow():
    made = Slow()
    yield made
    made.go_on.set()


@contextlib.contextmanager
def a_client_in(slow, server, client, authority):
    """One whose handshake waits in the callable."""
    found = []

    def connect():
        with contextlib.suppress(OSError):
            sock = authority.client_context().wrap_socket(
                client(server), server_hostname="localhost"
            )
            with sock:
                data = sock.recv(1_000)
                if data:
                    found.append(eval(data))

    with running(connect):
        assert slow.began.wait(10)
        yield found
        slow.go_on.set()


def test_it_holds_up_its_own_connection_alone(slow, serve, authority, client):
    """Not the others of its server, nor those of other servers, nor who closes that connection:
    one lock of the whole process waited for it."""
    server = tls(serve, authority, Tells, {"sni": slow}, max_handler_threads=8)
    plain = serve(Echo)
    context = authority.client_context()
    context.check_hostname = False
    with a_client_in(slow, server, client, authority):
        began = time.monotonic()
        (held_up,) = server.connections()
        for _ in range(3):
            with client(plain) as sock:
                echoes(sock)
            with context.wrap_socket(client(server), server_hostname="a.example") as sock:
                assert told(sock)
        held_up.close()
        with client(plain) as sock:
            echoes(sock)
        assert time.monotonic() - began < 2
    assert eventually(lambda: server.info().active_connections == 0)


def test_it_goes_on_where_it_was(slow, serve, authority, client):
    server = tls(serve, authority, Tells, {"sni": slow})
    with a_client_in(slow, server, client, authority) as found:
        pass
    assert found == [("TLSv1.3", None, "localhost", False, None)]


def test_no_lock_of_ours_is_held_then(serve, authority, secure):
    free = []

    def sni(name):
        (one,) = server.connections()
        channel = task_of(one).machine.stream.channel
        for lock in (channel._lock, guard, task_of(one).machine.stream.writer._sending):
            free.append(lock.acquire(False))
            lock.release()

    server = tls(serve, authority, Tells, {"sni": sni})
    assert told(secure(server, authority.client_context()))
    assert free == [True] * 3


@pytest.mark.parametrize("timeout", [0, 300])
def test_a_stop_is_in_time_beside_it(timeout, slow, serve, authority, client):
    server = tls(serve, authority, Tells, {"sni": slow})
    with a_client_in(slow, server, client, authority):
        began = time.monotonic()
        assert server.stop(timeout) is False
        assert time.monotonic() - began < timeout / 1000 + 0.5
    assert eventually(lambda: server.info().active_connections == 0)


def test_it_is_asked_once_although_hello_is_said_twice(serve, authority, client):
    asked_for = []
    server = tls(serve, authority, Tells, {"sni": asked_for.append})
    asked, hellos = Asked(client(server)), []
    asked.do_handshake(then=hellos.append)
    assert len(hellos) == 2
    assert eval(asked.recv())[2] == "localhost"
    assert asked_for == ["localhost"]


def test_what_other_threads_ask_of_the_connection_meanwhile(slow, authority):
    """They get nothing and give nothing, and do not wait."""
    pair, shaken = Pair(authority), threading.Event()
    pair.channel = type(pair.channel)(
        pair.ours, TLS({**authority.options, "sni": slow}).now().context
    )
    try:
        with running(pair.do_handshake):
            assert slow.began.wait(10)
            channel = pair.channel
            assert channel.recv(10) is None
            assert channel.send(b"early") == 0
            assert channel.handshaking
            assert channel.when_handshake_done(shaken.set)
            assert channel.flush()
            channel.expose()
            channel.send_close_notify()
            slow.go_on.set()
        assert shaken.is_set()
        assert not channel.handshaking
        assert not channel.when_handshake_done(shaken.clear)
        assert shaken.is_set()
        assert channel.send(b"now") == 3
        assert pair.heard() == b"now"
    finally:
        pair.close()


class Upgrades(Handler):
    """Upgrades; a thread of its own does something with the socket meanwhile."""

    def handle_data(self, data, socket):
        self.done, self.thread = [], threading.Thread(target=self.use, args=(socket,))
        self.thread.start()
        return SwitchTransport(TLS, self.options["tls"])

    def use(self, socket):
        self.options["upgrading"].wait(10)
        try:
            self.options["done"].append(self.options["does"](socket))
        except Exception as error:
            self.options["done"].append(error)

    def handle_upgrade(self, socket):
        self.thread.join(10)

    handle_end = handle_upgrade


@pytest.fixture
def upgrade(slow, serve, client, authority):
    """A connection whose upgrade waits in the callable, while another thread does something."""

    def begin(does):
        options = {
            "tls": TLS.prepare(**authority.options, sni=slow),
            "upgrading": slow.began,
            "does": does,
            "done": [],
        }
        # A send would be kept, and wait for nothing.
        server = serve(Upgrades, handler_options=options, max_unsent=0)
        sock = client(server)
        sock.sendall(b"STARTTLS")
        eventually(lambda: any(task_of(one).machine.socket.secure for one in server.connections()))
        return server, sock, options["done"]

    return begin


def waits(server):
    """Whether another thread waits for the end of the upgrade."""
    (one,) = server.connections()
    handshake = task_of(one).machine.stream.channel._handshake
    return handshake is not None and handshake._waiting != ()


@pytest.mark.parametrize("size", [1, 300_000])
def test_who_sends_during_an_upgrade_waits_for_its_end(size, slow, upgrade, authority):
    """Its thread does not shake the hands: it has the turn of sends."""

    def send_twice(socket):
        return socket.send(bytes(size)) + socket.send(b"from another thread")

    server, sock, done = upgrade(send_twice)
    with running(lambda: eventually(lambda: waits(server)) and slow.go_on.set()):
        wrapped = authority.client_context().wrap_socket(sock, server_hostname="localhost")
    with wrapped:
        assert receive(wrapped, size + 19) == bytes(size) + b"from another thread"
    assert eventually(lambda: done == [size + 19])


def test_who_receives_during_an_upgrade_waits_for_its_end(slow, upgrade, authority):
    server, sock, done = upgrade(lambda socket: socket.recv_exactly(5))
    with running(lambda: eventually(lambda: waits(server)) and slow.go_on.set()):
        wrapped = authority.client_context().wrap_socket(sock, server_hostname="localhost")
    with wrapped:
        wrapped.sendall(b"hello")
        assert eventually(lambda: done == [b"hello"]), done


@pytest.mark.parametrize("does", ["send", "recv"])
def test_who_waits_for_an_upgrade_waits_no_longer_than_it_says(does, slow, upgrade, authority):
    _, sock, done = upgrade(
        lambda socket: (
            socket.send(b"x", timeout_ms=50) if does == "send" else socket.recv(1, timeout_ms=50)
        )
    )
    with running(lambda: eventually(lambda: done != []) and slow.go_on.set()):
        wrapped = authority.client_context().wrap_socket(sock, server_hostname="localhost")
    wrapped.close()
    assert isinstance(done[0], SocketTimeout)
    assert not isinstance(done[0], SocketClosed)


@pytest.mark.parametrize("does", ["send", "recv"])
def test_nor_longer_than_the_connection_lasts(does, slow, upgrade, authority):
    server, sock, done = upgrade(
        lambda socket: socket.send(b"x") if does == "send" else socket.recv(1)
    )

    def do_handshake():
        with contextlib.suppress(OSError):
            authority.client_context().wrap_socket(sock, server_hostname="localhost").close()

    with running(do_handshake):
        assert eventually(lambda: waits(server))
        assert server.stop(100) is False
        assert eventually(lambda: done != [])
        slow.go_on.set()
    assert isinstance(done[0], SocketClosed)
