"""How streams are cut into frames, without sockets and without a clock that runs.

Any way in which the bytes of a stream may arrive gives the same frames; and each byte costs the
same, however many are there, which is counted, not timed.
"""

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_connection import World
from thousand_island_sync import (
    Close,
    Continue,
    Framing,
    Handler,
    LengthPrefix,
    LimitExceeded,
    Lines,
    SocketClosed,
)
from thousand_island_sync._connection import frames as rows
from thousand_island_sync._scheduler.task import AGAIN, DONE, PARK
from thousand_island_sync._stream import buffer as buffers


class Notes(Handler):
    """Writes down each callback; the world's reactions are asked with each frame."""

    def __init__(self, world):
        super().__init__(world)
        if world.framing is not None:
            self.framing = world.framing

    def handle_data(self, data, socket):
        self.options.calls.append(("data", data))
        return self.options.react(self, data, socket)

    def handle_eof(self, socket):
        self.options.calls.append(("eof", None))
        return Close()

    def handle_info(self, message, socket):
        self.options.calls.append(("info", message))
        if isinstance(message, Framing):
            self.framing = message

    def handle_error(self, reason, socket):
        self.options.calls.append(("error", reason))

    def handle_close(self, socket):
        self.options.calls.append(("close", None))


class Framed(World):
    def __init__(
        self, framing, react=lambda handler, frame, socket: None, stays=False, kernel_waits=True
    ):
        self.framing, self.react = framing, react
        super().__init__(handler_cls=Notes)
        self.stays = stays
        self.channel.kernel_waits = kernel_waits
        assert self.run() == PARK

    def run(self, *incoming):
        """Until all of it has come: a short receive is taken for the last one."""
        verdict, before = super().run(*incoming), -1
        while self.channel.incoming and verdict != DONE and before != len(self.channel.incoming):
            before = len(self.channel.incoming)
            verdict = super().run()
        return verdict

    def frames(self):
        return [what for name, what in self.calls if name == "data"]

    def waiting(self):
        """What waits for the end of its frame."""
        found = self.connection.machine.stream.reader.buffer
        return b"" if found is None else found.peek(len(found))


class Pairs(Framing):
    """Two bytes between brackets of which nothing is told: `<ab>`."""

    def find(self, buffer, start):
        return (1, 3, 4) if len(buffer) >= 4 else None


def cut(stream, places):
    """The pieces of a stream that is cut at these places."""
    places = sorted({place % (len(stream) + 1) for place in places} | {0, len(stream)})
    return [stream[begin:end] for begin, end in itertools.pairwise(places)]


def as_lines(delimiter, keep_end=False):
    def encode(frames):
        return b"".join(one + delimiter for one in frames)

    def payloads(frames):
        return [one + delimiter for one in frames] if keep_end else frames

    alphabet = bytes(set(delimiter)) + b"xy"
    parts = st.lists(st.sampled_from([bytes([one]) for one in alphabet]), max_size=9)
    frame = parts.map(b"".join).filter(lambda one: (one + delimiter).find(delimiter) == len(one))
    return Lines(delimiter, keep_end=keep_end), frame, encode, payloads


def as_prefixed(format):
    framing = LengthPrefix(format)

    def encode(frames):
        return b"".join(framing._struct.pack(len(one)) + one for one in frames)

    return framing, st.binary(max_size=20), encode, lambda frames: frames


def as_pairs():
    def encode(frames):
        return b"".join(b"<" + one + b">" for one in frames)

    return Pairs(), st.binary(min_size=2, max_size=2), encode, lambda frames: frames


KINDS = {
    "lines": as_lines(b"\n"),
    "lines with their end": as_lines(b"\r\n", keep_end=True),
    "a delimiter that begins again in itself": as_lines(b"abab"),
    "a delimiter of one byte thrice": as_lines(b"---"),
    "a byte before": as_prefixed("B"),
    "eight bytes before": as_prefixed(">Q"),
    "pad bytes before": as_prefixed("<xHx"),
    "one of a user's own": as_pairs(),
}


