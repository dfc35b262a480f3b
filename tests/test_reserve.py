"""Threads are kept for those who read, while many others hold threads in sends."""

import contextlib
import socket
import threading
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import eventually, receive, reset
from thousand_island_sync import Close, Handler
from thousand_island_sync._base.clock import FOREVER
from thousand_island_sync._base.unread import unread_bytes
from thousand_island_sync._connection import reserve
from thousand_island_sync._connection.reserve import Level, Peer, Reserve
from thousand_island_sync._connection.states import ON_STOP, Stage
from thousand_island_sync._stream import unsent_total

#: A small buffer of the kernel's, so that little fills it.
SMALL = {"send_buffer": 8_192}
MOST = 20_000
SIZE = 400_000


class Replies(Handler):
    """To `b` more than the buffers hold; to others what they have sent."""

    def handle_data(self, data, socket):
        socket.send(b"z" * SIZE if data == b"b" else data)


@pytest.fixture
def crowd(wire, monkeypatch):
    """Sixteen threads, and a crowd of peers of which none reads, and none is ended for that."""
    monkeypatch.setattr(unsent_total, "SLOW_S", 60.0)
    monkeypatch.setattr(reserve, "_MORE_S", 600.0)
    server = wire.serve(
        Replies,
        max_handler_threads=16,
        max_unsent=MOST,
        transport_options=SMALL,
        shutdown_timeout_ms=500,
    )
    known = wire.connect(server)
    known.sendall(b"x")
    assert receive(known, 1) == b"x"
    others = [wire.connect(server) for _ in range(24)]
    the_reserve = server.connections()[0]._inbox._link.env.reserve
    for count, sock in enumerate(others, 1):
        sock.sendall(b"b")
        assert eventually(lambda count=count: len(the_reserve._inside) == min(count, 14))
    assert eventually(lambda: sum(map(len, the_reserve._held.values())) == 24 - 14)
    return SimpleNamespace(
        server=server, known=known, others=others, reserve=the_reserve, wire=wire
    )


def held(crowd):
    return sum(map(len, crowd.reserve._held.values()))


def test_who_has_read_what_it_was_sent_is_answered(crowd):
    for _ in range(50):
        crowd.known.sendall(b"x")
        assert receive(crowd.known, 1) == b"x"
    assert crowd.server.info().busy_threads >= 14


def test_the_others_are_heard_when_there_is_room_and_nothing_is_lost(crowd):
    readers = [threading.Thread(target=receive, args=(one, SIZE)) for one in crowd.others]
    for one in readers:
        one.start()
    for one in readers:
        one.join(60)
    assert not any(one.is_alive() for one in readers)
    assert eventually(lambda: crowd.reserve.level is Level.AT_REST)
    assert eventually(lambda: crowd.server.info().busy_threads == 0)


def test_the_latest_of_the_new_ones_is_heard_first(crowd):
    late = crowd.wire.connect(crowd.server)
    late.sendall(b"late")
    assert eventually(lambda: held(crowd) == 24 - 14 + 1)
    reset_one_that_waits(crowd)
    assert receive(late, 4) == b"late"


def test_who_is_held_back_for_a_second_gets_a_thread_though_nobody_gives_one_up(crowd):
    """The crowd's peers may take a little all the time, and none of them is ended."""
    late = crowd.wire.connect(crowd.server)
    late.sendall(b"late")
    assert eventually(lambda: held(crowd) == 24 - 14 + 1)
    task = [*crowd.reserve._held[Peer.NEW]][-1]
    assert eventually(lambda: unread_bytes(task.client.sock))
    crowd.reserve._next_more = 0.0  # the second is over
    assert receive(late, 4) == b"late"
    for _ in range(10):
        late.sendall(b"again")
        assert receive(late, 5) == b"again"


def reset_one_that_waits(crowd):
    """Which of them do, only the server knows."""
    waits = {task.peer_address for task in crowd.reserve._inside}
    if crowd.wire.name == "unix":
        for task in list(crowd.reserve._inside)[:1]:
            task.handle.close(abort=True)
        return
    (first, *_) = (one for one in crowd.others if one.fileno() >= 0 and one.getsockname() in waits)
    reset(first)


