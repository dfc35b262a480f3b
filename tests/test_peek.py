"""MSG_PEEK: what is looked at stays where it is, so whoever comes next finds it."""

import queue
import socket as stdlib_socket
import ssl
import subprocess
import sys

import pytest

from tests.support import eventually, receive, received, task_of
from thousand_island_sync import (
    TLS,
    Close,
    Continue,
    Handler,
    NotSupported,
    SocketTimeout,
    SwitchTransport,
)
from thousand_island_sync._base.unread import unread_bytes

PEEK = stdlib_socket.MSG_PEEK


class Asked(Handler):
    """Does in `handle_connection` what its options say, and puts the result into a queue."""

    def handle_connection(self, socket):
        call, results = self.options
        results.put(call(socket))
        return self.after()

    def after(self):
        return Close()


@pytest.fixture
def within(wire):
    """Runs a call inside a callback, with a client that has sent what it is given."""

    def run(call, *sent, handler_cls=Asked):
        results = queue.SimpleQueue()
        server = wire.serve(handler_cls, handler_options=(call, results))
        run.client = wire.connect(server)
        for data in sent:
            run.client.sendall(data)
        return results.get(timeout=10)

    run.wire = wire
    return run


def in_the_kernel(socket):
    return unread_bytes(socket._stream.sock)


def test_what_is_peeked_comes_again(within):
    def read(socket):
        looked = socket.recv(3, PEEK), socket.recv(2, PEEK), socket.recv(100, PEEK)
        return looked, socket.recv(3), socket.recv(3), socket.stats().bytes_received

    looked, first, second, received = within(read, b"abcdef")
    assert looked[:2] == (b"abc", b"ab")
    assert b"abcdef".startswith(looked[2])
    assert (first + second)[:6] == b"abcdef"
    assert received >= 6


def test_g9_on_plain_sockets_the_bytes_stay_in_the_kernel(within):
    def read(socket):
        first = socket.recv(1, PEEK)
        return first, in_the_kernel(socket), socket.stats().bytes_received

    expected = (b"a", False, 6) if within.wire.secure else (b"a", True, 0)
    assert within(read, b"abcdef") == expected


def test_unread_bytes_are_seen_first(within):
    def read(socket):
        socket.unread(socket.recv(3))
        return socket.recv(100, PEEK), socket.recv(2, PEEK), socket.recv(3)

    assert within(read, b"abc") == (b"abc", b"ab", b"abc")


def test_it_waits_for_bytes_and_no_longer_than_it_is_told(within, stopwatch):
    def read(socket):
        with pytest.raises(SocketTimeout):
            socket.recv(1, PEEK, timeout_ms=100)
        waited = stopwatch()
        with pytest.raises(BlockingIOError):
            socket.recv(1, PEEK | stdlib_socket.MSG_DONTWAIT)
        socket.send(b"go")
        return waited, socket.recv(100, PEEK)

    results = queue.SimpleQueue()
    server = within.wire.serve(Asked, handler_options=(read, results))
    sock = within.wire.connect(server)
    assert receive(sock, 2) == b"go"
    sock.sendall(b"x")
    waited, looked = results.get(timeout=5)
    assert 0.1 <= waited < 5
    assert looked == b"x"


def test_what_was_peeked_is_delivered_when_the_callback_returns(within):
    class Delivers(Asked):
        def after(self):
            return Continue()

        def handle_data(self, data, socket):
            socket.send(b"got " + data)

    assert within(lambda s: s.recv(1, PEEK), b"abc", handler_cls=Delivers) == b"a"
    assert receive(within.client, 7) == b"got abc"


def test_what_was_peeked_later_in_a_callback_is_delivered_after_it(within):
    """The poller has told of it already, and tells once."""

    class LooksAhead(Asked):
        def after(self):
            return Continue()

        def handle_data(self, data, socket):
            if data == b"first":
                socket.send(b"more?")
                data = socket.recv(64, PEEK)
                socket.send(b"saw " + data)
            else:
                socket.send(b"got " + data)

    within(lambda s: None, handler_cls=LooksAhead)
    sock = within.client
    sock.sendall(b"first")
    assert receive(sock, 5) == b"more?"
    sock.sendall(b"second")
    assert receive(sock, 20) == b"saw secondgot second"


