"""Peers that do not read: what is sent to them waits, and holds no thread."""

import functools
import socket
import ssl
import threading

import pytest

from tests.support import eventually, journal, receive, receive_all, reset, running
from thousand_island_sync import (
    TLS,
    Close,
    Handler,
    SendBufferFull,
    SocketClosed,
    SocketTimeout,
    SwitchTransport,
)
from thousand_island_sync._stream.keeping import Keeping

#: A small buffer of the kernel's, so that little fills it.
SMALL = {"send_buffer": 8_192}
BLOCK = 50_000


def block(number):
    return bytes([number % 251]) * BLOCK


def blocks(count):
    return b"".join(map(block, range(count)))


class Sends(Handler):
    """Sends as many blocks as each byte says; their bytes tell their places."""

    def handle_connection(self, socket):
        self.count = 0

    def handle_data(self, data, socket):
        for number in data:
            for _ in range(number):
                self.count += 1
                socket.send(block(self.count - 1))


@pytest.fixture
def slow(wire):
    """Serves a handler on every wire, with small kernel buffers; a client that reads when told."""

    def start(handler_cls=Sends, **options):
        server = wire.serve(handler_cls, transport_options=SMALL, **options)
        return server, wire.connect(server)

    return start


def writer_of(server):
    (connection,) = server.connections()
    return connection._inbox._link.machine.stream.writer


def unsent(server):
    return sum(
        writer.buffer.size
        for one in server.connections()
        if (writer := one._inbox._link.machine.stream.writer).buffer is not None
    )


def at_rest(server):
    """Whether bytes wait, and no thread does."""
    return unsent(server) > 0 and server.info().busy_threads == 0


# ---- what waits goes out ----------------------------------------------------------


def test_what_finds_no_room_waits_and_holds_no_thread(slow):
    server, sock = slow()
    sock.sendall(bytes([4]))
    assert eventually(lambda: at_rest(server))
    assert 0 < unsent(server) <= 262_144
    assert receive(sock, 4 * BLOCK) == blocks(4)
    assert eventually(lambda: unsent(server) == 0)


def test_the_stream_is_exact_however_it_came_about(slow):
    _, sock = slow()
    sock.sendall(bytes([1, 3, 9, 30, 1]))
    assert receive(sock, 44 * BLOCK) == blocks(44)
    sock.sendall(bytes([2]))
    assert receive(sock, 2 * BLOCK) == blocks(46)[44 * BLOCK :]


def test_it_goes_out_while_the_callback_that_sent_it_goes_on(slow):
    may_end = threading.Event()

    class Waits(Sends):
        def handle_data(self, data, socket):
            super().handle_data(data, socket)
            may_end.wait(20)

    _, sock = slow(Waits)
    sock.sendall(bytes([4]))
    assert receive(sock, 4 * BLOCK) == blocks(4)
    may_end.set()


def test_a_callback_that_receives_gets_its_answer_although_bytes_wait(slow):
    class Asks(Sends):
        def handle_data(self, data, socket):
            super().handle_data(data, socket)
            socket.send(socket.recv_exactly(3))

    _, sock = slow(Asks)
    sock.sendall(bytes([4]))
    assert receive(sock, 4 * BLOCK) == blocks(4)
    sock.sendall(b"yes")
    assert receive(sock, 3) == b"yes"


def test_what_is_kept_is_a_copy(slow):
    class Changes(Handler):
        def handle_data(self, data, socket):
            mine = bytearray(blocks(4))
            socket.send(mine)
            mine[:] = bytes(len(mine))

    server, sock = slow(Changes)
    sock.sendall(b"x")
    assert eventually(lambda: at_rest(server))
    assert receive(sock, 4 * BLOCK) == blocks(4)


# ---- what is delivered meanwhile ------------------------------------------------------


def test_nobody_listens_to_who_does_not_read(slow):
    heard = []

    class Listens(Sends):
        def handle_data(self, data, socket):
            heard.append(data)
            super().handle_data(data, socket)

    server, sock = slow(Listens)
    sock.sendall(bytes([4]))
    assert eventually(lambda: at_rest(server))
    sock.sendall(b"\0")
    assert not eventually(lambda: len(heard) > 1, timeout=0.3)
    receive(sock, 4 * BLOCK)
    assert eventually(lambda: len(heard) == 2)


