"""`Handler.handle_drain`: once for each connection when a drain or a stop begins."""

import contextlib
import socket
import ssl
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import Echo, answers, echoes, eventually, receive, receive_all
from tests.test_connection import World
from thousand_island_sync import (
    TLS,
    Close,
    ConfigError,
    Continue,
    Error,
    Handler,
    Lines,
    SwitchTransport,
    ThousandIsland,
)
from thousand_island_sync._connection.states import ON_DRAIN, ON_STOP, Stage, State
from thousand_island_sync._scheduler.task import AGAIN, DONE, PARK
from thousand_island_sync.testing import EOF, RESET, advance, call, post, stop

LONG = 60_000


class Says(Handler):
    """Echoes, and says GOAWAY and BYE."""

    def handle_data(self, data, socket):
        socket.send(data)

    def handle_drain(self, socket):
        socket.send(b"GOAWAY;")

    def handle_shutdown(self, socket):
        socket.send(b"BYE;")


@contextlib.contextmanager
def draining(server, delay_ms=LONG):
    """Drains meanwhile; afterwards it is stopped. Yields a list that gets what `drain` returned."""
    returned = []
    thread = threading.Thread(target=lambda: returned.append(server.drain(delay_ms)))
    thread.start()
    assert eventually(lambda: server.status != "running")
    try:
        yield returned
    finally:
        server.stop()
        thread.join(20)


def names(transcript):
    return [name for name, _, _ in transcript.callbacks]


# ---- when, in memory ------------------------------------------------------------


def test_it_runs_after_what_has_arrived_and_before_handle_shutdown():
    done = call(Says, b"one", b"two", stop())
    assert names(done) == [
        *("handle_connection", "handle_data", "handle_data"),
        *("handle_drain", "handle_shutdown", "handle_end"),
    ]
    assert done.sent == b"onetwoGOAWAY;BYE;"
    assert done.ended == "shutdown"


def test_a_handler_without_one_is_not_called():
    assert names(call(Echo, b"one", stop())) == [
        *("handle_connection", "handle_data", "handle_shutdown", "handle_end"),
    ]


def test_without_a_stop_it_does_not_run():
    assert "handle_drain" not in names(call(Says, b"one", EOF))


def test_messages_that_wait_come_first():
    class Told(Says):
        def handle_connection(self, socket):
            for number in range(3):
                socket.connection.post(number)

        def handle_info(self, message, socket):
            socket.send(b"%d;" % message)

    assert call(Told, stop()).sent == b"0;1;2;GOAWAY;BYE;"


@pytest.mark.parametrize(
    ("result", "last", "ended"),
    [
        (None, "handle_shutdown", "shutdown"),
        (Continue(), "handle_shutdown", "shutdown"),
        (Close(), "handle_close", "local_closed"),
        (Error("told so"), "handle_error", "error"),
        ("nonsense", "handle_error", "error"),
    ],
)
def test_it_returns_what_handle_info_may(result, last, ended):
    class Returns(Handler):
        def handle_drain(self, socket):
            return result

    done = call(Returns, b"x", stop())
    assert names(done)[-3:] == ["handle_drain", last, "handle_end"]
    assert done.ended == ended


def test_what_it_raises_ends_the_connection():
    class Raises(Handler):
        def handle_drain(self, socket):
            raise ZeroDivisionError

    done = call(Raises, b"x", stop())
    assert names(done)[-3:] == ["handle_drain", "handle_error", "handle_end"]
    assert isinstance(done.error, ZeroDivisionError)


def test_a_pause_that_it_begins_in_a_stop_lasts_until_the_time_is_up():
    class Pauses(Handler):
        def handle_drain(self, socket):
            return Continue(paused=True)

    done = call(Pauses, b"x", stop(), shutdown_timeout_ms=3_000)
    assert names(done)[-3:] == ["handle_drain", "handle_shutdown", "handle_end"]


