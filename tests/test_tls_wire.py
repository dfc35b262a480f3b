"""The half of a TLS channel that touches the socket: what it fetches, holds and lets go of."""

import contextlib
import itertools
import socket
import ssl

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

from tests.support import Echo, eventually, go_by
from tests.test_tls import tls
from thousand_island_sync import TLS
from thousand_island_sync._base.unread import unread_bytes
from thousand_island_sync._scheduler.states import PARKED
from thousand_island_sync.transports._tls import private, wire
from thousand_island_sync.transports._tls.channel import TLSChannel
from thousand_island_sync.transports._tls.records import BATCH, LARGEST, RECORD
from thousand_island_sync.transports._tls.wire import Wire
from thousand_island_sync.transports.base import READ, WRITE

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class Pair:
    """A channel, and a client whose every byte is ours to deliver.

    Args:
        authority: for the certificates.
        version: of the client.
        sockets: the two ends; a Unix socket's unless given.
    """

    def __init__(self, authority, version=ssl.TLSVersion.TLSv1_3, sockets=None):
        self.ours, self.theirs = sockets or socket.socketpair()
        self.theirs.setblocking(False)
        self.channel = TLSChannel(self.ours, TLS(authority.options).now().context)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = authority.client_context(version)
        self.client = context.wrap_bio(self._in, self._out, server_hostname="localhost")
        self.undelivered = b""

    def do_handshake(self):
        shaken = done = False
        while not (shaken and done):
            if not shaken:
                with contextlib.suppress(ssl.SSLWantReadError):
                    self.client.do_handshake()
                    shaken = True
            self.deliver()
            done = done or self.channel.handshake()
            self.collect()

    def say(self, data):
        """The client encrypts it; `deliver` takes it to the channel."""
        self.client.write(data)
        self.undelivered += self._out.read()

    def deliver(self, most=None):
        """The next bytes that the client has encrypted, at most so many, and as many as there
        is room for; whether any."""
        self.undelivered += self._out.read()
        sent = 0
        with contextlib.suppress(BlockingIOError):
            sent = self.theirs.send(self.undelivered[:most])
        self.undelivered = self.undelivered[sent:]
        return sent > 0

    def collect(self):
        """What has come back goes to the client."""
        with contextlib.suppress(BlockingIOError):
            while data := self.theirs.recv(65_536):
                self._in.write(data)

    def heard(self):
        """What the client makes of what has come back."""
        self.collect()
        heard = b""
        with contextlib.suppress(ssl.SSLWantReadError):
            while data := self.client.read(65_536):
                heard += data
        return heard

    def close(self):
        self.ours.close()
        self.theirs.close()


@pytest.fixture(params=["quick", "public"])
def way(request, monkeypatch):
    go_by(monkeypatch, request.param)
    return request.param


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
def pair(way, request, authority):
    made = Pair(authority, request.param)
    made.do_handshake()
    yield made
    made.close()


@pytest.fixture
def plain(authority):
    """With the latest version, in the quick way."""
    made = Pair(authority)
    made.do_handshake()
    yield made
    made.close()


# ---- reading ----------------------------------------------------------------------


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    length=st.sampled_from([1_000, 16_384, 65_536]),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("say"), st.sampled_from([1, 300, 5_000, 16_384, 40_000])),
            st.tuples(st.just("deliver"), st.sampled_from([1, 5, 100, 16_406, 18_437, 1 << 20])),
            st.tuples(st.just("run"), st.just(0)),
            st.tuples(st.just("expose"), st.just(0)),
        ),
        max_size=30,
    ),
)
def test_nothing_is_left_where_the_channel_says_so_however_it_came(way, authority, length, steps):
    """The poller tells of bytes once. So a connection may be parked only if its last run has
    seen that nothing is left, and what comes during a run leads to another."""
    pair = Pair(authority)
    try:
        pair.do_handshake()
        said, got = b"", b""
        parked = told = False

        def rest():
            """All that is left is delivered, and run for."""
            while pair.undelivered or told or not parked:
                yield "deliver", 1 << 20
                yield "run", 0

        for what, number in itertools.chain(steps, itertools.islice(rest(), 10_000)):
            if what == "say":
                data = bytes(number % 251 for number in range(number))
                pair.say(data)
                said += data
            elif what == "deliver":
                told = pair.deliver(number) or told
            elif what == "expose":
                pair.channel.expose()
            elif told or not parked:
                told = False
                data = pair.channel.recv(length)
                got += data or b""
                parked = data is None or pair.channel.drained()
            assert told or not parked or not unread_bytes(pair.ours)
        assert parked
        assert got == said
    finally:
        pair.close()


def test_one_record_that_came_alone_is_all_there_is(pair):
    pair.say(b"hello")
    pair.deliver()
    assert pair.channel.recv(65_536) == b"hello"
    pair.channel.drained()  # OpenSSL may hold the end of the handshake, or not say
    assert pair.channel.recv(65_536) is None
    for _ in range(3):
        pair.say(b"again")
        pair.deliver()
        assert pair.channel.recv(65_536) == b"again"
        assert pair.channel.drained() or private.names is None
        assert pair.channel.recv(65_536) is None