def test_the_end_of_the_stream(within):
    got = queue.SimpleQueue()

    class SeesTheEnd(Asked):
        def after(self):
            return Continue()

        def handle_eof(self, socket):
            got.put("eof")
            return Close()

    results = queue.SimpleQueue()
    call = (lambda s: (s.recv(9, PEEK), s.recv(9)), results)
    server = within.wire.serve(SeesTheEnd, handler_options=call)
    within.wire.end(within.wire.connect(server))
    assert results.get(timeout=5) == (b"", b"")
    assert got.get(timeout=5) == "eof"
    assert got.empty()


def test_a_peek_for_all_of_it_is_told_apart(within):
    def read(socket):
        first = socket.recv(1)
        with pytest.raises(NotSupported, match="MSG_WAITALL"):
            socket.recv(5, PEEK | stdlib_socket.MSG_WAITALL)
        return first, socket.recv(0, PEEK)

    assert within(read, b"abc") == (b"a", b"")


@pytest.mark.parametrize("host", ["127.0.0.1", "unix"])
def test_a_child_that_gets_the_descriptor_sees_what_was_peeked(host, serve, client, tmp_path):
    def give(socket):
        first = socket.recv(1, PEEK)
        child = subprocess.run(
            [sys.executable, "-c", "import os; print(os.read(0, 100))"],
            stdin=socket.fileno(),
            capture_output=True,
            text=True,
            check=True,
        )
        return first, child.stdout.strip()

    results = queue.SimpleQueue()
    where = f"unix:{tmp_path}/socket" if host == "unix" else host
    server = serve(Asked, handler_options=(give, results), host=where)
    client(server).sendall(b"for a child")
    assert results.get(timeout=10) == (b"f", "b'for a child'")


# ---- TLS and plaintext on one port ----------------------------------------------


class ByPeek(Handler):
    """A TLS record that begins a handshake has 22 in front (RFC 8446, 5.1)."""

    def handle_connection(self, socket):
        if socket.recv(1, PEEK) == b"\x16":
            return SwitchTransport(TLS, self.options)
        return None

    def handle_data(self, data, socket):
        socket.send((b"secure " if socket.secure else b"plain ") + data)


class ByInitial(Handler):
    """The same, without waiting for the first byte in a callback."""

    def handle_data(self, data, socket):
        if not socket.secure and data[:1] == b"\x16":
            return SwitchTransport(TLS, self.options, initial=data)
        socket.send((b"secure " if socket.secure else b"plain ") + data)
        return None


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("host", ["127.0.0.1", "unix"])
@pytest.mark.parametrize("handler_cls", [ByPeek, ByInitial])
def test_g9_both_are_served(handler_cls, host, version, serve, client, authority, tmp_path):
    where = f"unix:{tmp_path}/socket" if host == "unix" else host
    server = serve(handler_cls, handler_options=TLS.prepare(**authority.options), host=where)
    context = authority.client_context(ssl.TLSVersion[version])
    for _ in range(3):
        plain = client(server)
        plain.sendall(b"hello")
        assert receive(plain, 11) == b"plain hello"
        with context.wrap_socket(client(server), server_hostname="localhost") as secure:
            secure.sendall(b"hello")
            assert receive(secure, 12) == b"secure hello"
            secure.sendall(b"again")
            assert receive(secure, 12) == b"secure again"


class _InPieces:
    """A client's half of a handshake through memory, so that it arrives as the test likes."""

    def __init__(self, context, sock):
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.sock = sock

    def hello(self):
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self.outgoing.read()

    def finish(self):
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.sock.sendall(self.outgoing.read())
                self.incoming.write(self.sock.recv(1 << 16))
        self.sock.sendall(self.outgoing.read())

    def ask(self, data):
        self.tls.write(data)
        self.sock.sendall(self.outgoing.read())
        while True:
            try:
                return self.tls.read(100)
            except ssl.SSLWantReadError:
                self.incoming.write(self.sock.recv(1 << 16))