def test_a_pause_that_it_begins_is_waited_for(serve, client):
    class Pauses(Handler):
        def handle_drain(self, socket):
            connection = socket.connection
            threading.Timer(0.1, lambda: (connection.send(b"late;"), connection.resume())).start()
            return Continue(paused=True)

    server = serve(Pauses)
    sock = client(server)
    assert eventually(server.connections)
    assert server.stop() is True
    assert receive_all(sock) == b"late;"


def test_not_after_a_last_callback():
    class Closes(Says):
        def handle_data(self, data, socket):
            return Close()

    assert "handle_drain" not in names(call(Closes, b"x", stop()))
    assert "handle_drain" not in names(call(Says, EOF, stop()))
    assert "handle_drain" not in names(call(Says, b"x", RESET, stop()))
    assert "handle_drain" not in names(call(Says, advance(70_000), stop()))


def test_where_the_peer_has_ended_its_side_and_we_still_send():
    class GoesOn(Says):
        def handle_eof(self, socket):
            return Continue()

    assert call(GoesOn, b"x", EOF, stop()).sent == b"xGOAWAY;BYE;"


def test_where_the_connection_was_asked_to_close_only_the_last_callback_runs():
    class Asked(Says):
        def handle_info(self, message, socket):
            socket.connection.close()

    assert call(Asked, post("close"), stop()).sent == b"BYE;"


def test_with_frames_after_those_that_are_whole():
    class Framed(Says):
        framing = Lines()

        def handle_data(self, data, socket):
            socket.send(data + b";")

    assert call(Framed, b"one\ntwo\nthr", stop()).sent == b"one;two;GOAWAY;BYE;"


def test_it_may_be_set_on_the_handler_itself():
    class Switches(Handler):
        def handle_data(self, data, socket):
            self.handle_drain = lambda socket: socket.send(b"now;") and None

    assert call(Switches, b"x", stop()).sent == b"now;"
    assert call(Switches, stop()).sent == b""


def test_a_silent_young_connection_may_speak_first():
    assert call(Says, stop()).sent == b"GOAWAY;BYE;"
    assert call(Says, advance(100), stop()).callbacks[-3][0] == "handle_drain"


def test_a_read_that_a_stop_interrupts_is_followed_by_it():
    class Loops(Says):
        def handle_data(self, data, socket):
            socket.send(data)
            while data := socket.recv():
                socket.send(data)

    done = call(Loops, b"one", b"two", stop(), interrupt_reads=True)
    assert names(done)[-3:] == ["handle_drain", "handle_shutdown", "handle_end"]
    assert done.sent == b"onetwoGOAWAY;BYE;"


def test_after_a_read_that_was_interrupted_nothing_more_is_delivered(serve, client):
    answered = threading.Event()

    class Loops(Says):
        def handle_data(self, data, socket):
            while data:
                socket.send(data)
                data = socket.recv()

        def handle_drain(self, socket):
            super().handle_drain(socket)
            answered.wait(10)

    server = serve(Loops, interrupt_reads=True)
    sock = client(server)
    echoes(sock)
    with draining(server, 0):
        assert receive(sock, 7) == b"GOAWAY;"
        sock.sendall(b"too late")
        answered.set()
        assert receive_all(sock) == b"BYE;"


# ---- what is checked before the first client ----------------------------------------


def test_an_async_one_is_refused():
    class Awaits(Handler):
        async def handle_drain(self, socket):
            pass

    with pytest.raises(ConfigError, match=r"Awaits\.handle_drain is `async def`"):
        ThousandIsland(handler_cls=Awaits)


def test_a_slip_is_told():
    class Slips(Handler):
        def handle_drian(self, socket):
            pass

    with pytest.warns(UserWarning, match="did you mean handle_drain"):
        ThousandIsland(handler_cls=Slips)


# ---- over every kind of connection ---------------------------------------------------


