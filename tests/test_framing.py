"""Framing as users see it: lines, length prefixes and frames of their own, on every transport.

How streams are cut is in `test_frames`, without sockets.
"""

import logging
import queue
import re
import socket
import threading

import pytest

from tests.support import (
    eventually,
    journal,
    receive,
    receive_all,
    received,
    reset,
    running,
    task_of,
)
from thousand_island_sync import (
    TLS,
    Close,
    ConfigError,
    Continue,
    Error,
    Framing,
    Handler,
    HandlerResultError,
    LengthPrefix,
    LimitExceeded,
    Lines,
    SocketClosed,
    SwitchTransport,
    ThousandIsland,
    events,
)
from thousand_island_sync._connection.callbacks import Callbacks


def framed(framing, base=None):
    """A journal that writes each frame down, and answers it with its length and a newline."""

    class Framed(base or journal()):
        def handle_data(self, data, socket):
            self.note("data", data)
            socket.send(b"%d\n" % len(data))

        def handle_eof(self, socket):
            self.note("eof")
            return Close()

        @classmethod
        def frames(cls):
            return [what for name, what in cls.lines if name == "data"]

    if framing is not NOT_SET:
        Framed.framing = framing
    return Framed


NOT_SET = object()


def waiting(began, more):
    """The same of lines, which stands at the line "wait"."""

    class Waiting(framed(Lines())):
        def handle_data(self, data, socket):
            super().handle_data(data, socket)
            if data == b"wait":
                began.set()
                assert more.wait(5)

    return Waiting


def talk(server, client, data, length):
    sock = client(server)
    sock.sendall(data)
    return receive(sock, length)


# ---- lines ------------------------------------------------------------------


def test_each_line_is_one_call_without_its_end(wire):
    Framed = framed(Lines())
    server = wire.serve(Framed)
    sock = wire.connect(server)
    sock.sendall(b"one\ntwo\n\nlast\n")
    assert receive(sock, 8) == b"3\n3\n0\n4\n"
    assert Framed.frames() == [b"one", b"two", b"", b"last"]
    assert {type(one) for one in Framed.frames()} == {bytes}


def test_a_line_may_come_byte_by_byte(wire):
    Framed = framed(Lines())
    server = wire.serve(Framed)
    sock = wire.connect(server)
    for byte in b"ab\ncd":
        sock.sendall(bytes([byte]))
    assert receive(sock, 2) == b"2\n"
    assert Framed.frames() == [b"ab"]
    sock.sendall(b"\n")
    assert receive(sock, 2) == b"2\n"
    assert Framed.frames() == [b"ab", b"cd"]


def test_keep_end_and_a_delimiter_of_several_bytes(serve, client):
    Framed = framed(Lines(b"\r\n", keep_end=True))
    server = serve(Framed)
    assert talk(server, client, b"a\r\n\n\r\r\n", 4) == b"3\n4\n"
    assert Framed.frames() == [b"a\r\n", b"\n\r\r\n"]


@pytest.mark.parametrize("data", [b"123456", b"123456\n", b"12345678901234\nab\n"])
def test_a_line_over_the_limit_is_handle_error(data, serve, client, caplog):
    Framed = framed(Lines(limit=5))
    server = serve(Framed)
    sock = client(server)
    sock.sendall(b"12345\n" + data)
    assert Framed.ended()
    assert Framed.frames() == [b"12345"]
    (reason,) = [what for name, what in Framed.lines if name == "error"]
    assert isinstance(reason, LimitExceeded)
    assert "limit" in str(reason)
    assert "127.0.0.1" in str(reason)
    assert not caplog.records  # a peer's doing is never logged unasked


def test_the_limit_counts_the_payload_alone(serve, client):
    Framed = framed(Lines(b"\r\n", limit=5, keep_end=True))
    server = serve(Framed)
    sock = client(server)
    sock.sendall(b"12345\r")
    sock.sendall(b"\n")
    assert receive(sock, 2) == b"7\n"
    sock.sendall(b"123456")
    assert Framed.ended()


def test_max_unread_does_not_bound_a_frame(serve, client):
    Framed = framed(Lines(limit=1 << 20))
    server = serve(Framed, max_unread=10)
    assert talk(server, client, b"x" * 300_000 + b"\n", 7) == b"300000\n"


# ---- length prefixes -----------------------------------------------------------


