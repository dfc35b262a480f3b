"""The send buffer without sockets: what is kept, in which order, and the books of all."""

import itertools
import socket
import sys
import threading
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import eventually
from thousand_island_sync._base.clock import FOREVER, Times
from thousand_island_sync._base.queued import last_data_sent
from thousand_island_sync._connection.environment import Limits
from thousand_island_sync._stream import taking, unsent_total
from thousand_island_sync._stream.amid_handshake import goes
from thousand_island_sync._stream.pieces import PIECE, Pieces
from thousand_island_sync._stream.send_buffer import SendBuffer
from thousand_island_sync._stream.states import (
    BARRIER,
    ON_BARRIER,
    ON_BARRIER_GONE,
    ON_LAST,
    SENDS_OVER,
    Sends,
)
from thousand_island_sync._stream.unsent_total import SLOW_S, UnsentTotal
from thousand_island_sync.errors import SocketTimeout
from thousand_island_sync.transports import Channel


def numbered(start, count):
    """Bytes that tell their place."""
    return bytes((start + index) % 251 for index in range(count))


def content(pieces):
    taken = bytearray()
    while pieces.size:
        views = pieces.first(pieces.size)
        taken += b"".join(views)
        pieces.drop(sum(map(len, views)))
    return bytes(taken)


# ---- bytes in a row ---------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.sampled_from(["append", "drop", "look"]), st.integers(0, 3 * PIECE)),
        max_size=30,
    )
)
def test_what_is_put_in_comes_out_in_order(steps):
    pieces, model, made = Pieces([]), b"", 0
    for step, count in steps:
        if step == "append":
            data = numbered(made, count)
            made += count
            pieces.append(memoryview(data))
            model += data
        elif step == "drop":
            count = min(count, sum(map(len, pieces.first(count))))
            pieces.drop(count)
            model = model[count:]
        else:
            seen = b"".join(pieces.first(count))
            assert model.startswith(seen)
            assert seen or not model or not count
        assert pieces.size == len(model)
    assert content(pieces) == model


@given(
    st.lists(st.integers(0, 2 * PIECE), max_size=8),
    st.integers(0, 20 * PIECE),
    st.integers(0, 20 * PIECE),
    st.integers(1, 2 * PIECE),
)
def test_what_is_put_in_the_middle_comes_out_there(sizes, at, gone, more):
    pieces, model = Pieces([]), b""
    for size in sizes:
        data = numbered(len(model), size)
        pieces.append(memoryview(data))
        model += data
    gone = min(gone, sum(map(len, pieces.first(len(model)))))
    pieces.drop(gone)
    model = model[gone:]
    at = min(at, len(model))
    behind = pieces.cut(at)
    assert (pieces.size, behind.size) == (at, len(model) - at)
    middle = b"m" * more
    pieces.append(memoryview(middle))
    pieces.extend(behind)
    assert content(pieces) == model[:at] + middle + model[at:]


def test_what_is_kept_is_a_copy_in_small_pieces():
    pieces, data = Pieces([]), bytearray(b"a" * (3 * PIECE + 5))
    pieces.append(memoryview(data))
    data[:] = b"b" * len(data)
    assert content(pieces) == b"a" * (3 * PIECE + 5)
    pieces.append(memoryview(bytes(5 * PIECE)))
    assert all(len(view) <= PIECE for view in pieces.first(5 * PIECE))


def test_memory_is_used_again_but_not_while_it_is_lent():
    spare = []
    pieces = Pieces(spare)
    pieces.append(memoryview(b"a" * 2 * PIECE))
    (first, _) = pieces.first(2 * PIECE)
    pieces.clear()
    assert spare == []
    assert bytes(first) == b"a" * PIECE
    pieces.lent = False
    pieces.append(memoryview(b"b" * PIECE))
    pieces.clear()
    (kept,) = spare
    other = Pieces(spare)
    other.append(memoryview(b"c" * PIECE))
    assert spare == []
    assert bytes(kept) == b"c" * PIECE


