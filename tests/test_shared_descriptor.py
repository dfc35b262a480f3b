"""`fileno()` given to somebody else, and sockets that several threads use.

Whoever gets the descriptor finds one that blocks or not as `gettimeout()` says, with no
time limit of ours on it; and only the connection's owner uses it without a lock.
"""

import os
import queue
import socket as stdlib_socket
import struct
import subprocess
import sys
import threading

import pytest

from tests.support import (
    busy_seconds,
    eventually,
    is_held,
    receive,
    receive_all,
    running,
    task_of,
)
from thousand_island_sync import (
    TLS,
    Close,
    Continue,
    Handler,
    SocketClosed,
    SocketTimeout,
    SwitchTransport,
)
from thousand_island_sync._scheduler.states import PARKED
from thousand_island_sync._stream import states
from thousand_island_sync._stream.duplex import Duplex

LIMIT = (stdlib_socket.SOL_SOCKET, stdlib_socket.SO_RCVTIMEO)
NO_LIMIT = bytes(struct.calcsize("ll"))

#: What a child finds on its standard input.
CHILD = """
import os, socket
with socket.socket(fileno=os.dup(0)) as sock:
    limit = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16)
print("blocks" if os.get_blocking(0) else "does not block", any(limit))
"""


def found_by_a_child(descriptor):
    child = subprocess.run(
        [sys.executable, "-c", CHILD], stdin=descriptor, capture_output=True, text=True, check=True
    )
    return child.stdout.strip()


def limit_on(descriptor):
    """As the kernel has it, whatever our `getsockopt` does first."""
    with stdlib_socket.socket(fileno=os.dup(descriptor)) as sock:
        return sock.getsockopt(*LIMIT, len(NO_LIMIT))


# ---- no time limit, and blocking as gettimeout says ---------------------------


class Gives(Handler):
    """Waits in all ways there are, then gives the descriptor to a child."""

    def handle_connection(self, socket):
        how, _ = self.options
        if how == "recv":
            socket.recv()
        elif how == "recv with a time":
            socket.recv(timeout_ms=3_000)
        elif how == "recvs":
            for _ in range(3):
                socket.recv(1)
        elif how == "a time that passed":
            with pytest.raises(SocketTimeout):
                socket.recv(timeout_ms=1)
        else:
            return Continue()
        return self.give(socket)

    def handle_data(self, data, socket):
        if data == b"give":
            return self.give(socket)
        threading.Event().wait(0.002)  # it blocks, so its thread stays with the connection
        socket.send(data)
        return None

    def give(self, socket):
        _, results = self.options
        results.put(found_by_a_child(socket.fileno()))
        return Close()


@pytest.mark.parametrize(
    ("how", "bytes_to_come"),
    [("recv", 1), ("recv with a time", 1), ("recvs", 3), ("a time that passed", 0)],
)
def test_a_child_finds_no_time_limit_after_a_wait(how, bytes_to_come, serve, client):
    results = queue.SimpleQueue()
    sock = client(serve(Gives, handler_options=(how, results)))
    for _ in range(bytes_to_come):
        threading.Event().wait(0.02)
        sock.sendall(b"x")
    assert results.get(timeout=30) == "blocks False"


def test_a_child_finds_no_time_limit_after_stays(serve, client):
    results = queue.SimpleQueue()
    server = serve(Gives, handler_options=("stays", results))

    def talk(last):
        sock = client(server)
        for _ in range(60):
            sock.sendall(b"x")
            assert receive(sock, 1) == b"x"
        if last:
            sock.sendall(b"give")

    with running(*(lambda last=last: talk(last) for last in (True, False, False, False))):
        assert results.get(timeout=30) == "blocks False"


def test_it_stays_away_and_waits_end_in_time_all_the_same(serve, client):
    seen = queue.SimpleQueue()

    class Waits(Handler):
        def handle_connection(self, socket):
            seen.put(socket.recv(1))
            fd = socket.fileno()
            for _ in range(2):
                seen.put(socket.recv(1))
            with pytest.raises(SocketTimeout):
                socket.recv(timeout_ms=30)
            seen.put(limit_on(fd))

        def handle_data(self, data, socket):
            threading.Event().wait(0.002)
            socket.send(data)
            if data == b"e":
                seen.put(limit_on(socket.fileno()))

    sock = client(serve(Waits))
    for byte in (b"a", b"b", b"c"):
        sock.sendall(byte)
        assert seen.get(timeout=5) == byte
    assert seen.get(timeout=5) == NO_LIMIT
    for _ in range(30):  # so that it stays
        sock.sendall(b"d")
        assert receive(sock, 1) == b"d"
    sock.sendall(b"e")
    assert seen.get(timeout=5) == NO_LIMIT