@pytest.mark.parametrize(("format", "size"), [(">I", 4), ("<H", 2), ("B", 1), ("!Q", 8)])
def test_frames_behind_their_length(format, size, wire):
    Framed = framed(LengthPrefix(format))
    order = "little" if format.startswith("<") else "big"
    server = wire.serve(Framed)
    sock = wire.connect(server)
    frames = [b"abc", b"", b"x" * 200]
    stream = b"".join(len(one).to_bytes(size, order) + one for one in frames)
    for begin in range(0, len(stream), 7):
        sock.sendall(stream[begin : begin + 7])
    assert receive(sock, 8) == b"3\n0\n200\n"
    assert Framed.frames() == frames


def test_a_length_over_the_limit_is_handle_error_before_any_of_it_comes(serve, client):
    Framed = framed(LengthPrefix(">H", limit=10))
    server = serve(Framed)
    sock = client(server)
    sock.sendall(b"\0\x0a0123456789\0\x0b")
    assert Framed.ended()
    assert Framed.frames() == [b"0123456789"]
    assert isinstance(dict(Framed.lines)["error"], LimitExceeded)


def test_a_large_frame(wire):
    Framed = framed(LengthPrefix(">I", limit=1 << 22))
    server = wire.serve(Framed)
    sock = wire.connect(server)
    sock.sendall((1 << 22).to_bytes(4, "big") + b"x" * (1 << 22))
    assert receive(sock, 8) == b"4194304\n"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Lines(""),
        lambda: Lines(b""),
        lambda: Lines(b"\n", limit=-1),
        lambda: Lines(b"\n", limit=True),
        lambda: Lines(b"\n", limit="1"),
        lambda: Lines(b"\n", keep_end=1),
        lambda: LengthPrefix(">i"),
        lambda: LengthPrefix(">f"),
        lambda: LengthPrefix(">4s"),
        lambda: LengthPrefix(">HH"),
        lambda: LengthPrefix(""),
        lambda: LengthPrefix("nonsense"),
        lambda: LengthPrefix(4),
        lambda: LengthPrefix(b">I"),
        lambda: LengthPrefix(">I", limit=1.5),
    ],
)
def test_wrong_values_are_config_errors(make):
    with pytest.raises(ConfigError, match="takes"):
        make()


# ---- where framing is said, and when it is looked up -----------------------------


def test_set_on_self_in_the_constructor(serve, client):
    class Framed(framed(NOT_SET)):
        def __init__(self, options):
            super().__init__(options)
            assert self.framing is None
            self.framing = Lines()

    server = serve(Framed)
    assert talk(server, client, b"a\nbc\n", 4) == b"1\n2\n"
    assert Handler.framing is None


def test_a_handler_without_framing_gets_bytes_as_they_come(serve, client):
    Plain = framed(NOT_SET)
    server = serve(Plain)
    assert talk(server, client, b"a\nbc\n", 2) == b"5\n"


def test_it_may_change_with_each_frame(wire):
    """A header line, a body with its length, then bytes as they come."""

    class Changes(framed(Lines())):
        def handle_data(self, data, socket):
            super().handle_data(data, socket)
            if data == b"body":
                self.framing = LengthPrefix("B")
            elif data == b"raw":
                self.framing = None

    server = wire.serve(Changes)
    sock = wire.connect(server)
    sock.sendall(b"body\n\x03a\nb\x03rawand\nthis")
    assert receive(sock, 8) == b"4\n3\n3\n8\n"
    assert Changes.frames() == [b"body", b"a\nb", b"raw", b"and\nthis"]


def test_it_may_begin_in_mid_connection(serve, client):
    class Begins(framed(NOT_SET)):
        def handle_data(self, data, socket):
            super().handle_data(data, socket)
            if data.startswith(b"lines\n"):
                self.framing = Lines()
                socket.unread(data.removeprefix(b"lines\n"))

    server = serve(Begins)
    sock = client(server)
    sock.sendall(b"a\nb\n")
    assert receive(sock, 2) == b"4\n"
    sock.sendall(b"lines\na\nb\nc")
    assert receive(sock, 7) == b"11\n1\n1\n"
    sock.sendall(b"d\n")
    assert receive(sock, 2) == b"2\n"
    assert Begins.frames() == [b"a\nb\n", b"lines\na\nb\nc", b"a", b"b", b"cd"]


def test_a_message_may_change_it_while_half_a_frame_waits(serve, client):
    class Changes(framed(Lines())):
        def handle_info(self, message, socket):
            self.framing = message

    server = serve(Changes)
    sock = client(server)
    sock.sendall(b"x\nab;cd;e")
    assert receive(sock, 2) == b"1\n"
    (connection,) = server.connections()
    connection.post(Lines(b";"))
    assert receive(sock, 4) == b"2\n2\n"
    connection.post(None)
    assert receive(sock, 2) == b"1\n"
    assert Changes.frames() == [b"x", b"ab", b"cd", b"e"]