def test_a_stop_finds_them_all(crowd, stopwatch):
    began = stopwatch()
    crowd.server.stop(500)
    assert stopwatch() - began < 5
    assert eventually(lambda: crowd.reserve._inside == {})
    assert eventually(lambda: held(crowd) == 0)


def test_one_that_is_held_back_and_closed_from_outside_ends(crowd):
    (task, *_) = crowd.reserve._held[Peer.NEW]
    task.handle.close()
    assert eventually(lambda: task.machine.stream is None)
    assert eventually(lambda: held(crowd) == 24 - 14 - 1)


def test_one_that_is_held_back_and_resets_ends(serve, client, monkeypatch):
    monkeypatch.setattr(unsent_total, "SLOW_S", 60.0)
    server = serve(Replies, max_handler_threads=16, max_unsent=MOST, transport_options=SMALL)
    others = [client(server) for _ in range(20)]
    for sock in others:
        sock.sendall(b"b")
    assert eventually(lambda: server.info().busy_threads >= 8)
    for sock in others:
        reset(sock)
    assert eventually(lambda: server.info().active_connections == 0)


def test_of_the_new_ones_every_other_is_the_oldest(crowd):
    (first, *_, last) = crowd.reserve._held[Peer.NEW]
    reset_one_that_waits(crowd)
    assert eventually(lambda: last not in crowd.reserve._held[Peer.NEW])
    assert first in crowd.reserve._held[Peer.NEW]
    reset_one_that_waits(crowd)
    assert eventually(lambda: first not in crowd.reserve._held[Peer.NEW])


def test_who_was_chosen_and_not_called_is_called_again(crowd):
    """An exception in the thread that should call it, for one."""
    late = crowd.wire.connect(crowd.server)
    late.sendall(b"late")
    assert eventually(lambda: held(crowd) == 24 - 14 + 1)
    with crowd.reserve._lock:
        (*_, task) = crowd.reserve._held[Peer.NEW]
        del crowd.reserve._held[Peer.NEW][task]
        crowd.reserve._called.add(task)
        crowd.reserve._inside[task] = 0.0
    assert eventually(lambda: task in crowd.reserve._held[Peer.NEW])
    assert task not in crowd.reserve._inside
    reset_one_that_waits(crowd)
    assert receive(late, 4) == b"late"


def test_who_is_held_back_is_not_run_to_see_whether_it_still_is(crowd, monkeypatch):
    """Thousands of them would stand in the queue before those who have said something."""
    monkeypatch.setattr(reserve, "_LOOK_S", 0.005)
    eventually(lambda: crowd.reserve._looks, 5)
    looked, looks = [], crowd.reserve._looks
    before = Reserve.holds

    def holds(self, task, stream, parks):
        looked.append(task)
        return before(self, task, stream, parks)

    monkeypatch.setattr(Reserve, "holds", holds)
    assert eventually(lambda: crowd.reserve._looks > looks + 20)
    crowd.known.sendall(b"x")
    assert receive(crowd.known, 1) == b"x"
    assert len({*looked}) == 1
    assert held(crowd) == 24 - 14


class Blocks(Replies):
    """To `s` nothing, for as long as the test says."""

    def handle_data(self, data, socket):
        if data == b"s":
            self.options.wait(20)
        else:
            super().handle_data(data, socket)