def test_whether_it_blocks_is_as_gettimeout_says(serve, client):
    seen = queue.SimpleQueue()

    class Asks(Handler):
        def handle_connection(self, socket):
            found = []
            for timeout in (None, 0.0, None, 0.02):
                socket.settimeout(timeout)
                found.append((timeout, os.get_blocking(socket.fileno())))
                if timeout is not None:
                    with pytest.raises(SocketTimeout):
                        socket.recv()
            fd = socket.fileno()
            socket.settimeout(None)
            found.append(os.get_blocking(fd))
            seen.put(found)

    client(serve(Asks))
    assert seen.get(timeout=5) == [(None, True), (0.0, False), (None, True), (0.02, False), True]


def test_a_file_is_sent_whole_and_the_descriptor_blocks_as_before(serve, client, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(bytes(range(256)) * 8_192)
    blocks = queue.SimpleQueue()

    class Sends(Handler):
        def handle_connection(self, socket):
            for timeout in (None, 20):
                socket.settimeout(timeout)
                fd = socket.fileno()
                socket.sendfile(file)
                blocks.put(os.get_blocking(fd))
            return Close()

    sock = client(serve(Sends))
    assert receive_all(sock) == file.read_bytes() * 2
    assert [blocks.get(timeout=5), blocks.get(timeout=5)] == [True, False]


def test_the_option_itself_is_the_users(serve, client):
    seen = queue.SimpleQueue()
    three = struct.pack("ll", 3, 0)

    class Asks(Handler):
        def handle_connection(self, socket):
            socket.recv(1)
            found = [socket.getsockopt(*LIMIT, 16)]
            socket.setsockopt(*LIMIT, three)
            with pytest.raises(SocketTimeout):
                socket.recv(timeout_ms=20)
            found.append(socket.getsockopt(*LIMIT, 16))
            seen.put(found)

    sock = client(serve(Asks))
    threading.Event().wait(0.02)
    sock.sendall(b"x")
    assert seen.get(timeout=5) == [NO_LIMIT, three]


@pytest.mark.parametrize("shown", [True, False])
def test_an_upgrade_leaves_no_time_limit_behind(shown, serve, client, authority):
    seen = queue.SimpleQueue()

    class StartTLS(Handler):
        def handle_connection(self, socket):
            if shown:
                socket.fileno()
            socket.recv(8)
            return SwitchTransport(TLS, self.options)

        def handle_upgrade(self, socket):
            # What a library that asks select(2) depends on was asked for before.
            seen.put((socket._stream.channel.exposed, limit_on(socket.fileno())))

    sock = client(serve(StartTLS, handler_options=TLS.prepare(**authority.options)))
    threading.Event().wait(0.02)
    sock.sendall(b"STARTTLS")
    with authority.client_context().wrap_socket(sock, server_hostname="localhost"):
        assert seen.get(timeout=5) == (shown, NO_LIMIT)


def test_another_thread_asks_while_the_owner_waits(serve, client):
    """The owner's wait still ends in time: it must not begin to wait without its limit."""
    seen = queue.SimpleQueue()

    class Shares(Handler):
        def handle_connection(self, socket):
            socket.recv(1)
            with running(lambda: seen.put(limit_on(socket.fileno()))):
                for _ in range(2):
                    with pytest.raises(SocketTimeout):
                        socket.recv(timeout_ms=300)
            seen.put("in time")

    sock = client(serve(Shares))
    threading.Event().wait(0.02)
    sock.sendall(b"x")
    assert seen.get(timeout=5) == NO_LIMIT
    assert seen.get(timeout=5) == "in time"


def test_another_thread_asks_between_callbacks(serve, client):
    """While a thread stays with the connection, which nobody else may use then."""
    sockets = queue.SimpleQueue()

    class Blocks(Handler):
        def handle_connection(self, socket):
            sockets.put(socket)

        def handle_data(self, data, socket):
            threading.Event().wait(0.002)
            socket.send(data)

    server = serve(Blocks, read_timeout_ms=1_000)
    sock = client(server)
    socket = sockets.get(timeout=5)
    for round in range(40):
        sock.sendall(b"x")
        assert receive(sock, 1) == b"x"
        if round > 20:
            assert limit_on(socket.fileno()) == NO_LIMIT
    assert receive_all(sock) == b""  # the read timeout is kept without a limit in the kernel


def test_a_wait_after_the_descriptor_was_shown_uses_no_processor(serve, client):
    began = threading.Event()

    class Waits(Handler):
        def handle_connection(self, socket):
            os.set_blocking(socket.fileno(), False)  # as a child may do
            began.set()
            socket.recv()

    sock = client(serve(Waits))
    assert began.wait(5)
    assert busy_seconds(0.3) < 0.1
    sock.sendall(b"x")


# ---- threads beside the owner --------------------------------------------------


class Pumped(Handler):
    """A thread of the handler's own receives what comes; the callback ends the connection."""

    def handle_connection(self, socket):
        how, results = self.options
        two = threading.Event()

        def pump():
            count = 0
            try:
                while data := socket.recv():
                    count += len(data)
                    if count == 2:
                        two.set()
                results.put("the end of the stream")
            except SocketClosed as error:
                results.put(error)

        thread = threading.Thread(target=pump)
        thread.start()
        results.put(thread)
        two.wait(5)
        assert eventually(
            lambda: is_held(socket._reader._receiving)
        )  # it waits again, with the lock
        if how == "close":
            socket.close()
            return None
        return Close()


@pytest.mark.parametrize("how", ["return", "close"])
def test_a_thread_that_receives_is_sent_home_at_once(how, serve, client, stopwatch):
    results = queue.SimpleQueue()
    sock = client(serve(Pumped, handler_options=(how, results)))
    thread = results.get(timeout=5)
    sock.sendall(b"a")
    threading.Event().wait(0.02)
    sock.sendall(b"b")
    assert receive_all(sock) == b""
    assert stopwatch() < 2  # the read timeout is a minute
    assert isinstance(results.get(timeout=5), SocketClosed)
    thread.join(5)


def test_a_send_that_is_under_way_goes_out_in_plain_before_an_upgrade(serve, client, authority):
    """Else its rest would stand in the middle of the handshake."""
    started = queue.SimpleQueue()
    plain = bytes(range(256)) * 32_768

    class SendsAndUpgrades(Handler):
        def handle_connection(self, socket):
            thread = threading.Thread(target=socket.send, args=(plain,))
            thread.start()
            started.put(thread)
            assert eventually(lambda: is_held(socket._writer._sending))
            return SwitchTransport(TLS, self.options)

        def handle_data(self, data, socket):
            socket.send(data)

    server = serve(SendsAndUpgrades, handler_options=TLS.prepare(**authority.options))
    sock = client(server)
    thread = started.get(timeout=5)
    assert receive(sock, len(plain)) == plain
    with authority.client_context().wrap_socket(sock, server_hostname="localhost") as secure:
        secure.sendall(b"secure")
        assert receive(secure, 6) == b"secure"
    thread.join(5)


def test_every_receive_that_waits_holds_the_lock_that_a_close_waits_for(serve, client):
    """The owner's quick way, too, from its second wait on, and after the callback it is over."""
    seen = queue.SimpleQueue()

    class Loops(Handler):
        def handle_connection(self, socket):
            seen.put(socket)
            while socket.recv(1) != b".":
                pass

        def handle_data(self, data, socket):
            pass

    sock = client(serve(Loops))
    socket = seen.get(timeout=5)
    for _ in range(4):
        assert eventually(
            lambda: socket._reader._receiving is not None and is_held(socket._reader._receiving)
        )
        sock.sendall(b"x")
    sock.sendall(b".")
    assert eventually(lambda: not is_held(socket._reader._receiving))
    assert eventually(lambda: socket._stream.waiter == 0)


def test_another_connections_callback_has_not_the_owners_quick_way(serve, client):
    """It may run on the very thread that has waited here in a callback before."""
    sockets = queue.SimpleQueue()
    got = queue.SimpleQueue()

    class Waits(Handler):
        def handle_connection(self, socket):
            if not sockets.empty():
                other = sockets.get()
                got.put((other._stream.waiter, other.recv(1)))
                return
            got.put(socket.recv(1))
            got.put(socket.recv(1))
            sockets.put(socket)

        def handle_data(self, data, socket):
            pass

    server = serve(Waits, max_handler_threads=1)
    first = client(server)
    for byte in (b"a", b"b"):
        threading.Event().wait(0.02)
        first.sendall(byte)
        assert got.get(timeout=5) == byte
    assert eventually(lambda: task_of(server.connections()[0]).ownership == PARKED)
    client(server)
    threading.Event().wait(0.02)
    first.sendall(b"c")
    waiter, received = got.get(timeout=5)
    assert waiter == 0
    assert received == b"c"


@pytest.mark.parametrize("who", ["the owner", "another thread"])
def test_who_asks_for_it_waits_for_no_receive(who, wire, stopwatch):
    """The one that is under way lasts until the peer speaks, or for a minute."""
    seen, ended = queue.SimpleQueue(), queue.SimpleQueue()

    def asks(socket):
        assert eventually(lambda: is_held(socket._reader._receiving))
        seen.put(limit_on(socket.fileno()))

    class Waits(Handler):
        def handle_connection(self, socket):
            socket.recv(1)
            if who == "the owner":
                with running(lambda: asks(socket)):
                    ended.put(socket.recv())
            else:
                with running(lambda: ended.put(socket.recv())):
                    asks(socket)

    sock = wire.connect(wire.serve(Waits))
    sock.sendall(b"x")
    assert seen.get(timeout=10) == NO_LIMIT
    assert ended.empty()
    sock.sendall(b"more")
    assert ended.get(timeout=5) == b"more"
    assert stopwatch() < 5


def test_a_close_by_a_signals_handler_in_the_middle_of_another_change_is_not_written_over():
    class Interrupted(dict):
        def get(self, state, default):
            after = super().get(state, default)
            if not done:
                done.append(stream.on(states.ON_CLOSE))
            return after

    done = []
    stream = Duplex.__new__(Duplex)
    stream.state = states.State.OPEN
    stream.on(Interrupted(states.ON_INTERRUPT))
    assert done == [True]
    assert stream.state is states.State.CLOSED