@pytest.mark.parametrize("seen", ["never called back", "has said something", "stays"])
def test_set_by_another_thread_it_holds_from_the_next_bytes_on(seen, serve, client):
    made = queue.SimpleQueue()

    class Told(framed(NOT_SET)):
        def handle_connection(self, socket):
            made.put(self)

    sock = client(serve(Told))
    handler = made.get(timeout=5)
    for _ in range({"never called back": 0, "has said something": 1, "stays": 300}[seen]):
        sock.sendall(b"raw\n\n")
        assert receive(sock, 2) == b"5\n"
    handler.framing = Lines()
    sock.sendall(b"a\nb\n")
    assert receive(sock, 4) == b"1\n1\n"
    handler.framing = None
    sock.sendall(b"a\nb\n")
    assert receive(sock, 2) == b"4\n"


def test_set_by_another_thread_while_half_a_frame_waits(serve, client):
    made = queue.SimpleQueue()

    class Told(framed(NOT_SET)):
        def handle_connection(self, socket):
            self.framing = Lines()
            made.put(self)

    server = serve(Told)
    sock = client(server)
    handler = made.get(timeout=5)
    sock.sendall(b"a;bb;c")
    assert eventually(lambda: received(server, 6))
    handler.framing = Lines(b";")
    assert receive(sock, 4) == b"1\n2\n"


def test_set_by_a_callback_of_another_connection(serve, client):
    first = []

    class Told(framed(NOT_SET)):
        def handle_connection(self, socket):
            first.append(self)
            first[0].framing = Lines()

        def handle_data(self, data, socket):
            if data == b"now":
                first[1].framing = Lines()
            super().handle_data(data, socket)

    server = serve(Told)
    a, b = client(server), client(server)
    a.sendall(b"1\n22\n")
    assert receive(a, 4) == b"1\n2\n"
    b.sendall(b"1\n22\n")
    assert receive(b, 2) == b"5\n"
    a.sendall(b"now\n")
    assert receive(a, 2) == b"3\n"
    b.sendall(b"1\n22\n")
    assert receive(b, 4) == b"1\n2\n"


def test_set_again_by_a_callback_of_another_connection_while_half_a_frame_waits(serve, client):
    made = []

    class Told(framed(NOT_SET)):
        def handle_connection(self, socket):
            self.framing = Lines()
            made.append(self)

        def handle_data(self, data, socket):
            if data.startswith(b"cut at "):
                made[1].framing = Lines(data[-1:])
            super().handle_data(data, socket)

    server = serve(Told)
    a = client(server)
    assert eventually(lambda: made)
    b = client(server)
    b.sendall(b"1;22,333")
    assert eventually(lambda: received(server, 8))
    a.sendall(b"cut at ;\n")
    assert receive(b, 2) == b"1\n"
    a.sendall(b"cut at ,\n")
    assert receive(b, 2) == b"2\n"


def test_set_by_another_thread_under_a_lock_that_a_receiver_waits_for(serve, client):
    made, waits, held = queue.SimpleQueue(), threading.Event(), threading.Lock()

    class Told(framed(NOT_SET)):
        def __init__(self, options):
            super().__init__(options)
            made.put(self)

    def look(server, **told):
        waits.set()
        with held:
            pass

    server = serve(Told)
    with held, events.handler_start.connected_to(look, sender=server):
        sock = client(server)
        assert waits.wait(5)
        set_by = threading.Thread(target=setattr, args=(made.get(timeout=5), "framing", Lines()))
        set_by.start()
        set_by.join(5)
        stuck = set_by.is_alive()
    assert not stuck
    sock.sendall(b"a\nbc\n")
    assert receive(sock, 4) == b"1\n2\n"


def test_set_on_a_handler_that_no_connection_has_costs_no_look_at_all_connections(
    monkeypatch, serve, client
):
    looked = []
    whether = Callbacks.calls

    def calls(self, handler, or_makes=False):
        looked.append(handler)
        return whether(self, handler, or_makes)

    class Part(Handler):
        pass

    class Whole(framed(Lines())):
        def handle_connection(self, socket):
            part = Part(None)
            part.framing = Lines()

    server = serve(Whole)
    monkeypatch.setattr(Callbacks, "calls", calls)
    for number in range(1, 6):
        assert talk(server, client, b"a\n", 2) == b"1\n"
        assert len(looked) == number


def test_a_handler_of_nobody_may_be_given_one(serve, client):
    serve(Handler)
    Handler(None).framing = Lines()