def test_records_that_came_together_are_read_one_by_one(pair):
    pair.say(b"one")
    pair.say(b"two")
    pair.deliver()
    assert pair.channel.recv(65_536) == b"one"
    assert not pair.channel.drained()
    assert pair.channel.recv(65_536) == b"two"


@pytest.mark.parametrize("delivered", [1, 7, 1 << 20], ids=lambda most: f"{most} at a time")
def test_who_asks_the_kernel_is_told_of_every_record(pair, delivered):
    """select(2) before each recv, as libraries do: nothing may lie where it does not look."""
    pair.channel.expose()
    said = [b"one", b"two", bytes(40_000), b"three"]
    for data in said:
        pair.say(data)
    got = b""
    while pair.deliver(delivered) or unread_bytes(pair.ours):
        got += pair.channel.recv(65_536) or b""
    assert got == b"".join(said)
    pair.theirs.shutdown(socket.SHUT_WR)
    assert pair.channel.recv(65_536) == b""


def test_what_comes_right_behind_the_handshake_is_left_to_the_kernel(way, authority):
    pair = Pair(authority)
    try:
        with pytest.raises(ssl.SSLWantReadError):
            pair.client.do_handshake()
        pair.deliver()
        assert not pair.channel.handshake()
        pair.collect()
        pair.client.do_handshake()
        pair.say(b"a request")
        pair.deliver()
        assert pair.channel.handshake()
        assert unread_bytes(pair.ours)
        assert pair.channel.recv(65_536) == b"a request"
    finally:
        pair.close()


def test_an_end_without_close_notify_is_the_end_both_ways(pair):
    pair.theirs.shutdown(socket.SHUT_WR)
    assert pair.channel.recv(10) == b""
    assert pair.channel.truncated
    with pytest.raises(OSError, match="ended the TLS session"):
        pair.channel.send(b"too late")
    pair.channel.send_close_notify()
    assert pair.heard() == b""


def test_a_clean_end_is_none_that_was_cut_short(pair):
    with contextlib.suppress(ssl.SSLWantReadError):
        pair.client.unwrap()
    pair.deliver()
    assert pair.channel.recv(10) == b""
    assert not pair.channel.truncated
    pair.channel.send(b"still to be said")
    assert pair.ours.fileno() >= 0


def test_a_record_that_was_tampered_with_is_answered_with_an_alert(pair):
    pair.theirs.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(OSError, match="TLS: "):
        pair.channel.recv(10)
    pair.collect()
    with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
        pair.client.read(1)


# ---- writing ----------------------------------------------------------------------


def fill(pair):
    """Sends until something is held; what was taken."""
    data = bytes(range(256)) * 64
    taken = 0
    while not pair.channel.unfinished:
        taken += pair.channel.send(data)
    return data, taken


