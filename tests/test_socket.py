"""`Socket`: each call as the documentation has it, on real sockets."""

import contextlib
import io
import os
import queue
import select
import socket as stdlib_socket
import tempfile
import threading
import time

import pytest

from tests.support import Echo, eventually, receive, receive_all, reset, running, task_of
from thousand_island_sync import (
    Close,
    Continue,
    Handler,
    LimitExceeded,
    NotSupported,
    SocketClosed,
    SocketError,
    SocketTimeout,
)


@pytest.fixture
def within(serve, client):
    """Runs a function in `handle_connection`; gives its result, or raises its error."""
    outcome = {}

    def run(function, send=b"", shut=False, meanwhile=None, **options):
        class Runs(Handler):
            def handle_connection(self, socket):
                try:
                    outcome["result"] = function(socket)
                except BaseException as error:
                    outcome["error"] = error
                return Close()

        server = serve(Runs, **options)
        sock = client(server)
        if send:
            sock.sendall(send)
        if shut:
            sock.shutdown(stdlib_socket.SHUT_WR)
        if meanwhile:
            meanwhile(sock)
        assert eventually(lambda: outcome, 10)
        if "error" in outcome:
            raise outcome["error"]
        run.client = sock
        return outcome["result"]

    return run


# ---- receiving --------------------------------------------------------------


def test_recv_gives_what_is_there(within):
    assert (
        within(lambda s: s.recv(3) + b"|" + s.recv_exactly(2) + s.recv(), b"abcdef") == b"abc|def"
    )


def test_recv_gives_the_end_of_the_stream_again_and_again(within):
    assert within(lambda s: (s.recv(), s.recv(), s.recv()), b"", shut=True) == (b"", b"", b"")


def test_recv_of_a_reset_is_socket_closed(within):
    with pytest.raises(SocketClosed) as caught:
        within(lambda s: [s.recv() for _ in range(3)], meanwhile=reset)
    assert isinstance(caught.value, ConnectionResetError)
    assert isinstance(caught.value, BrokenPipeError)


def test_recv_never_waits_with_a_timeout_of_0(within):
    with pytest.raises(SocketTimeout) as caught:
        within(lambda s: s.recv(timeout_ms=0))
    assert isinstance(caught.value, BlockingIOError)


@pytest.mark.parametrize("wrong", [-1, "1", float("nan")])
def test_a_timeout_that_is_none(wrong, within):
    with pytest.raises(ValueError, match="timeout_ms"):
        within(lambda s: s.recv(timeout_ms=wrong))


def test_recv_exactly_says_what_came_before_the_end(within):
    with pytest.raises(SocketClosed) as caught:
        within(lambda s: s.recv_exactly(10), b"only", shut=True)
    assert caught.value.partial == b"only"


def test_a_timeout_names_what_may_have_set_it(within):
    def wait(socket):
        socket.settimeout(0.02)
        socket.recv()

    with pytest.raises(SocketTimeout, match=r"after 20 ms; .*_ms, settimeout, or timeout_ms of"):
        within(wait)


def test_recv_exactly_keeps_what_came_before_a_timeout(within):
    def read(socket):
        with contextlib.suppress(SocketTimeout):
            socket.recv_exactly(10, timeout_ms=100)
        return socket.recv(2), socket.recv()

    assert within(read, b"half") == (b"ha", b"lf")


def test_recv_exactly_of_nothing_and_of_much(within):
    big = os.urandom(2_000_000)

    def feed(sock):
        threading.Thread(target=sock.sendall, args=(big,)).start()

    assert within(lambda s: (s.recv_exactly(0), s.recv_exactly(2_000_000)), meanwhile=feed) == (
        b"",
        big,
    )


