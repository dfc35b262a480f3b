"""How an encrypted stream ends: whole, with the peer's close_notify, or cut short. An RST can be
forged by anyone on the way, so what it ends is as little whole as what a bare FIN ends."""

import contextlib
import socket
import ssl

import pytest

from tests.support import eventually, go_by, reset
from thousand_island_sync import TLS, Close, Handler, SocketClosed

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class Delivered(Handler):
    """Is given what comes, and gone when it ends."""

    def handle_data(self, data, socket):
        socket.send(data)

    def handle_end(self, socket):
        self.options.append(socket.truncated)


class Loops(Delivered):
    """Waits for the end in a `recv`."""

    def handle_connection(self, socket):
        socket.send(socket.recv())
        with contextlib.suppress(SocketClosed):
            while socket.recv():
                pass
        return Close()


class Sends(Delivered):
    """Does not read: meets the end in a `send`."""

    def handle_data(self, data, socket):
        socket.send(data)
        while True:
            socket.send(bytes(65_536), timeout_ms=10_000)


def send_close_notify(sock):
    with contextlib.suppress(OSError):
        sock.settimeout(0.05)
        sock.unwrap()


def end_bare(sock):
    socket.socket.shutdown(sock, socket.SHUT_WR)
    sock.close()


def leave_tickets_unread(sock):
    """The kernel resets who closes with something unread."""
    sock.close()


ENDS = {
    "close_notify": (send_close_notify, False),
    "FIN": (end_bare, True),
    "RST": (reset, True),
    "unread": (leave_tickets_unread, True),
}


@pytest.fixture(params=["quick", "public"])
def way(request, monkeypatch):
    go_by(monkeypatch, request.param)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("handler_cls", [Delivered, Loops])
def test_g11_only_a_close_notify_makes_it_whole(
    handler_cls, end, version, way, serve, authority, secure
):
    truncated = []
    options = {"transport_cls": TLS, "transport_options": authority.options}
    server = serve(handler_cls, handler_options=truncated, **options)
    sock = secure(server, authority.client_context(version))
    sock.sendall(b"x" * 1_000)
    if end != "unread":
        assert sock.recv(9)
    leave, cut_short = ENDS[end]
    leave(sock)
    assert eventually(lambda: truncated == [cut_short]), truncated


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_g11_a_send_that_meets_the_reset_tells_too(version, way, serve, authority, secure):
    truncated = []
    options = {"transport_cls": TLS, "transport_options": authority.options}
    server = serve(Sends, handler_options=truncated, **options)
    sock = secure(server, authority.client_context(version))
    sock.sendall(b"x")
    assert sock.recv(1) == b"x"
    reset(sock)
    assert eventually(lambda: truncated == [True]), truncated


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_whoever_ends_both_ways_itself_is_cut_by_nobody(version, way, serve, authority, secure):
    """A send behind our own goodbye fails, and says nothing of the peer's stream."""
    seen = []

    class ShutsWriting(Handler):
        def handle_data(self, data, socket):
            socket.shutdown("write")
            with pytest.raises(SocketClosed):
                socket.send(b"too late")
            seen.append(socket.truncated)

    options = {"transport_cls": TLS, "transport_options": authority.options}
    server = serve(ShutsWriting, **options)
    sock = secure(server, authority.client_context(version))
    sock.sendall(b"x")
    assert eventually(lambda: seen == [False]), seen