def test_the_read_timeout_stands_still_meanwhile(slow):
    server, sock = slow(read_timeout_ms=300)
    sock.sendall(bytes([4]))
    assert eventually(lambda: at_rest(server))
    assert not eventually(lambda: not server.connections(), timeout=0.6)
    assert receive(sock, 4 * BLOCK) == blocks(4)
    assert eventually(lambda: not server.connections(), timeout=3)


def test_messages_come_below_half_and_wait_above(slow):
    class Hears(Sends):
        def handle_info(self, message, socket):
            message.set()

    server, sock = slow(Hears, max_unsent=10 * BLOCK)
    sock.sendall(bytes([1]))
    receive(sock, 1)
    (connection,) = server.connections()
    below, above = threading.Event(), threading.Event()
    connection.post(below)
    assert below.wait(5)
    receive(sock, BLOCK - 1)
    sock.sendall(bytes([10]))
    assert eventually(lambda: at_rest(server) and unsent(server) > 5 * BLOCK)
    connection.post(above)
    assert not above.wait(0.2)
    receive(sock, 10 * BLOCK)
    assert above.wait(5)


# ---- its end -------------------------------------------------------------------------


@pytest.mark.parametrize("ends", ["returns Close()", "closes", "Connection.close()", "a stop"])
def test_what_waits_goes_out_before_the_end(ends, slow, record):
    Base = journal(Sends)

    class Ends(Base):
        def handle_data(self, data, socket):
            super().handle_data(data, socket)
            if ends == "closes":
                socket.close()
            return Close() if ends == "returns Close()" else None

    server, sock = slow(Ends)
    recorder = record("socket.close")
    sock.sendall(bytes([4]))
    assert eventually(lambda: unsent(server) > 0)
    (connection,) = server.connections()
    if ends == "Connection.close()":
        assert eventually(lambda: at_rest(server))
        connection.close()
    stopping = [functools.partial(server.stop, 10_000)] if ends == "a stop" else []
    with running(*stopping):
        last = {"returns Close()": "close", "closes": None}.get(ends, "shutdown")
        assert last is None or eventually(lambda: last in Ends.names())
        assert not eventually(lambda: "end" in Ends.names(), timeout=0.1)
        assert server.info().active_connections == 1
        assert not connection.closed
        assert not recorder.of("socket.close")
        assert receive(sock, 4 * BLOCK) == blocks(4)
        assert Ends.ended()
    assert receive_all(sock) == b""
    assert Ends.names() == ([] if last is None else [last]) + ["end"]


def test_after_the_last_callback_nothing_more_is_sent(slow):
    kept = []

    class Leaves(Sends):
        def handle_data(self, data, socket):
            super().handle_data(data, socket)
            kept.append(socket)
            return Close()

        def handle_close(self, socket):
            socket.send(b"bye")

    server, sock = slow(Leaves)
    sock.sendall(bytes([4]))
    assert eventually(lambda: at_rest(server))
    with pytest.raises(SocketClosed):
        kept[0].send(b"late")
    with pytest.raises(SocketClosed):
        Keeping(kept[0]._stream).push(b"late")
    assert receive_all(sock) == blocks(4) + b"bye"


def test_a_peer_that_takes_nothing_ends_the_connection(slow, record):
    Base = journal(Sends)
    recorder = record("socket.send_error")
    server, sock = slow(Base, send_timeout_ms=300)
    sock.sendall(bytes([5]))
    assert eventually(lambda: at_rest(server))
    assert Base.ended()
    (reason,) = [what for name, what in Base.lines if name == "error"]
    assert isinstance(reason, SocketTimeout)
    (told,) = recorder.of("socket.send_error")
    assert told.measurements["error"] is reason
    assert 0 < told.measurements["bytes_lost"] <= 5 * BLOCK


def test_a_peer_that_takes_a_little_now_and_then_does_not(slow):
    server, sock = slow(send_timeout_ms=600, max_unsent=1_000_000)
    sock.sendall(bytes([8]))
    assert eventually(lambda: at_rest(server))
    got = bytearray()
    pause = threading.Event()
    while len(got) < 8 * BLOCK:
        got += receive(sock, min(40_000, 8 * BLOCK - len(got)))
        pause.wait(0.15)
    assert bytes(got) == blocks(8)


