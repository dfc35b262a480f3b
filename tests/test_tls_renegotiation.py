"""A context of the user's own that lets its clients shake hands anew (TLS 1.2), while the server
sends. Without one nobody may; see `test_tls_programs`."""

import contextlib
import socket
import threading

import pytest

from tests.support import eventually, go_by
from thousand_island_sync import TLS, Handler
from thousand_island_sync._base import waits as _waits
from thousand_island_sync._connection.task import ConnectionTask
from thousand_island_sync._scheduler.write_poller import EpollWrites

SSL = pytest.importorskip("OpenSSL.SSL")

_ALLOWED = 1 << 8  # SSL_OP_ALLOW_CLIENT_RENEGOTIATION
BLOCK = bytes(range(256)) * 400


@pytest.fixture(params=["quick", "public"], autouse=True)
def way(request, monkeypatch):
    go_by(monkeypatch, request.param)


class Client:
    """Between whose steps as much time passes as a test wants."""

    def __init__(self, address):
        self.sock = socket.create_connection(address)
        self.sock.settimeout(0.05)
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        self.tls = SSL.Connection(context, None)
        self.tls.set_connect_state()
        assert eventually(lambda: self.step(self.tls.do_handshake) is not None)

    def step(self, call, *arguments):
        """What a call gave, `None` if it wants more of the server."""
        result = None
        with contextlib.suppress(SSL.WantReadError):
            result = call(*arguments) or True
        with contextlib.suppress(SSL.WantReadError):
            while True:
                self.sock.sendall(self.tls.bio_read(1 << 16))
        if result is None:
            with contextlib.suppress(TimeoutError):
                self.tls.bio_write(self.sock.recv(1 << 16))
        return result

    def receive(self, length):
        got = b""

        def more():
            nonlocal got
            got += self.step(self.tls.recv, 1 << 16) or b""
            return len(got) >= length

        assert eventually(more), len(got)
        return got

    def answer(self):
        """Its part of what was begun. Over loopback it is there when this is over."""

        def said():
            self.step(self.tls.recv, 1)
            return b"write finished" in self.tls.get_state_string()

        assert eventually(said), self.tls.get_state_string()

    def begin_anew(self):
        """Says hello, and no more."""
        assert self.tls.renegotiate()
        with pytest.raises(SSL.WantReadError):
            self.tls.recv(1)
        self.sock.sendall(self.tls.bio_read(1 << 16))


@pytest.fixture
def connect(authority, serve):
    context = authority.server_context()
    context.set_options(_ALLOWED)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    made = []

    def connect(handler_cls, **options):
        given = {"context": context, **options}
        server = serve(handler_cls, transport_cls=TLS, transport_options=given)
        made.append(Client(("127.0.0.1", server.local_port)))
        return server, made[-1]

    yield connect
    for client in made:
        client.sock.close()


class Blocks(Handler):
    def handle_connection(self, socket):
        type(self).socket = socket

    def handle_data(self, data, socket):
        socket.send(data)

    def handle_info(self, message, socket):
        if callable(message):
            message()
        else:
            socket.send(message)


def half_way(server, client):
    """The server has heard the hello and answered; the rest is the client's."""
    client.begin_anew()
    assert eventually(lambda: client.sock.recv(1, socket.MSG_PEEK))


def test_what_a_callback_sends_meanwhile_arrives_after_it(connect):
    server, client = connect(Blocks)
    half_way(server, client)
    (connection,) = server.connections()
    connection.post(BLOCK)
    assert client.receive(len(BLOCK)) == BLOCK
    assert client.tls.total_renegotiations() == 1
    client.step(client.tls.send, b"more")
    assert client.receive(4) == b"more"


def test_it_arrives_though_another_has_read_what_the_send_waits_for(connect, monkeypatch):
    """Then no event comes of it for who sends what waits."""
    watch = EpollWrites.watch

    def tells_of_room_alone(self, fd, *, read):
        if read:
            self.forget(fd)
        else:
            watch(self, fd, read=False)

    monkeypatch.setattr(EpollWrites, "watch", tells_of_room_alone)
    server, client = connect(Blocks)
    half_way(server, client)
    (connection,) = server.connections()
    connection.post(BLOCK)
    assert client.receive(len(BLOCK)) == BLOCK


@pytest.mark.parametrize("when", ["before it is asked for", "while it is waited for"])
def test_what_another_thread_sends_does_too_and_the_owner_is_told_of_what_it_read(
    connect, monkeypatch, when
):
    told = []
    look_again = ConnectionTask.look_again
    monkeypatch.setattr(
        ConnectionTask, "look_again", lambda self: (told.append(self), look_again(self))
    )
    waits = threading.Event()
    wait_for = _waits.wait_for
    monkeypatch.setattr(
        _waits, "wait_for", lambda *given, **named: (waits.set(), wait_for(*given, **named))[1]
    )
    server, client = connect(Blocks)
    half_way(server, client)
    (connection,) = server.connections()
    inside, go = threading.Event(), threading.Event()
    connection.post(lambda: (inside.set(), go.wait(10)))  # so nobody else reads
    assert inside.wait(10)
    sender = threading.Thread(target=Blocks.socket.send, args=(BLOCK,))
    if when == "before it is asked for":
        client.answer()
        sender.start()
    else:
        sender.start()
        assert waits.wait(10)
    assert client.receive(len(BLOCK)) == BLOCK
    sender.join()
    go.set()
    assert told
    client.step(client.tls.send, b"more")
    assert client.receive(4) == b"more"


def test_a_client_that_leaves_in_the_middle_ends_the_send(connect):
    server, client = connect(Blocks)
    half_way(server, client)
    (connection,) = server.connections()
    connection.post(BLOCK)
    client.sock.close()
    assert eventually(lambda: not server.connections())


# ---- while bytes wait -----------------------------------------------------------------------


@pytest.mark.parametrize("asks", ["before", "after"])
def test_what_waits_goes_out_exact_though_the_client_shakes_hands_anew(connect, asks):
    """It asks before anything waits, and answers when it does; or asks only then."""
    server, client = connect(Blocks, send_buffer=8_192)
    (connection,) = server.connections()
    if asks == "before":
        half_way(server, client)
    sent = BLOCK + b"pushed" + BLOCK
    connection.post(BLOCK)
    assert eventually(lambda: connection.unsent > 0 and server.info().busy_threads == 0)
    connection.send(b"pushed")
    if asks == "after":
        client.begin_anew()
    connection.send(BLOCK)
    assert client.receive(len(sent)) == sent
    assert eventually(lambda: client.step(client.tls.send, b"more") is not None)
    assert client.receive(4) == b"more"
    assert client.tls.total_renegotiations() == 1
    assert eventually(lambda: connection.unsent == 0)


def test_a_client_that_leaves_while_bytes_wait_ends_it(connect):
    server, client = connect(Blocks, send_buffer=8_192)
    (connection,) = server.connections()
    half_way(server, client)
    connection.post(BLOCK)
    assert eventually(lambda: connection.unsent > 0 and server.info().busy_threads == 0)
    client.sock.close()
    assert eventually(lambda: not server.connections())