@pytest.mark.parametrize("stays", [False, True], ids=["polled", "stayed with"])
@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_any_cutting_of_a_stream_gives_the_same_frames(kind, stays, data):
    framing, frame, encode, payloads = KINDS[kind]
    frames = data.draw(st.lists(frame, max_size=12))
    whole = encode(frames)
    more = encode([data.draw(frame)])
    rest = more[: data.draw(st.integers(0, len(more) - 1))]
    places = data.draw(st.lists(st.integers(0, 300), max_size=20))
    with Framed(framing, stays=stays) as world:
        for piece in cut(whole + rest, places):
            if data.draw(st.booleans()):
                assert world.run(piece) == PARK
            else:
                world.channel.incoming.append(piece)
        assert world.run() == PARK
        assert world.frames() == payloads(frames)
        assert world.waiting() == rest
        assert world.run(b"") == DONE
        last = world.calls[len(frames)]
        if rest:
            assert (last[0], last[1].partial) == ("error", rest)
            assert isinstance(last[1], SocketClosed)
        else:
            assert last[0] == "eof"


# ---- what callbacks do meanwhile ----------------------------------------------------


class Model:
    """What a handler of `Does` makes of a stream, whatever way it arrives."""

    def __init__(self, stream):
        self.left, self.framing, self.did, self.in_call = stream, "lines", [], False

    def take(self, length):
        if len(self.left) < length:
            raise EOFError
        taken, self.left = self.left[:length], self.left[length:]
        return taken

    def frame(self):
        if self.framing == "lines":
            end = self.left.find(b"\n")
            return self.take(end + 1)[:-1] if end >= 0 else self.take(len(self.left) + 1)
        if len(self.left) < 1 or len(self.left) < 1 + self.left[0]:
            return self.take(len(self.left) + 1)
        return self.take(1 + self.left[0])[1:]

    def run(self):
        with contextlib.suppress(EOFError):
            while True:
                self.in_call = False
                frame = self.frame()
                self.in_call = True
                self.did.append(frame)
                if frame == b"recv":
                    self.did.append(self.take(3))
                elif frame == b"until":
                    self.did.append(self.take(self.left.find(b"\n") + 1 or len(self.left) + 1))
                elif frame == b"unread":
                    self.left = b"\x01x\n" + self.left
                elif frame == b"lines" or frame == b"bytes":
                    self.framing = frame.decode()
        return self.did


def does(did):
    """A reaction as the model's; what else it returns only says when others have their turn."""

    def react(handler, frame, socket):
        did.append(frame)
        if frame == b"recv":
            did.append(socket.recv_exactly(3))
        elif frame == b"until":
            did.append(socket.recv_until(b"\n"))
        elif frame == b"unread":
            socket.unread(b"\x01x\n")
        elif frame == b"lines":
            handler.framing = Lines()
        elif frame == b"bytes":
            handler.framing = LengthPrefix("B")
        elif frame == b"go":
            return Continue()
        return None

    return react


WORDS = [b"recv", b"until", b"unread", b"lines", b"bytes", b"go", b"", b"x"]
PIECES = [one + b"\n" for one in WORDS] + [bytes([len(one)]) + one for one in WORDS] + [b"ab\n"]


