"""What is said of one transport holds for all: TCP, Unix, TLS 1.2 and TLS 1.3."""

import select
import threading
from collections import Counter

import pytest

from tests.support import Echo, eventually, exchange, journal, receive, receive_all, reset
from thousand_island_sync import Close, Continue, Handler, SocketClosed, SocketTimeout


def test_bytes_come_back(wire):
    server = wire.serve(Echo)
    sock = wire.connect(server)
    sock.sendall(b"hello")
    assert receive(sock, 5) == b"hello"


def test_many_bytes_come_back_exactly(wire):
    server = wire.serve(Echo)
    sock = wire.connect(server)
    sent = bytes(range(256)) * 20_000
    assert exchange(sock, sent, len(sent)) == sent


def test_one_byte_at_a_time(wire):
    server = wire.serve(Echo)
    sock = wire.connect(server)
    for byte in b"a slow but steady client":
        sock.sendall(bytes([byte]))
        assert receive(sock, 1) == bytes([byte])


class Twice(Handler):
    def handle_data(self, data, socket):
        socket.send(data)
        if data.endswith(b"!"):
            return Close()
        return None


def test_the_end_of_a_reply_reaches_the_client_before_the_close(wire):
    server = wire.serve(Twice)
    sock = wire.connect(server)
    sock.sendall(b"x" * 50_000 + b"!")
    assert len(receive_all(sock)) == 50_001


def test_the_peers_end_of_stream_is_handle_eof_then_handle_close(wire):
    Recording = journal()
    server = wire.serve(Recording)
    sock = wire.connect(server)
    if wire.secure:
        sock.unwrap()
    sock.close()
    assert Recording.ended()
    assert Recording.names() == ["close", "end"]


class SendsOnAfterTheirEnd(Handler):
    def handle_eof(self, socket):
        socket.connection.post("go on")
        return Continue()

    def handle_info(self, message, socket):
        socket.send(b"still here")
        return Close()


@pytest.mark.parametrize("wire", ["tcp", "unix"], indirect=True)
def test_continue_after_the_end_of_their_stream_keeps_ours_open(wire):
    server = wire.serve(SendsOnAfterTheirEnd)
    sock = wire.connect(server)
    wire.end(sock)
    assert receive_all(sock) == b"still here"


class AsksSelect(Handler):
    def handle_connection(self, socket):
        while select.select([socket], [], [], 2)[0]:
            data = socket.recv(65_536)
            if not data:
                break
            socket.send(data)
        return Close()


def test_a_library_may_ask_select_before_each_recv(wire):
    server = wire.serve(AsksSelect)
    sock = wire.connect(server)
    for _ in range(20):
        for piece in (b"one", b"two", b"three"):
            sock.sendall(piece)
        assert receive(sock, 11) == b"onetwothree"
    sent = bytes(range(256)) * 1_000
    assert exchange(sock, sent, len(sent)) == sent


@pytest.mark.parametrize("wire", ["tcp", "unix"], indirect=True)
def test_who_leaves_after_the_end_of_the_stream_is_noticed(wire):
    Base = journal()
    goes_on = threading.Event()

    class GoesOn(Base):
        def handle_eof(self, socket):
            goes_on.set()
            return Continue()

    server = wire.serve(GoesOn)
    sock = wire.connect(server)
    wire.end(sock)
    assert goes_on.wait(5)
    reset(sock)
    assert GoesOn.ended()
    assert GoesOn.names() == ["close", "end"]


def test_recv_exactly_and_recv_until_within_a_callback(wire):
    class Framed(Handler):
        def handle_connection(self, socket):
            name = socket.recv_until(b"\n")
            body = socket.recv_exactly(int(socket.recv_until(b"\n")))
            socket.send(name + body[::-1])
            return Close()

    server = wire.serve(Framed)
    sock = wire.connect(server)
    sock.sendall(b"rev\n5\nab")
    sock.sendall(b"cde")
    assert receive_all(sock) == b"rev\nedcba"


def test_a_recv_that_gets_nothing_times_out_and_keeps_the_connection_usable(wire):
    class Patient(Handler):
        def handle_connection(self, socket):
            with pytest.raises(SocketTimeout):
                socket.recv(timeout_ms=20)
            with pytest.raises(TimeoutError):
                socket.recv_exactly(3, timeout_ms=20)
            socket.send(b"go")

        handle_data = Echo.handle_data

    server = wire.serve(Patient)
    sock = wire.connect(server)
    assert receive(sock, 2) == b"go"
    sock.sendall(b"on")
    assert receive(sock, 2) == b"on"


