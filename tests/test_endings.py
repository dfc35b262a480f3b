"""However a handler reads, and over whatever: requests that come in pieces are answered, and how it
ended is told as it was."""

import time
from functools import partial

import pytest

from tests.support import eventually, journal, receive, receive_all, received, reset
from thousand_island_sync import Close, Handler, ServerStopping, SocketClosed, SocketTimeout

PATIENT_MS, IMPATIENT_MS = 20_000, 600
THE_END = "the end of the stream"


# ---- how it is read: each gives what comes, until the stream ends ----------------------------


def by_recv(socket, timeout_ms):
    while data := socket.recv():
        yield data


def by_small_recv(socket, timeout_ms):
    while data := socket.recv(2):
        yield data


def by_recv_with_a_timeout(socket, timeout_ms):
    while data := socket.recv(timeout_ms=timeout_ms):
        yield data


def by_recv_after_settimeout(socket, timeout_ms):
    socket.settimeout(timeout_ms / 1_000)
    yield from by_recv(socket, timeout_ms)


def by_recv_into(socket, timeout_ms):
    buffer = bytearray(100)
    while count := socket.recv_into(buffer):
        yield bytes(buffer[:count])


def by_recv_and_unread(socket, timeout_ms):
    while data := socket.recv():
        socket.unread(data[1:])
        yield data[:1]


def by_recv_exactly(socket, timeout_ms):
    while True:
        yield socket.recv_exactly(1)


def by_recv_until(socket, timeout_ms):
    while True:
        yield socket.recv_until(b"\n")


def by_lines_of_a_file(socket, timeout_ms):
    yield from socket.makefile("rb")


LOOPS = [
    *(by_recv, by_small_recv, by_recv_with_a_timeout, by_recv_after_settimeout, by_recv_into),
    *(by_recv_and_unread, by_recv_exactly, by_recv_until, by_lines_of_a_file),
]
#: These say by an error that there is no more.
NEVER_SHORT = (by_recv_exactly, by_recv_until)


class Answers(Handler):
    """Requests are lines; the answers are they in capitals."""

    rest = b""
    answered_at = 0.0

    def answer(self, data, socket):
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            socket.send(line.upper() + b"\n")
            type(self).answered_at = time.monotonic()


def looping(way, timeout_ms):
    Base = journal(Answers)

    class Loops(Base):
        def handle_connection(self, socket):
            try:
                for data in way(socket, timeout_ms):
                    self.answer(data, socket)
            except OSError as error:
                self.note(type(error))
                raise
            self.note(THE_END)
            return Close()

    return Loops


def called(way, timeout_ms):
    Base = journal(Answers)

    class Called(Base):
        def handle_data(self, data, socket):
            self.answer(data, socket)

        def handle_eof(self, socket):
            self.note(THE_END)
            return Close()

    return Called


@pytest.fixture(params=[None, *LOOPS], ids=lambda way: way.__name__ if way else "by_callbacks")
def way(request):
    return request.param


@pytest.fixture
def ask(wire, way):
    """A server, a client of it that has had an answer, and the names of what the handler met."""

    def start(timeout_ms=PATIENT_MS):
        cls = (looping if way else called)(way, timeout_ms)
        server = wire.serve(cls, read_timeout_ms=timeout_ms, interrupt_reads=True)
        sock, sent = wire.connect(server), 0
        for piece in (b"a request ", b"in ", b"pieces\n", b"and ", b"another\n"):
            sock.sendall(piece)
            sent += len(piece)
            assert eventually(partial(received, server, sent))
        assert receive(sock, sent) == b"A REQUEST IN PIECES\nAND ANOTHER\n"
        return server, sock, cls

    return start


def test_a_reset(ask, way, wire):
    _, sock, cls = ask()
    reset(sock)
    assert cls.ended()
    if wire.name == "unix":  # knows of none
        met = [SocketClosed if way in NEVER_SHORT else THE_END]
    else:
        met = [SocketClosed] if way else []
    assert cls.names() == [*met, "close", "end"]


def test_the_end_of_the_stream(ask, way, wire):
    _, sock, cls = ask()
    wire.end(sock)
    assert cls.ended()
    assert cls.names() == [SocketClosed if way in NEVER_SHORT else THE_END, "close", "end"]


def test_a_stop_that_interrupts_reads(ask, way):
    server, sock, cls = ask()
    assert server.stop(5_000) is True
    assert receive_all(sock) == b""
    assert cls.names() == [*([ServerStopping] if way else []), "shutdown", "end"]


def test_a_close_from_outside(ask, way):
    server, sock, cls = ask()
    for connection in server.connections():
        connection.close()
    assert cls.ended()
    assert receive_all(sock) == b""
    assert cls.names() == [*([ServerStopping] if way else []), "shutdown", "end"]


@pytest.mark.parametrize("wire", ["tcp", "tls1.3"], indirect=True)
def test_silence(ask, way):
    _, _, cls = ask(IMPATIENT_MS)
    assert cls.ended()
    assert cls.names() == [*([SocketTimeout] if way else []), "timeout", "end"]
    # On the server's clock: how long this test's own thread waits for a processor is no matter.
    assert 0.95 < (cls.noted_at["timeout"] - cls.answered_at) * 1_000 / IMPATIENT_MS < 1.9
