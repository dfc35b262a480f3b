"""`thousand_island_sync.testing.call`: a handler's life in memory, sentence by sentence as the
contract has it."""

import dataclasses
import logging
import socket as stdlib_socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thousand_island_sync import (
    TLS,
    Close,
    ConfigError,
    Continue,
    Error,
    Handler,
    HandlerResultError,
    LimitExceeded,
    Lines,
    MailboxFull,
    NotSupported,
    SendBufferFull,
    ServerStopping,
    SocketClosed,
    SocketTimeout,
    SwitchTransport,
    events,
)
from thousand_island_sync._connection.callbacks import Callbacks
from thousand_island_sync._connection.closing import Closing
from thousand_island_sync._connection.machine import Machine
from thousand_island_sync._connection.states import LAST_CALLBACK, Cause, State
from thousand_island_sync._connection.task import ConnectionTask
from thousand_island_sync.testing import EOF, RESET, Transcript, advance, call, post, stop
from thousand_island_sync.testing._leaks import open_descriptors


class Echo(Handler):
    """Sends back what it gets, and what it is posted."""

    def handle_data(self, data, socket):
        socket.send(data)

    def handle_info(self, message, socket):
        socket.send(message)


class Asks(Handler):
    """Reads in a callback."""

    def handle_connection(self, socket):
        socket.send(b"name? ")
        name = socket.recv_until(b"\n")
        socket.send([b"hello ", name])


def names(transcript):
    return [name for name, _, _ in transcript.callbacks]


def does(**callbacks):
    """A handler whose callbacks are these functions of the socket, or what they return."""

    def method(what):
        def callback(self, *arguments):
            return what(*arguments) if callable(what) else what

        return callback

    return type("Does", (Handler,), {name: method(what) for name, what in callbacks.items()})


# ---- what it gives back --------------------------------------------------------------


def test_a_transcript_says_what_was_sent_what_has_run_and_how_it_ended():
    transcript = call(Echo, b"one", b"two", EOF)
    assert transcript.sent == b"onetwo"
    assert transcript.sends == [b"one", b"two"]
    assert transcript.ended == "peer_closed"
    assert transcript.error is None
    assert transcript.callbacks[:3] == [
        ("handle_connection", (), None),
        ("handle_data", (b"one",), None),
        ("handle_data", (b"two",), None),
    ]
    name, arguments, result = transcript.callbacks[3]
    assert (name, arguments) == ("handle_eof", ())
    assert isinstance(result, Close)
    assert names(transcript)[4:] == ["handle_close", "handle_end"]


def test_a_transcript_is_frozen():
    transcript = call(Echo)
    assert isinstance(transcript, Transcript)
    with pytest.raises(dataclasses.FrozenInstanceError):
        transcript.sent = b""


def test_a_send_of_several_pieces_is_one_send():
    assert call(Asks, b"jo\n").sends == [b"name? ", b"hello jo\n"]


def test_what_a_callback_raised_stands_in_the_place_of_its_result():
    wrong = KeyError("no such user")

    def fail(data, socket):
        raise wrong

    transcript = call(does(handle_data=fail), b"x")
    assert transcript.callbacks[1:] == [
        ("handle_data", (b"x",), wrong),
        ("handle_error", (wrong,), None),
        ("handle_end", (), None),
    ]
    assert (transcript.ended, transcript.error) == ("error", wrong)


def test_after_the_last_step_it_is_left_open():
    transcript = call(Echo, b"x")
    assert transcript.ended is None
    assert names(transcript) == ["handle_connection", "handle_data"]


@pytest.mark.parametrize(
    ("handler_cls", "steps", "ended"),
    [
        (does(handle_data=Close()), [b"x"], "local_closed"),
        (does(handle_data=lambda data, socket: socket.close()), [b"x"], "local_closed"),
        (Echo, [EOF], "peer_closed"),
        (Echo, [b"x", RESET], "peer_closed"),
        (Echo, [advance(60_000)], "timeout"),
        (Echo, [b"x", stop()], "shutdown"),
        (does(handle_data=Error("why")), [b"x"], "error"),
    ],
)
def test_how_it_ended(handler_cls, steps, ended):
    transcript = call(handler_cls, *steps)
    assert transcript.ended == ended
    assert names(transcript)[-1] == "handle_end"
    assert transcript.error == ("why" if ended == "error" else None)


def test_what_comes_after_the_end_is_dropped():
    assert call(does(handle_data=Close()), b"x", b"y", post("z"), advance(5)).ended == (
        "local_closed"
    )


