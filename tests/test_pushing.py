"""`Connection.send` and `Connection.unsent`: from any thread, never waiting."""

import contextlib
import threading
import time
from collections import Counter

import pytest

from tests.support import Noting, eventually, names, receive, receive_all, running
from thousand_island_sync import (
    TLS,
    Close,
    Handler,
    MailboxFull,
    SendBufferFull,
    SocketClosed,
    SocketError,
    SwitchTransport,
)

CHUNK = b"0123456789abcdef" * 4_096


class Quiet(Noting):
    """Notes its connections and how they end."""

    def handle_data(self, data, socket):
        socket.send(data)

    def handle_error(self, reason, socket):
        self.noted.append(("error", reason))

    def handle_close(self, socket):
        self.noted.append(("close", None))


@pytest.fixture
def noted():
    return []


def only(server):
    assert eventually(server.connections)
    (connection,) = server.connections()
    return connection


def fill(connection):
    """Sends until it is full; how many bytes were taken."""
    sent = 0
    while True:
        try:
            sent += connection.send(CHUNK[:16_384])
        except SendBufferFull:
            return sent


@pytest.fixture
def joined(wire, noted):
    """A server, a client of its that has said nothing, and the connection."""
    server = wire.serve(Quiet, handler_options=noted)
    sock = wire.connect(server)
    assert eventually(lambda: names(noted) == ["connection"])
    return server, sock, only(server)


def test_what_is_sent_arrives_and_is_counted(joined, noted):
    _, sock, connection = joined
    assert connection.send(b"one ") == 4
    assert connection.send([b"two ", bytearray(b"three"), memoryview(b"!")]) == 10
    assert receive(sock, 14) == b"one two three!"
    assert (connection.unsent, noted[0][1].stats().bytes_sent) == (0, 14)


def test_what_finds_no_room_is_refused_whole(joined):
    """Whatever the kernel would take: so it can be foretold."""
    _, sock, connection = joined
    with pytest.raises(SendBufferFull, match="262145 bytes") as raised:
        connection.send(b"x" * 262_145)
    assert isinstance(raised.value, SocketError)
    assert connection.send(b"y" * 262_144) == 262_144
    assert receive(sock, 262_144) == b"y" * 262_144