@pytest.mark.parametrize("first", [1, 3, 5, 6, 100])
def test_g16_initial_may_end_anywhere_in_a_record(first, serve, client, authority):
    server = serve(ByInitial, handler_options=TLS.prepare(**authority.options))
    sock = client(server)
    peer = _InPieces(authority.client_context(), sock)
    hello = peer.hello()
    sock.sendall(hello[:first])
    assert eventually(
        lambda: any(task_of(one).machine.socket.secure for one in server.connections())
    )
    sock.sendall(hello[first:])
    peer.finish()
    assert peer.ask(b"whole") == b"secure whole"


#: MySQL's packet that asks for TLS: 32 bytes behind their length and a number.
SSL_REQUEST = b"\x20\x00\x00\x01" + bytes(32)


class LikeMySQL(Handler):
    """Greets, is asked for TLS, and may have got the client's hello together with that."""

    def handle_connection(self, socket):
        socket.send(b"greeting")

    def handle_data(self, data, socket):
        if socket.secure:
            socket.send(b"secure " + data)
        elif len(data) < len(SSL_REQUEST):
            socket.unread(data)
        else:
            assert data.startswith(SSL_REQUEST)
            return SwitchTransport(TLS, self.options, initial=data[len(SSL_REQUEST) :])
        return None


@pytest.mark.parametrize("host", ["127.0.0.1", "unix"])
@pytest.mark.parametrize("cut", [0, 10, 36, 40, 10_000], ids="cut-at-{}".format)
def test_a_hello_behind_mysqls_request_begins_the_handshake(
    cut, host, serve, client, authority, tmp_path
):
    where = f"unix:{tmp_path}/socket" if host == "unix" else host
    server = serve(LikeMySQL, handler_options=TLS.prepare(**authority.options), host=where)
    sock = client(server)
    assert receive(sock, 8) == b"greeting"
    peer = _InPieces(authority.client_context(), sock)
    both = SSL_REQUEST + peer.hello()
    sock.sendall(both[:cut])
    if cut <= len(SSL_REQUEST):
        assert eventually(lambda: received(server, cut))
    sock.sendall(both[cut:])
    peer.finish()
    assert peer.ask(b"hello") == b"secure hello"


def test_initial_is_bytes():
    assert SwitchTransport(TLS, {}).initial == b""
    assert SwitchTransport(TLS, {}, initial=bytearray(b"ab")).initial == b"ab"
    for wrong in ("text", 5, None):
        with pytest.raises(TypeError):
            SwitchTransport(TLS, {}, initial=wrong)


def test_initial_bytes_of_a_plain_transport_are_delivered(serve, client):
    from thousand_island_sync import TCP

    class Restarts(Handler):
        def handle_data(self, data, socket):
            if data == b"switch":
                return SwitchTransport(TCP, {}, initial=b"first ")
            socket.send(data)
            return None

    sock = client(serve(Restarts))
    sock.sendall(b"switch")
    assert receive(sock, 6) == b"first "
    sock.sendall(b"more")
    assert receive(sock, 4) == b"more"


def test_g16_a_handshake_that_fails_says_how_many_bytes_were_dropped(
    serve, client, authority, record
):
    """A client that sends its first encrypted bytes right behind the request for encryption."""

    class StartTLS(Handler):
        def handle_data(self, data, socket):
            _, _, rest = data.partition(b"\n")
            socket.unread(rest)
            return SwitchTransport(TLS, self.options)

    recorder = record("socket.handshake_error")
    server = serve(
        StartTLS, handler_options=TLS.prepare(**authority.options), handshake_timeout_ms=200
    )
    client(server).sendall(b"STARTTLS\n" + b"\x16" * 17)
    (told,) = recorder.wait_for("socket.handshake_error")
    assert "17 bytes" in str(told.measurements["error"])
    assert "initial=" in str(told.measurements["error"])