def test_no_more_memory_is_set_by_than_was_ever_needed_at_once():
    """Also where pieces were joined of small ones, whose memory is their own."""
    spare = []
    for _ in range(20):
        pieces = Pieces(spare)
        pieces.append(memoryview(b"a" * (PIECE // 2)))
        pieces.append(memoryview(b"b" * (PIECE + PIECE // 2)))
        assert content(pieces) == b"a" * (PIECE // 2) + b"b" * (PIECE + PIECE // 2)
        pieces.lent = False
        pieces.clear()
    assert len(spare) == 2


def test_small_ones_are_joined():
    pieces = Pieces([])
    for _ in range(1_000):
        pieces.append(memoryview(b"x"))
    assert len(pieces.first(1_000)) == 1


# ---- the buffer of a connection --------------------------------------------------------


class Full(Channel):
    """A channel with so much room."""

    def __init__(self):
        self.room, self.sent = 0, b""

    def handshake(self):
        return True

    def recv(self, length, flags=0):
        return None

    def send(self, data, flags=0):
        count = min(self.room, len(data))
        self.room -= count
        self.sent += bytes(data[:count])
        return count

    def shutdown(self, how):
        pass


class World:
    """Some connections, their books, and a clock that is a number."""

    def __init__(self, count=2, each=100, most=150, senders=1):
        self.time = 1_000.0
        limits = Limits(60, 5.0, 5, None, 0, each, most, senders)
        self.total = UnsentTotal(limits, lambda: self.time)
        self.looked, self.blocked = [], {}
        self.streams = [self._stream(number) for number in range(count)]
        self.buffers = [SendBuffer(stream, self.total) for stream in self.streams]

    def _stream(self, number):
        return SimpleNamespace(
            connection=SimpleNamespace(
                peer_address=("peer", number),
                look_again=lambda: self.looked.append(number),
                deaf=False,
            ),
            sock=SimpleNamespace(fileno=lambda: -1),
            channel=Full(),
            state=None,
            writer=SimpleNamespace(block=lambda blocked: self.blocked.__setitem__(number, blocked)),
        )

    def keep(self, number, data, **how):
        return self.buffers[number].keep([memoryview(data)], **how)


def test_nothing_overtakes_what_waits():
    world = World()
    assert world.keep(0, b"x" * 10) == 10
    assert world.blocked[0]
    world.buffers[0].turn_begins()
    world.streams[0].channel.room = 10
    assert world.buffers[0].send_ahead(world.streams[0].channel)
    assert not world.blocked[0]


def test_a_limit_for_each_and_one_for_all():
    world = World(each=100, most=150)
    assert world.keep(0, b"x" * 300) == 100
    assert world.keep(1, b"x" * 60, whole=True) == 0
    assert world.keep(1, b"x" * 60) == 50
    assert world.total.bytes == 150
    assert world.total.faults() == []


def test_what_others_keep_comes_behind_the_whole_of_who_has_the_turn():
    world = World(each=1_000, most=1_000)
    buffer, channel = world.buffers[0], world.streams[0].channel
    world.keep(0, b"before ")
    buffer.turn_begins()
    world.keep(0, b"behind")
    world.keep(0, b"mine ", mine=True)
    channel.room = 100
    assert buffer.send_ahead(channel)
    assert channel.sent == b"before mine "
    assert buffer.size == len(b"behind")
    buffer.turn_begins()
    assert buffer.send_ahead(channel)
    assert channel.sent == b"before mine behind"


def test_behind_a_barrier_nothing_goes_out():
    world = World(each=1_000, most=1_000)
    buffer, channel = world.buffers[0], world.streams[0].channel
    world.keep(0, b"plain")
    buffer.turn_begins()
    buffer.on(ON_BARRIER)
    world.keep(0, b"secret")
    buffer.turn_begins()
    channel.room = 100
    assert buffer.send_ahead(channel)
    assert channel.sent == b"plain"
    buffer.on(ON_BARRIER_GONE)
    buffer.turn_begins()
    assert buffer.send_ahead(channel)
    assert channel.sent == b"plainsecret"


MOVES = {"barrier": ON_BARRIER, "barrier gone": ON_BARRIER_GONE, "last": ON_LAST}


@pytest.mark.parametrize("moves", list(itertools.product(MOVES, repeat=3)), ids="-".join)
def test_the_end_and_a_barrier_are_told_apart_in_whatever_order_they_come(moves):
    """What is kept behind a barrier stays there also after the last callback."""
    world = World()
    buffer = world.buffers[0]
    world.keep(0, b"behind")
    for move in moves:
        buffer.on(MOVES[move])
    raised = [move == "barrier" for move in moves if move != "last"][-1:] == [True]
    over = "last" in moves
    assert (buffer.sends in BARRIER, buffer.sends in SENDS_OVER) == (raised, over)
    assert goes(world.streams[0], buffer) == (not raised)
    assert world.total.may_sleep(buffer, None) == (buffer.sends is Sends.OPEN)
    buffer.turn_begins()
    world.streams[0].channel.room = 100
    assert buffer.send_ahead(world.streams[0].channel)
    assert buffer.size == (6 if raised else 0)
    assert world.blocked[0] == (raised or over)


@pytest.mark.parametrize("before", MOVES)
@pytest.mark.parametrize("after", MOVES)
@pytest.mark.parametrize("end", ["fail", "let_go"])
def test_what_has_failed_stays_so(before, after, end):
    world = World()
    buffer, error = world.buffers[0], SocketTimeout(110, "late")
    world.keep(0, b"waits")
    buffer.on(MOVES[before])
    if end == "fail":
        assert buffer.fail(error)
    else:
        buffer.let_go()
    buffer.on(MOVES[after])
    assert buffer.sends is Sends.FAILED
    assert buffer.failure is not None
    assert not buffer.fail(error)
    assert world.keep(0, b"more") == 0
    buffer.keep_record(True)
    assert not buffer.waits
    assert world.blocked[0]
    assert world.total.faults() == []


def test_the_slowest_goes_first_and_only_after_a_while():
    world = World(count=3, each=100, most=300)
    for number in range(3):
        world.keep(number, b"x" * 100)
        world.time += 0.1
    assert not world.total.end_slowest()
    world.buffers[0].moved()
    world.time += SLOW_S
    assert world.total.end_slowest()
    assert [isinstance(one.failure, SocketTimeout) for one in world.buffers] == [False, True, False]
    assert world.looked == [1]
    assert world.buffers[1].take_lost() == 100
    assert world.buffers[1].take_lost() == 0
    assert world.total.bytes == 200
    assert world.total.faults() == []


@pytest.fixture
def sent_ago(monkeypatch):
    """Seconds since the kernel sent to a peer last, by its number."""
    ago = {}
    monkeypatch.setattr(taking, "queued", lambda sock: 1_000)
    monkeypatch.setattr(taking, "last_data_sent", lambda sock: ago[sock.fileno()])
    return ago


def watched(count):
    world = World(count, each=100, most=300)
    for number, stream in enumerate(world.streams):
        stream.sock.fileno = lambda number=number: number
    return world


def wait(world, number):
    world.keep(number, b"x" * 100)
    world.buffers[number].idle(world.time)


def failed(world):
    return [one.failure is not None for one in world.buffers]


def test_how_long_a_peer_takes_nothing_counts_from_what_the_kernel_sent_last(sent_ago):
    world = watched(3)
    sent_ago.update({0: 0.2, 1: 30.0, 2: 5.0})
    for number in range(3):
        wait(world, number)
    assert world.total.end_slowest()
    assert failed(world) == [False, True, False]
    assert world.total.end_slowest()
    assert failed(world) == [False, True, True]
    assert not world.total.end_slowest()
    assert "30000 ms" in str(world.buffers[1].failure)


def test_but_not_longer_than_since_it_took_something(sent_ago):
    world = watched(1)
    sent_ago[0] = 30.0
    wait(world, 0)
    world.buffers[0].moved()
    assert not world.total.end_slowest()
    world.time += SLOW_S
    assert world.total.end_slowest()


def test_who_comes_later_and_has_taken_nothing_for_long_is_found_at_once(sent_ago):
    world = watched(2)
    sent_ago.update({0: 0.0, 1: 30.0})
    wait(world, 0)
    assert not world.total.end_slowest()  # nobody is, for a second
    wait(world, 1)
    assert world.total.end_slowest()
    assert failed(world) == [False, True]


def test_the_send_timeout_counts_from_when_bytes_began_to_wait(sent_ago):
    world = watched(1)
    sent_ago[0] = 30.0
    wait(world, 0)
    world.total.look_at_all()
    assert failed(world) == [False]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says it")
def test_linux_says_when_it_sent_to_a_peer_last():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.socket()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        theirs.connect(listener.getsockname())
        ours, _ = listener.accept()
    with theirs, ours:
        ours.setblocking(False)
        ours.send(b"x" * 100_000)  # more than the peer's window
        assert eventually(lambda: last_data_sent(ours) > 0.05)
        ours.send(b"y")  # finds no room there
        assert last_data_sent(ours) > 0.05
    assert last_data_sent(ours) is None
    pair = socket.socketpair()
    with pair[0], pair[1]:
        assert last_data_sent(pair[0]) is None


def test_a_peer_that_takes_nothing_for_the_send_timeout_ends_it():
    world = World()
    world.keep(0, b"x")
    world.time += 4.9
    world.total.look_at_all()
    assert world.buffers[0].failure is None
    world.time += 0.2
    world.total.look_at_all()
    assert isinstance(world.buffers[0].failure, SocketTimeout)


def test_however_many_there_are_a_few_are_looked_at_in_a_row_and_all_in_time():
    world = World(count=1_000, each=100, most=100_000)
    for number in range(1_000):
        world.keep(number, b"x")
    begins = again = world.time + 5.0
    ended = 0
    while again != FOREVER:
        world.time = again
        again = world.total.look_at_next()
        before, ended = ended, sum(one.failure is not None for one in world.buffers)
        assert 0 < ended - before <= 50
    assert ended == 1_000
    assert world.time - begins <= 0.3


def test_it_does_not_go_on_looking_when_nobody_waits():
    world = World(count=100, each=100, most=10_000)
    for number in range(100):
        world.keep(number, b"x")
    assert world.total.look_at_next() < world.time + 1
    for buffer in world.buffers:
        buffer.let_go()
    assert world.total._to_look_at == []
    assert world.total.look_at_next() == FOREVER


def test_who_has_taken_something_since_hides_nobody_who_has_not(sent_ago):
    """What is known of a peer may be old: it is asked before it is ended, and then the next is."""
    world = watched(3)
    for number, ago in enumerate((9.0, 8.0, 7.0)):
        sent_ago[number] = ago
        wait(world, number)
    sent_ago.update({0: 0.1, 1: 0.2})
    for number in (0, 1):
        world.buffers[number].moved()
        world.buffers[number].taking.stuck_since = 0.0  # as it was before
    assert world.total.end_slowest()
    assert failed(world) == [False, False, True]


def test_in_a_stop_for_two_seconds():
    world = World()
    world.keep(0, b"x")
    world.time += 3
    world.total.stop_begins()
    world.time += 1.9
    world.total.look_at_all()
    assert world.buffers[0].failure is None
    world.time += 0.05
    world.buffers[0].moved()
    world.time += 1.9
    world.total.look_at_all()
    assert world.buffers[0].failure is None
    world.time += 0.2
    world.total.look_at_all()
    assert isinstance(world.buffers[0].failure, SocketTimeout)


def test_who_waits_is_counted_out_once():
    world = World(senders=0)
    buffer = world.buffers[0]
    waits = world.total.begins_to_wait(buffer, again=False)
    world.time += SLOW_S
    assert world.total.end_slowest()
    world.total.ends_to_wait(buffer, waits)
    assert world.total.faults() == []
    assert not world.total.crowded()


@pytest.fixture
def in_the_pool(monkeypatch):
    """This thread is the pool's."""
    monkeypatch.setattr(unsent_total.waits, "current_worker", lambda: SimpleNamespace(task=None))


def crowd(count, senders, holding):
    """So many connections whose peers are slow enough; a thread waits in each of `holding`."""
    world = World(count, each=100, most=100 * count, senders=senders)
    for number in range(count):
        world.keep(number, b"x")
    for number in holding:
        world.total.begins_to_wait(world.buffers[number], again=False)
    world.time += SLOW_S
    return world


@pytest.mark.usefixtures("in_the_pool")
def test_a_crowd_ends_one_after_the_other():
    """Their threads go to others, who would all begin to send at once."""
    world = crowd(count=20, senders=8, holding=range(20))
    ended = []
    for _ in range(40):
        for _ in range(20):
            world.total.thin_out()
        ended.append(sum(failed(world)))
        world.time += 1 / 64
    assert ended[:14] == [*range(1, 13), 12, 12]
    assert ended[-1] == 12  # as many wait as may


@pytest.mark.usefixtures("in_the_pool")
def test_where_no_threads_are_kept_for_those_who_read_a_crowd_ends_at_once():
    world = crowd(count=8, senders=4, holding=range(8))
    for _ in range(8):
        assert world.total.until_look(7, False) <= 0.1
        world.total.thin_out()
    assert sum(failed(world)) == 4


@pytest.mark.usefixtures("in_the_pool")
@pytest.mark.parametrize("stops", [False, True])
def test_a_crowd_ends_though_its_clock_stands_still(stops):
    """That of a test, which is far ahead of real time, too."""
    world = crowd(count=20, senders=8, holding=range(20))
    world.time += 1 << 30
    real = [1_000.0]
    world.total.go_by(Times(lambda: world.time, lambda: real[0]))
    world.total.thin_out()
    assert sum(failed(world)) == 1
    if stops:
        world.total.stop_begins()
        real[0] += SLOW_S
    for count in range(2, 13):
        real[0] += 1 / 64
        assert world.total.until_look(0, False) <= 0.1
        world.total.thin_out()
        assert sum(failed(world)) == count


@pytest.mark.usefixtures("in_the_pool")
def test_those_who_hold_no_thread_delay_nobody_who_waits_for_one():
    world = crowd(count=30, senders=8, holding=range(20, 30))
    for _ in range(3):
        world.total.thin_out()
    assert failed(world) == [True] * 21 + [False] * 9


@pytest.mark.usefixtures("in_the_pool")
def test_those_who_look_for_one_to_end_do_not_look_at_once():
    world = crowd(count=20, senders=8, holding=range(20))
    looks = [world.total.until_look(number, False) for number in range(20)]
    assert len({round(look, 6) for look in looks}) == 12
    assert min(looks) <= 0.1
    assert max(looks) <= 0.1 + SLOW_S


@pytest.mark.usefixtures("in_the_pool")
def test_those_of_a_crowd_who_lack_room_of_all_look_for_it_soon():
    """It comes as others end, and wakes nobody."""
    world = crowd(count=100, senders=8, holding=range(100))
    looks = [world.total.until_look(number, True) for number in range(100)]
    assert max(looks) <= 0.1 + 0.25
    assert len({round(look, 6) for look in looks}) >= 16


@given(
    st.lists(
        st.tuples(
            st.integers(0, 1),
            st.sampled_from(["turn", "keep", "mine", "whole", "room", "fail", "let go"]),
            st.integers(1, 120),
        ),
        max_size=40,
    )
)
def test_the_stream_is_exact_and_the_sum_is_the_total(steps):
    world = World(each=100, most=150)
    counts = [0, 0]
    expected = [[b"", b"", b""], [b"", b"", b""]]  # ahead, mine, behind
    for number, step, size in steps:
        buffer, channel = world.buffers[number], world.streams[number].channel
        data = numbered(counts[number], size)
        ahead = expected[number]
        if step == "turn":
            buffer.turn_begins()
            ahead[:] = [b"".join(ahead), b"", b""]
        elif step in ("keep", "mine", "whole"):
            kept = world.keep(number, data, whole=step == "whole", mine=step == "mine")
            assert 0 <= kept <= size
            assert step != "whole" or kept in (0, size)
            counts[number] += kept
            ahead[1 if step == "mine" else 2] += data[:kept]
        elif step == "room":
            channel.room = size
            before = len(channel.sent)
            done = buffer.send_ahead(channel)
            sent = channel.sent[before:]
            both = ahead[0] + ahead[1]
            assert both.startswith(sent)
            assert done is (len(sent) == len(both))
            ahead[0], ahead[1] = both[len(sent) :], b""
        elif step == "fail":
            buffer.end_as_stuck(1.0)
            ahead[:] = [b"", b"", b""]
        else:
            buffer.let_go()
            ahead[:] = [b"", b"", b""]
        assert buffer.size == sum(map(len, ahead))
        assert world.total.bytes == sum(one.size for one in world.buffers) <= 150
        assert world.total.faults() == []


@pytest.mark.parametrize("senders", [2, 6])
def test_threads_that_keep_at_once_neither_lose_nor_tear_anything(senders):
    world = World(count=1, each=10_000_000, most=10_000_000)
    buffer, channel = world.buffers[0], world.streams[0].channel
    channel.room = 10_000_000

    def work(number):
        for _ in range(200):
            assert world.keep(0, bytes([number]) * 100) == 100

    threads = [threading.Thread(target=work, args=(number,)) for number in range(senders)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) or buffer.size:
        buffer.turn_begins()
        buffer.send_ahead(channel)
    parts = [channel.sent[at : at + 100] for at in range(0, len(channel.sent), 100)]
    assert all(len(set(part)) == 1 for part in parts)
    assert len(parts) == senders * 200
    assert world.total.bytes == 0