def test_deleted_from_self_there_is_none(serve, client):
    class Once(framed(NOT_SET)):
        def handle_connection(self, socket):
            self.framing = Lines()

        def handle_data(self, data, socket):
            super().handle_data(data, socket)
            del self.framing
            assert self.framing is None

    assert talk(serve(Once), client, b"a\nb\nc\n", 4) == b"1\n4\n"


def test_bodies_without_framing_whose_rest_is_put_back_for_the_next_head(wire):
    """Pipelined: the second body was put back with its head, and no more will come."""

    class Bodies(journal()):
        def handle_connection(self, socket):
            self.framing = Lines()

        def handle_data(self, data, socket):
            if self.framing is not None:
                self.framing = None
                return
            body, _, rest = data.partition(b"!")
            self.framing = Lines()
            socket.unread(rest)
            socket.send(body + b";")

    server = wire.serve(Bodies)
    sock = wire.connect(server)
    sock.sendall(b"head\none!head\ntwo!head\nthree!")
    assert receive(sock, 14) == b"one;two;three;"
    sock.close()


def test_handle_data_may_be_set_anew_between_frames(serve, client):
    class Switches(framed(Lines())):
        def handle_data(self, data, socket):
            self.handle_data = self.handle_body

        def handle_body(self, data, socket):
            self.note("body", data)
            socket.send(b"body")

    server = serve(Switches)
    assert talk(server, client, b"head\nbody\n", 4) == b"body"
    assert Switches.lines[0] == ("body", b"body")


# ---- calls of Socket in a callback, while frames wait ------------------------------


def test_recv_takes_the_bytes_behind_the_frame(wire):
    class Reads(framed(Lines())):
        def handle_data(self, data, socket):
            if data == b"five":
                self.note("read", socket.recv_exactly(5))
            elif data == b"until":
                self.note("read", socket.recv_until(b";"))
            elif data == b"some":
                self.note("read", socket.recv(3))
            else:
                super().handle_data(data, socket)

    server = wire.serve(Reads)
    sock = wire.connect(server)
    sock.sendall(b"five\n12\n45until\nab;some\nx\nyend\n")
    assert receive(sock, 2) == b"3\n"
    assert [what for name, what in Reads.lines if name == "read"] == [b"12\n45", b"ab;", b"x\ny"]
    assert Reads.frames() == [b"end"]


def test_what_recv_until_read_beyond_goes_through_the_framing(serve, client):
    class Greets(framed(Lines())):
        def handle_connection(self, socket):
            self.note("greeting", socket.recv_until(b"!"))

    server = serve(Greets)
    assert talk(server, client, b"hello!a\nbc\nd", 4) == b"1\n2\n"
    assert Greets.lines == [("greeting", b"hello!"), ("data", b"a"), ("data", b"bc")]


def test_unread_puts_bytes_before_the_next_frame(wire):
    class Unreads(framed(Lines())):
        def handle_data(self, data, socket):
            super().handle_data(data, socket)
            if data == b"again":
                socket.unread(b"put\nback")

    server = wire.serve(Unreads)
    sock = wire.connect(server)
    sock.sendall(b"again\n+\nz\n")
    assert receive(sock, 8) == b"5\n3\n5\n1\n"
    sock.sendall(b"again\n")  # nothing behind it: half a frame waits for its end
    assert receive(sock, 4) == b"5\n3\n"
    sock.sendall(b"!\n")
    assert receive(sock, 2) == b"5\n"
    assert Unreads.frames() == [
        *(b"again", b"put", b"back+", b"z"),
        *(b"again", b"put", b"back!"),
    ]


def test_a_callback_that_waits_for_bytes_leaves_none_behind(serve, client):
    class Waits(framed(Lines())):
        def handle_data(self, data, socket):
            super().handle_data(data, socket)
            if data == b"wait":
                self.note("came", socket.recv_until(b"\n"))
                socket.send(b"came\n")

    server = serve(Waits)
    sock = client(server)
    sock.sendall(b"wait\n")
    assert receive(sock, 2) == b"4\n"
    sock.sendall(b"x\ny\nz")
    assert receive(sock, 7) == b"came\n1\n"
    sock.sendall(b"\n")
    assert receive(sock, 2) == b"1\n"


# ---- the end of the stream --------------------------------------------------------


def test_an_end_inside_a_frame_is_handle_error_with_the_rest(wire):
    Framed = framed(Lines())
    server = wire.serve(Framed)
    sock = wire.connect(server)
    sock.sendall(b"one\nhalf")
    assert receive(sock, 2) == b"3\n"
    wire.end(sock)
    assert Framed.ended()
    reason = dict(Framed.lines)["error"]
    assert isinstance(reason, SocketClosed)
    assert reason.partial == b"half"
    assert [name for name, _ in Framed.lines] == ["data", "error", "end"]  # and no handle_eof