def test_in_a_drain_it_runs_once_and_the_connection_goes_on(wire):
    server = wire.serve(Says)
    sock = wire.connect(server)
    echoes(sock)
    with draining(server) as returned:
        assert receive(sock, 7) == b"GOAWAY;"
        echoes(sock, b"still here")
        echoes(sock, b"and again")
    assert receive_all(sock) == b"BYE;"
    assert returned == [True]


def test_for_those_accepted_in_the_drain(wire):
    server = wire.serve(Says)
    with draining(server):
        sock = wire.connect(server)
        echoes(sock, b"hello")
        assert receive(sock, 7) == b"GOAWAY;"
        silent = wire.connect(server)
        assert receive(silent, 7) == b"GOAWAY;"
        echoes(silent)
    assert receive_all(sock) == b"BYE;"


def test_after_a_callback_that_blocks(wire):
    inside, go = threading.Event(), threading.Event()

    class Blocks(Says):
        def handle_data(self, data, socket):
            if data == b"block":
                inside.set()
                go.wait(20)
            socket.send(data)

    server = wire.serve(Blocks)
    sock, other = wire.connect(server), wire.connect(server)
    echoes(other)
    sock.sendall(b"block")
    assert inside.wait(5)
    with draining(server):
        assert receive(other, 7) == b"GOAWAY;"
        echoes(other)
        go.set()
        assert receive(sock, 12) == b"blockGOAWAY;"
        echoes(sock)


def test_in_a_callback_that_receives_all_the_time_after_it_has_returned(wire):
    class Loops(Says):
        def handle_data(self, data, socket):
            while data and data != b"end":
                socket.send(data)
                data = socket.recv()

    server = wire.serve(Loops)
    sock = wire.connect(server)
    echoes(sock)
    with draining(server):
        echoes(sock, b"not yet")
        sock.sendall(b"end")
        assert receive(sock, 7) == b"GOAWAY;"


def test_in_a_pause(wire):
    class Pauses(Says):
        def handle_data(self, data, socket):
            socket.send(data)
            return Continue(paused=True)

    server = wire.serve(Pauses)
    sock = wire.connect(server)
    echoes(sock)
    sock.sendall(b"later")
    with draining(server):
        assert receive(sock, 7) == b"GOAWAY;"
        (connection,) = server.connections()
        connection.resume()
        assert receive(sock, 5) == b"later"
        connection.resume()


def test_a_stop_calls_it_in_a_pause_too(wire):
    class Pauses(Says):
        def handle_data(self, data, socket):
            socket.send(data)
            return Continue(paused=True)

        def handle_drain(self, socket):
            super().handle_drain(socket)
            socket.connection.resume()

    server = wire.serve(Pauses)
    sock = wire.connect(server)
    echoes(sock)
    assert server.stop() is True
    assert receive_all(sock) == b"GOAWAY;BYE;"


def test_each_framed_client_gets_it_between_lines(wire):
    class Framed(Says):
        framing = Lines()

        def handle_data(self, data, socket):
            socket.send(data + b"\n")

        def handle_drain(self, socket):
            socket.send(b"GOAWAY\n")

    server = wire.serve(Framed)
    sock = wire.connect(server)
    sock.sendall(b"one\ntw")
    assert receive(sock, 4) == b"one\n"
    with draining(server):
        assert receive(sock, 7) == b"GOAWAY\n"
        sock.sendall(b"o\n")
        assert receive(sock, 4) == b"two\n"
    assert receive_all(sock) == b"BYE;"


def test_not_where_a_stop_has_to_cut(wire):
    inside, go, seen = threading.Event(), threading.Event(), []

    class Stays(Handler):
        def handle_data(self, data, socket):
            inside.set()
            go.wait(20)

        def handle_drain(self, socket):
            seen.append("drain")

        def handle_shutdown(self, socket):
            seen.append("shutdown")

        def handle_end(self, socket):
            seen.append("end")

    server = wire.serve(Stays)
    sock = wire.connect(server)
    sock.sendall(b"x")
    assert inside.wait(5)
    assert server.stop(100) is False
    go.set()
    assert eventually(lambda: "end" in seen)
    assert seen == ["shutdown", "end"]