def test_recv_until_finds_delimiters_wherever_they_are_cut(within):
    def dribble(sock):
        def feed():
            for piece in (b"one\r", b"\ntwo", b"\r\n\r", b"\n"):
                sock.sendall(piece)
                threading.Event().wait(0.01)

        threading.Thread(target=feed).start()

    result = within(lambda s: [s.recv_until(b"\r\n") for _ in range(3)], meanwhile=dribble)
    assert result == [b"one\r\n", b"two\r\n", b"\r\n"]


def test_recv_until_counts_the_delimiter_towards_the_limit(within):
    def read(socket):
        with pytest.raises(LimitExceeded):
            socket.recv_until(b"\n", limit=5)
        return socket.recv_until(b"\n", limit=6)

    assert within(read, b"12345\n67") == b"12345\n"


def test_recv_until_without_a_delimiter_leaves_the_bytes_readable(within):
    def read(socket):
        socket.recv_exactly(1)
        with pytest.raises(LimitExceeded):
            socket.recv_until(b"\n", limit=4)
        return socket.recv()

    assert within(read, b"x12345678") == b"12345678"


def test_recv_until_says_what_came_before_the_end(within):
    with pytest.raises(SocketClosed) as caught:
        within(lambda s: s.recv_until(b"\n"), b"no end", shut=True)
    assert caught.value.partial == b"no end"


def test_recv_until_is_total_in_time(within):
    def dribble(sock):
        def feed():
            with contextlib.suppress(OSError):
                for _ in range(100):
                    sock.sendall(b"x")
                    threading.Event().wait(0.02)

        threading.Thread(target=feed).start()

    before = time.monotonic()
    with pytest.raises(SocketTimeout):
        within(lambda s: s.recv_until(b"\n", timeout_ms=200), meanwhile=dribble)
    assert 0.19 < time.monotonic() - before < 1


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda s: s.recv_until(b""), ValueError),
        (lambda s: s.recv_until("\n"), TypeError),
        (lambda s: s.recv_until(b"ab", limit=1), ValueError),
        (lambda s: s.recv(-1), ValueError),
        (lambda s: s.recv_exactly(-1), ValueError),
        (lambda s: s.recv_into(bytearray(3), 4), ValueError),
        (lambda s: s.send("text"), TypeError),
        (lambda s: s.send(["text"]), TypeError),
        (lambda s: s.send([b"x", "text"]), TypeError),
        (lambda s: s.send([b"x", memoryview(b"abcd")[::2]]), TypeError),
        (lambda s: s.send(5), TypeError),
        (lambda s: s.sendall("text"), TypeError),
        (lambda s: s.unread("text"), TypeError),
        (lambda s: s.shutdown("sideways"), ValueError),
        (lambda s: s.sendfile("/etc/hostname", -1), ValueError),
        (lambda s: s.sendfile("/etc/hostname", 0, -1), ValueError),
        (lambda s: s.sendfile(io.StringIO("text")), TypeError),
        (lambda s: s.sendfile(5), TypeError),
        (lambda s: s.settimeout(-1), ValueError),
        (lambda s: s.makefile("x"), ValueError),
        (lambda s: s.makefile("r", buffering=0), ValueError),
        (lambda s: s.peer_credentials(), NotSupported),
        (lambda s: s.tls_info(), NotSupported),
        (lambda s: s.unread(b"x" * (1 << 20) + b"x"), LimitExceeded),
    ],
)
def test_wrong_use_is_told_apart(call, error, within):
    with pytest.raises(error):
        within(call)


def test_recv_into(within):
    def read(socket):
        buffer = bytearray(8)
        count = socket.recv_into(buffer, 3)
        count += socket.recv_into(memoryview(buffer)[3:])
        return count, bytes(buffer)

    assert within(read, b"abcdef") == (6, b"abcdef\0\0")


def test_flags(within):
    def read(socket):
        peeked = socket.recv(3, stdlib_socket.MSG_PEEK)
        whole = socket.recv(6, stdlib_socket.MSG_WAITALL)
        with pytest.raises(SocketTimeout):
            socket.recv(1, stdlib_socket.MSG_DONTWAIT)
        return peeked, whole

    assert within(read, b"abcdef") == (b"abc", b"abcdef")


