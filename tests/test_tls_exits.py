"""Errors that the C of TLS meets, each made to happen; as `test_exits_one_by_one`."""

import contextlib
import subprocess
import sys

import pytest

from tests.slots import Broken, breaks
from tests.support import Echo, eventually
from tests.test_tls import tls
from tests.test_tls_wire import Pair
from thousand_island_sync._base import waits
from thousand_island_sync._server import accelerator
from thousand_island_sync.transports._tls import records
from thousand_island_sync.transports._tls.stream import Stream

pytestmark = pytest.mark.skipif(not accelerator.in_c, reason="this run tests the Python")


@pytest.fixture
def pair(authority):
    made = Pair(authority)
    made.do_handshake()
    assert made.channel.recv(1) is None
    assert made.channel.drained()
    yield made
    made.close()


#: The names are gone as the C would be told where they are, and there again later.
LATE = """
import trustme
from tests.conftest import Authority
from tests.test_tls_wire import Pair
from thousand_island_sync.transports._tls import private, proof

names, private.names = private.names, None
from thousand_island_sync.transports._tls import accelerator
private.names = names
pair = Pair(Authority())
pair.do_handshake()
pair.channel.send(b"the long way")
assert pair.heard() == b"the long way"
pair.say(b"an answer")
pair.deliver()
assert pair.channel.recv(100) == b"an answer"
"""


def test_without_the_places_of_openssls_functions_all_goes_the_long_way():
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_length_that_fits_nothing_is_the_pythons_to_refuse(pair):
    pair.say(b"x")
    pair.deliver()
    with contextlib.suppress(OverflowError):
        pair.channel.recv(1 << 70)
    assert not pair.channel._lock.locked()


def test_what_has_gaps_is_refused_and_the_lock_free(pair):
    with contextlib.suppress(Exception):
        pair.channel.sink().send(memoryview(b"abcd")[::2], 0)
    assert not pair.channel._lock.locked()


def test_a_socket_that_is_gone_is_an_error_of_the_send(pair):
    pair.ours.close()
    for size in (1, 50_000):
        with pytest.raises(OSError, match="Bad file"):
            pair.channel.sink().send(b"x" * size, 0)
    with pytest.raises(OSError, match="Bad file"):
        pair.channel.recv(1)
    assert not pair.channel._lock.locked()


def test_a_read_that_breaks_off_amid_a_record_loses_nothing(pair, monkeypatch):
    pair.say(b"some bytes")
    pair.deliver(10)
    with monkeypatch.context() as broken:
        broken.setattr(Stream, "_read", breaks)
        with pytest.raises(Broken):
            pair.channel.recv(100)
    assert not pair.channel._lock.locked()
    pair.deliver()
    assert pair.channel.recv(100) == b"some bytes"


def test_a_source_that_gives_no_bytes_is_refused(pair):
    class Text:
        def recv(self, length, flags):
            return "text"

    pair.channel._wire.source = Text()
    with pytest.raises(TypeError, match="takes bytes"):
        pair.channel.recv(10)
    assert not pair.channel._lock.locked()


def test_what_came_alone_is_known_to_be_all(serve, authority, secure, monkeypatch):
    """The first record tells that one has ended; from then on nobody is asked."""
    asked = Stream.drained

    def only_where_it_blocks(stream):
        """On a busy machine it may be taken for that: the Python delivers, and asks."""
        return asked(stream) if waits.current_task().classified.blocks else breaks()

    sock = secure(tls(serve, authority, Echo), authority.client_context())
    for number in range(4):
        if number == 2:
            monkeypatch.setattr(Stream, "drained", only_where_it_blocks)
        sock.sendall(b"x")
        assert sock.recv(10) == b"x"


def test_what_is_told_of_a_broken_socket_is_what_broke_it(pair, monkeypatch):
    monkeypatch.setattr(Stream, "failed", breaks)
    pair.ours.close()
    with pytest.raises(OSError, match="Bad file"):
        pair.channel.recv(1)
    with pytest.raises(OSError, match="Bad file"):
        pair.channel.sink().send(b"x", 0)
    assert not pair.channel._lock.locked()


def test_a_rest_of_records_that_cannot_be_had_is_an_error_of_the_send(pair, monkeypatch):
    much = b"z" * 200_000
    assert records._bio_write(pair.channel._stream._records._out, much, len(much)) == len(much)
    with monkeypatch.context() as broken:
        broken.setattr(type(pair.channel._stream._records), "get", breaks)
        with pytest.raises(Broken):
            pair.channel.sink().send(b"x", 0)
    assert not pair.channel._lock.locked()
    assert pair.channel._wire.held.startswith(b"z" * 1_000)


@pytest.mark.parametrize("size", [1, 50_000])
def test_more_than_a_buffer_of_records_is_held_and_goes_out(pair, size):
    """As after many answers of OpenSSL's own."""
    much = b"z" * 200_000
    assert records._bio_write(pair.channel._stream._records._out, much, len(much)) == len(much)
    assert pair.channel.sink().send(b"x" * size, 0) < 0
    assert pair.channel._wire.held.startswith(b"z" * 1_000)
    came = b""

    def out():
        nonlocal came
        done = pair.channel.flush()
        with contextlib.suppress(BlockingIOError):
            came += pair.theirs.recv(1 << 20)
        return done and len(came) > len(much)

    assert eventually(out)
    assert came.startswith(much)