def test_it_may_close_who_waits(wire):
    class Closes(Echo):
        def handle_drain(self, socket):
            return Close()

    server = wire.serve(Closes)
    sock, other = wire.connect(server), wire.connect(server)
    echoes(sock)
    echoes(other)
    with draining(server):
        assert receive_all(sock) == receive_all(other) == b""
        late = wire.connect(server)
        echoes(late)  # it is served before it is sent away
        assert receive_all(late) == b""
        assert eventually(lambda: not server.connections())
        assert server.status == "draining"


def test_it_may_end_on_a_timeout_of_its_own(wire):
    class Hurries(Echo):
        def handle_drain(self, socket):
            return Continue(deadline_ms=50)

        def handle_timeout(self, socket):
            socket.send(b"too slow")

    server = wire.serve(Hurries)
    sock = wire.connect(server)
    echoes(sock)
    with draining(server):
        assert receive_all(sock) == b"too slow"


def test_a_client_that_sends_without_end_gets_it(wire):
    class Counts(Handler):
        def handle_data(self, data, socket):
            pass

        def handle_drain(self, socket):
            socket.send(b"GOAWAY;")

    server = wire.serve(Counts)
    sock = wire.connect(server)
    sock.settimeout(0)  # by one thread: an SSLSocket is not for two
    wants = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
    block, heard = b"x" * 65_536, b""

    def sends_and_hears():
        nonlocal heard
        with contextlib.suppress(*wants):
            sock.send(block)
        with contextlib.suppress(*wants):
            heard += sock.recv(7)
        return heard == b"GOAWAY;"

    assert eventually(lambda: server.connections() or sends_and_hears())
    with draining(server):
        until = time.monotonic() + 10
        while not sends_and_hears() and time.monotonic() < until:
            pass
        assert heard == b"GOAWAY;"


# ---- unsent bytes ---------------------------------------------------------------------


class Sends(Handler):
    """Sends as many bytes as it was told, which wait; then GOAWAY."""

    def handle_connection(self, connected):
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)

    def handle_data(self, data, socket):
        socket.send(b"x" * int(data))

    def handle_drain(self, socket):
        socket.send(b"GOAWAY;")

    def handle_shutdown(self, socket):
        socket.send(b"BYE;")


def unsent(server):
    return sum(one.unsent for one in server.connections())


@pytest.fixture
def fill():
    """Connects clients for which so much waits, but for the little that the kernels hold."""
    with contextlib.ExitStack() as made:

        def connect(server, size=3_000_000):
            sock = made.enter_context(socket.socket())
            sock.settimeout(10)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            sock.connect(server.local_address)
            sock.sendall(b"%d" % size)
            assert eventually(lambda: unsent(server) > size - 200_000)
            return sock

        yield connect


def test_while_little_waits_it_goes_behind_that(serve, fill):
    server = serve(Sends, max_unsent=8_000_000)
    sock = fill(server)
    assert unsent(server) < 4_000_000
    with draining(server):
        assert eventually(lambda: server.connections()[0].unsent > 0)
        got = receive(sock, 3_000_007)
        assert got[-7:] == b"GOAWAY;"
        assert len(got) == 3_000_007


def test_while_much_waits_it_waits_too(serve, client, fill):
    order = []

    class Notes(Sends):
        def handle_drain(self, socket):
            order.append(socket.unsent)
            super().handle_drain(socket)

    server = serve(Notes, max_unsent=8_000_000)
    sock = fill(server, 6_000_000)
    with draining(server):
        other = client(server)
        other.sendall(b"1")
        assert receive(other, 8) == b"xGOAWAY;"  # so all who could have been told were
        assert order == [0]
        got = receive(sock, 6_000_007)
        assert got[-7:] == b"GOAWAY;"
        assert 0 <= order[1] <= 4_000_000