def test_g15_no_bytes_are_none_at_once_and_no_length_is_64_kib(within):
    """As of the standard library; the 64 KiB, too, where the callback has waited before."""

    next_one = threading.Semaphore(0)

    def read(socket):
        nothing = socket.recv(0), socket.recv(0, timeout_ms=5)
        next_one.release()
        first = socket.recv()
        socket.send(b"more")
        second = []
        for _ in range(2):
            next_one.release()
            second += [socket.recv(), socket.recv(0)]
        return nothing, first, second

    def meanwhile(client):
        for data in (b"one", b"two", b"three"):
            assert next_one.acquire(timeout=30)
            threading.Event().wait(0.05)  # it waits for it
            client.sendall(data)

    nothing, first, second = within(read, meanwhile=meanwhile)
    assert nothing == (b"", b"")
    assert first == b"one"
    assert second == [b"two", b"", b"three", b""]


def test_unread_is_seen_first(within):
    def read(socket):
        socket.unread(socket.recv(3))
        first = socket.recv(2)
        socket.unread(b"<" + first)
        return socket.recv_until(b"f")

    assert within(read, b"abcdef") == b"<abcdef"


def test_what_is_unread_waits_for_new_bytes_and_comes_in_front(serve, client):
    got = []

    class Lines(Handler):
        def handle_data(self, data, socket):
            got.append(data)
            *lines, rest = data.split(b"\n")
            if rest:
                socket.unread(rest)
            for line in lines:
                socket.send(line + b";")

    server = serve(Lines)
    sock = client(server)
    sock.sendall(b"half")
    assert eventually(lambda: got == [b"half"])
    sock.sendall(b" a line\nnext")
    assert receive(sock, 12) == b"half a line;"
    assert got == [b"half", b"half a line\nnext"]
    sock.sendall(b"\n")
    assert receive(sock, 5) == b"next;"


def test_what_recv_until_read_too_much_goes_to_handle_data_at_once(serve, client):
    class HeadThenBody(Handler):
        def handle_connection(self, socket):
            self.head = socket.recv_until(b"\n")

        def handle_data(self, data, socket):
            socket.send(self.head + data)

    server = serve(HeadThenBody)
    sock = client(server)
    sock.sendall(b"head\nbody")
    assert receive(sock, 9) == b"head\nbody"


# ---- sending ----------------------------------------------------------------


def test_send_takes_anything_like_bytes_and_iterables_of_them(within):
    def send(socket):
        counts = [
            socket.send(b"a"),
            socket.send(bytearray(b"bc")),
            socket.send(memoryview(b"def")[1:]),
            socket.send([b"g", bytearray(b"h"), memoryview(b"i"), b""]),
            socket.send(piece for piece in (b"j", b"k")),
            socket.send(b""),
            socket.send([]),
        ]
        assert socket.sendall(b"l") is None
        return counts, socket.stats()

    counts, stats = within(send)
    assert counts == [1, 2, 2, 3, 2, 0, 0]
    assert stats.bytes_sent == 11
    assert receive_all(within.client) == b"abcefghijkl"


@pytest.mark.parametrize("size", [3, 5_000, 60_000])
def test_receivers_are_told_of_the_pieces_that_were_given(size, within, record):
    """Small ones are sent as one, large ones in several calls."""
    recorder = record("socket.send")
    pieces = [b"a" * size, memoryview(b"b" * size)]
    assert within(lambda s: s.send(pieces)) == 2 * size
    assert receive_all(within.client) == b"a" * size + b"b" * size
    (told,) = recorder.of("socket.send")
    assert told.measurements["data"] == pieces
    assert told.measurements["bytes_sent"] == 2 * size