@given(
    stream=st.lists(st.sampled_from(PIECES), max_size=14).map(b"".join),
    places=st.lists(st.integers(0, 150), max_size=10),
    messages=st.integers(0, 5),
    row=st.sampled_from([1, 2, 64]),
)
def test_whatever_callbacks_do_meanwhile_no_byte_is_lost_doubled_or_moved(
    stream, places, messages, row
):
    model = Model(stream)
    expected = model.run()
    did = []
    # All of it is there: a call that waits gets what it waits for, if the stream has it. (Where the
    # kernel waits, such a call would go to the descriptor, past the script.)
    made = Framed(Lines(), does(did), kernel_waits=False)
    with pytest.MonkeyPatch.context() as patch, made as world:
        patch.setattr(rows, "_ROW", row)
        pieces = cut(stream, places)
        world.channel.incoming.extend(pieces)
        for number in range(messages):
            world.connection.inbox.post(number)
        assert world.run(b"") == DONE
        assert did == expected
        names = [name for name, _ in world.calls if name != "data"]
        assert names.count("info") <= messages  # the end may come before the others
        if model.in_call:
            assert names[-1] == "close"
        elif model.left:
            assert names[-1] == "error"
            assert world.calls[-1][1].partial == model.left
        else:
            assert names[-2:] == ["eof", "close"]


# ---- turns ----------------------------------------------------------------------------


def test_after_a_row_of_frames_others_have_a_turn():
    with Framed(Lines()) as world:
        world.channel.incoming.append(b"x\n" * (2 * rows._ROW + 1))
        assert world.connection.run() == AGAIN
        assert len(world.frames()) == rows._ROW
        assert world.connection.run() == AGAIN
        assert len(world.frames()) == 2 * rows._ROW
        assert world.run() == PARK
        assert len(world.frames()) == 2 * rows._ROW + 1


def test_frames_that_take_long_have_a_turn_each():
    def react(handler, frame, socket):
        handler.options.time += 2 * rows._ROW_S

    with Framed(Lines(), react) as world:
        world.channel.incoming.append(b"a\nb\nc\n")
        for count in (1, 2):
            assert world.connection.run() == AGAIN
            assert len(world.frames()) == count
        assert world.run() == PARK
        assert len(world.frames()) == 3


def test_a_message_comes_before_the_rest_of_a_row():
    def react(handler, frame, socket):
        if frame == b"a":
            handler.options.connection.inbox.post("now")

    with Framed(Lines(), react) as world:
        world.run(b"a\nb\n")
        assert [one for one in world.calls if one[0] != "close"] == [
            *(("data", b"a"), ("info", "now"), ("data", b"b"))
        ]


def test_the_read_timeout_begins_after_the_last_frame_and_with_each_piece():
    def react(handler, frame, socket):
        handler.options.time += 3

    with Framed(Lines(), react) as world:
        world.run(b"a\nb\n")
        assert world.connection.deadline == world.time + 10
        world.time += 5
        world.run(b"half")
        assert world.connection.deadline == world.time + 10


def test_a_timeout_given_by_a_frame_holds_until_the_next_bytes():
    with Framed(Lines(), lambda *_: Continue(timeout_ms=500)) as world:
        world.run(b"a\n")
        assert world.connection.deadline == world.time + 0.5
        world.run(b"half")
        assert world.connection.deadline == world.time + 10


def test_a_pause_holds_frames_back_until_it_is_resumed():
    def react(handler, frame, socket):
        return Continue(paused=True) if frame == b"stop" else None

    with Framed(Lines(), react) as world:
        assert world.run(b"a\nstop\nb\nc\nhal") == PARK
        assert world.frames() == [b"a", b"stop"]
        world.connection.inbox.post("m")
        assert world.run(b"f\n") == PARK
        assert world.frames() == [b"a", b"stop"]
        assert world.calls[-1] == ("info", "m")
        world.connection.inbox.resume()
        assert world.run() == PARK
        assert world.frames() == [b"a", b"stop", b"b", b"c", b"half"]


def test_a_framing_that_is_changed_by_a_message_searches_anew():
    with Framed(Lines()) as world:
        world.run(b"a;b;c")
        assert world.frames() == []
        world.connection.inbox.post(Lines(b";"))
        assert world.run() == PARK
        assert world.frames() == [b"a", b"b"]
        assert world.waiting() == b"c"


class Anew(Framing):
    """Equal to no other of its class."""

    def find(self, buffer, start):
        end = buffer.find(b"\n")
        return None if end < 0 else (0, end, end + 1)