def test_callbacks_that_do_something_else_hold_nobody_back_for_long(serve, client, monkeypatch):
    """Nobody waits in a send any more, so nothing happens that could tell of room."""
    monkeypatch.setattr(unsent_total, "SLOW_S", 60.0)
    goes_on = threading.Event()
    server = serve(
        Blocks,
        handler_options=goes_on,
        max_handler_threads=16,
        max_unsent=MOST,
        transport_options=SMALL,
    )
    try:
        slow = [client(server) for _ in range(8)]
        for sock in slow:
            sock.sendall(b"b")
        assert eventually(server.connections)
        the_reserve = server.connections()[0]._inbox._link.env.reserve
        assert eventually(lambda: the_reserve.level is Level.ARMED)
        for sock in [client(server) for _ in range(14)]:
            sock.sendall(b"s")
        assert eventually(lambda: sum(map(len, the_reserve._held.values())) == 22 - 14)
        for sock in slow:
            assert len(receive(sock, SIZE)) == SIZE
        late = client(server)
        late.sendall(b"late")
        assert receive(late, 4) == b"late"
        assert eventually(lambda: server.info().busy_threads == 14)
        late = client(server)
        late.sendall(b"late")
        assert receive(late, 4) == b"late"
    finally:
        goes_on.set()


def test_a_stop_that_begins_while_it_is_held_back_ends_nobody_unheard(served_pair, monkeypatch):
    stream, _ = served_pair
    task = stream.connection
    stream.writer.buffered()

    def holds(self, task, stream, parks):
        task.env.move(ON_STOP)  # at this moment
        return True

    monkeypatch.setattr(Reserve, "holds", holds)
    task.env.reserve.level = Level.COUNTING
    try:
        assert task.machine.callbacks.heed(stream, False) is None
    finally:
        task.deaf = False
        task.env.reserve.level = Level.AT_REST
        task.env.stage = Stage.SERVING


def test_a_message_ends_one_that_is_held_back(crowd):
    """Messages are delivered: what a broker has to say does not wait for what its client says."""
    (task, *_) = crowd.reserve._held[Peer.NEW]
    seen = threading.Event()
    task.machine.callbacks._handler.handle_info = lambda message, socket: (seen.set(), Close())[1]
    task.handle.post("x")
    assert seen.wait(10)


def test_the_last_thread_is_for_those_who_read(crowd):
    for _ in range(5):
        crowd.reserve._next_more = 0.0
        crowd.known.sendall(b"x")
        assert receive(crowd.known, 1) == b"x"
    assert eventually(lambda: len(crowd.reserve._inside) == 15)
    crowd.known.sendall(b"x")
    assert receive(crowd.known, 1) == b"x"


def test_a_small_pool_keeps_none(serve, client, monkeypatch):
    monkeypatch.setattr(unsent_total, "SLOW_S", 60.0)
    server = serve(Replies, max_handler_threads=2, max_unsent=MOST, transport_options=SMALL)
    first = client(server)
    first.sendall(b"b")
    assert eventually(lambda: server.info().busy_threads == 1)
    second = client(server)
    second.sendall(b"x")
    assert receive(second, 1) == b"x"


def test_whose_reply_lies_in_the_kernel_is_slow_and_else_reads(served_pair):
    stream, peer = served_pair
    assert reserve.peer_of(stream) is Peer.NEW
    stream.writer.send(b"x")
    assert eventually(lambda: reserve.peer_of(stream) is Peer.READS)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
    while not stream.writer.unsent:
        stream.writer.send(bytes(50_000))
    assert reserve.peer_of(stream) is Peer.SLOW
    peer.setblocking(False)

    def reads():
        with contextlib.suppress(BlockingIOError):
            while peer.recv(1 << 16):
                pass
        return reserve.peer_of(stream) is Peer.READS

    assert eventually(reads)


@pytest.fixture
def served_pair(serve, client):
    found = []

    class Idle(Handler):
        def handle_connection(self, socket):
            found.append(socket)

    server = serve(Idle, transport_options=SMALL)
    sock = client(server)
    assert eventually(lambda: found)
    (connection,) = server.connections()
    return connection._inbox._link.machine.stream, sock


# ---- what stands in the queue ----------------------------------------------------------