def test_a_reset_is_noticed_although_nothing_is_read(slow, record):
    Base = journal(Sends)
    recorder = record("socket.send_error")
    server, sock = slow(Base)
    sock.sendall(bytes([4]))
    assert eventually(lambda: at_rest(server))
    if isinstance(sock, ssl.SSLSocket):
        sock = socket.socket(fileno=sock.detach())
    reset(sock)
    assert Base.ended()
    assert Base.names() == ["close", "end"]
    (told,) = recorder.of("socket.send_error")
    assert isinstance(told.measurements["error"], SocketClosed)
    assert told.measurements["bytes_lost"] > 0


def test_a_stop_gives_a_peer_that_takes_nothing_two_seconds(slow, stopwatch):
    Base = journal(Sends)
    server, sock = slow(Base)
    sock.sendall(bytes([4]))
    assert eventually(lambda: at_rest(server))
    began = stopwatch()
    assert server.stop(10_000)
    assert 1.5 < stopwatch() - began < 5
    assert Base.names() == ["shutdown", "end"]


def test_a_cut_drops_what_waits(slow, record):
    recorder = record("socket.send_error")
    Base = journal(Sends)
    server, sock = slow(Base)
    sock.sendall(bytes([4]))
    assert eventually(lambda: at_rest(server))
    assert not server.stop(300)
    assert Base.ended()
    (told,) = recorder.of("socket.send_error")
    assert told.measurements["bytes_lost"] > 0


# ---- modes -----------------------------------------------------------------------------


def test_without_room_in_time_a_send_says_how_much_was_taken(slow):
    seen = []

    class Floods(Handler):
        def handle_connection(self, socket):
            try:
                socket.send(b"x" * 10_000_000, timeout_ms=0)
            except BlockingIOError as error:
                seen.append((error, error.bytes_sent, socket.stats().bytes_sent))

    _, sock = slow(Floods, max_unsent=100_000)
    assert eventually(lambda: seen)
    error, taken, counted = seen[0]
    assert isinstance(error, SocketTimeout)
    assert 100_000 <= taken == counted < 10_000_000
    assert receive(sock, taken) == b"x" * taken


@pytest.mark.parametrize("mode", ["settimeout", "max_unsent=0"])
def test_who_must_not_keep_waits_himself(mode, slow):
    class Waits(Handler):
        def handle_data(self, data, socket):
            if mode == "settimeout":
                socket.settimeout(20)
            socket.sendall(blocks(8))
            kept.append(socket._writer.buffer.size if socket._writer.buffer else 0)

    kept = []
    server, sock = slow(Waits, **({} if mode == "settimeout" else {"max_unsent": 0}))
    sock.sendall(b"x")
    assert eventually(lambda: server.info().busy_threads == 1)
    assert not eventually(lambda: unsent(server) or kept, timeout=0.2)
    assert receive(sock, 8 * BLOCK) == blocks(8)
    assert eventually(lambda: kept == [0])


# ---- any thread, without waiting ------------------------------------------------------------


def push(server, data):
    (connection,) = server.connections()
    return Keeping(connection._inbox._link.machine.stream).push(data)