@pytest.mark.parametrize("make", [Lines, lambda: LengthPrefix("B"), Anew])
def test_a_framing_that_is_another_object_at_each_look_is_not_asked_for_ever(make):
    class Computed(Notes):
        framing = property(lambda self: make(), lambda self, value: None)

    with World(handler_cls=Computed) as world:
        world.framing, world.react = None, lambda *_: Continue()
        assert world.run() == PARK
        assert world.run(b"\x30half of it") == PARK  # `World.run` gives up after 1,000 steps
        world.connection.inbox.post("message")
        assert world.run() == PARK
        assert world.calls == [("info", "message")]


def test_a_search_for_which_no_bytes_came_leaves_the_read_timeout():
    """Or a client that stops in the middle of a frame stays for as long as there are messages."""

    class Computed(Notes):
        framing = property(lambda self: Anew(), lambda self, value: None)

    with World(handler_cls=Computed) as world:
        world.framing = None
        world.run()
        assert world.run(b"half") == PARK
        for _ in range(3):
            world.time += 3
            world.connection.inbox.post("message")
            assert world.run() == PARK
        world.time += 1
        assert world.run() == DONE


def test_a_frame_that_is_put_back_before_any_bytes_came_is_delivered():
    class PutsBack(Notes):
        def handle_connection(self, socket):
            socket.unread(b"whole\nha")

    with World(handler_cls=PutsBack) as world:
        world.framing, world.react = Lines(), lambda *_: None
        assert world.run() == PARK
        assert world.calls == [("data", b"whole")]
        assert world.run(b"lf\n") == PARK
        assert world.calls == [("data", b"whole"), ("data", b"half")]


@pytest.mark.parametrize("before", [None, Lines()])
def test_one_set_by_another_thread_in_a_pause_holds_from_its_end_on(before):
    made = []

    def react(handler, data, socket):
        made.append(handler)
        return Continue(paused=True) if data.startswith(b"pause") else None

    with Framed(before, react) as world:
        assert world.run(b"pause\n") == PARK
        made[0].framing = Lines(b";")
        assert world.run(b"a;b;c") == PARK
        world.connection.inbox.resume()
        assert world.run() == PARK
        assert world.frames()[1:] == [b"a", b"b"]


class BarsToo(Lines):
    """Minds no limit."""

    def find(self, buffer, start):
        end = buffer.find(b"|", start)
        return None if end < 0 else (0, end + self.keep_end, end + 1)


@pytest.mark.parametrize("keep_end", [False, True])
def test_the_limit_holds_for_a_subclass_that_minds_none(keep_end):
    with Framed(BarsToo(limit=5, keep_end=keep_end)) as world:
        assert world.run(b"12345|") == PARK
        assert world.frames() == [b"12345|" if keep_end else b"12345"]
        assert world.run(b"123456|") == DONE
        assert isinstance(world.calls[-1][1], LimitExceeded)


# ---- what it costs ----------------------------------------------------------------------


class Counting(bytearray):
    """Counts the bytes that are looked at, copied and moved."""

    bytes = 0

    def __init__(self, data):
        Counting.bytes += len(data)
        super().__init__(data)

    def find(self, what, start=0):
        found = super().find(what, start)
        Counting.bytes += (len(self) if found < 0 else found + len(what)) - start
        return found

    def extend(self, data):
        Counting.bytes += len(data)
        super().extend(data)

    def __delitem__(self, where):
        Counting.bytes += where.stop  # at most: CPython notes a new beginning
        super().__delitem__(where)

    def __getitem__(self, where):
        found = super().__getitem__(where)
        Counting.bytes += len(found) if isinstance(where, slice) else 1
        return found


