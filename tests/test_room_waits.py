"""Threads that wait for room at a peer: they sleep until there is some, or until they are rung."""

import errno
import socket as stdlib_socket
import threading

import pytest

from tests.support import eventually
from thousand_island_sync import Close, Handler, SocketClosed, SocketTimeout
from thousand_island_sync._base.clock import REAL
from thousand_island_sync._stream import wait
from thousand_island_sync._stream.send_buffer import SendBuffer
from thousand_island_sync._stream.unsent_total import UnsentTotal

#: More than the kernel takes.
LARGE = bytes(4 << 20)


class Sends(Handler):
    """Sends on a thread beside its callback, which returns when it may."""

    def handle_connection(self, socket):
        self.may_return, raised = self.options

        def send():
            try:
                socket.send(LARGE)
            except (SocketClosed, SocketTimeout) as error:
                raised.append(error)

        self.sending = threading.Thread(target=send)
        self.sending.start()
        self.may_return.wait(30)
        return Close()

    def handle_end(self, socket):
        self.sending.join()


@pytest.fixture
def waits(monkeypatch):
    """The bells of the waits for room, one after the other; those who sleep do not look by
    themselves."""
    bells, wait_for = [], wait.waits.wait_for

    def noted(fd, *, write, timeout, also=None):
        if write:
            bells.append(also)
        return wait_for(fd, write=write, timeout=timeout, also=also)

    monkeypatch.setattr(wait.waits, "wait_for", noted)
    monkeypatch.setattr(wait, "_SOON_S", 0.01)
    monkeypatch.setattr(wait, "_LOOK_S", 0.01)
    monkeypatch.setattr(wait, "_TRY_S", 3_600.0)
    return bells


@pytest.fixture
def send(serve, tmp_path, waits):
    """Has a send wait; gives its connection, what lets the callback return, and what it raised.

    Over a Unix socket: nothing is under way to a peer that reads nothing, and makes room late.
    """
    may_return, peer = threading.Event(), stdlib_socket.socket(stdlib_socket.AF_UNIX)
    path = str(tmp_path / "socket")

    def start():
        raised = []
        server = serve(
            Sends,
            handler_options=(may_return, raised),
            transport_options={"host": f"unix:{path}"},
            port=0,
            send_timeout_ms=3_600_000,
        )
        peer.connect(path)
        assert eventually(lambda: waits)
        return server.connections()[0], may_return, raised

    with peer:
        yield start
        may_return.set()


def buffer_of(connection):
    return connection._inbox._link.machine.stream.writer.buffer


def test_who_sleeps_is_rung_when_its_connection_ends_for_others_sake(send, waits):
    connection, _, raised = send()
    assert eventually(lambda: waits[-1] is not None)
    count = len(waits)
    assert buffer_of(connection).end_as_stuck(1.0)
    assert eventually(lambda: raised)
    assert len(waits) == count  # it has slept till then


def test_who_looks_for_others_is_rung_as_well(send, waits, monkeypatch):
    monkeypatch.setattr(UnsentTotal, "crowded", lambda self: True)
    monkeypatch.setattr(UnsentTotal, "until_look", lambda self, number, lacks_room: 3_600.0)
    monkeypatch.setattr(REAL, "look_s", 3_600.0)
    connection, _, raised = send()
    assert waits[-1] is not None
    count = len(waits)
    assert buffer_of(connection).end_as_stuck(1.0)
    assert eventually(lambda: raised)
    assert len(waits) == count


def test_who_lacks_room_of_all_in_a_crowd_goes_on_once_there_is_some(send, waits, monkeypatch):
    """Room that others have left wakes nobody; each look sees it."""
    look, lacks, looks = wait._look_for_others, [True], []

    def looked(*arguments):
        before = len(waits)
        monkeypatch.setattr(UnsentTotal, "thin_out", lambda self: lacks.clear())
        look(*arguments)
        looks.append(len(waits) - before)

    monkeypatch.setattr(wait, "_look_for_others", looked)
    monkeypatch.setattr(UnsentTotal, "crowded", lambda self: True)
    monkeypatch.setattr(UnsentTotal, "until_look", lambda *arguments: 0.01)
    monkeypatch.setattr(SendBuffer, "lacks_total", lambda self, size: bool(lacks))
    send()
    assert eventually(lambda: looks)
    assert looks[0] == 2


def test_who_sleeps_is_rung_when_sends_have_ended(send, waits):
    _, may_return, raised = send()
    assert eventually(lambda: waits[-1] is not None)
    count = len(waits)
    may_return.set()
    assert eventually(lambda: raised)
    assert len(waits) == count


def test_who_sleeps_is_rung_when_its_socket_is_closed(send, waits):
    connection, _, raised = send()
    assert eventually(lambda: waits[-1] is not None)
    count = len(waits)
    connection._inbox._link.machine.socket.close()
    assert eventually(lambda: raised)
    assert len(waits) == count


def test_the_peer_is_looked_at_once_more_before_a_wait_sleeps(send, waits, monkeypatch):
    """Or what it took at first would seem to have gone when the sleep is over."""
    looks, idle = [], SendBuffer.idle

    def looked(buffer, time_now):
        looks.append(len(waits))
        return idle(buffer, time_now)

    monkeypatch.setattr(SendBuffer, "idle", looked)
    send()
    assert eventually(lambda: waits[-1] is not None)
    slept_at = waits.index(next(bell for bell in waits if bell is not None))
    assert any(0 < look <= slept_at for look in looks)


def test_what_was_dropped_just_before_there_is_a_bell_is_seen(send, waits, monkeypatch):
    may_be_made, begun = threading.Event(), threading.Event()

    class Late(wait.WakeUp):
        def __init__(self):
            begun.set()
            may_be_made.wait(30)
            super().__init__()

    monkeypatch.setattr(wait, "WakeUp", Late)
    connection, _, raised = send()
    assert begun.wait(5)
    buffer_of(connection).end_as_stuck(1.0)
    may_be_made.set()
    assert eventually(lambda: raised)
    assert waits == [None, None]


def test_without_a_descriptor_for_a_bell_it_looks(send, waits, monkeypatch):
    def none_left():
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(wait, "WakeUp", none_left)
    connection, _, raised = send()
    assert eventually(lambda: len(waits) > 20)
    assert set(waits) == {None}
    buffer_of(connection).end_as_stuck(1.0)
    assert eventually(lambda: raised)
