"""An ended connection is freed when the last one who holds a part of it lets go.

Not when Python's collector of circles comes by: that costs a server of short connections
a tenth of its CPU, keeps a hundred ended ones in memory, and without the GIL the memory
grows for good.
"""

import contextlib
import gc
import logging
import weakref

import pytest

from tests.support import Echo, answers, eventually, receive, reset
from thousand_island_sync import Close, Error, Handler, Lines
from thousand_island_sync._connection.machine import Machine
from thousand_island_sync._connection.task import ConnectionTask
from thousand_island_sync._stream.send_buffer import SendBuffer
from thousand_island_sync.transports import Channel


class Entangled(Handler):
    """Holds on to all it is given, as handlers do, and tells which of it there still is."""

    held: weakref.WeakSet

    def handle_connection(self, socket):
        self.socket, self.connection = socket, socket.connection
        self.held.update((self, socket, socket.connection))

    def handle_data(self, data, socket):
        match data:
            case b"answer":
                socket.send(b"answered")
            case b"close":
                return Close()
            case b"closed":
                socket.close()
            case b"error":
                return Error(ValueError("told so"))
            case b"raise":
                raise ValueError("told so")
            case b"post":
                socket.connection.post("later", delay_ms=60_000)
            case b"lines":
                socket.unread(data)
                socket.recv_until(b"s")
                socket.recv_until(b"\n")
            case b"silent":
                socket.recv(1, timeout_ms=1)
        return None


def close(sock):
    sock.close()


def send_close_notify(sock):
    """A TLS session's end, where there is one."""
    with contextlib.suppress(OSError, AttributeError):
        sock.unwrap()
    sock.close()


def channels():
    return [one for one in gc.get_objects() if isinstance(one, (Channel, SendBuffer))]


@pytest.fixture
def uncollected(caplog):
    # What is logged is kept by pytest.
    caplog.set_level(logging.CRITICAL + 1, logger="thousand_island_sync")
    gc.collect()
    gc.disable()
    before = channels()  # that other tests hold

    def left():
        return [one for one in channels() if not any(one is other for other in before)]

    yield left
    gc.enable()


@pytest.mark.parametrize(
    "said", ["", "answer", "close", "closed", "error", "raise", "post", "lines", "silent"]
)
@pytest.mark.parametrize("leave", [close, send_close_notify, reset])
def test_nothing_of_it_is_left_to_the_collector(wire, uncollected, said, leave):
    class Seen(Entangled):
        held = weakref.WeakSet()

    server = wire.serve(Seen)
    sock = wire.connect(server)
    assert eventually(lambda: len(Seen.held) == 3)
    if said:
        sock.sendall(said.encode())
    if said == "answer":
        receive(sock, 8)
    leave(sock)
    assert eventually(lambda: server.info().active_connections == 0)
    assert eventually(lambda: not Seen.held)
    assert eventually(lambda: not uncollected())


@pytest.mark.parametrize("leave", [close, send_close_notify, reset])
def test_nor_of_one_that_cuts_frames(wire, uncollected, leave):
    class Seen(Entangled):
        held = weakref.WeakSet()
        framing = Lines()

    server = wire.serve(Seen)
    sock = wire.connect(server)
    assert eventually(lambda: len(Seen.held) == 3)
    sock.sendall(b"answer\nhalf of a line")
    receive(sock, 8)
    leave(sock)
    assert eventually(lambda: server.info().active_connections == 0)
    assert eventually(lambda: not Seen.held)
    assert eventually(lambda: not uncollected())