@pytest.fixture
def cost(monkeypatch):
    """How many bytes were looked at, copied and moved for a stream in these pieces."""

    def cut_out(self, begin, end, following, cut=buffers.ReadBuffer.cut):
        Counting.bytes += end - begin
        return cut(self, begin, end, following)

    monkeypatch.setattr(buffers, "bytearray", Counting, raising=False)
    monkeypatch.setattr(buffers.ReadBuffer, "cut", cut_out)

    def count(framing, pieces, react=lambda *_: None):
        Counting.bytes = 0
        with Framed(framing, react) as world:
            for piece in pieces:
                world.run(piece)
            assert world.frames()
        return Counting.bytes

    return count


def bytewise(data):
    return [data[at : at + 1] for at in range(len(data))]


@pytest.mark.parametrize("delimiter", [b"\n", b"\r\n", b"x" * 7 + b"y"])
def test_a_long_line_byte_by_byte_costs_each_byte_once(delimiter, cost):
    length = 20_000
    line = b"x" * length + delimiter
    framing = Lines(delimiter, limit=length)
    assert cost(framing, bytewise(line)) <= (4 + len(delimiter)) * len(line)


def test_a_long_prefixed_frame_byte_by_byte_costs_each_byte_once(cost):
    length = 20_000
    frame = length.to_bytes(4, "big") + b"x" * length
    assert cost(LengthPrefix(">I"), bytewise(frame)) <= 5 * len(frame)


@pytest.mark.parametrize("result", [None, Continue()], ids=repr)
def test_many_frames_in_one_piece_cost_each_byte_once(result, cost):
    """Also where each has a turn of its own."""
    piece = b"0123456789\n" * 900
    assert cost(Lines(), [piece], lambda *_: result) <= 6 * len(piece)


def test_a_user_s_framing_is_told_how_far_it_has_searched(cost):
    class Searches(Framing):
        looked = 0

        def find(self, buffer, start):
            end = buffer.find(b"\n", start)
            Searches.looked += (len(buffer) if end < 0 else end + 1) - start
            return None if end < 0 else (0, end, end + 1)

    line = b"x" * 20_000 + b"\n"
    assert cost(Searches(), bytewise(line * 2)) <= 5 * 2 * len(line)
    assert Searches.looked == 2 * len(line)


def test_recv_until_of_a_long_line_byte_by_byte_costs_each_byte_once(cost):
    line = b"x" * 20_000 + b"\n"

    def react(handler, frame, socket):
        if frame == b"go":
            assert socket.recv_until(b"\n", limit=1 << 20) == line

    with Framed(Lines(), react) as world:
        Counting.bytes = 0
        world.run(b"go\n", *bytewise(line))
        assert world.frames() == [b"go"]
        assert Counting.bytes <= 5 * len(line)


# ---- limits ---------------------------------------------------------------------------


@given(
    length=st.integers(0, 12),
    limit=st.integers(0, 8),
    delimiter=st.sampled_from([b"\n", b"\r\n", b"xy", b"xxy"]),
    places=st.lists(st.integers(0, 20), max_size=10),
    ends=st.booleans(),
)
def test_a_line_is_over_the_limit_however_it_is_cut(length, limit, delimiter, places, ends):
    stream = b"x" * length + (delimiter if ends else b"")
    payload = stream.find(delimiter) if ends else length
    with Framed(Lines(delimiter, limit=limit)) as world:
        for piece in cut(stream, places):
            if world.run(piece) == DONE:
                break
        over = [what for name, what in world.calls if name == "error"]
        if ends and payload <= limit:
            assert (world.frames(), over) == ([stream[:payload]], [])
        elif ends or length >= limit + len(delimiter):
            assert world.frames() == []
            assert isinstance(over[0], LimitExceeded)
        else:
            assert world.frames() == []


def test_what_may_still_become_a_delimiter_is_waited_for():
    with Framed(Lines(b"\r\n", limit=3)) as world:
        assert world.run(b"abc\r") == PARK
        assert world.run(b"\nabc") == PARK
        assert world.frames() == [b"abc"]
        assert world.run(b"d") == DONE
        assert isinstance(world.calls[-1][1], LimitExceeded)