def test_the_partial_bytes_are_raw(serve, client):
    Framed = framed(LengthPrefix(">H"))
    server = serve(Framed)
    sock = client(server)
    sock.sendall(b"\0\5abc")
    sock.shutdown(socket.SHUT_WR)
    assert Framed.ended()
    assert dict(Framed.lines)["error"].partial == b"\0\5abc"


def test_an_end_between_frames_is_handle_eof(wire):
    Framed = framed(Lines())
    server = wire.serve(Framed)
    sock = wire.connect(server)
    sock.sendall(b"one\ntwo\n")
    assert receive(sock, 4) == b"3\n3\n"
    wire.end(sock)
    assert Framed.ended()
    assert [name for name, _ in Framed.lines] == ["data", "data", "eof", "close", "end"]


def test_after_the_end_frames_are_answered_and_more_may_be_sent(serve, client):
    class Lasts(framed(Lines())):
        def handle_eof(self, socket):
            self.note("eof")
            return Continue()

        def handle_info(self, message, socket):
            socket.send(message)
            return Close()

    server = serve(Lasts)
    sock = client(server)
    sock.sendall(b"a\n" * 500)
    sock.shutdown(socket.SHUT_WR)
    assert receive(sock, 1_000) == b"1\n" * 500
    assert eventually(lambda: "eof" in Lasts.names())
    server.connections()[0].post(b"bye")
    assert receive_all(sock) == b"bye"


def test_a_reset_inside_a_frame_is_handle_close(serve, client):
    Framed = framed(Lines())
    server = serve(Framed)
    sock = client(server)
    sock.sendall(b"one\nhalf")
    assert receive(sock, 2) == b"3\n"
    reset(sock)
    assert Framed.ended()
    assert "error" not in Framed.names()


# ---- results, times, messages ---------------------------------------------------------


def test_a_result_holds_from_its_frame_on(serve, client):
    class Decides(framed(Lines())):
        def handle_data(self, data, socket):
            super().handle_data(data, socket)
            return {b"go": Continue(), b"close": Close(), b"err": Error("why")}.get(data)

    server = serve(Decides)
    assert talk(server, client, b"go\nx\ngo\nclose\nnever\n", 10) == b"2\n1\n2\n5\n"
    assert Decides.ended()
    assert Decides.frames() == [b"go", b"x", b"go", b"close"]
    Decides.lines.clear()
    assert talk(server, client, b"a\nerr\nnever\n", 4) == b"1\n3\n"
    assert Decides.ended()
    assert Decides.lines[2] == ("error", "why")


def test_what_a_frame_raises_ends_the_connection_there(serve, client, caplog):
    class Raises(framed(Lines())):
        def handle_data(self, data, socket):
            super().handle_data(data, socket)
            if data == b"boom":
                raise KeyError("boom")

    server = serve(Raises)
    sock = client(server)
    sock.sendall(b"a\nboom\nnever\n")
    assert Raises.ended()
    assert Raises.frames() == [b"a", b"boom"]
    assert isinstance(dict(Raises.lines)["error"], KeyError)
    assert "Raises.handle_data" in caplog.text


def test_a_deadline_given_by_a_frame_ends_the_next_ones(serve, client):
    class Late(framed(Lines())):
        def handle_data(self, data, socket):
            super().handle_data(data, socket)
            if data == b"first":
                return Continue(deadline_ms=0)
            return None

    server = serve(Late)
    sock = client(server)
    sock.sendall(b"first\n" + b"more\n" * 10)
    assert Late.ended()
    assert Late.names() == ["data", "timeout", "end"]


def test_bytes_restart_the_read_timeout_whether_or_not_they_end_a_frame(serve, client):
    Framed = framed(Lines())
    server = serve(Framed, read_timeout_ms=400)
    sock = client(server)
    pause = threading.Event()
    for _ in range(6):
        sock.sendall(b"x")
        pause.wait(0.1)  # together longer than the timeout
    sock.sendall(b"\n")
    assert receive(sock, 2) == b"6\n"
    sock.sendall(b"half")
    assert Framed.ended()
    assert Framed.names() == ["data", "timeout", "end"]


def test_messages_come_between_frames(serve, client):
    began, more = threading.Event(), threading.Event()

    class Mixed(waiting(began, more)):
        def handle_info(self, message, socket):
            self.note("info", message)

    server = serve(Mixed)
    sock = client(server)
    sock.sendall(b"wait\n" + b"x\n" * 9)
    assert began.wait(5)
    server.connections()[0].post("now")
    more.set()
    assert receive(sock, 20) == b"4\n" + b"1\n" * 9
    assert Mixed.names()[:3] == ["data", "info", "data"]