def test_a_handler_that_cannot_be_made_is_an_error_without_a_callback():
    class Broken(Handler):
        def __init__(self, options):
            raise OSError("no database")

    transcript = call(Broken, b"x")
    assert transcript.callbacks == []
    assert (transcript.ended, str(transcript.error)) == ("error", "no database")


# ---- what it is given ----------------------------------------------------------------


def test_options_are_the_handlers():
    class Greets(Handler):
        def handle_connection(self, socket):
            socket.send(self.options["hello"])

    assert call(Greets, options={"hello": b"hi"}).sent == b"hi"


def test_the_peer_is_said_to_be_where_one_wants_it():
    def tell(socket):
        socket.send(repr((socket.getpeername(), socket.connection.peername)).encode())

    here = ("192.0.2.1", 50000)
    assert call(does(handle_connection=tell)).sent == repr((here, here)).encode()
    there = ("203.0.113.9", 7)
    told = call(does(handle_connection=tell), peer=there).sent
    assert told == repr((there, there)).encode()


@pytest.mark.parametrize(
    ("peer", "family"),
    [
        (("::1", 5), stdlib_socket.AF_INET6),
        ("", stdlib_socket.AF_UNIX),
        (("127.0.0.1", 5), stdlib_socket.AF_INET),
    ],
)
def test_the_socket_answers_what_a_socket_of_its_peer_would(peer, family):
    seen = []

    def look(socket):
        seen.extend((socket.family, socket.type, socket.getsockname(), socket.connection.sockname))
        socket.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_KEEPALIVE, 1)
        seen.append(socket.getsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_KEEPALIVE))
        seen.append(socket.getsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, 8))

    assert call(does(handle_connection=look), peer=peer).ended is None
    assert seen[:2] == [family, stdlib_socket.SOCK_STREAM]
    assert seen[4:] == [1, bytes(8)]


def test_server_options_hold_and_wrong_ones_are_refused():
    many = [post(number) for number in range(3)]
    blocked = does(handle_connection=lambda socket: socket.recv())
    with pytest.raises(MailboxFull):
        call(blocked, *many, b"x", max_pending_messages=2)
    with pytest.raises(ConfigError, match="read_timeout_ms"):
        call(Echo, read_timeout=5)
    with pytest.raises(ConfigError, match="handler_cls"):
        call(object())


def test_unread_bytes_are_limited_as_in_a_server():
    def give_back(data, socket):
        socket.unread(data)

    transcript = call(does(handle_data=give_back), b"12345", max_unread=4)
    assert isinstance(transcript.error, LimitExceeded)
    transcript = call(does(handle_data=give_back), b"12", b"3", b"4", max_unread=4)
    assert [arguments for name, arguments, _ in transcript.callbacks if name == "handle_data"] == [
        (b"12",),
        (b"123",),
        (b"1234",),
    ]


@pytest.mark.parametrize(
    ("step", "error", "match"),
    [
        ("text", TypeError, "encode"),
        (5, TypeError, "takes bytes, EOF"),
        (stop, TypeError, r"call it: stop\("),
        (b"", ValueError, "EOF"),
    ],
)
def test_what_is_no_step_is_refused_and_nothing_is_run(step, error, match):
    def never(socket):
        pytest.fail("it ran")

    with pytest.raises(error, match=match):
        call(does(handle_connection=never), step)


@pytest.mark.parametrize("ms", [-1, "5", None, True])
def test_time_goes_on_by_milliseconds_only(ms):
    with pytest.raises(ValueError, match="milliseconds"):
        advance(ms)


# ---- bytes ---------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=1, max_size=100), max_size=8))
def test_bytes_are_one_handle_data_each(pieces):
    assert call(Echo, *pieces).sends == pieces


def test_a_piece_is_one_handle_data_however_large():
    large = bytes(1_000_000)
    assert call(Echo, large, bytearray(b"x"), memoryview(b"y")).sends == [large, b"x", b"y"]


def test_a_callback_that_reads_takes_the_next_steps():
    transcript = call(Asks, b"jo", b"hn\nrest", b"more")
    assert transcript.sent == b"name? hello john\n"
    assert [arguments for name, arguments, _ in transcript.callbacks if name == "handle_data"] == [
        (b"rest",),
        (b"more",),
    ]


def test_a_read_takes_as_much_as_it_asks_for_and_the_rest_is_the_next_ones():
    def read(socket):
        socket.send(b"|".join([socket.recv(2), socket.recv_exactly(3), socket.recv()]))

    transcript = call(does(handle_connection=read, handle_data=None), b"abcdefg", b"h")
    assert transcript.sent == b"ab|cde|fg"
    assert transcript.callbacks[1] == ("handle_data", (b"h",), None)