def test_a_push_never_waits_and_takes_all_or_nothing(slow):
    server, sock = slow(max_unsent=100_000)
    assert eventually(server.connections)
    pushed = 0
    with pytest.raises(SendBufferFull):
        while True:
            pushed += push(server, block(pushed // BLOCK))
    assert unsent(server) <= 100_000
    assert receive(sock, pushed) == blocks(pushed // BLOCK)
    assert eventually(lambda: unsent(server) == 0)
    push(server, b"again")
    assert receive(sock, 5) == b"again"


def test_a_push_comes_behind_a_send_of_another_thread(slow):
    server, sock = slow()
    sock.sendall(bytes([20]))
    assert eventually(lambda: server.info().busy_threads == 1 and unsent(server))
    assert eventually(lambda: writer_of(server).buffer.size > 200_000)
    push(server, b"behind")
    assert receive(sock, 20 * BLOCK + 6)[:BLOCK] == block(0)


# ---- the pool ---------------------------------------------------------------------------------


def test_however_many_do_not_read_others_are_answered(serve, client, stopwatch):
    class Echoes(Handler):
        def handle_data(self, data, socket):
            socket.send(blocks(10) if data[:1] == b"B" else data)

    server = serve(Echoes, max_handler_threads=4, transport_options={**SMALL, "host": "127.0.0.1"})
    for _ in range(12):
        client(server).sendall(b"B")
    assert eventually(lambda: server.info().busy_threads >= 2)
    good = client(server)
    began = stopwatch()
    good.sendall(b"x")
    good.settimeout(25)
    assert receive(good, 1) == b"x"
    assert stopwatch() - began < 20  # not after `send_timeout_ms`, which is 30 s


# ---- what waits for it -------------------------------------------------------------------


def test_flush_waits_for_it(slow):
    seen = []

    class Flushes(Handler):
        def handle_data(self, data, socket):
            socket.send(blocks(8))
            try:
                socket.flush(timeout_ms=50)
            except SocketTimeout as error:
                seen.append((error, socket.unsent))
            socket.flush()
            seen.append(socket.unsent)

    _, sock = slow(Flushes, max_unsent=1_000_000)
    sock.sendall(b"x")
    assert eventually(lambda: seen)
    assert seen[0][1] > 0
    assert receive(sock, 8 * BLOCK) == blocks(8)
    assert eventually(lambda: seen[1:] == [0])


def test_a_shutdown_of_the_sending_side_waits_for_it(slow):
    class Shuts(Handler):
        def handle_data(self, data, socket):
            socket.send(blocks(8))
            socket.shutdown("write")

    _, sock = slow(Shuts, max_unsent=1_000_000)
    sock.sendall(b"x")
    assert receive_all(sock) == blocks(8)


def test_sendfile_comes_behind_it(slow, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"f" * 100_000)

    class SendsFile(Handler):
        def handle_data(self, data, socket):
            socket.send(blocks(8))
            socket.sendfile(path)
            socket.send(b"behind")

    _, sock = slow(SendsFile, max_unsent=1_000_000)
    sock.sendall(b"x")
    assert receive(sock, 8 * BLOCK + 100_006) == blocks(8) + b"f" * 100_000 + b"behind"


def test_sendfile_has_a_time_of_its_own(slow, tmp_path):
    path, seen = tmp_path / "file", []
    path.write_bytes(b"f" * 5_000_000)

    class SendsFile(Handler):
        def handle_data(self, data, socket):
            try:
                socket.sendfile(path, timeout_ms=50)
            except SocketTimeout as error:
                seen.append(error.bytes_sent)

    _, sock = slow(SendsFile)
    sock.sendall(b"x")
    assert eventually(lambda: seen)
    assert 0 < seen[0] < 5_000_000


def test_an_upgrade_waits_for_it_and_what_follows_is_encrypted(serve, client, authority):
    class Upgrades(Handler):
        def handle_data(self, data, socket):
            if socket.secure:
                socket.send(data)
                return None
            socket.send(blocks(8))
            return SwitchTransport(TLS, authority.options)

    server = serve(Upgrades, max_unsent=1_000_000, transport_options={**SMALL, "host": "127.0.0.1"})
    sock = client(server)
    sock.sendall(b"x")
    assert eventually(lambda: at_rest(server))
    push(server, b"encrypted")
    assert receive(sock, 8 * BLOCK) == blocks(8)
    secured = authority.client_context().wrap_socket(sock, server_hostname="localhost")
    assert receive(secured, 9) == b"encrypted"
    secured.sendall(b"ping")
    assert receive(secured, 4) == b"ping"
    secured.close()


def test_closing_with_abort_drops_it(slow, record):
    Base = journal(Sends)
    recorder = record("socket.send_error")
    server, sock = slow(Base)
    sock.sendall(bytes([8]))
    assert eventually(lambda: unsent(server) > 0)
    (connection,) = server.connections()
    connection.close()
    connection.close(abort=True)
    assert Base.ended()
    assert Base.names() == ["shutdown", "end"]
    (told,) = recorder.of("socket.send_error")
    assert told.measurements["bytes_lost"] > 0