def test_between_the_frames_of_one_client_others_have_their_turn(serve, client):
    """One sends a thousand frames that take a millisecond each; another gets its answer."""

    class Slow(framed(Lines())):
        def handle_data(self, data, socket):
            if data == b"slow":
                threading.Event().wait(0.001)
            else:
                super().handle_data(data, socket)

    server = serve(Slow, max_handler_threads=1)
    busy, other = client(server), client(server)
    busy.sendall(b"slow\n" * 1_000)
    other.sendall(b"quick\n")
    assert receive(other, 2) == b"5\n"
    busy.sendall(b"done\n")
    other.sendall(b"quick\n")
    assert receive(other, 2) == b"5\n"
    assert b"done" not in Slow.frames()


# ---- upgrade, stop, forms of the end ------------------------------------------------


def test_an_upgrade_drops_the_frames_behind_it(serve, authority, client):
    class Starts(framed(Lines())):
        def handle_data(self, data, socket):
            super().handle_data(data, socket)
            if data == b"STARTTLS":
                return SwitchTransport(TLS, authority.options)
            return None

    server = serve(Starts)
    sock = client(server)
    sock.sendall(b"a\nSTARTTLS\ninjected\nhal")
    assert receive(sock, 4) == b"1\n8\n"
    with authority.client_context().wrap_socket(sock, server_hostname="localhost") as secure:
        secure.sendall(b"se")
        secure.sendall(b"cret\nmore\n")
        assert receive(secure, 4) == b"6\n4\n"
    assert Starts.frames() == [b"a", b"STARTTLS", b"secret", b"more"]


def test_a_stop_delivers_the_frames_that_have_arrived(serve, client):
    began, more = threading.Event(), threading.Event()

    Stops = waiting(began, more)
    server = serve(Stops)
    sock = client(server)
    sock.sendall(b"wait\n" + b"x\n" * 300 + b"half")
    assert began.wait(5)
    results = []
    with running(lambda: results.append(server.stop(5_000))):
        assert eventually(lambda: server.status == "stopping")
        more.set()
    assert results == [True]
    assert receive_all(sock) == b"4\n" + b"1\n" * 300
    assert Stops.names()[-2:] == ["shutdown", "end"]


def test_a_stop_delivers_more_than_a_mebibyte_of_frames_that_are_here(serve, client):
    """The bound on what a stop delivers counts bytes once, however many turns they take."""
    began, more = threading.Event(), threading.Event()
    count = 30_000

    class Stops(journal()):
        framing = Lines()
        seen = 0

        def handle_data(self, data, socket):
            Stops.seen += 1
            if data == b"wait":
                began.set()
                assert more.wait(5)

    server = serve(Stops)
    sock = client(server)
    sock.sendall(b"wait\n")
    assert began.wait(5)
    sock.sendall(b"x\n" * count)
    with running(lambda: server.stop(60_000)):
        assert eventually(lambda: server.status == "stopping")
        more.set()
    assert Stops.seen == count + 1


def test_while_bytes_wait_unsent_no_frame_is_delivered(wire):
    """Who does not read is not listened to, however many frames are here."""
    answer = b"x" * 60_000

    class Floods(framed(Lines())):
        def handle_data(self, data, socket):
            self.note("data", data)
            socket.send(answer)

    server = wire.serve(Floods, max_unsent=1 << 20, send_timeout_ms=60_000)
    sock = wire.connect(server)
    count = 1_000  # 60 MB: the kernels' buffers hold a part of it
    sock.sendall(b"f\n" * count)
    assert eventually(lambda: any(task_of(one).deaf for one in server.connections()))
    assert eventually(lambda: not server.info().busy_threads)
    held = len(Floods.frames())
    assert held < count
    assert len(receive(sock, count * len(answer))) == count * len(answer)
    assert len(Floods.frames()) == count


def test_connection_close_ends_it_between_frames(serve, client):
    began, more = threading.Event(), threading.Event()

    class Ends(framed(Lines())):
        def handle_data(self, data, socket):
            self.note("data", data)
            began.set()
            assert more.wait(5)

    server = serve(Ends)
    sock = client(server)
    sock.sendall(b"a\nb\nc\n")
    assert began.wait(5)
    server.connections()[0].close()
    more.set()
    assert Ends.ended()
    assert Ends.names() == ["data", "shutdown", "end"]


def test_a_handler_that_closes_its_socket_gets_no_more_frames(serve, client):
    class Closes(framed(Lines())):
        def handle_data(self, data, socket):
            self.note("data", data)
            socket.close()

    server = serve(Closes)
    client(server).sendall(b"a\nb\n")
    assert Closes.ended()
    assert Closes.names() == ["data", "end"]


