"""A close that loses no reply, where bytes of the peer lie unread: what lingers of a connection."""

import socket

import pytest

from thousand_island_sync._connection.linger import _AT_ONCE, MOST_BYTES, MOST_S, Linger
from thousand_island_sync._scheduler.task import AGAIN, DONE, PARK


class Pool:
    def __init__(self):
        self.forgotten = []

    def forget(self, task):
        self.forgotten.append(task)


@pytest.fixture
def lingering():
    """What lingers, its peer, and the clock, as a list of one time."""
    ours, peer = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    now = [100.0]
    yield Linger(ours, Pool(), lambda: now[0]), peer, now
    ours.close()
    peer.close()


def closed(task):
    return task._sock.fileno() < 0 and task._pool.forgotten == [task]


def test_it_waits_for_the_peer_to_end(lingering):
    task, peer, _ = lingering
    assert task.run() == PARK
    peer.sendall(b"more")
    assert task.run() == PARK
    peer.close()
    assert task.run() == DONE
    assert closed(task)


def test_a_second_at_most(lingering):
    task, peer, now = lingering
    peer.sendall(b"more")
    now[0] += MOST_S
    assert task.run() == DONE
    assert closed(task)


def test_what_a_stop_finds_there_is_still_read(lingering):
    task, peer, _ = lingering
    peer.sendall(bytes(_AT_ONCE + 1))
    task.stop_begins()
    assert task.run() == AGAIN
    assert task.run() == DONE
    assert closed(task)


def test_so_many_bytes_at_most(lingering):
    task, peer, _ = lingering
    left = MOST_BYTES
    while left > 0:
        peer.sendall(bytes(_AT_ONCE))
        left -= _AT_ONCE
        assert task.run() == (AGAIN if left > 0 else DONE)
    assert closed(task)


def test_it_goes_on_where_all_tasks_are_to_look_again(lingering):
    """As `Reserve` says to all of them when a crowd of slow readers begins to wait."""
    task, peer, _ = lingering
    peer.sendall(b"more")
    task.alert = True
    assert task.run() == PARK
    assert not closed(task)


def test_it_ends_when_the_poller_does_not_take_it(lingering):
    task, peer, _ = lingering
    peer.sendall(b"more")
    task.unwatched(OSError())
    assert task.run() == DONE
    assert closed(task)