def test_what_finds_no_room_is_held_and_goes_out_first(pair):
    data, taken = fill(pair)
    assert pair.channel.send(b"more") == 0
    assert pair.channel.send_wants == WRITE
    heard = b""
    while not pair.channel.flush():
        heard += pair.heard()
    assert pair.channel.send(b"more") == 4
    heard += pair.heard()
    assert heard == data * (taken // len(data)) + b"more"


def test_a_send_that_is_held_does_not_keep_anybody_from_reading(pair):
    fill(pair)
    pair.say(b"hello")
    pair.deliver()
    assert pair.channel.recv(10) == b"hello"
    assert pair.channel.recv(10) is None
    assert pair.channel.recv_wants == READ


class Answers:
    """Records of a peer that asks for an answer with every byte, as key updates do; they take the
    place of a channel's."""

    def __init__(self, channel):
        stream = channel._stream
        self._records, stream._records = stream._records, self
        stream.place()  # nor does the C read any
        self.asked = 0
        self._answers = b""

    def read(self, length, fetched=b""):
        self.asked += len(fetched)
        self._answers += b"answer" * len(fetched)
        raise SSL.WantReadError

    def get(self):
        answers, self._answers = self._answers, b""
        return answers

    def __getattr__(self, name):
        return getattr(self._records, name)


def test_who_takes_no_answers_is_not_read_from(plain):
    """Or its answers would fill our memory."""
    fill(plain)
    answers = Answers(plain.channel)
    plain.theirs.sendall(b"???")
    assert plain.channel.recv(10) is None
    assert plain.channel.recv_wants == WRITE
    plain.theirs.sendall(b"???")
    for _ in range(3):
        assert plain.channel.recv(10) is None
    assert answers.asked == 3
    assert plain.channel.recv_wants == WRITE
    while not plain.channel.flush():
        plain.collect()
    assert plain.channel.recv(10) is None
    assert answers.asked == 6


def test_a_connection_whose_answer_finds_no_room_waits_for_it(serve, authority, secure):
    """It is run when there is room, though nothing more has come."""
    server = tls(serve, authority, Echo)
    sock = secure(server, authority.client_context())
    sock.sendall(b"x")
    assert sock.recv(1) == b"x"
    (task,) = (one for one in server._run.scheduler.tasks() if hasattr(one, "machine"))
    assert eventually(lambda: task.ownership == PARKED)  # the step that has answered is over
    channel = task.machine.stream.channel
    answers = Answers(channel)
    answers._records = None
    held = b"?" * (4 << 20)
    answers.get = lambda: held if answers.asked == 1 else b""
    raw = socket.socket(fileno=sock.detach())
    raw.settimeout(10)
    with raw:
        raw.sendall(b"?")
        assert eventually(lambda: channel._wire.owed and task.wants_write)
        left = len(held)
        while left:
            left -= len(raw.recv(min(left, 1 << 20)))
        assert eventually(lambda: not channel._wire.owed and not task.wants_write)


def test_all_that_openssl_has_made_is_sent_however_much(pair):
    """A long chain of certificates, say."""
    data = bytes(range(256)) * 64
    for _ in range(3):
        pair.channel._session._connection.send(data)
    sealed = bytes(pair.channel._stream._records.seal(data))
    assert len(sealed) > 4 * len(data)
    pair.theirs.setblocking(True)
    pair._in.write(sealed)
    assert pair.client.read(65_536) == data


def test_several_records_are_encrypted_together_where_there_is_room(pair):
    data = bytes(range(256)) * 4_096  # 1 MiB

    def together():
        """Perhaps a moment after more than one had to be held elsewhere."""
        room = pair.channel._wire.room_for(len(data))
        assert room <= BATCH * RECORD
        assert room % RECORD == 0
        sent = pair.channel.send(memoryview(data))
        assert not pair.channel.unfinished
        assert pair.heard() == data[:sent]
        return RECORD < sent == room

    assert eventually(together)
    assert pair.channel.send(memoryview(data)[:20_000]) == 20_000
    assert pair.heard() == data[:20_000]


@pytest.mark.parametrize("size", [LARGEST, LARGEST + 1])
def test_one_record_at_a_time_while_the_kernel_takes_less_than_it_says(pair, size, monkeypatch):
    """Its memory is short (tcp_mem): else each connection would hold several."""
    monkeypatch.setattr(wire, "_scarce_until", 0.0)
    assert pair.channel._wire.room_for(1 << 20) > RECORD
    Wire(None).hold(bytes(size))
    found = pair.channel._wire.room_for(1 << 20)
    assert (found == RECORD) is (size > LARGEST)


@pytest.fixture
def over_tcp(way, authority):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        theirs = socket.create_connection(listening.getsockname())
        made = Pair(authority, sockets=(listening.accept()[0], theirs))
    made.ours.setblocking(False)
    made.do_handshake()
    yield made
    made.close()


def test_more_than_a_record_was_held_so_it_is_one_at_a_time_for_a_while(over_tcp):
    """Where the kernel took less than it had said there was room for."""
    channel, data = over_tcp.channel, memoryview(bytes(1 << 20))
    lowat = socket.IPPROTO_TCP, 25  # TCP_NOTSENT_LOWAT: room in the buffer is not all that counts
    over_tcp.ours.setsockopt(*lowat, 1)
    while not channel.unfinished:
        channel.send(data)
    assert len(channel._wire.held) > LARGEST

    over_tcp.ours.setsockopt(*lowat, 0)
    assert eventually(lambda: over_tcp.heard() is not None and channel.flush())
    assert channel.send(data) == RECORD
    # The kernel's memory may be short meanwhile: other tests fill it.
    assert eventually(lambda: over_tcp.heard() is not None and channel.send(data) > RECORD, 60)


def test_no_more_than_a_record_is_held_where_there_is_little_room(plain):
    """What is held counts as sent, and is lost if the connection ends there."""
    data = memoryview(bytes(1 << 20))
    while not plain.channel.unfinished:
        plain.channel.send(data)
    assert len(plain.channel._wire.held) <= LARGEST


@pytest.mark.parametrize("told", [b"", bytes(20), OSError(92, "no such option")])
def test_where_the_kernel_does_not_tell_of_its_room_it_is_one_record(told):
    class Silent:
        def getsockopt(self, *arguments):
            if isinstance(told, OSError):
                raise told
            return told

    assert Wire(Silent()).room_for(1 << 20) == RECORD


# ---- memory -----------------------------------------------------------------------


def test_the_memory_of_large_records_is_let_go_of(plain):
    first = plain.channel._stream._records._in
    plain.say(bytes(10_000))
    plain.deliver()
    assert len(plain.channel.recv(65_536)) == 10_000
    assert plain.channel.drained()
    assert plain.channel._stream._records._in != first
    second = plain.channel._stream._records._in
    for _ in range(3):
        plain.say(b"small")
        plain.deliver()
        assert plain.channel.recv(65_536) == b"small"
        assert plain.channel.drained()
    assert plain.channel._stream._records._in == second
    plain.channel.send(bytes(10_000))
    plain.say(b"small")
    plain.deliver()
    assert plain.channel.recv(65_536) == b"small"
    assert plain.channel.drained()
    assert plain.channel._stream._records._in != second
    assert plain.heard() == bytes(10_000)
    plain.say(b"still there")
    plain.deliver()
    assert plain.channel.recv(65_536) == b"still there"