def test_many_buffers_are_gathered(within):
    assert within(lambda s: s.send([b"%04d" % n for n in range(5_000)])) == 20_000
    assert receive_all(within.client) == b"".join(b"%04d" % n for n in range(5_000))


def test_send_to_a_peer_that_has_gone_is_socket_closed(within):
    def send(socket):
        while True:
            socket.send(b"x" * 10_000)

    with pytest.raises(SocketClosed) as caught:
        within(send, meanwhile=reset)
    assert caught.value.errno in (32, 104)
    assert caught.value.__cause__ is not None


def test_a_number_for_settimeout_makes_send_send_a_part(within):
    def send(socket):
        assert socket.gettimeout() is None
        socket.settimeout(0.05)
        assert socket.gettimeout() == 0.05
        assert socket.getblocking()
        sent = socket.send(b"x" * 50_000_000)
        with pytest.raises(SocketTimeout) as caught:
            while True:
                socket.send(b"x" * 50_000_000)
        assert caught.value.bytes_sent == 0
        with pytest.raises(SocketTimeout):
            socket.sendall(b"x" * 50_000_000)
        with pytest.raises(SocketTimeout):
            socket.recv()
        socket.setblocking(False)
        assert not socket.getblocking()
        return sent

    assert 0 < within(send) < 50_000_000


def test_shutdown_ends_one_direction(within, record):
    recorder = record("socket.shutdown")

    def half(socket):
        socket.shutdown("write")
        with pytest.raises(SocketClosed):
            socket.send(b"x")
        return socket.recv()

    assert within(half, b"still read") == b"still read"
    assert recorder.wait_for("socket.shutdown")[0].measurements["how"] == "write"


@pytest.mark.parametrize("how", ["both", stdlib_socket.SHUT_RDWR, 2])
def test_shutdown_both(how, within):
    within(lambda s: s.shutdown(how))
    assert receive_all(within.client) == b""


def test_a_reply_is_not_lost_although_input_lies_unread(serve, client):
    class Rude(Handler):
        def handle_connection(self, socket):
            socket.recv(1)
            socket.send(b"y" * 200_000)
            return Close()

    server = serve(Rude)
    for _ in range(5):
        sock = client(server)
        sock.sendall(b"x" * 100_000)
        assert len(receive_all(sock)) == 200_000
    assert eventually(lambda: server.info().active_connections == 0)


def test_an_endless_sender_is_cut_off_all_the_same(serve, client):
    class Leaves(Handler):
        def handle_data(self, data, socket):
            return Close()

    server = serve(Leaves)
    sock = client(server)
    before = time.monotonic()
    with pytest.raises(OSError):
        while True:
            sock.sendall(b"x" * 100_000)
    assert time.monotonic() - before < 5


def test_a_lingering_close_is_no_hindrance_to_a_stop(serve, client):
    class Leaves(Handler):
        def handle_data(self, data, socket):
            threading.Event().wait(0.05)
            return Close()

    server = serve(Leaves)
    sock = client(server)
    sock.sendall(b"x")
    sock.sendall(b"y" * 100)
    assert eventually(lambda: server.info().active_connections == 0)
    assert server.stop(500) is True


# ---- files ------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 1_000)
    return path


def test_e2_e3_sendfile_sends_parts_and_leaves_the_position(within, path):
    content = path.read_bytes()

    def send(socket):
        with open(path, "rb") as file:
            file.seek(7)
            counts = [
                socket.sendfile(file, 0, 10),
                socket.sendfile(file, 250_000),
                socket.sendfile(file, 5, 0),
                socket.sendfile(file, 999_999),
                socket.sendfile(file, 255_990, 500),
            ]
            assert file.tell() == 7
        return counts

    assert within(send) == [10, 6_000, 0, 0, 10]
    assert receive_all(within.client) == content[:10] + content[250_000:] + content[255_990:]


