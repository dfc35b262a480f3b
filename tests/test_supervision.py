"""Threads of ours that meet an exception nobody expected, and descriptors that find no room:
one connection pays at most, and the server goes on."""

import errno
import os
import selectors
import socket
import threading
import time

import pytest

from tests.support import (
    Echo,
    answers,
    busy_seconds,
    echoes,
    eventually,
    journal,
    receive,
    receive_all,
    task_of,
)
from thousand_island_sync import Close, Handler
from thousand_island_sync._base import locks
from thousand_island_sync._connection.linger import Linger
from thousand_island_sync._scheduler import poller as _poller
from thousand_island_sync._scheduler.poller import READ, REFUSED, SelectorPoller
from thousand_island_sync._scheduler.states import PARKED
from thousand_island_sync._scheduler.task_table import TaskTable
from thousand_island_sync._server import run


@pytest.fixture(params=["0", "1"], ids=["unchecked", "checked"])
def both(request, monkeypatch):
    """Servers as users have them, where the C does its part, and those that check themselves."""
    monkeypatch.setenv("THOUSAND_ISLAND_DEBUG", request.param)


def connection_of(server, sock):
    """The connection of a client."""
    (found,) = [task_of(one) for one in server.connections() if one.peername == sock.getsockname()]
    return found


def parked(server, sock):
    """A client's connection, when the poller has its descriptor."""
    connection = connection_of(server, sock)
    assert eventually(lambda: connection.attached and connection.ownership == PARKED)
    return connection


# ---- a thread of the pool -------------------------------------------------------------


def test_an_exception_while_it_waits_for_work_costs_nobody(both, serve, client, monkeypatch):
    """EBADF, MemoryError, OverflowError: whatever a wait in the poller may raise."""
    server = serve(Echo)
    clients = [client(server, timeout=2) for _ in range(3)]
    assert all(answers(one) for one in clients)
    scheduler = server._run.scheduler
    queue, poller = scheduler._queue, scheduler._queue._poller
    for error in (OSError(errno.EBADF, "bad"), MemoryError(), OverflowError(), SystemExit()):
        raised = threading.Event()

        class Raises:
            needs_rearm = False

            def poll(self, timeout, error=error, raised=raised):
                queue._poller = queue._epoll = poller
                raised.set()
                raise error

            def __getattr__(self, name):
                return getattr(poller, name)

        queue._poller, queue._epoll = Raises(), None
        poller.wake()
        assert raised.wait(2)
        assert all(answers(one) for one in clients)
        echoes(client(server))


# ---- what is put into the queue is come to -----------------------------------------------


def test_tasks_are_counted_anew_after_an_exception(both, serve, client, monkeypatch):
    """Else a stop would wait for a connection that has gone."""
    server = serve(Echo)
    sock = client(server)
    assert answers(sock)
    table, remove, breaks = server._run.scheduler._table, TaskTable.remove, [1]

    def counts_wrong(self, task):
        remove(self, task)
        if self is table and breaks:
            self._count += breaks.pop()
            raise RuntimeError("in a test")

    monkeypatch.setattr(TaskTable, "remove", counts_wrong)
    sock.close()
    assert eventually(lambda: not breaks)
    assert eventually(lambda: table._count == len(list(filter(None, table.by_fd))))
    monkeypatch.undo()
    server.stop()
    assert table.is_over()