def test_a_stop_waits_for_room_for_it_as_long_as_the_peer_reads(serve, fill):
    server = serve(Sends, max_unsent=8_000_000)
    sock = fill(server, 6_000_000)
    stopped = []
    thread = threading.Thread(target=lambda: stopped.append(server.stop()))
    thread.start()
    assert receive_all(sock)[-11:] == b"GOAWAY;BYE;"
    thread.join(10)
    assert stopped == [True]


def test_a_stop_does_not_wait_for_a_peer_that_takes_nothing(serve, fill):
    server = serve(Sends, max_unsent=8_000_000)
    fill(server, 6_000_000)
    began = time.monotonic()
    assert server.stop() is True
    assert time.monotonic() - began < 5


# ---- amid a handshake --------------------------------------------------------------------


def test_a_handshake_that_ends_in_the_drain(serve, client, authority):
    server = serve(Says, transport_cls=TLS, transport_options=authority.options)
    sock = client(server)
    assert eventually(server.connections)
    with draining(server):
        wrapped = authority.client_context().wrap_socket(sock, server_hostname="localhost")
        assert receive(wrapped, 7) == b"GOAWAY;"
        echoes(wrapped)
        wrapped.close()


def test_a_handshake_that_a_stop_ends_gets_none(serve, client, authority):
    seen = []

    class Notes(Handler):
        def handle_drain(self, socket):
            seen.append("drain")

        def handle_shutdown(self, socket):
            seen.append("shutdown")

    server = serve(Notes, transport_cls=TLS, transport_options=authority.options)
    client(server)
    assert eventually(server.connections)
    assert server.stop() is True
    assert seen == ["shutdown"]


def test_a_young_handshake_gets_200_ms_of_a_stop(serve, client, authority):
    class Goes(Echo):
        def handle_drain(self, socket):
            socket.send(b"GOAWAY;")

    server = serve(Goes, transport_cls=TLS, transport_options=authority.options)
    sock, silent = client(server), client(server)
    assert eventually(lambda: len(server.connections()) == 2)
    began = time.monotonic()
    stopped = []
    thread = threading.Thread(target=lambda: stopped.append(server.stop()))
    thread.start()
    assert eventually(lambda: server.status == "stopping")
    try:
        wrapped = authority.client_context().wrap_socket(sock, server_hostname="localhost")
        assert receive_all(wrapped) == b"GOAWAY;"
        wrapped.close()
    except OSError:
        assert time.monotonic() - began >= 0.1  # this machine stood still meanwhile
    assert receive_all(silent) == b""
    thread.join(10)
    assert stopped == [True]


def test_after_an_upgrade_that_is_under_way(serve, client, authority):
    class Upgrades(Says):
        def handle_data(self, data, socket):
            if data == b"STARTTLS":
                socket.send(b"go")
                return SwitchTransport(TLS, authority.options)
            socket.send(data)
            return None

    server = serve(Upgrades)
    sock = client(server)
    sock.sendall(b"STARTTLS")
    assert receive(sock, 2) == b"go"
    assert eventually(lambda: task_state(server) is State.HANDSHAKING)
    with draining(server):
        wrapped = authority.client_context().wrap_socket(sock, server_hostname="localhost")
        assert receive(wrapped, 7) == b"GOAWAY;"
        echoes(wrapped)
        wrapped.close()


def test_it_may_upgrade_the_connection(serve, client, authority):
    class Upgrades(Echo):
        def handle_drain(self, socket):
            socket.send(b"TLS!")
            return SwitchTransport(TLS, authority.options)

    server = serve(Upgrades)
    sock = client(server)
    echoes(sock)
    with draining(server):
        assert receive(sock, 4) == b"TLS!"
        wrapped = authority.client_context().wrap_socket(sock, server_hostname="localhost")
        echoes(wrapped)
        wrapped.close()