def test_e4_sendfile_of_what_is_no_regular_file(within):
    read, write = os.pipe()
    os.write(write, b"through a pipe")
    os.close(write)

    def send(socket):
        with open(read, "rb") as pipe:
            count = socket.sendfile(pipe)
        memory = io.BytesIO(b"0123456789")
        memory.seek(3)
        count += socket.sendfile(memory, 2, 5)
        assert memory.tell() == 3
        with tempfile.TemporaryFile() as temporary:
            temporary.write(b"temporary")
            temporary.flush()
            count += socket.sendfile(temporary)
        return count, socket.sendfile("/proc/self/limits")

    count, limits = within(send)
    assert count == 14 + 5 + 9
    assert limits > 100
    assert receive_all(within.client).startswith(b"through a pipe23456temporaryLimit")


@pytest.mark.parametrize(
    ("name", "error"), [("missing", FileNotFoundError), (".", IsADirectoryError)]
)
def test_e4_e7_the_files_own_errors_leave_the_connection_usable(name, error, within, tmp_path):
    def send(socket):
        with pytest.raises(error):
            socket.sendfile(tmp_path / name)
        return socket.send(b"fine")

    assert within(send) == 4


def test_e9_sendfile_to_a_peer_that_never_reads(within, tmp_path, record):
    recorder = record("socket.sendfile_error")
    big = tmp_path / "big"
    with open(big, "wb") as file:
        file.truncate(100_000_000)
    with pytest.raises(SocketTimeout) as caught:
        within(lambda s: s.sendfile(big), send_timeout_ms=100)
    assert 0 < caught.value.bytes_sent < 100_000_000
    (told,) = recorder.of("socket.sendfile_error")
    assert told.measurements["bytes_sent"] == caught.value.bytes_sent


# ---- as a socket ------------------------------------------------------------


def test_it_looks_like_a_socket(within):
    def look(socket):
        assert socket.type is stdlib_socket.SOCK_STREAM
        assert socket.family is stdlib_socket.AF_INET
        assert socket.proto in (0, 6)
        assert socket.fileno() > 0
        assert socket.getsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY)
        assert socket.getsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_KEEPALIVE)
        socket.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_KEEPALIVE, 0)
        assert not socket.getsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_KEEPALIVE)
        with pytest.raises(SocketError):
            socket.setsockopt(stdlib_socket.SOL_SOCKET, 9999, 1)
        assert not socket.secure
        assert not socket.truncated
        assert not socket.stopping
        assert socket.negotiated_protocol() is None
        assert socket.peer_certificate() is None
        assert socket.connection_id == socket.connection.id
        assert socket.connection is socket.connection
        assert socket.connection.sockname == socket.getsockname()
        assert "open" in repr(socket)
        names = socket.getpeername(), socket.getsockname()
        socket.close()
        assert socket.type == stdlib_socket.SOCK_STREAM
        assert "closed" in repr(socket)
        return names

    peer, own = within(look)
    assert peer == within.client.getsockname()
    assert own == within.client.getpeername()


def test_makefile_reads_and_writes(within):
    def talk(socket):
        with socket.makefile("rwb") as file:
            file.write(file.readline().upper())
            file.flush()
            socket.unread(file.read(4))
        with socket.makefile("r", encoding="ascii", newline="\n") as text:
            second = text.readline()
        raw = socket.makefile("wb", buffering=0)
        raw.write(second.encode())
        assert not raw.readable()
        with pytest.raises(io.UnsupportedOperation):
            raw.readinto(bytearray(1))
        raw.close()
        with pytest.raises(ValueError, match="closed"):
            raw.write(b"x")
        return socket.fileno() > 0

    assert within(talk, b"one\ntwo\n") is True
    assert receive_all(within.client) == b"ONE\ntwo\n"


