"""Failures of sendfile, by their ids in the catalogue (docs/explanation/reliability.md)."""

import hashlib
import io
import os
import threading
import time
import tracemalloc

import pytest

from tests.support import Echo, eventually, receive, receive_all, reset
from thousand_island_sync import Close, Handler, SocketError, SocketTimeout
from thousand_island_sync.transports import tcp
from thousand_island_sync.transports.tcp import TCPChannel


@pytest.fixture
def sends(wire):
    """Serves a handler that calls something with its socket, at the first byte, and gives
    back a client and the list that results and errors go to."""

    def start(what, **options):
        results = []

        class Sends(Handler):
            def handle_data(self, data, socket):
                try:
                    results.append(what(socket))
                except Exception as error:
                    results.append(error)
                return Close()

        server = wire.serve(Sends, **options)
        sock = wire.connect(server)
        sock.sendall(b"x")
        return sock, results

    return start


def sparse(path, size, marks=()):
    """A file of zeros, with bytes written at some offsets; it takes no room."""
    with open(path, "wb") as file:
        file.truncate(size)
        for offset, data in marks:
            file.seek(offset)
            file.write(data)
    return path


def test_e1_a_big_file_to_a_slow_reader_is_exact(sends, tmp_path):
    content = os.urandom(1 << 20)
    path = tmp_path / "big"
    with open(path, "wb") as file:
        for _ in range(60):
            file.write(content)
    sock, results = sends(lambda socket: socket.sendfile(path))
    digest, count, pause = hashlib.sha256(), 0, threading.Event()
    while data := sock.recv(1 << 18):
        digest.update(data)
        count += len(data)
        if count < 1 << 20:
            pause.wait(0.005)
    wanted = hashlib.sha256()
    for _ in range(60):
        wanted.update(content)
    assert results == [60 << 20]
    assert (count, digest.digest()) == (60 << 20, wanted.digest())


@pytest.mark.parametrize(
    ("wire", "takes_pages", "copied"),
    [("tcp", False, False), ("unix", True, False), ("unix", False, True)],
    indirect=["wire"],
)
def test_a_file_is_copied_only_where_a_unix_socket_takes_no_pages(
    sends, tmp_path, monkeypatch, wire, takes_pages, copied
):
    """Each is the quicker one there; see `benchmarks.files`."""
    calls, sendfile = [], TCPChannel.sendfile

    def counted(*arguments):
        count = sendfile(*arguments)
        calls.append(count)
        return count

    monkeypatch.setattr(TCPChannel, "sendfile", counted)
    monkeypatch.setattr(tcp, "_UNIX_TAKES_PAGES", takes_pages)
    path = tmp_path / "f"
    path.write_bytes(os.urandom(300_000))
    sock, results = sends(lambda socket: socket.sendfile(path))
    assert receive_all(sock) == path.read_bytes()
    assert results == [300_000]
    assert (calls == []) is copied


def test_e2_one_open_file_sent_by_eight_threads_at_their_offsets(wire, tmp_path):
    path = tmp_path / "shared"
    path.write_bytes(os.urandom(800_000))
    content = path.read_bytes()
    with open(path, "rb") as file:
        file.seek(123)

        class Part(Handler):
            def handle_data(self, data, socket):
                number = int(data)
                assert socket.sendfile(file, number * 100_000, 100_000) == 100_000
                return Close()

        server = wire.serve(Part)
        socks = [wire.connect(server) for _ in range(8)]
        for number, sock in enumerate(socks):
            sock.sendall(b"%d" % number)
        for number, sock in enumerate(socks):
            assert receive_all(sock) == content[number * 100_000 :][:100_000]
        assert file.tell() == 123