def task_state(server):
    from tests.support import task_of

    (connection,) = server.connections()
    return task_of(connection).machine.state


# ---- what it costs ----------------------------------------------------------------------


def runs_of(monkeypatch):
    """Counts the steps of connections."""
    from thousand_island_sync._connection.machine import Machine

    runs, step = [], Machine.step
    monkeypatch.setattr(Machine, "step", lambda self: (runs.append(self), step(self))[1])
    return runs


def test_a_drain_wakes_nobody_whose_handler_does_nothing(serve, client, monkeypatch):
    server = serve(Echo)
    socks = [client(server) for _ in range(20)]
    for sock in socks:
        echoes(sock)
    runs = runs_of(monkeypatch)
    with draining(server):
        assert all(map(answers, socks[:3]))
        assert len(runs) == 0
        monkeypatch.undo()


def test_a_drain_wakes_those_whose_handler_itself_has_one(serve, client, monkeypatch):
    class Some(Echo):
        def handle_connection(self, socket):
            socket.send(b"?")

        def handle_data(self, data, socket):
            if data == b"me":
                self.handle_drain = lambda socket: socket.send(b"GOAWAY;") and None
            socket.send(data)

    server = serve(Some)
    socks = [client(server) for _ in range(10)]
    for sock in socks:
        assert receive(sock, 1) == b"?"
    echoes(socks[4], b"me")
    with draining(server):
        assert receive(socks[4], 7) == b"GOAWAY;"
        for sock in socks:
            echoes(sock)


def test_everybody_of_many_is_told_once(serve, client):
    told = []

    class Notes(Echo):
        def handle_drain(self, socket):
            told.append(socket.connection_id)
            socket.send(b"GOAWAY;")

    server = serve(Notes)
    socks = [client(server) for _ in range(300)]
    for sock in socks:
        echoes(sock)
    with draining(server):
        for sock in socks:
            assert receive(sock, 7) == b"GOAWAY;"
            echoes(sock)
    assert len(told) == len(set(told)) == 300


# ---- whatever comes in whatever order -----------------------------------------------------


class Notes(Handler):
    """Writes callbacks down; pauses when told so."""

    def _note(self, name, what=None):
        self.options.calls.append((name, what))
        return self.options.reactions.get(what)

    def handle_data(self, data, socket):
        return self._note("handle_data", data)

    def handle_info(self, message, socket):
        return self._note("handle_info", message)

    def handle_eof(self, socket):
        self._note("handle_eof")
        return Continue()

    def handle_drain(self, socket):
        self._note("handle_drain")

    def handle_close(self, socket):
        self._note("handle_close")

    def handle_error(self, reason, socket):
        self._note("handle_error")

    def handle_timeout(self, socket):
        self._note("handle_timeout")

    def handle_shutdown(self, socket):
        self._note("handle_shutdown")


LAST = {"handle_close", "handle_error", "handle_timeout", "handle_shutdown"}
STEPS = st.sampled_from(
    ["data", "pause", "post", "eof", "reset", "resume", "wake", "later", "young", "drain", "stop"]
)


def begins(world, stopping):
    """The drain, or the stop, as `Run` begins it."""
    world.env.move(ON_STOP if stopping else ON_DRAIN)
    if stopping:
        world.connection.stop_begins()
    world.connection.alert = True