def test_f9_peer_credentials_of_a_unix_client(serve, client, tmp_path):
    seen = []

    class Asks(Handler):
        def handle_connection(self, socket):
            seen.append(socket.peer_credentials())

    server = serve(Asks, host=f"unix:{tmp_path}/s")
    client(server)
    assert eventually(lambda: seen)
    assert seen == [(os.getpid(), os.getuid(), os.getgid())]


def test_a_close_from_another_thread_ends_a_waiting_recv(serve, client, record):
    recorder = record("handler.shutdown")
    outcome = []

    class Waits(Handler):
        def handle_connection(self, socket):
            threading.Timer(0.05, socket.close).start()
            try:
                socket.recv()
            except SocketClosed as error:
                outcome.append(str(error))
                raise

    server = serve(Waits)
    assert receive_all(client(server)) == b""
    told = recorder.wait_for("handler.shutdown")
    assert told[0].measurements["reason"] == "local_closed"
    assert "closed locally" in outcome[0]


def test_any_thread_may_send_to_a_connection_that_is_parked(serve, client):
    sockets = []

    class Keeps(Handler):
        def handle_connection(self, socket):
            sockets.append(socket)

        handle_data = Echo.handle_data

    server = serve(Keeps)
    sock = client(server)
    assert eventually(lambda: sockets)
    sockets[0].send(b"from outside")
    assert receive(sock, 12) == b"from outside"

    # Also one that has to wait for room: the connection goes on being served.
    thread = threading.Thread(target=sockets[0].send, args=(b"y" * 20_000_000,))
    thread.start()
    assert len(receive(sock, 20_000_000)) == 20_000_000
    thread.join(5)
    sock.sendall(b"x")
    assert receive(sock, 1) == b"x"


def test_stats_count_what_callbacks_got_and_sent(serve, client, record):
    recorder = record("socket.close")
    server = serve(Echo)
    sock = client(server)
    for _ in range(3):
        sock.sendall(b"four")
        assert receive(sock, 4) == b"four"
    sock.close()
    (told,) = recorder.wait_for("socket.close")
    wanted = {"bytes_received": 12, "recv_count": 3, "bytes_sent": 12, "send_count": 3}
    assert told.measurements.items() >= wanted.items()


def test_a_handler_that_loops_over_recv_like_socketserver(serve, client):
    class Loops(Handler):
        def handle_connection(self, socket):
            while data := socket.recv():
                socket.send(data)
            return Close()

    server = serve(Loops, max_handler_threads=20)
    socks = [client(server) for _ in range(10)]
    for _ in range(20):
        for sock in socks:
            sock.sendall(b"ping")
        assert [receive(sock, 4) for sock in socks] == [b"ping"] * 10
    for sock in socks:
        sock.shutdown(1)
        assert receive_all(sock) == b""


def test_a_callback_that_waited_in_recv_gets_later_data_as_handle_data(serve, client):
    class Both(Handler):
        def handle_connection(self, socket):
            socket.send(b"name?")
            self.name = socket.recv()
            socket.send(b"hello")

        def handle_data(self, data, socket):
            if data == b"again":
                socket.send(b"what?")
                data += socket.recv()
            socket.send(self.name + data)
            return Continue()

    server = serve(Both)
    sock = client(server)
    assert receive(sock, 5) == b"name?"
    sock.sendall(b"joe")
    assert receive(sock, 5) == b"hello"
    for _ in range(3):
        sock.sendall(b"!")
        assert receive(sock, 4) == b"joe!"
    sock.sendall(b"again")
    assert receive(sock, 5) == b"what?"
    sock.sendall(b"more")
    assert receive(sock, 12) == b"joeagainmore"


# ---- reads of a callback that has waited before ------------------------------


def test_a_read_that_must_not_wait_finds_what_came_since_the_last_wait(serve, client):
    """Once a callback has waited, the descriptor is out of the poller, and a read goes
    straight to the kernel: one that must not wait has to look there all the same."""
    seen = queue.SimpleQueue()

    class Looks(Handler):
        def handle_connection(self, socket):
            seen.put(socket.recv())
            select.select([socket.fileno()], [], [], 5)
            seen.put(socket.recv(timeout_ms=0))

    sock = client(serve(Looks))
    sock.sendall(b"one")
    assert seen.get(timeout=5) == b"one"
    sock.sendall(b"two")
    assert seen.get(timeout=5) == b"two"