def test_a_full_buffer_refuses_and_takes_again_when_it_was_read(joined):
    _, sock, connection = joined
    sent = fill(connection)
    unsent = connection.unsent
    assert 262_144 - 16_384 < unsent <= 262_144
    with pytest.raises(SendBufferFull):
        connection.send(b"x" * (262_144 - unsent + 1))
    expected = (CHUNK[:16_384] * (sent // 16_384 + 1))[:sent]
    assert receive(sock, sent) == expected
    assert eventually(lambda: connection.unsent == 0)
    connection.send(b"more")
    assert receive(sock, 4) == b"more"


def test_it_never_waits_though_a_send_of_another_thread_does(joined, noted):
    _, sock, connection = joined
    whole = b"a" * (16 << 20)
    worker = threading.Thread(target=noted[0][1].send, args=(whole,))
    worker.start()
    assert eventually(lambda: connection.unsent > 200_000)
    began = time.monotonic()
    refused = taken = 0
    for _ in range(10):
        try:
            taken += connection.send(b"b" * 1_000)
        except SendBufferFull:
            refused += 1
    assert time.monotonic() - began < 1
    assert taken + 1_000 * refused == 10_000
    assert receive(sock, len(whole) + taken) == whole + b"b" * taken
    worker.join(10)


def test_the_bytes_are_a_copy(joined):
    _, sock, connection = joined
    sent = 0
    while not connection.unsent:
        sent += connection.send(CHUNK)
    data = bytearray(b"z" * 4_000)
    connection.send(data)
    data[:] = b"!" * 4_000
    assert receive(sock, sent + 4_000)[-4_000:] == b"z" * 4_000


def test_many_threads_send_and_each_piece_stays_whole(joined):
    _, sock, connection = joined
    pieces = {letter: bytes([letter]) * 997 for letter in b"abcdefgh"}

    def push(letter):
        for _ in range(100):
            while True:
                try:
                    connection.send(pieces[letter])
                    break
                except SendBufferFull:
                    time.sleep(0.001)

    with running(*[lambda letter=letter: push(letter) for letter in pieces]):
        data = receive(sock, 997 * 100 * len(pieces))
    found = Counter(data[at : at + 997] for at in range(0, len(data), 997))
    assert found == dict.fromkeys(pieces.values(), 100)


@pytest.mark.parametrize("wrong", ["text", 5, [b"x", "text"]])
def test_what_is_no_bytes_is_refused(joined, wrong):
    _, sock, connection = joined
    with pytest.raises(TypeError):
        connection.send(wrong)
    connection.send(b"still open")
    assert receive(sock, 10) == b"still open"


def test_nothing_is_sent_for_no_bytes(joined):
    _, sock, connection = joined
    assert connection.send(b"") == 0
    assert connection.send([]) == 0
    connection.send(b"x")
    assert receive(sock, 1) == b"x"


def test_it_tells_when_the_connection_has_ended(joined, noted):
    _, sock, connection = joined
    sock.close()
    assert eventually(lambda: "end" in names(noted))
    with pytest.raises(SocketClosed):
        connection.send(b"x")
    assert connection.unsent == 0


def test_a_last_callback_may_send_and_nothing_comes_behind(wire):
    after = []

    class Parting(Handler):
        def handle_data(self, data, socket):
            return Close()

        def handle_close(self, socket):
            socket.connection.send(b"goodbye")

        def handle_end(self, socket):
            try:
                socket.connection.send(b"too late")
            except SocketClosed:
                after.append("refused")

    server = wire.serve(Parting)
    sock = wire.connect(server)
    sock.sendall(b"x")
    assert receive_all(sock) == b"goodbye"
    assert eventually(lambda: after == ["refused"])


def test_close_lets_what_waits_go_out_first(joined, noted):
    _, sock, connection = joined
    sent = fill(connection)
    connection.close()
    assert eventually(lambda: "shutdown" in names(noted))

    def refused():
        try:
            connection.send(b"x")
        except SocketClosed:
            return True
        except SendBufferFull:
            return False

    assert eventually(refused)
    assert len(receive_all(sock)) == sent
    assert eventually(lambda: names(noted)[-1] == "end")


def test_abort_drops_what_waits(joined, noted):
    server, sock, connection = joined
    sent = fill(connection)
    connection.close(abort=True)
    assert eventually(lambda: names(noted)[-1] == "end")
    assert server.info().active_connections == 0
    with contextlib.suppress(OSError):  # a reset, perhaps
        assert len(receive_all(sock)) < sent


def test_what_is_sent_during_a_handshake_goes_out_encrypted(serve, client, authority):
    class Upgrades(Handler):
        def handle_data(self, data, socket):
            return SwitchTransport(TLS, authority.options)

    server = serve(Upgrades)
    sock = client(server)
    sock.sendall(b"x")
    connection = only(server)
    link = connection._inbox._link
    assert eventually(lambda: link.machine.handshake is not None)
    assert connection.send(b"early") == 5
    assert eventually(lambda: connection.unsent == 5)
    with authority.client_context().wrap_socket(sock, server_hostname="localhost") as secured:
        assert receive(secured, 5) == b"early"


@pytest.mark.parametrize("way", ["send", "post"])
def test_a_broker_with_twenty_slow_subscribers_answers_the_good_one(way, serve, client):
    """Eight threads; each publish goes to all, and none of the twenty reads."""

    class Broker(Handler):
        members: set = set()
        missed: list = []

        def handle_connection(self, socket):
            self.members.add(socket.connection)

        def handle_data(self, data, socket):
            for one in tuple(self.members):
                if one is not socket.connection:
                    try:
                        getattr(one, way)(CHUNK)
                    except (SendBufferFull, MailboxFull):
                        self.missed.append(one)
            socket.send(b"published")

        def handle_info(self, message, socket):
            socket.send(message)

        def handle_end(self, socket):
            self.members.discard(socket.connection)

    server = serve(Broker, max_handler_threads=8, max_pending_messages=20)
    slow = [client(server) for _ in range(20)]
    assert eventually(lambda: len(Broker.members) == 20)
    good = client(server)
    longest = 0.0
    for _ in range(200):
        began = time.monotonic()
        good.sendall(b"x")
        assert receive(good, 9) == b"published"
        longest = max(longest, time.monotonic() - began)
    assert longest < 0.3
    assert len(set(Broker.missed)) == 20
    assert eventually(lambda: server.info().busy_threads == 0)
    for sock in slow:
        sock.close()