@given(st.lists(STEPS, max_size=14), st.booleans())
def test_once_after_what_came_and_before_the_last(steps, together):
    """`together`: several things happen before the connection is run again."""
    with World(handler_cls=Notes) as world:
        world.reactions = {b"pause": Continue(paused=True)}
        connection, arrived, ended = world.connection, [], False
        world.run()
        verdict, before = PARK, None
        for number, step in enumerate(steps):
            if verdict == DONE:
                break
            if step in ("data", "pause") and not ended:
                data = b"pause" if step == "pause" else b"%d" % number
                world.channel.incoming.append(data)
                arrived.append(("handle_data", data))
            elif step == "post" and connection.inbox.pending() < 5:
                connection.inbox.post(number)
                arrived.append(("handle_info", number))
            elif step in ("eof", "reset") and not ended:
                ended = True
                gone = ConnectionResetError(104, "reset")
                last = b"" if step == "eof" else gone
                world.channel.incoming.extend([last] * 20)
            elif step == "resume":
                connection.inbox.resume()
            elif step in ("later", "young"):
                world.time += 4 if step == "later" else 0.1
            elif step in ("drain", "stop") and world.env.stage is not Stage.STOPPING:
                before = arrived[:] if before is None else before
                begins(world, step == "stop")
            if not together:
                verdict = settle(world)
        verdict = settle(world) if verdict != DONE else verdict
        if verdict != DONE:
            before = arrived[:] if before is None else before
            if world.env.stage is not Stage.STOPPING:
                begins(world, True)
            connection.inbox.resume()
            connection.alert = True
            world.time += 1
            verdict = settle(world)
        while verdict != DONE:  # paused again by what it was delivered
            connection.inbox.resume()
            verdict = settle(world)
        check(world, before)


def settle(world):
    world.connection.alert = world.connection.alert or world.connection.known_inbox is not None
    return world.run()


def check(world, before):
    calls, called = world.calls, world.names()
    assert called.count("handle_drain") <= 1
    last = [name for name in called if name in LAST]
    assert len(last) == 1
    assert called[-1] == last[0]
    if last == ["handle_shutdown"]:
        assert "handle_drain" in called
    if "handle_drain" in called:
        at = called.index("handle_drain")
        paused = ("handle_data", b"pause") in calls
        for one in before:
            if one[0] == "handle_info" or not paused:  # in a pause nothing is read
                assert one in calls[:at], (one, calls)


def test_who_has_none_and_comes_in_the_drain_is_not_woken_for_it():
    class Silent(Notes):
        handle_drain = Handler.handle_drain

    with World(handler_cls=Silent) as world:
        begins(world, False)
        assert world.run() == PARK
        assert world.connection.deadline == world.time + 10
        assert not world.connection.alert


def test_messages_that_wait_come_before_it_and_later_ones_after():
    with World(handler_cls=Notes) as world:
        world.run()
        world.time += 1
        world.connection.inbox.post("one")
        world.connection.inbox.post("two")
        begins(world, False)
        while world.names()[-1:] != ["handle_info"]:
            world.connection.run()
        world.connection.inbox.post("three")
        assert world.run() == PARK
        assert world.names() == ["handle_info"] * 2 + ["handle_drain", "handle_info"]


def test_who_posts_to_itself_without_end_gets_it():
    class Posts(Notes):
        def handle_info(self, message, socket):
            self._note("handle_info", message)
            if len(self.options.calls) < 100:
                socket.connection.post(message)

    with World(handler_cls=Posts) as world:
        world.run()
        world.time += 1
        world.connection.inbox.post("again")
        begins(world, False)
        assert world.run() == PARK
        assert world.names().index("handle_drain") in (1, 2)


def test_who_sends_without_end_gets_it_after_a_mebibyte():
    with World(handler_cls=Notes) as world:
        world.run()
        begins(world, False)
        assert world.run(*[b"x" * 65_536] * 100) == PARK
        assert world.names().count("handle_data") == 100  # nothing of it is dropped
        assert world.names().index("handle_drain") == 1 + 16


def test_a_step_of_a_drain_is_over_when_it_was_told():
    with World(handler_cls=Notes) as world:
        world.run()
        world.time += 1
        begins(world, False)
        assert world.connection.run() == AGAIN
        assert world.names() == ["handle_drain"]
        assert world.run() == PARK
        assert not world.connection.alert  # nothing is left that leads off the hot path
        assert world.run(b"x") == PARK
        assert world.names() == ["handle_drain", "handle_data"]