def test_what_lingers_is_let_go_of_in_time_while_its_callback_goes_on(both, serve, client):
    """The callback closes its socket, and goes on: nobody looked at what was to be closed."""
    over, closed = threading.Event(), threading.Event()

    class Works(Handler):
        def handle_connection(self, socket):
            socket.recv()  # it waits, so another thread has the permit, and is in the poller
            received.set()
            more.wait(5)
            socket.send(b"answer")
            socket.close()
            closed.set()
            over.wait(10)

    received, more = threading.Event(), threading.Event()
    server = serve(Works)
    sock = client(server)
    assert eventually(lambda: server.info().active_connections == 1)
    sock.sendall(b"x")
    assert received.wait(5)
    sock.sendall(b"unread")
    more.set()
    assert closed.wait(5)
    began = time.monotonic()
    lingers = [one for one in server._run.scheduler.tasks() if isinstance(one, Linger)]
    assert lingers
    assert eventually(lambda: lingers[0]._sock.fileno() < 0 or time.monotonic() - began > 3)
    took = time.monotonic() - began
    over.set()
    assert took < 2
    assert eventually(lambda: server.info().active_connections == 0)


# ---- descriptors that find no room in the poller ----------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOMEM])
def test_a_descriptor_that_finds_no_room_ends_its_connection(
    both, number, serve, client, monkeypatch
):
    """epoll_ctl(2): ENOSPC, where fs.epoll.max_user_watches is reached."""
    register = _poller.EpollPoller.register
    full = threading.Event()

    def refuse(self, fd, *, write):
        if full.is_set():
            raise OSError(number, os.strerror(number))
        register(self, fd, write=write)

    monkeypatch.setattr(_poller.EpollPoller, "register", refuse)
    Base = journal()

    class Waits(Base):
        def handle_data(self, data, socket):
            if data == b"wait":
                socket.send(b"?")
                data = socket.recv()
            socket.send(data)

    server = serve(Waits)
    other, sock = client(server), client(server)
    echoes(other)
    echoes(sock)
    sock.sendall(b"wait")
    assert receive(sock, 1) == b"?"
    assert eventually(lambda: not connection_of(server, sock).attached)  # it waits
    parked(server, other)
    full.set()
    sock.sendall(b"last")
    assert receive(sock, 4) == b"last"
    assert Waits.ended()
    (reason,) = [what for name, what in Waits.lines if name == "error"]
    assert reason.errno == number
    assert "max_user_watches" in str(reason)
    assert busy_seconds(0.3) < 0.1
    echoes(other)
    assert server.info().active_connections == 1
    full.clear()
    echoes(client(server))


def test_who_comes_while_the_poller_is_full_is_told_so_and_the_server_idles(
    both, serve, client, monkeypatch
):
    register = _poller.EpollPoller.register
    full = threading.Event()

    def refuse(self, fd, *, write):
        if full.is_set():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        register(self, fd, write=write)

    monkeypatch.setattr(_poller.EpollPoller, "register", refuse)
    Base = journal(Echo)
    server = serve(Base)
    early = client(server)
    echoes(early)
    parked(server, early)
    full.set()
    late = client(server)
    assert receive(late, 1) == b""
    assert eventually(lambda: Base.names().count("error") == 1), Base.lines
    assert busy_seconds(0.3) < 0.1
    full.clear()
    echoes(client(server))


class _Full:
    """A selector with no room for some descriptors."""

    def __init__(self, selector, refused):
        self._selector, self._refused = selector, refused

    def register(self, fd, events):
        if fd in self._refused:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._selector.register(fd, events)

    def __getattr__(self, name):
        return getattr(self._selector, name)


def test_the_fallback_tells_of_a_descriptor_that_it_has_no_room_for(serve, client, monkeypatch):
    """It puts a descriptor back after each event, on the thread that polls."""
    refused = set()
    monkeypatch.setattr(
        run, "new_poller", lambda: SelectorPoller(lambda: _Full(selectors.PollSelector(), refused))
    )
    Base = journal(Echo)
    server = serve(Base)
    other, sock = client(server), client(server)
    echoes(other)
    echoes(sock)
    lifecycle = parked(server, sock)
    known = server._run.scheduler._queue._poller._selector.get_map()
    assert eventually(lambda: lifecycle.fd in known)
    refused.add(lifecycle.fd)
    sock.sendall(b"x")
    assert receive(sock, 1) == b"x"
    assert Base.ended()
    assert Base.names() == ["error", "end"]
    assert busy_seconds(0.3) < 0.1
    refused.clear()
    echoes(other)
    echoes(client(server))