@given(st.binary(min_size=1, max_size=300), st.integers(1, 50))
def test_no_byte_is_lost_or_doubled_however_it_is_read(data, length):
    def read(socket):
        while piece := socket.recv(length):
            socket.send(piece)

    transcript = call(does(handle_connection=read), data[:100], *filter(None, [data[100:]]), EOF)
    assert transcript.sent == data


def test_a_look_ahead_leaves_the_bytes_where_they_are():
    def look(socket):
        socket.send(socket.recv(3, stdlib_socket.MSG_PEEK))

    transcript = call(does(handle_connection=look, handle_data=None), b"hello")
    assert transcript.sends == [b"hel"]
    assert transcript.callbacks[1] == ("handle_data", (b"hello",), None)


def test_a_read_that_must_not_wait_does_not_take_a_step():
    def look(socket):
        with pytest.raises(SocketTimeout):
            socket.recv(timeout_ms=0)

    transcript = call(does(handle_connection=look, handle_data=None), b"x")
    assert names(transcript) == ["handle_connection", "handle_data"]


def test_makefile_and_sendfile_work(tmp_path):
    (tmp_path / "page").write_bytes(b"<html>")

    def serve_page(socket):
        with socket.makefile("rb") as lines:
            socket.send(lines.readline())
        socket.sendfile(tmp_path / "page")

    assert call(does(handle_connection=serve_page), b"GET /\n").sent == b"GET /\n<html>"


# ---- the end of the stream, and a reset ----------------------------------------------


def test_after_the_end_it_may_go_on_sending():
    class Late(Handler):
        def handle_eof(self, socket):
            socket.send(b"bye")
            return Continue()

        def handle_info(self, message, socket):
            socket.send(message)

    transcript = call(Late, EOF, advance(1e9), post(b" now"))
    assert (transcript.sent, transcript.ended) == (b"bye now", None)


def test_a_read_finds_the_end_or_a_reset():
    transcript = call(Asks, b"jo", EOF)
    error = transcript.callbacks[0][2]
    assert isinstance(error, SocketClosed)
    assert error.partial == b"jo"
    assert transcript.ended == "peer_closed"
    transcript = call(Asks, b"jo", RESET)
    assert isinstance(transcript.callbacks[0][2], SocketClosed)
    assert transcript.ended == "peer_closed"


def test_who_sends_to_a_peer_that_has_reset_learns_of_it():
    class Sends(Handler):
        def handle_connection(self, socket):
            with pytest.raises(SocketClosed):
                socket.recv()
            socket.send(b"x")

    transcript = call(Sends, RESET)
    assert isinstance(transcript.callbacks[0][2], SocketClosed)
    assert (transcript.sent, transcript.ended) == (b"", "peer_closed")


def test_directions_that_are_shut_here_are_shut():
    class Shuts(Handler):
        def handle_connection(self, socket):
            socket.shutdown("write")
            with pytest.raises(SocketClosed):
                socket.send(b"x")
            socket.shutdown("read")
            assert socket.recv() == b""

    assert call(Shuts).sent == b""
    assert call(Shuts).callbacks[0] == ("handle_connection", (), None)


# ---- time ----------------------------------------------------------------------------


def test_time_stands_still_until_it_is_told_to_go_on():
    assert call(Echo, advance(59_999), b"x", advance(59_999)).ended is None
    assert call(Echo, advance(60_000)).ended == "timeout"
    assert call(Echo, advance(30), advance(20), read_timeout_ms=50).ended == "timeout"


def test_a_deadline_holds_however_many_bytes_come():
    slow = does(handle_connection=Continue(deadline_ms=100), handle_data=None)
    transcript = call(slow, b"a", advance(60), b"b", advance(60), b"c")
    assert transcript.ended == "timeout"
    assert names(transcript).count("handle_data") == 2


def test_messages_with_a_delay_come_in_their_time_and_in_order():
    class Beats(Handler):
        def handle_connection(self, socket):
            socket.connection.post(b".", delay_ms=1_000)

        def handle_info(self, message, socket):
            socket.send(message)
            socket.connection.post(b".", delay_ms=1_000)

    assert call(Beats, advance(999)).sent == b""
    assert call(Beats, advance(5_500)).sent == b"....."
    assert call(Beats, *[advance(500)] * 11).sent == b"....."


