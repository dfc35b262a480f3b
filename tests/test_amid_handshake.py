"""Connections that end amid a handshake: what was kept to be sent does not hold them."""

import threading
import time

import pytest

from tests.support import eventually, names, receive, receive_all
from thousand_island_sync import TLS, Handler, SocketClosed, SwitchTransport
from thousand_island_sync._connection.handshake import Handshake
from thousand_island_sync._scheduler.scheduler import Scheduler
from thousand_island_sync._stream.states import Sends

SMALL = {"send_buffer": 8_192, "host": "127.0.0.1"}
SIZES = [b"BYE;", bytes(1_000_000)]


class Speaks(Handler):
    """Sends, then reads, in its last callback; notes what came of it, in `handler_options`."""

    data = SIZES[0]
    reads = True

    def last(self, socket):
        for call in (lambda: socket.send(self.data), socket.recv)[: 1 + self.reads]:
            began = time.monotonic()
            try:
                call()
            except Exception as error:
                self.options.append((type(error), time.monotonic() - began))

    def handle_shutdown(self, socket):
        self.last(socket)

    def handle_close(self, socket):
        self.last(socket)

    def handle_error(self, reason, socket):
        self.last(socket)

    def handle_end(self, socket):
        self.options.append(("end", None))


class Upgrades(Speaks):
    def handle_data(self, data, socket):
        if data != b"at once":
            socket.send(bytes(6_000_000))
        return SwitchTransport(TLS, self.tls)


def only(server):
    assert eventually(server.connections)
    (connection,) = server.connections()
    return connection


def kept(connection):
    assert connection.send(b"early") == 5


def by_stop(server, sock, connection):
    assert eventually(lambda: not connection._inbox._link.client.is_young)
    assert server.stop() is True


ENDS = {
    "stop": by_stop,
    "close": lambda server, sock, connection: connection.close(),
    "abort": lambda server, sock, connection: connection.close(abort=True),
    "gone": lambda server, sock, connection: sock.close(),
    "garbage": lambda server, sock, connection: sock.sendall(b"GET / HTTP/1.0\r\n\r\n"),
    "timeout": lambda server, sock, connection: None,
}


@pytest.fixture
def handshaking(serve, client, authority, monkeypatch):
    """Begins a handshake with a silent client, as the way in or as an upgrade."""

    def begin(way, data=SIZES[0], **options):
        monkeypatch.setattr(Speaks, "data", data)
        monkeypatch.setattr(Upgrades, "tls", authority.options, raising=False)
        if way == "tls":
            options.update(transport_cls=TLS, transport_options=authority.options)
        noted = []
        handler_cls = Speaks if way == "tls" else Upgrades
        server = serve(handler_cls, handler_options=noted, **options)
        sock = client(server)
        connection = only(server)
        if way == "upgrade":
            sock.sendall(b"at once")
        assert eventually(lambda: server.info().handshaking == 1)
        return server, sock, connection, noted

    return begin


@pytest.mark.parametrize("early", [False, True], ids=["", "kept"])
@pytest.mark.parametrize("data", SIZES, ids=["short", "long"])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("way", ["tls", "upgrade"])
def test_what_is_sent_in_the_last_callback_does_not_hold_it(
    way, end, data, early, handshaking, record
):
    recorder = record("socket.send_error")
    options = {"handshake_timeout_ms": 100} if end == "timeout" else {}
    server, sock, connection, noted = handshaking(way, data, **options)
    if early:
        kept(connection)
    ENDS[end](server, sock, connection)
    assert eventually(lambda: names(noted)[-1:] == ["end"])
    sending, reading, _ = names(noted)
    assert issubclass(sending, SocketClosed)
    assert issubclass(reading, SocketClosed)
    assert max(took for _, took in noted[:2]) < 2
    assert server.info().active_connections == server.info().handshaking == 0
    lost = sum(told.measurements["bytes_lost"] for told in recorder.of("socket.send_error"))
    assert lost == (5 if early else 0)
    with pytest.raises(SocketClosed):
        connection.send(b"late")


def test_what_others_have_sent_does_not_hold_one_that_says_nothing(
    serve, client, authority, record
):
    recorder = record("socket.send_error")
    server = serve(Handler, transport_cls=TLS, transport_options=authority.options)
    client(server)
    connection = only(server)
    kept(connection)
    connection.close()
    assert eventually(lambda: server.info().active_connections == 0)
    (told,) = recorder.of("socket.send_error")
    assert told.measurements["bytes_lost"] == 5
    assert "ended during the handshake" in str(told.measurements["error"])


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("end", ["close", "stop"])
def test_before_an_upgrade_only_what_comes_first_goes_out(
    end, reads, serve, client, authority, monkeypatch, record
):
    """In plain; what was to follow encrypted does not."""
    monkeypatch.setattr(Speaks, "reads", False)
    monkeypatch.setattr(Upgrades, "tls", authority.options, raising=False)
    recorder, noted = record("socket.send_error"), []
    server = serve(Upgrades, handler_options=noted, max_unsent=8_000_000, transport_options=SMALL)
    sock = client(server)
    sock.sendall(b"x")
    connection = only(server)
    assert eventually(lambda: connection.unsent > 0)
    task = connection._inbox._link
    assert eventually(lambda: task.machine.handshake is not None)
    buffer = task.machine.stream.writer.buffer
    assert eventually(lambda: buffer.sends is Sends.UPGRADING)
    connection.send(b"secret")  # what is ahead of it may still go out
    assert eventually(lambda: buffer.size - buffer.ahead == 6)
    if end == "close":
        connection.close()
        assert eventually(lambda: noted)
    if reads:
        assert receive(sock, 6_000_000) == bytes(6_000_000)
        if end == "close":
            assert receive_all(sock) == b""
    began = time.monotonic()
    assert server.stop() is True
    assert time.monotonic() - began < 5
    assert issubclass(names(noted)[0], SocketClosed)
    lost = sum(told.measurements["bytes_lost"] for told in recorder.of("socket.send_error"))
    assert lost == 6 if reads else lost > 6
    assert b"secret" not in receive_all(sock)


def test_what_is_sent_before_the_first_step_of_an_upgrade_does_not_go_out_in_plain(
    serve, client, authority, monkeypatch
):
    monkeypatch.setattr(Upgrades, "tls", authority.options, raising=False)
    server = serve(Upgrades, handler_options=[], max_unsent=8_000_000, transport_options=SMALL)
    sent, step = [], Handshake.step

    def late(handshake):
        if handshake._next is not None and not sent:
            another = threading.Thread(target=server.connections()[0].send, args=(b"secret",))
            another.start()
            another.join(10)
            sent.append(b"secret")
        return step(handshake)

    monkeypatch.setattr(Handshake, "step", late)
    sock = client(server)
    sock.sendall(b"x")
    assert receive(sock, 6_000_000) == bytes(6_000_000)
    assert sent
    assert server.stop() is True
    assert receive_all(sock) == b""


def test_one_for_whom_the_poller_has_no_room_is_not_counted_for_good(
    serve, client, authority, monkeypatch
):
    def refuses(self, task):
        raise OSError(28, "No space left on device")

    server = serve(Handler, transport_cls=TLS, transport_options=authority.options)
    monkeypatch.setattr(Scheduler, "attach", refuses)
    assert receive_all(client(server)) == b""
    assert eventually(lambda: server.info().active_connections == 0)
    assert server.info().handshaking == 0