def test_the_fallback_lives_through_a_descriptor_that_was_lost():
    """select(2) fails for all of them if one was closed by somebody's mistake."""
    poller = SelectorPoller(selectors.SelectSelector)
    lost, kept = socket.socketpair(), socket.socketpair()
    try:
        for ours, _ in (lost, kept):
            poller.register(ours.fileno(), write=False)
        poller.poll(0)
        number = lost[0].fileno()
        lost[0].close()
        kept[1].send(b"x")
        found = dict(poller.poll(0) + poller.poll(0))
        assert found.pop(number) & REFUSED
        assert poller.refusal(number).errno == errno.EBADF
        assert found == {kept[0].fileno(): READ}
    finally:
        poller.close()
        for ours, theirs in (lost, kept):
            ours.close()
            theirs.close()


# ---- a lock that nothing gives back -------------------------------------------


class Interrupted(BaseException):
    """Raised by another thread, in the middle of a call of ours."""


def scheduler_lock(sock):
    return task_of(sock.connection).env.pool._lock


def limit_lock(sock):
    return sock.connection.server._changes.run.limit._lock


def process_lock(sock):
    return locks.of_process["mailbox"]


class TakesAndIsInterrupted(Handler):
    """As where an exception comes between the `__enter__` of a lock and the body of its `with`,
    which CPython 3.14 lets happen."""

    def interrupt(self, sock):
        self.options(sock).acquire()
        raise Interrupted

    def handle_data(self, data, sock):
        if data == b"here":
            self.interrupt(sock)
        return None if sock.send(data) and data == b"echo" else Close()

    def handle_call(self, message, sock):
        self.interrupt(sock)

    def handle_close(self, sock):
        self.interrupt(sock)


@pytest.mark.parametrize("which", [scheduler_lock, limit_lock, process_lock])
@pytest.mark.parametrize("way", ["handle_data", "handle_call", "handle_close"])
def test_g6_a_lock_that_an_exception_left_held_is_given_back(serve, client, caplog, which, way):
    server = serve(TakesAndIsInterrupted, handler_options=which)
    one, other = client(server), client(server)
    echoes(other, b"echo")
    if way == "handle_call":
        echoes(one, b"echo")
        with pytest.raises(Interrupted):
            server.connections()[0].call(b"?", timeout_ms=5_000)
    else:
        one.sendall(b"here" if way == "handle_data" else b"bye")
        assert receive_all(one) == (b"" if way == "handle_data" else b"bye")
    other.settimeout(1)
    echoes(other, b"echo")
    assert server.info().active_connections >= 1
    for connection in server.connections():
        connection.post(b"later")


# ---- a descriptor that somebody else closes -------------------------------------


@pytest.mark.parametrize("used_again", [False, True], ids=["closed", "used-again"])
def test_g6_a_poller_whose_descriptor_was_lost_is_renewed(
    both, serve, client, tmp_path, caplog, used_again
):
    """As by a loop over all numbers; without mercy, for the server has just one."""
    server = serve(Echo)
    one, other = client(server), client(server)
    echoes(one)
    echoes(other)
    parked(server, one)
    number = server._run.scheduler._queue._poller.fileno()
    if used_again:
        strangers = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
        os.dup2(strangers, number)
        os.close(strangers)
    else:
        os.close(number)
    for sock in (one, other, client(server)):
        sock.settimeout(2)
        echoes(sock, b"still here")
    assert busy_seconds(0.2) < 0.1
    said = [
        line
        for line in caplog.messages
        if "closed the descriptor that this server polls with" in line
    ]
    assert len(said) == 1
    assert server.stop(2_000) is True
    if used_again:
        os.fstat(number)  # nobody has closed the stranger's
        os.close(number)