class Crowd:
    """A reserve of a pool of 128, a queue as the scheduler's, and time that the test moves on."""

    def __init__(self, count):
        self.time, self.queue, self.timers = 0.0, [], []
        self.reserve = Reserve(64, lambda: self.time)
        self.reserve.start = self.timers.append
        self.tasks = [Task(self.queue) for _ in range(count)]
        self.streams = {one: SimpleNamespace(sock=one) for one in self.tasks}
        self.inside = []

    def pass_time(self, seconds):
        end = self.time + seconds
        while self.timers and self.timers[0].when <= end:
            self.time = max(self.time, self.timers[0].when)
            self.timers.pop(0).target()
        self.time = end

    def run(self, task):
        """What its step does: it is held back, or its callback waits in a send."""
        at_rest = self.reserve.level is Level.AT_REST
        if at_rest or not self.reserve.holds(task, self.streams[task], False):
            self.reserve.begins_to_wait(task)
            self.inside.append(task)

    def run_first(self):
        self.run(self.queue.pop(0))


@pytest.fixture
def known(monkeypatch):
    """What the kernel tells of a peer is what the test says."""
    monkeypatch.setattr(reserve, "peer_of", lambda stream: stream.sock.peer)
    monkeypatch.setattr(reserve, "queued", lambda task: int(task.peer is Peer.SLOW))


@pytest.fixture
def two_thousand(known):
    found = Crowd(2_000)
    for number, task in enumerate(found.tasks):
        task.peer = Peer.SLOW if number % 2 else Peer.NEW
        found.run(task)
    assert not found.queue
    return found


def test_nobody_is_run_as_long_as_there_is_no_room(two_thousand):
    two_thousand.pass_time(0.9)  # for each second there is a thread more
    assert two_thousand.queue == []
    assert len(two_thousand.timers) == 1


def test_of_a_crowd_eight_at_most_stand_before_whoever_comes(two_thousand):
    crowd = two_thousand
    for task in [*crowd.inside]:  # all of their sends end at once
        crowd.reserve.leaves(task)
    crowd.inside.clear()
    good = Task(crowd.queue)
    good.peer, crowd.streams[good] = Peer.READS, SimpleNamespace(sock=good)
    crowd.tasks.append(good)
    while len(crowd.inside) < 100:
        assert len(crowd.queue) <= 8
        crowd.queue.append(good)
        while (first := crowd.queue.pop(0)) is not good:
            crowd.run(first)
        assert not crowd.reserve.holds(good, crowd.streams[good], False)
    assert len(crowd.inside) <= 112


def test_those_who_read_are_not_asked_about_at_each_step(two_thousand):
    """They pay for no crowd: nothing is counted for them, and their next step is a quick one."""
    crowd = two_thousand
    good = Task(crowd.queue)
    good.peer, stream = Peer.READS, SimpleNamespace(sock=good)
    counted, before = [], crowd.reserve._clock
    crowd.reserve._clock = lambda: (counted.append(1), before())[1]
    assert not crowd.reserve.holds(good, stream, False)
    assert not crowd.reserve.holds(good, stream, True)
    assert not counted
    assert not good.alert
    crowd.reserve.begins_to_wait(good)  # it has filled its buffers
    assert good.alert
    assert good in crowd.reserve._inside