@pytest.mark.parametrize("leave", ["recv_until", "peek", "unread"])
def test_after_a_wait_buffered_bytes_still_come_first(serve, client, leave):
    seen = queue.SimpleQueue()

    class Mixes(Handler):
        def handle_connection(self, socket):
            seen.put(socket.recv())
            if leave == "recv_until":
                seen.put(socket.recv_until(b"\n"))
                seen.put(socket.recv_until(b"\n"))
            elif leave == "peek":
                seen.put(socket.recv(64, stdlib_socket.MSG_PEEK))
            else:
                socket.unread(socket.recv())
            seen.put(socket.recv(1))
            seen.put(socket.recv())

    sock = client(serve(Mixes))
    sock.sendall(b"begin")
    assert seen.get(timeout=5) == b"begin"
    if leave == "recv_until":
        for part in (b"half ", b"a line\nhalf ", b"another\nrest"):
            sock.sendall(part)
        assert seen.get(timeout=5) == b"half a line\n"
        assert seen.get(timeout=5) == b"half another\n"
    else:
        sock.sendall(b"rest")
        if leave == "peek":
            assert seen.get(timeout=5) == b"rest"
    assert seen.get(timeout=5) == b"r"
    assert seen.get(timeout=5) == b"est"


def reads_once(sock):
    return sock.recv(timeout_ms=300)


def reads_in_a_loop(sock):
    sock.recv_exactly(1)  # a wait, after which recv waits in the kernel at once
    return sock.recv()


def reads_exactly(sock):
    return sock.recv_exactly(5, timeout_ms=300)


class ReadsBesideAChild(Handler):
    """Somebody who has a copy of the descriptor made it non-blocking, as ssh and node do."""

    def handle_data(self, data, sock):
        read, used = self.options
        copy = os.dup(sock.fileno())
        try:
            os.set_blocking(copy, False)
            began = time.thread_time()
            try:
                sock.send(read(sock))
            except SocketTimeout:
                sock.send(b"nothing")
            used.append(time.thread_time() - began)
        finally:
            os.close(copy)


@pytest.mark.parametrize("read", [reads_once, reads_in_a_loop, reads_exactly])
def test_a_wait_on_a_descriptor_that_another_made_non_blocking_is_no_loop(serve, client, read):
    used = []
    server = serve(ReadsBesideAChild, read_timeout_ms=300, handler_options=(read, used))
    sock = client(server)
    for _ in range(2):
        sock.sendall(b"go")
        if read is reads_in_a_loop:
            sock.sendall(b"1")
        assert receive(sock, 7) == b"nothing"
    assert eventually(lambda: len(used) == 2)
    assert max(used) < 0.1, used  # of 0.3 s


class Keeps(Handler):
    def handle_connection(self, sock):
        self.options.append(sock)


def test_a_close_from_another_thread_may_come_as_the_connection_ends(serve, client, monkeypatch):
    """Marked as closed, the socket asks its connection, which has ended in between."""
    kept = []
    server = serve(Keeps, handler_options=kept)
    sock = client(server)
    assert eventually(lambda: kept)
    connection, asked, ended = kept[0].connection, threading.Event(), threading.Event()
    task = task_of(connection)
    owner = type(task)
    close_asked = owner.close_asked

    def late(self):
        asked.set()
        assert ended.wait(5)
        close_asked(self)

    monkeypatch.setattr(owner, "close_asked", late)
    with running(kept[0].close):
        assert asked.wait(5)
        sock.close()
        assert eventually(lambda: connection.closed and task.machine.socket is None)
        ended.set()