# ---- events -----------------------------------------------------------------------


def test_what_arrives_is_told_once_as_it_came(serve, client, record):
    recorder = record("handler.async_recv")
    Framed = framed(Lines())
    server = serve(Framed)
    data = b"x\n" * 500 + b"half"
    sock = client(server)
    sock.sendall(data)
    receive(sock, 1_000)
    sock.sendall(b"\n")
    receive(sock, 2)
    assert eventually(
        lambda: b"".join(one.measurements["data"] for one in recorder.told) == data + b"\n"
    )


def told(recorder):
    return [(one.name.partition(".")[2], one.measurements["data"]) for one in recorder.told]


def test_what_recv_until_read_beyond_its_line_is_told_once_it_is_delivered(serve, client, record):
    class Heads(framed(Lines())):
        def handle_connection(self, socket):
            socket.recv_until(b"\n")

    recorder = record("handler.async_recv", "socket.recv")
    sock = client(serve(Heads))
    sock.sendall(b"head\nx\nyy\nha")
    assert receive(sock, 4) == b"1\n2\n"
    sock.sendall(b"lf\n")
    assert receive(sock, 2) == b"4\n"
    assert told(recorder) == [
        ("recv", b"head\n"),
        ("async_recv", b"x\nyy\nha"),
        ("async_recv", b"lf\n"),
    ]


@pytest.mark.parametrize("put_back", [False, True])
def test_and_what_it_read_beyond_amid_a_frame(put_back, serve, client, record):
    asked = threading.Event()

    class Asks(framed(Lines())):
        def handle_data(self, data, socket):
            if data == b"ask":
                asked.set()
                line = socket.recv_until(b"\n")
                if put_back:
                    socket.unread(line)
            super().handle_data(data, socket)

    recorder = record("handler.async_recv", "socket.recv")
    sock = client(serve(Asks))
    sock.sendall(b"ask\n")
    assert asked.wait(5)
    sock.sendall(b"line\nx\nha")
    answers = b"3\n4\n1\n" if put_back else b"3\n1\n"
    assert receive(sock, len(answers)) == answers
    sock.sendall(b"lf\n")
    assert receive(sock, 2) == b"4\n"
    assert told(recorder) == [
        ("async_recv", b"ask\n"),
        ("recv", b"line\n"),
        ("async_recv", b"x\nha"),
        ("async_recv", b"lf\n"),
    ]


# ---- a framing of one's own -------------------------------------------------------


class Doubled(Framing):
    """Frames of a digit and so many bytes twice; what is asked is written down."""

    def __init__(self, limit=None):
        self.asked = []
        if limit is not None:
            self.limit = limit

    def find(self, buffer, start):
        self.asked.append((bytes(buffer), start))
        if not buffer:
            return None
        end = 1 + 2 * int(buffer[:1])
        return (1, end, end) if len(buffer) >= end else None


def test_a_framing_of_ones_own_is_asked_after_each_piece_and_each_frame(wire):
    own = Doubled()
    Framed = framed(own)
    server = wire.serve(Framed)
    sock = wire.connect(server)
    sock.sendall(b"1ab2")
    assert receive(sock, 2) == b"2\n"
    sock.sendall(b"abcd1")
    assert receive(sock, 2) == b"4\n"
    assert Framed.frames() == [b"ab", b"abcd"]
    assert eventually(lambda: len(own.asked) == 4)
    assert own.asked == [(b"1ab2", 0), (b"2", 0), (b"2abcd1", 1), (b"1", 0)]


def test_a_framing_may_skip_bytes_behind_the_payload(serve, client):
    class Padded(Framing):
        def find(self, buffer, start):
            return (1, 3, 4) if len(buffer) >= 4 else None

    Framed = framed(Padded())
    server = serve(Framed)
    assert talk(server, client, b"<ab>[cd](", 4) == b"2\n2\n"
    assert Framed.frames() == [b"ab", b"cd"]


@pytest.mark.parametrize(
    ("own", "options", "name"),
    [(Doubled(), {"max_unread": 10}, "max_unread"), (Doubled(limit=10), {}, "limit")],
)
def test_what_waits_is_bounded_by_its_limit_or_max_unread(own, options, name, serve, client):
    Framed = framed(own)
    server = serve(Framed, **options)
    sock = client(server)
    sock.sendall(b"9" + b"x" * 9)
    assert eventually(lambda: own.asked)
    sock.sendall(b"xx")
    assert Framed.ended()
    reason = dict(Framed.lines)["error"]
    assert isinstance(reason, LimitExceeded)
    assert name in str(reason)