def test_whoever_has_taken_everything_is_found_though_there_are_many(two_thousand):
    crowd = two_thousand
    slow = [*crowd.reserve._held[Peer.SLOW]]
    for task in slow[::100]:
        task.peer = Peer.READS
    crowd.pass_time(0.2 * (len(slow) // reserve._LOOKED_AT + 2))
    assert {*slow[::100]} <= {*crowd.queue}


def test_of_a_crowd_that_has_gone_nothing_is_kept(two_thousand):
    crowd = two_thousand
    crowd.pass_time(crowd.timers[0].when - crowd.time)
    assert crowd.reserve._to_look_at  # the look has come to some of them
    for task in crowd.tasks:
        crowd.reserve.leaves(task)
    crowd.pass_time(60)
    assert not crowd.timers
    assert not crowd.reserve._to_look_at


def test_those_who_end_each_other_do_so_one_after_the_other(known):
    """Who comes in beyond half of the pool ends somebody, whose thread is free then: it is not the
    next one's at once, or a crowd would do nothing else until it has gone."""
    crowd = Crowd(500)
    for task in crowd.tasks:
        task.peer = Peer.SLOW
        crowd.run(task)
    came, ended = 0, iter(crowd.inside[:])
    for _ in range(300):  # three seconds
        crowd.pass_time(0.01)
        while crowd.queue:
            crowd.run_first()
            crowd.reserve.leaves(next(ended))
            came += 1
    assert 4 <= came <= 12


def test_nor_does_one_come_in_who_looks_himself(known):
    crowd = Crowd(500)
    for task in crowd.tasks:
        task.peer = Peer.SLOW
        crowd.run(task)
    came = len(crowd.inside)
    crowd.pass_time(1.0)  # for each second four may come in
    while crowd.queue:
        crowd.run_first()
    for task in [*crowd.reserve._held[Peer.SLOW]]:
        crowd.run(task)
    assert len(crowd.inside) - came <= 2


def test_a_timer_that_was_lost_is_started_anew(two_thousand):
    crowd = two_thousand
    (lost,) = crowd.timers
    crowd.timers.clear()
    crowd.time += 5.0
    (late,) = (Task(crowd.queue),)
    crowd.streams[late] = SimpleNamespace(sock=late)
    crowd.run(late)
    (timer,) = crowd.timers
    crowd.queue.clear()
    lost.target()  # it comes after all: the other one does it
    assert crowd.timers == [timer]


def test_who_looks_himself_does_it_at_another_time_than_the_next():
    times = {reserve.looks_himself(number) for number in range(64)}
    assert len(times) == 64
    assert min(times) >= 10


# ---- in any order of events -------------------------------------------------------------


class Task:
    """A connection's, whose peer is what the test says."""

    def __init__(self, log):
        self.alert = self.hung_up = self.stopping = False
        self.log = log
        self.peer = Peer.NEW

    def look_again(self):
        self.log.append(self)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["step", "waits", "parks", "leaves", "reads", "slow"]),
            st.integers(0, 29),
        ),
        max_size=120,
    )
)
def test_nobody_is_held_back_for_good(steps):
    log, time_now = [], [0.0]
    the_reserve = Reserve(8, lambda: time_now[0])
    tasks = [Task(log) for _ in range(30)]
    streams = {one: SimpleNamespace(sock=one) for one in tasks}
    inside, back = set(), set()
    before = reserve.peer_of, reserve.queued
    reserve.peer_of = lambda stream: stream.sock.peer
    reserve.queued = lambda task: task.peer is Peer.SLOW

    def steps_again(task):
        holds = the_reserve.level is not Level.AT_REST and the_reserve.holds(
            task, streams[task], False
        )
        inside.discard(task)
        (back.add if holds else back.discard)(task)
        if not holds and task in the_reserve._inside:
            inside.add(task)

    try:
        for step, number in steps:
            task, time_now[0] = tasks[number], time_now[0] + 0.1
            if step == "step":
                steps_again(task)
            elif step == "waits" and task not in back:
                the_reserve.begins_to_wait(task)
                inside.add(task)
            elif step == "parks" and the_reserve.level is not Level.AT_REST:
                assert the_reserve.holds(task, streams[task], True) is (task in back)
                if task not in back:
                    inside.discard(task)
            elif step == "leaves":
                the_reserve.leaves(task)
                inside.discard(task)
                back.discard(task)
            elif step in ("reads", "slow"):
                task.peer = Peer.READS if step == "reads" else Peer.SLOW
            while log:
                steps_again(log.pop())
            assert the_reserve.faults() == []
            assert {one for one, until in the_reserve._inside.items() if until == FOREVER} <= inside
            assert set(the_reserve._inside) <= inside
        for task in list(inside):
            the_reserve.leaves(task)
            inside.discard(task)
            while log:
                steps_again(log.pop())
        while inside:
            the_reserve.leaves(inside.pop())
            while log:
                steps_again(log.pop())
        assert not back
        assert the_reserve.level is Level.AT_REST
    finally:
        reserve.peer_of, reserve.queued = before