@pytest.mark.parametrize("end", ["stuck", "stuck in a send", "reset", "aborted"])
def test_nor_of_one_for_whom_bytes_wait(wire, uncollected, end):
    """Its failure was raised, and its traceback has led to what the bytes waited in."""

    class Seen(Entangled):
        held = weakref.WeakSet()

        def handle_data(self, data, socket):
            for _ in range(20 if end == "stuck in a send" else 4):
                socket.send(bytes(50_000))

    server = wire.serve(Seen, send_timeout_ms=200, transport_options={"send_buffer": 8_192})
    sock = wire.connect(server)
    assert eventually(lambda: len(Seen.held) == 3)
    sock.sendall(b"x")
    (connection,) = server.connections()
    if not end.startswith("stuck"):
        assert eventually(lambda connection=connection: connection.unsent > 0)
    if end == "reset":
        reset(sock)
    elif end == "aborted":
        connection.close(abort=True)
    del connection
    assert eventually(lambda: server.info().active_connections == 0)
    assert eventually(lambda: not Seen.held)
    assert eventually(lambda: not uncollected())


def test_nor_of_one_whose_handler_could_not_be_made(wire, uncollected):
    held = weakref.WeakSet()

    class Broken(Handler):
        def __init__(self, options):
            held.add(self)
            raise ValueError("told so")

    server = wire.serve(Broken)
    with contextlib.suppress(OSError):
        wire.connect(server).recv(1)
    assert eventually(lambda: server.info().active_connections == 0)
    assert eventually(lambda: not held)


def test_a_handle_that_somebody_holds_is_the_connections_for_good(serve, client):
    class Kept(Entangled):
        held = weakref.WeakSet()
        handles = []

        def handle_data(self, data, socket):
            self.handles.append(socket.connection)
            return Close()

        def handle_end(self, socket):
            self.handles.append(socket.connection)

    server = serve(Kept)
    sock = client(server)
    sock.sendall(b"x")
    assert sock.recv(1) == b""
    assert eventually(lambda: len(Kept.handles) == 2)
    first, last = Kept.handles
    assert first is last
    assert eventually(lambda: first.closed)
    assert eventually(lambda: server.info().active_connections == 0)
    first.close()  # asks nobody any more
    assert first.peername == sock.getsockname()


def test_and_is_there_until_the_end_though_nobody_holds_it(serve, client):
    """Who keeps the connections there are in a `WeakSet` finds them all in it."""

    class Weak(Entangled):
        held = weakref.WeakSet()

        def handle_connection(self, socket):
            self.held.add(socket.connection)

    server = serve(Weak)
    sock = client(server)
    assert eventually(lambda: len(Weak.held) == 1)
    gc.collect()
    (handle,) = Weak.held
    assert [handle] == server.connections()
    del handle
    sock.close()
    assert eventually(lambda: not Weak.held)


@pytest.mark.parametrize("keep", [True, False], ids=["and keeps it", "and lets it go"])
def test_who_asks_for_the_handle_in_the_last_moment_gets_it(
    serve, client, uncollected, monkeypatch, keep
):
    """Any thread may, by `connections()`, between the end and the letting go."""
    asked, over, broken = [], Machine.over, []

    def late(self):
        handle = self._task.handle
        asked.append(handle if keep else None)
        del handle
        return over(self)

    monkeypatch.setattr(Machine, "over", late)
    monkeypatch.setattr(ConnectionTask, "broke", lambda self: broken.append(self))
    server = serve(Echo)
    sock = client(server)
    assert answers(sock)
    sock.close()
    assert eventually(lambda: len(asked) == 1)
    assert eventually(lambda: server.info().active_connections == 0)
    assert not keep or asked[0].closed
    asked.clear()
    assert eventually(lambda: not uncollected())
    assert not broken


def test_a_crowd_that_came_and_went_is_not_kept_by_who_let_it_in(serve, client, uncollected):
    """What accept raises when nobody waits any more leads, by its traceback, to all that
    was accepted before."""

    class Seen(Entangled):
        held = weakref.WeakSet()

    server = serve(Seen, num_acceptors=1)
    crowd = [client(server) for _ in range(20)]
    assert eventually(lambda: len(Seen.held) == 60)
    for sock in crowd:
        sock.close()
    assert eventually(lambda: server.info().active_connections == 0)
    assert eventually(lambda: not Seen.held)
    # A thread may just be in one of its own.
    assert eventually(lambda: not [one for one in gc.get_objects() if type(one) is BlockingIOError])