def test_a_read_without_a_step_times_out_at_once_and_the_clock_goes_there():
    class Waits(Handler):
        def handle_connection(self, socket):
            socket.connection.post(b"late", delay_ms=30)
            with pytest.raises(SocketTimeout, match="40 ms"):
                socket.recv(timeout_ms=40)
            socket.send(b"timed out")

        def handle_info(self, message, socket):
            socket.send(message)

    transcript = call(Waits)
    assert transcript.sends == [b"timed out", b"late"]
    transcript = call(Asks, b"jo")  # the read timeout
    assert isinstance(transcript.callbacks[0][2], SocketTimeout)
    assert transcript.ended == "timeout"


def test_a_read_without_a_step_and_without_a_time_out_is_the_tests_mistake():
    with pytest.raises(AssertionError, match="handle_connection waits for bytes"):
        call(Asks, b"jo", read_timeout_ms=None)

    class Swallows(Handler):
        def handle_connection(self, socket):
            try:
                socket.recv(timeout_ms=None)
            except BaseException:
                pass

    with pytest.raises(AssertionError, match="no step is left"):
        call(Swallows)


@given(st.integers(0, 200), st.integers(1, 200))
def test_time_that_goes_on_while_a_callback_reads_is_the_same_time(before, after):
    """`advance` is split where the read times out, and no millisecond of it is lost."""

    class Waits(Handler):
        def handle_connection(self, socket):
            socket.connection.post("due", delay_ms=before + after)
            try:
                socket.recv(timeout_ms=100)
            except SocketTimeout:
                socket.send(b"t")

        def handle_info(self, message, socket):
            socket.send(b"i")

    transcript = call(Waits, advance(before), advance(after))
    assert transcript.sent == b"ti"


def test_a_handler_that_never_comes_to_rest_is_found_out():
    class Busy(Handler):
        def handle_connection(self, socket):
            socket.connection.post("again")

        def handle_info(self, message, socket):
            socket.connection.post("again")

    with pytest.raises(AssertionError, match="without end"):
        call(Busy)


# ---- messages, and a stop ------------------------------------------------------------


def test_messages_are_posted_while_it_waits_and_while_it_reads():
    assert call(Echo, post(b"a"), b"b", post(b"c")).sends == [b"a", b"b", b"c"]

    class Reads(Asks, Echo):
        pass

    assert call(Reads, post(b"first"), b"jo\n").sends == [b"name? ", b"hello jo\n", b"first"]


def test_at_a_stop_what_came_is_delivered_and_then_the_handler_is_told():
    told = []

    def note(socket):
        told.append(socket.stopping)

    transcript = call(does(handle_data=None, handle_shutdown=note), b"x", stop(), b"late")
    assert names(transcript) == [
        "handle_connection",
        "handle_data",
        "handle_shutdown",
        "handle_end",
    ]
    assert told == [True]


def test_a_young_connection_that_has_said_nothing_gets_until_its_age_to_speak():
    assert call(Echo, stop()).ended == "shutdown"


def test_a_stop_wakes_a_read_where_that_was_asked_for():
    reads = does(handle_connection=lambda socket: socket.recv())
    transcript = call(reads, stop(), interrupt_reads=True)
    assert isinstance(transcript.callbacks[0][2], ServerStopping)
    assert transcript.ended == "shutdown"
    transcript = call(reads, stop(), b"in time")
    assert transcript.ended == "error"
    assert isinstance(transcript.error, HandlerResultError)  # it returned the bytes


def test_what_owes_an_answer_may_finish_reading():
    class Answers(Handler):
        def handle_data(self, data, socket):
            socket.send(data + socket.recv_exactly(2))

    transcript = call(Answers, b"a", stop(), b"bc", interrupt_reads=True)
    assert (transcript.sent, transcript.ended) == (b"abc", "shutdown")


def test_close_from_a_callback_is_handle_shutdown():
    def close(data, socket):
        socket.connection.close()

    transcript = call(does(handle_data=close), b"x")
    assert transcript.ended == "shutdown"
    assert names(transcript)[-2:] == ["handle_shutdown", "handle_end"]


def test_a_handle_sends_as_the_socket_does_and_in_order():
    def publish(data, socket):
        socket.connection.send(b"<")
        socket.send(data)
        assert socket.connection.send([b">", b"\n"]) == 2

    transcript = call(does(handle_data=publish), b"one", b"two", EOF)
    assert transcript.sent == b"<one>\n<two>\n"
    assert transcript.ended == "peer_closed"
    with pytest.raises(SendBufferFull):
        raise call(does(handle_data=publish), b"one", max_unsent=1, max_unsent_total=1).error


def test_framing_that_a_thread_of_the_handlers_sets_holds_from_the_next_step_on():
    class Learns(Handler):
        def handle_data(self, data, socket):
            socket.send(data + b";")
            if data == b"lines":
                setter = threading.Thread(target=setattr, args=(self, "framing", Lines()))
                setter.start()
                setter.join()

    assert call(Learns, b"lines", b"a\nb", b"c\n").sent == b"lines;a;bc;"