def test_e3_nothing_to_send_and_negative_numbers(sends, tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    (tmp_path / "empty").write_bytes(b"")

    def send(socket):
        counts = [
            socket.sendfile(path, 0, 0),
            socket.sendfile(path, 10),
            socket.sendfile(path, 99, 5),
            socket.sendfile(tmp_path / "empty"),
            socket.sendfile(io.BytesIO()),
        ]
        for offset, length in ((-1, None), (0, -1)):
            with pytest.raises(ValueError, match="0 or more"):
                socket.sendfile(path, offset, length)
        socket.send(b"fine")
        return counts

    sock, results = sends(send)
    assert receive_all(sock) == b"fine"
    assert results == [[0, 0, 0, 0, 0]]


def test_e4_a_pipe_that_is_filled_meanwhile_and_a_fifo(sends, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    read, write = os.pipe()
    data = os.urandom(300_000)

    def fill(target):
        with open(target, "wb") as file:
            file.write(data)

    threads = [threading.Thread(target=fill, args=(target,)) for target in (write, str(fifo))]
    for thread in threads:
        thread.start()

    def send(socket):
        with open(read, "rb") as pipe:
            return socket.sendfile(pipe) + socket.sendfile(fifo)

    sock, results = sends(send)
    assert receive_all(sock) == data * 2
    assert results == [600_000]
    for thread in threads:
        thread.join()


def test_e5_a_file_that_shrinks_ends_early_and_is_told(sends, tmp_path, record):
    recorder = record("socket.sendfile")
    path = sparse(tmp_path / "shrinks", 100_000_000)

    sock, results = sends(lambda socket: socket.sendfile(path, 0, 100_000_000))
    got = len(receive(sock, 1_000_000))
    os.truncate(path, 8_000_000)
    began = time.monotonic()
    got += len(receive_all(sock))
    assert time.monotonic() - began < 2
    assert eventually(lambda: results)
    (count,) = results
    assert count == got < 100_000_000
    (told,) = recorder.wait_for("socket.sendfile")
    assert told.measurements["bytes_sent"] == count
    assert told.measurements["length"] == 100_000_000


def test_e5_a_file_that_grows_stops_at_length(sends, tmp_path):
    path = tmp_path / "grows"
    path.write_bytes(b"a" * 1_000)

    def send(socket):
        with open(path, "ab") as file:
            file.write(b"b" * 1_000)
        return socket.sendfile(path, 0, 1_500)

    sock, results = sends(send)
    assert receive_all(sock) == b"a" * 1_000 + b"b" * 500
    assert results == [1_500]


def test_e6_beyond_four_gibibytes(sends, tmp_path):
    offset = 4 << 30
    path = sparse(tmp_path / "huge", 5 << 30, [(offset + 10, b"here"), ((5 << 30) - 3, b"end")])

    def send(socket):
        with open(path, "rb") as file:
            return socket.sendfile(file, offset, 100), socket.sendfile(path, (5 << 30) - 100)

    sock, results = sends(send)
    assert receive_all(sock) == bytes(10) + b"here" + bytes(86) + bytes(97) + b"end"
    assert results == [(100, 100)]


@pytest.mark.heavy
def test_e6_more_than_two_gibibytes_in_one_call(serve, client, tmp_path):
    """Every byte is counted; a cap that is forgotten shows as a short count."""
    size = (2 << 30) + 4_096
    path = sparse(tmp_path / "huge", size, [(size - 3, b"end")])
    results = []

    class Sends(Handler):
        def handle_data(self, data, socket):
            results.append(socket.sendfile(path))
            return Close()

    sock = client(serve(Sends), timeout=60)
    sock.sendall(b"x")
    count, buffer, last = 0, memoryview(bytearray(1 << 20)), b""
    while size_read := sock.recv_into(buffer):
        count += size_read
        last = bytes(buffer[max(0, size_read - 3) : size_read])
    assert count == size
    assert last == b"end"
    assert results == [size]


def test_e7_a_thousand_failed_sends_leave_no_descriptor(serve, client, tmp_path):
    path = sparse(tmp_path / "big", 50_000_000)
    over = threading.Event()
    results = []

    class Sends(Handler):
        def handle_connection(self, socket):
            over.wait(5)
            for _ in range(1_000):
                try:
                    socket.sendfile(path)
                except SocketError as error:
                    results.append(type(error).__name__)
            return Close()

    server = serve(Sends)
    sock = client(server)
    assert eventually(lambda: server.info().active_connections == 1)
    reset(sock)
    before = len(os.listdir("/proc/self/fd"))
    over.set()
    assert eventually(lambda: server.info().active_connections == 0, 20)
    assert results == ["SocketClosed"] * 1_000
    assert len(os.listdir("/proc/self/fd")) <= before


def test_e7_a_missing_file_leaves_the_connection_usable(sends, tmp_path):
    def send(socket):
        for name, error in (("missing", FileNotFoundError), (".", IsADirectoryError)):
            with pytest.raises(error):
                socket.sendfile(tmp_path / name)
        socket.send(b"fine")

    sock, results = sends(send)
    assert receive_all(sock) == b"fine"
    assert results == [None]


def test_e8_a_transfer_takes_little_memory(sends, tmp_path):
    path = sparse(tmp_path / "big", 30_000_000)
    peaks = []

    def send(socket):
        tracemalloc.start()
        count = socket.sendfile(path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        return count

    sock, results = sends(send)
    buffer = bytearray(1 << 20)
    while sock.recv_into(buffer):
        pass
    assert results == [30_000_000]
    assert peaks[0] <= 2 * 1024 * 1024


def test_e9_the_time_of_a_sendfile_is_total(sends, tmp_path):
    path = sparse(tmp_path / "big", 500_000_000)
    began = time.monotonic()
    sock, results = sends(lambda socket: socket.sendfile(path), send_timeout_ms=600)
    pause = threading.Event()
    while not results and time.monotonic() - began < 5:
        sock.recv(1_000)  # now and then a little: that buys no time
        pause.wait(0.05)
    assert isinstance(results[0], SocketTimeout)
    assert 0.5 < time.monotonic() - began < 4  # time that begins anew never ends
    assert 0 < results[0].bytes_sent < 500_000_000


def test_e2_what_others_send_comes_before_or_after_never_inside(serve, client, tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"f" * 3_000_000)

    class Sends(Echo):
        def handle_data(self, data, socket):
            others = [
                threading.Thread(target=lambda: [socket.send(b"s" * 10) for _ in range(50)])
                for _ in range(3)
            ]
            for other in others:
                other.start()
            for _ in range(3):
                assert socket.sendfile(path) == 3_000_000
            for other in others:
                other.join()
            return Close()

    sock = client(serve(Sends))
    sock.sendall(b"x")
    got = receive_all(sock)
    assert len(got) == 9_000_000 + 1_500
    assert {len(run) % 3_000_000 for run in got.replace(b"s", b" ").split()} == {0}
