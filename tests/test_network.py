"""The network itself: delay, loss, packets out of order, a cable that is pulled.

In two network namespaces; see `tests.network`."""

import contextlib
import errno
import os
import socket
import ssl
import struct
import threading
import time

import pytest

from tests import network
from tests.support import Echo, echoes, eventually, exchange, journal, running
from thousand_island_sync import TLS, Handler, HandshakeError, SocketError, SocketTimeout

pytestmark = pytest.mark.heavy


@pytest.fixture
def net():
    made = network.make()
    yield made
    made.close()


@pytest.fixture
def near(net, serve):
    """Serves a handler on the near side."""
    with contextlib.ExitStack() as stack:

        def start(handler_cls, more=None, **options):
            listener = stack.enter_context(net.near.listener())
            given = {"sockets": [listener], **(more or {})}
            return serve(handler_cls, transport_options=given, **options)

        yield start


@pytest.fixture
def far(net):
    """Connects a client on the far side."""
    with contextlib.ExitStack() as stack:

        def connect(server, context=None):
            sock = stack.enter_context(net.far.connect(server.local_address))
            if context is not None:
                sock = context.wrap_socket(sock, server_hostname="localhost")
                stack.enter_context(sock)
            return sock

        yield connect


VERSIONS = pytest.mark.parametrize(
    "version", [None, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["tcp", "1.2", "1.3"]
)


@VERSIONS
def test_what_is_lost_late_and_out_of_order_arrives_exactly(version, net, near, far, authority):
    net.cable.delay, net.cable.loss, net.cable.reorder = 0.003, 0.02, 0.1
    context, options, more = None, {}, None
    if version is not None:
        context = authority.client_context(version)
        options, more = {"transport_cls": TLS}, authority.options
    server = near(Echo, more, **options)
    data = os.urandom(300_000)

    def visit():
        assert exchange(far(server, context), data, len(data), 60) == data

    with running(*[visit] * 4):
        pass
    assert net.cable.lost > 20


def test_many_short_connections_over_a_bad_cable(net, near, far):
    net.cable.delay, net.cable.loss = 0.005, 0.02
    server = near(Echo)
    with running(*[lambda: [echoes(far(server)) for _ in range(10)]] * 8):
        pass
    assert server.info().accepted_total == 80


def test_f10_keepalive_ends_a_dead_peer_on_time(net, near, far, record):
    """Idle, interval and count say when: 1 + 2 x 1 seconds."""
    recorder = record("handler.shutdown", "handler.error")
    socks = []

    class Notes(journal(Echo)):
        def handle_connection(self, socket):
            socks.append(socket)

    def nothing_under_way():  # tcpi_unacked: then it is no keepalive that would be waited for
        info = socks[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
        return struct.unpack_from("=I", info, 24) == (0,)

    more = {"keepalive_idle_s": 1, "keepalive_interval_s": 1, "keepalive_count": 2}
    server = near(Notes, more)
    sock = far(server)
    echoes(sock)
    assert eventually(nothing_under_way)
    net.cable.pulled = True
    began = time.monotonic()
    assert eventually(lambda: server.info().active_connections == 0, 10)
    assert 2.5 < time.monotonic() - began < 4.5
    assert len(recorder.told) == 1
    assert Notes.names()[-1] == "end"


def test_a_connection_without_news_lives_through_a_short_break(net, near, far):
    server = near(Echo)
    sock = far(server)
    echoes(sock)
    net.cable.pulled = True
    sock.sendall(b"while it was pulled")
    threading.Event().wait(0.3)
    net.cable.pulled = False
    received = b""
    while len(received) < 19:
        received += sock.recv(100)
    assert received == b"while it was pulled"


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
def test_b4_send_timeout_is_total_when_the_cable_is_pulled(secure, net, near, far, authority):
    caught, began = [], []

    class Sends(journal()):
        def handle_data(self, data, socket):
            net.cable.pulled = True
            began.append(time.monotonic())
            try:
                socket.send(bytes(50_000_000))
            except SocketTimeout as error:
                caught.append((time.monotonic() - began[0], error))
                raise

    options = {"transport_cls": TLS} if secure else {}
    server = near(Sends, authority.options if secure else None, send_timeout_ms=1_000, **options)
    sock = far(server, authority.client_context() if secure else None)
    sock.sendall(b"x")
    assert Sends.ended()
    ((took, error),) = caught
    assert 0.9 < took < 1.5
    assert 0 < error.bytes_sent < 50_000_000
    assert Sends.names() == ["error", "end"]
    assert eventually(lambda: server.info().active_connections == 0)


def test_user_timeout_ends_a_send_that_nobody_acknowledges(net, near, far):
    caught = []

    class Sends(journal()):
        def handle_data(self, data, socket):
            net.cable.pulled = True
            socket.send(b"x" * 1_000)
            began = time.monotonic()
            try:
                socket.recv(timeout_ms=20_000)
            except SocketError as error:
                caught.append((time.monotonic() - began, error))
                raise

    server = near(Sends, {"user_timeout_ms": 1_000})
    far(server).sendall(b"x")
    assert eventually(lambda: caught, 15)
    ((took, error),) = caught
    assert error.errno == errno.ETIMEDOUT
    assert took < 5
    assert Sends.ended()


def test_the_read_timeout_ends_a_peer_that_has_vanished(net, near, far):
    Base = journal(Echo)
    server = near(Base, read_timeout_ms=500)
    sock = far(server)
    echoes(sock)
    net.cable.pulled = True
    began = time.monotonic()
    sock.sendall(b"lost")
    assert Base.ended()
    assert time.monotonic() - began < 1.5
    assert Base.names() == ["timeout", "end"]


def test_a5_a_handshake_whose_cable_is_pulled_ends_at_its_timeout(net, near, far, authority):
    Base = journal()
    net.cable.delay = 0.02
    server = near(Base, authority.options, transport_cls=TLS, handshake_timeout_ms=600)
    sock = far(server)
    began = time.monotonic()
    sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    assert eventually(lambda: server.info().active_connections == 1)
    net.cable.pulled = True
    assert Base.ended()
    assert 0.4 < time.monotonic() - began < 1.3
    assert isinstance(Base.lines[0][1], HandshakeError)


def test_a_stop_bears_peers_that_cannot_be_reached(net, near, far, record):
    """What they were sent is with the kernel; nobody waits for their answer."""
    recorder = record("socket.close")

    class Floods(Handler):
        def handle_data(self, data, socket):
            socket.send(b"x" * 10_000)

    server = near(Floods)
    socks = [far(server) for _ in range(5)]
    for sock in socks:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
    net.cable.pulled = True
    began = time.monotonic()
    assert server.stop(3_000) is True
    assert time.monotonic() - began < 1
    assert len(recorder.told) == 5


def test_a_client_that_came_back_with_the_same_port_is_a_new_one(net, near, far):
    """Half open: the client's machine was restarted and knows nothing of the old one."""
    Base = journal(Echo)
    server = near(Base)
    with net.far.entered():
        old = socket.socket()
        old.bind(("10.77.0.2", 40_000))
        old.connect(server.local_address)
    echoes(old)
    net.cable.pulled = True
    old.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    old.close()  # its RST is lost
    net.cable.pulled = False
    with net.far.entered():
        new = socket.socket()
        new.settimeout(20)
        new.bind(("10.77.0.2", 40_000))
        new.connect(server.local_address)
    echoes(new)
    new.close()
    assert eventually(lambda: server.info().active_connections == 0)
    assert Base.names().count("end") == 2