# ---- what takes more than memory -----------------------------------------------------


@pytest.mark.parametrize(
    "use",
    [
        lambda socket: socket.fileno(),
        lambda socket: socket.detach(),
        lambda socket: socket.tls_info(),
        lambda socket: socket.peer_certificate(),
        lambda socket: socket.negotiated_protocol(),
        lambda socket: SwitchTransport(TLS, {}),
        lambda socket: socket.recv(1, stdlib_socket.MSG_OOB),
    ],
    ids=[
        "fileno",
        "detach",
        "tls_info",
        "peer_certificate",
        "negotiated_protocol",
        "switch",
        "oob",
    ],
)
def test_what_needs_a_descriptor_or_tls_is_not_supported_and_names_serve(use):
    transcript = call(does(handle_connection=use), b"x")
    assert transcript.ended == "error"
    assert isinstance(transcript.error, NotSupported)
    assert "serve" in str(transcript.error)
    assert names(transcript)[1:] == ["handle_error", "handle_end"]


def test_a_closed_socket_has_no_number_here_either():
    seen = []

    def close(socket):
        socket.close()
        seen.append(socket.fileno())

    call(does(handle_connection=close))
    assert seen == [-1]


def test_no_socket_no_thread_no_event_and_nothing_logged(caplog, record, monkeypatch):
    caplog.set_level(logging.DEBUG)
    recorder = record()
    by_server = []
    events.handler_error.connect(lambda server, **_: by_server.append(server), weak=False)
    before = (threading.enumerate(), open_descriptors())
    monkeypatch.setattr(stdlib_socket.socket, "__init__", None)
    monkeypatch.setattr(threading.Thread, "start", None)
    seen = []

    class Looks(Handler):
        def handle_data(self, data, socket):
            seen.append((threading.enumerate(), open_descriptors()))
            socket.send(data)
            raise RuntimeError("it is not logged")

    assert call(Looks, b"x").ended == "error"
    monkeypatch.undo()
    events.handler_error.receivers.clear()
    events.handler_error._by_receiver.clear()
    assert seen == [before]
    assert not caplog.records
    assert recorder.told == by_server == []


def test_it_runs_inside_a_callback_of_a_server_too(serve, client):
    class Outer(Handler):
        def handle_data(self, data, socket):
            socket.send(call(Echo, data).sent)
            socket.send(socket.recv_exactly(1))

    with client(serve(Outer)) as sock:
        for byte in (b"x", b"y", b"z"):
            sock.sendall(byte)
            assert sock.recv(1) == byte


# ---- it is the machine of a server ---------------------------------------------------


@pytest.mark.parametrize(
    ("whose", "method"),
    [
        (ConnectionTask, "received"),
        (Machine, "step"),
        (Machine, "finish"),
        (Machine, "nothing_there"),
        (Callbacks, "returned"),
        (Callbacks, "call"),
        (Closing, "tell_end"),
    ],
)
def test_who_breaks_the_machine_sees_call_fail(monkeypatch, whose, method):
    def broken(*arguments):
        raise ZeroDivisionError(method)

    monkeypatch.setattr(whose, method, broken)
    with pytest.raises((ZeroDivisionError, AssertionError)):
        assert call(Echo, b"x", advance(10), EOF).ended == "peer_closed"


def test_what_the_tables_say_is_what_call_shows(monkeypatch):
    """They are data, of which a server makes its connections' ends."""
    closes = does(handle_data=Close())
    assert "handle_close" in names(call(closes, b"x"))
    monkeypatch.setitem(LAST_CALLBACK, (State.RUNNING, Cause.HANDLER), "handle_shutdown")
    assert "handle_shutdown" in names(call(closes, b"x"))


class Pauses(Handler):
    """Each piece pauses it; a message resumes it."""

    def handle_data(self, data, socket):
        return Continue(paused=True)

    def handle_info(self, message, socket):
        socket.connection.resume()


def test_a_pause_holds_back_what_comes_until_it_is_resumed():
    seen = call(Pauses, b"one", b"two", advance(3_600_000), post("go on"), read_timeout_ms=500)
    assert [name for name, *_ in seen.callbacks if name in ("handle_data", "handle_info")] == [
        "handle_data",
        "handle_info",
        "handle_data",
    ]


@pytest.mark.parametrize(("step", "last"), [(RESET, "peer_closed"), (stop(), "shutdown")])
def test_what_ends_a_pause(step, last):
    assert call(Pauses, b"one", b"two", step).ended == last