def test_a_peer_that_never_reads_ends_a_send_in_time_and_says_how_much_went_out(wire):
    Base = journal()
    seen = []

    class Sends(Base):
        def handle_connection(self, socket):
            try:
                socket.send(b"x" * 30_000_000, timeout_ms=150)
            except SocketTimeout as error:
                seen.append(error.bytes_sent)
                raise

    server = wire.serve(Sends)
    sock = wire.connect(server)
    assert Base.ended() or Sends.ended()
    assert Sends.ended()
    assert Sends.names() == ["error", "end"]
    assert 0 < seen[0] < 30_000_000
    sock.close()


def test_to_send_nothing_sends_nothing(wire):
    counts = []

    class Nothing(Handler):
        def handle_data(self, data, socket):
            for nothing in (b"", bytearray(), memoryview(b""), [], [b"", b""]):
                counts.append(socket.send(nothing))
            socket.sendall(b"")
            socket.send(data)

    sock = wire.connect(wire.serve(Nothing))
    sock.sendall(b"hello")
    assert receive(sock, 5) == b"hello"
    assert counts == [0] * 5


def test_sends_of_several_threads_do_not_interleave(wire, restless):
    """Through a small buffer of the kernel's, so that nearly each send finds it full; by the socket
    and by the connection, to several clients."""
    errors = []

    class Sink(Handler):
        def handle_connection(self, socket):
            ways = [socket.send, socket.connection.send]
            threads = [
                threading.Thread(target=self.send_many, args=(ways[i % 2], bytes([65 + i]) * 999))
                for i in range(4)
            ]
            for thread in threads:
                thread.start()
            self.send_many(socket.send, b"Z" * 999)
            for thread in threads:
                thread.join()
            return Close()

        def send_many(self, send, message):
            try:
                for _ in range(50):
                    send(message + b"\n")
            except Exception as error:
                errors.append(error)

    sent = {bytes([letter]) * 999: 50 for letter in b"ABCDZ"}
    server = wire.serve(Sink, max_unsent=1 << 20, transport_options={"send_buffer": 4_608})
    for _ in range(12):
        lines = receive_all(wire.connect(server)).split(b"\n")
        # Of a line that nobody sent: how long it is, and whose bytes are in it.
        odd = [(len(line), bytes(sorted(set(line)))) for line in lines[:-1] if line not in sent]
        assert not odd, f"bytes of several sends are mixed, or some are missing: {odd[:10]}"
        assert Counter(lines) == {**sent, b"": 1}
    assert not errors


def test_stop_says_goodbye_to_idle_connections(wire):
    Recording = journal(Echo)
    server = wire.serve(Recording)
    sock = wire.connect(server)
    sock.sendall(b"hi")
    assert receive(sock, 2) == b"hi"
    assert server.stop(2_000) is True
    assert receive_all(sock) == b""
    assert Recording.ended()
    assert Recording.names() == ["shutdown", "end"]


def test_a_socket_closed_by_its_handler_sees_no_last_callback(wire):
    Base = journal()
    errors = []

    class Closes(Base):
        def handle_connection(self, socket):
            socket.close()
            assert socket.fileno() == -1
            for call in (
                lambda: socket.send(b"x"),
                lambda: socket.recv(),
                lambda: socket.shutdown("both"),
                lambda: socket.getpeername(),
                lambda: socket.setsockopt(1, 2, 3),
            ):
                try:
                    call()
                except SocketClosed as error:
                    errors.append(error)
            socket.close()
            socket.stats()

    server = wire.serve(Closes)
    sock = wire.connect(server)
    assert receive_all(sock) == b""
    assert eventually(lambda: Closes.names() == ["end"])
    assert len(errors) == 5


def test_a_file_arrives_as_it_is(wire, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 5_000)

    class SendsFile(Handler):
        def handle_connection(self, socket):
            assert socket.sendfile(path, 10, 100) == 100
            assert socket.sendfile(str(path)) == 1_280_000
            return Close()

    server = wire.serve(SendsFile)
    sock = wire.connect(server)
    expected = path.read_bytes()
    assert receive_all(sock) == expected[10:110] + expected