class Says(Framing):
    """Returns, or raises, what it was made with."""

    def __init__(self, what):
        self.what = what

    def find(self, buffer, start):
        if isinstance(self.what, BaseException):
            raise self.what
        return self.what(buffer) if callable(self.what) else self.what


def without_address(what):
    """A name of a case that is the same in each process: `tests.side_by_side` compares them."""
    return re.sub(r" at 0x\w+", "", repr(what))


@pytest.mark.parametrize(
    "what",
    [
        *(5, "abc", (1, 2), (1, 2, 3, 4), (0, 0, 0), (-1, 1, 2), (1, 0, 2), (0, 3, 2)),
        *((0, 0, 99), (0, 99, 99), (0.0, 1.0, 2.0), ("a", "b", "c"), (None, 1, 1), True, b"x"),
        lambda buffer: buffer.clear(),
        lambda buffer: (buffer.extend(b"zz"), (0, 4, 5))[1],
    ],
    ids=without_address,
)
def test_a_find_that_misbehaves_is_handle_error_and_logged(what, serve, client, caplog):
    Framed = framed(Says(what))
    server = serve(Framed)
    client(server).sendall(b"abc")
    assert Framed.ended()
    assert Framed.names() == ["error", "end"]
    reason = dict(Framed.lines)["error"]
    assert isinstance(reason, HandlerResultError)
    assert "Says" in str(reason)
    assert "find" in str(reason)
    assert len([one for one in caplog.records if one.levelno >= logging.ERROR]) == 1


@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit(3), GeneratorExit()], ids=repr)
def test_what_find_raises_goes_to_handle_error_and_is_logged(error, serve, client, caplog):
    Framed = framed(Says(error))
    server = serve(Framed)
    client(server).sendall(b"abc")
    assert Framed.ended()
    assert Framed.lines[0] == ("error", error)
    assert "find" in caplog.text


def test_a_find_that_raises_limit_exceeded_is_not_logged(serve, client, caplog):
    Framed = framed(Says(LimitExceeded("too many columns")))
    server = serve(Framed)
    client(server).sendall(b"abc")
    assert Framed.ended()
    reason = dict(Framed.lines)["error"]
    assert isinstance(reason, LimitExceeded)
    assert "too many columns" in str(reason)
    assert not caplog.records


def test_a_find_that_keeps_a_view_of_the_buffer_harms_nobody(serve, client):
    kept = []

    def find(buffer):
        kept.append(memoryview(buffer))
        return (0, 2, 2) if len(buffer) >= 2 else None

    Framed = framed(Says(find))
    server = serve(Framed)
    sock = client(server)
    sock.sendall(b"abc")
    assert receive(sock, 2) == b"2\n"
    sock.sendall(b"def")
    assert receive(sock, 4) == b"2\n2\n"
    assert Framed.frames() == [b"ab", b"cd", b"ef"]


@pytest.mark.parametrize("what", [b"\n", "\n", Lines, 5, object()], ids=without_address)
def test_what_is_no_framing_is_refused(what, serve, client, caplog):
    with pytest.raises(ConfigError, match=r"framing: .*(takes a Framing|is the class)"):
        ThousandIsland(handler_cls=framed(what))

    class Late(framed(Lines())):
        def handle_data(self, data, socket):
            self.framing = what

    server = serve(Late)
    client(server).sendall(b"a\nb\n")
    assert Late.ended()
    assert isinstance(dict(Late.lines)["error"], HandlerResultError)


def test_a_property_may_make_one_for_each_look(serve, client):
    """It is searched on where it was, and nobody is asked again for nothing."""
    looks = []

    class Computed(framed(NOT_SET)):
        @property
        def framing(self):
            looks.append(self)
            return Lines()

        def handle_info(self, message, socket):
            self.note("info", message)

    server = serve(Computed)
    sock = client(server)
    sock.sendall(b"a\nbc\nhalf")
    assert receive(sock, 4) == b"1\n2\n"
    server.connections()[0].post("m")
    assert eventually(lambda: "info" in Computed.names())
    assert eventually(lambda: not server.info().busy_threads)
    assert len(looks) < 20
    sock.sendall(b"\n")
    assert receive(sock, 2) == b"4\n"


def test_a_property_that_raises_ends_its_connection(serve, client, caplog):
    class Broken(framed(NOT_SET)):
        @property
        def framing(self):
            raise KeyError("no framing today")

    server = serve(Broken)
    client(server).sendall(b"a\nb\n")
    assert Broken.ended()
    assert isinstance(dict(Broken.lines)["error"], KeyError)
