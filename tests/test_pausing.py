"""`Continue(paused=True)` and `Connection.resume()`: nothing is read meanwhile, none held."""

import contextlib
import selectors
import threading
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import Noting, echoes, eventually, names, receive, reset
from tests.test_connection import Scripted, World
from thousand_island_sync import Close, ConfigError, Continue, Lines, SwitchTransport
from thousand_island_sync._connection.states import LAST_CALLBACK, ON_STOP, Cause, State
from thousand_island_sync._scheduler.poller import SelectorPoller
from thousand_island_sync._scheduler.task import DONE, PARK
from thousand_island_sync._server import run as server_run

# ---- the machine: no threads, no sockets, a clock that is a number ---------------------


@pytest.fixture
def world():
    with World() as made:
        made.run()
        yield made


def pause(world, name="handle_data", **times):
    """A connection whose callback `name` has just paused it."""
    world.reactions[name] = Continue(paused=True, **times)
    if name == "handle_data":
        assert world.run(b"pause") == PARK
    else:
        world.connection.inbox.post("pause", 0)
        assert world.run() == PARK
    assert world.state is State.PAUSED
    world.reactions[name] = None
    del world.calls[:]


def resume(world):
    world.connection.handle.resume()
    assert world.pool.ready[-1] is world.connection


def test_nothing_is_read_until_it_is_resumed(world):
    pause(world)
    assert world.run(b"waits") == PARK
    assert world.calls == []
    resume(world)
    assert world.run() == PARK
    assert world.calls == [("handle_data", b"waits")]
    assert world.state is State.PARKED


@pytest.mark.parametrize("way", ["handle_connection", "handle_info", "handle_eof"])
def test_each_callback_may_pause_it(way):
    with World() as world:
        world.reactions[way] = Continue(paused=True)
        world.run()
        if way == "handle_info":
            world.connection.inbox.post("message", 0)
        world.run(*[b""] * (way == "handle_eof"))
        assert world.state is State.PAUSED
        resume(world)
        world.run()
        assert world.state is State.PARKED


def test_the_end_of_the_stream_waits_as_well(world):
    world.reactions["handle_eof"] = Close()
    pause(world)
    world.connection.hung_up = world.connection.alert = True
    assert world.run(b"last words", b"") == PARK
    assert world.calls == []
    resume(world)
    assert world.run() == DONE
    assert world.names() == ["handle_data", "handle_eof", "handle_close", "handle_end"]


def test_the_read_timeout_stands_still(world):
    pause(world)
    assert world.connection.deadline == float("inf")
    world.time += 3_600
    assert world.run() == PARK
    resume(world)
    assert world.run() == PARK
    assert world.connection.deadline == world.time + 10
    world.time += 10
    assert world.run() == DONE
    assert world.names() == ["handle_timeout", "handle_end"]


def test_a_read_timeout_that_is_given_begins_when_it_is_resumed(world):
    pause(world, timeout_ms=2_000)
    world.time += 100
    resume(world)
    world.run()
    assert world.connection.deadline == world.time + 2


def test_a_message_that_pauses_leaves_what_was_left(world):
    world.time += 6
    pause(world, "handle_info")
    world.time += 100
    resume(world)
    world.run()
    assert world.connection.deadline == world.time + 4


def test_a_message_during_the_pause_may_set_it_anew(world):
    pause(world)
    world.time += 50
    world.reactions["handle_info"] = Continue(timeout_ms=3_000)
    world.connection.inbox.post("message", 0)
    assert world.run() == PARK
    world.time += 50
    resume(world)
    world.run()
    assert world.connection.deadline == world.time + 3


@pytest.mark.parametrize("resumed_first", [True, False])
def test_bytes_that_wait_to_go_out_meanwhile_take_nothing_of_the_read_timeout(resumed_first, world):
    world.time += 6
    pause(world, "handle_info")
    world.time += 50
    unsent = SimpleNamespace(waits=True, failure=None, over_half=False)
    world.connection.machine.stream.writer.buffer = unsent
    for is_resume in (resumed_first, not resumed_first):
        world.run()
        assert world.connection.deadline == float("inf")
        world.time += 50
        if is_resume:
            resume(world)
        else:
            unsent.waits = False
    assert world.run() == PARK
    assert world.connection.deadline == world.time + 4


def test_no_limit_may_be_set_meanwhile(world):
    pause(world)
    world.reactions["handle_info"] = Continue(timeout_ms=None)
    world.connection.inbox.post("message", 0)
    assert world.run() == PARK
    resume(world)
    assert world.run() == PARK
    assert world.connection.deadline == float("inf")


def test_the_total_deadline_runs_on(world):
    pause(world, deadline_ms=5_000)
    assert world.connection.deadline == world.time + 5
    world.time += 5
    assert world.run(b"unread") == DONE
    assert world.names() == ["handle_timeout", "handle_end"]


def test_messages_are_delivered_and_do_not_end_it(world):
    pause(world)
    for number in range(3):
        world.connection.inbox.post(number, 0)
    assert world.run(b"waits") == PARK
    assert world.calls == [("handle_info", number) for number in range(3)]
    assert world.state is State.PAUSED


def test_one_made_while_the_callback_runs_counts(world):
    def handle(socket):
        world.connection.handle.resume()
        return Continue(paused=True)

    world.reactions["handle_data"] = handle
    assert world.run(b"one", b"two") == PARK
    assert world.calls[-1] == ("handle_data", b"two")
    assert world.state is State.PARKED


@pytest.mark.parametrize("when", ["before", "in another callback", "in the handshake"])
def test_one_made_where_there_is_no_pause_does_nothing(when):
    with World(shakes=[False, True]) as world:
        world.run()
        if when == "in the handshake":
            world.connection.handle.resume()
            world.run()
        else:
            world.run()
            if when == "before":
                world.connection.handle.resume()
            else:
                world.reactions["handle_data"] = lambda socket: world.connection.handle.resume()
                world.run(b"x")
            world.run()
        pause(world)
        assert world.run(b"waits") == PARK
        assert world.calls == []


def test_one_made_in_a_message_does_nothing_to_the_pause_that_follows(world):
    world.reactions["handle_info"] = lambda socket: world.connection.handle.resume()
    world.reactions["handle_data"] = Continue(paused=True)
    world.connection.inbox.post("message", 0)
    assert world.run(b"one") == PARK
    assert world.run(b"two") == PARK
    assert world.calls[-1] == ("handle_data", b"one")
    assert world.state is State.PAUSED


def test_one_made_before_a_message_does_nothing_to_the_pause_that_it_begins(world):
    pause(world)
    world.reactions["handle_info"] = Continue(paused=True)
    resume(world)
    world.connection.inbox.post("message", 0)
    assert world.run(b"waits") == PARK
    assert world.calls == [("handle_info", "message")]


@pytest.mark.parametrize("what", ["a resume", "a reset"])
def test_messages_without_end_hide_it_not(what, world):
    pause(world)
    world.reactions["handle_info"] = lambda socket: world.connection.inbox.post("next", 0)
    world.connection.inbox.post("first", 0)
    if what == "a resume":
        resume(world)
        world.channel.incoming.append(b"waits")
    else:
        world.ours.send(b"unread")
        world.theirs.close()
        world.channel.incoming.append(ConnectionResetError(104, "reset"))
    for _ in range(3):
        if world.connection.run() == DONE:
            break
    assert ("handle_data", b"waits") in world.calls or "handle_close" in world.names()


def test_one_pause_is_ended_once(world):
    pause(world)
    resume(world)
    resume(world)
    world.run()
    pause(world)
    assert world.run(b"waits") == PARK
    assert world.calls == []


ENDS = [cause for cause in Cause if cause not in (Cause.REFUSED, Cause.ERROR, Cause.PEER)]


@pytest.mark.parametrize("cause", ENDS, ids=lambda cause: cause.name)
def test_what_ends_it_during_a_pause(cause, world):
    pause(world, deadline_ms=5_000)
    if cause is Cause.HANDLER:
        world.reactions["handle_info"] = Close()
        world.connection.inbox.post("end", 0)
    elif cause is Cause.LOCAL:
        world.connection.machine.socket.close()
    elif cause is Cause.TIMEOUT:
        world.time += 5
    else:
        world.connection.handle.close()
    assert world.run(b"unread") == DONE
    last = LAST_CALLBACK[State.PAUSED, cause]
    told = [name for name in world.names() if name != "handle_info"]
    assert told == [name for name in (last, "handle_end") if name]


def test_a_stop_waits_for_it_and_then_delivers(world):
    pause(world)
    world.env.move(ON_STOP)
    world.connection.stop_begins()
    world.time += 5
    assert world.run(b"has arrived") == PARK
    assert world.calls == []
    resume(world)
    assert world.run() == DONE
    assert world.names() == ["handle_data", "handle_shutdown", "handle_end"]


def test_a_cut_ends_it(world):
    pause(world)
    world.env.move(ON_STOP)
    world.connection.stop_begins()
    assert world.run() == PARK
    world.connection.cut_off()
    assert world.run() == DONE
    assert world.names() == ["handle_shutdown", "handle_end"]


def test_unread_bytes_wait(world):
    def handle(socket):
        socket.unread(b"<")
        return Continue(paused=True)

    world.reactions["handle_data"] = handle
    world.run(b"x")
    world.reactions["handle_data"] = None
    resume(world)
    assert world.run(b"new") == PARK
    assert world.calls[-1] == ("handle_data", b"<new")


class Upgraded(Scripted):
    """To which a connection is upgraded, over the channel that it is given."""

    @classmethod
    def of(cls, options):
        return cls(options["channel"])


def test_an_upgrade_ends_the_pause(world):
    pause(world)
    world.reactions["handle_info"] = SwitchTransport(Upgraded, {"channel": world.channel})
    world.connection.inbox.post("upgrade", 0)
    assert world.run(b"read") == PARK
    assert world.names() == ["handle_info", "handle_upgrade", "handle_data"]
    assert world.connection.reads  # or some pollers are never asked again


def test_where_the_poller_tells_of_no_reset_it_looks_each_second(world):
    world.pool.tells_resets = False
    pause(world)
    assert world.connection.deadline == world.time + 1
    pause(world, "handle_info", deadline_ms=400)
    assert world.connection.deadline == world.time + 0.4


REACTIONS = st.sampled_from([None, Continue(), Continue(paused=True), Continue(timeout_ms=None)])
STEPS = st.sampled_from(["data", "post", "resume", "resume inside", "time", "nothing"])


@settings(max_examples=300)
@given(st.lists(st.tuples(STEPS, REACTIONS), max_size=20), st.booleans())
def test_in_whatever_order_nothing_is_lost_and_nothing_read_too_early(steps, stays):
    with World(read_timeout=1e6) as world:
        world.run()
        world.stays = stays
        sent = delivered = b""
        for step, reaction in steps:
            was_paused = world.state is State.PAUSED

            def react(socket, step=step, reaction=reaction):
                if step == "resume inside":
                    world.connection.handle.resume()
                return reaction

            world.reactions["handle_data"] = world.reactions["handle_info"] = react
            before = len(world.calls)
            if step == "data":
                piece = b"%d " % len(sent)
                sent += piece
                waits = world.channel.incoming
                waits[:] = [b"".join(waits) + piece]  # as the kernel keeps them
            elif step.startswith("resume"):
                world.connection.handle.resume()
                was_paused = False
            elif step == "post":
                world.connection.inbox.post("message", 0)
            elif step == "time":
                world.time += 3
            assert world.run() == PARK
            came = [what for name, what in world.calls[before:] if name == "handle_data"]
            assert not (was_paused and came)
            delivered += b"".join(came)
            assert sent.startswith(delivered)
            if world.state is State.PARKED:
                assert delivered == sent
            else:
                assert world.connection.deadline == float("inf")


def test_a_wrong_value_is_refused():
    with pytest.raises(ConfigError, match="paused: got 1, takes True or False"):
        Continue(paused=1)
    assert repr(Continue(paused=True)).endswith("paused=True)")


# ---- servers: real sockets, and with C ---------------------------------------------------


class Stops(Noting):
    """Answers each piece, and is paused by `pause`. Notes what it is called with."""

    def handle_data(self, data, socket):
        self.noted.append(("data", data))
        socket.send(data)
        return Continue(paused=True) if data.endswith(b"pause") else None

    def handle_eof(self, socket):
        self.noted.append(("eof", None))
        return Close()

    def handle_close(self, socket):
        self.noted.append(("close", socket.truncated))

    def handle_timeout(self, socket):
        self.noted.append(("timeout", None))


def paused(server):
    assert eventually(server.connections)
    (connection,) = server.connections()
    assert eventually(lambda: state_of(connection) is State.PAUSED)
    return connection


def state_of(connection):
    link = connection._inbox._link
    return State.CLOSED if link is None else link.machine.state


@pytest.fixture
def noted():
    return []


@pytest.fixture
def held(wire, noted):
    """A server, a client of its, and the connection, which is paused."""
    server = wire.serve(Stops, handler_options=noted, read_timeout_ms=300)
    sock = wire.connect(server)
    echoes(sock, b"pause")
    connection = paused(server)
    del noted[:]
    return server, sock, connection


def test_what_came_meanwhile_is_delivered_in_order(held, noted):
    _, sock, connection = held
    for piece in (b"one ", b"two ", b"three"):
        sock.sendall(piece)
    connection.post("look")
    assert eventually(lambda: "info" in names(noted))
    assert names(noted) == ["info"]
    connection.resume()
    assert receive(sock, 13) == b"one two three"
    assert eventually(lambda: state_of(connection) is State.PARKED)


def test_it_holds_no_thread_and_outlives_the_read_timeout(held, noted):
    server, sock, connection = held
    sock.sendall(b"waits")
    threading.Event().wait(0.5)  # beyond the read timeout
    assert server.info().busy_threads == 0
    assert (names(noted), state_of(connection)) == ([], State.PAUSED)
    connection.resume()
    assert receive(sock, 5) == b"waits"


def test_the_read_timeout_goes_on_afterwards(held, noted):
    _, _, connection = held
    connection.resume()
    assert eventually(lambda: names(noted) == ["timeout", "end"])


def test_the_end_of_the_stream_waits_for_it(held, noted, wire):
    _, sock, connection = held
    sock.sendall(b"last words")
    sock.close()
    connection.post("look")
    assert eventually(lambda: "info" in names(noted))
    assert names(noted) == ["info"]
    connection.resume()
    assert eventually(lambda: names(noted)[-1] == "end")
    assert noted[1] == ("data", b"last words")


def test_a_reset_is_noticed(wire, noted):
    if wire.name == "unix":
        pytest.skip("a Unix socket knows no reset")
    server = wire.serve(Stops, handler_options=noted)
    sock = wire.connect(server)
    echoes(sock, b"pause")
    paused(server)
    sock.sendall(b"never read")
    reset(sock)
    assert eventually(lambda: names(noted)[-2:] == ["close", "end"])
    assert dict(noted)["close"] is wire.secure  # `truncated`
    assert ("data", b"never read") not in noted


def test_a_reset_after_the_end_of_the_stream_is_noticed(serve, client, noted):
    server = serve(Stops, handler_options=noted)
    sock = client(server)
    echoes(sock, b"pause")
    paused(server)
    sock.shutdown(1)
    reset(sock)
    assert eventually(lambda: names(noted)[-2:] == ["close", "end"])
    assert "eof" not in names(noted)


def test_a_unix_peer_that_has_closed_is_heard_to_the_end(tmp_path, serve, client, noted):
    server = serve(Stops, handler_options=noted, host=f"unix:{tmp_path}/socket")
    sock = client(server)
    echoes(sock, b"pause")
    connection = paused(server)
    sock.sendall(b"last words")
    sock.close()
    connection.post("look")
    assert eventually(lambda: "info" in names(noted))
    assert server.info().active_connections == 1
    connection.resume()
    assert eventually(lambda: names(noted)[-1] == "end")
    assert ("data", b"last words") in noted


def test_close_from_outside_is_noticed(held, noted):
    _, sock, connection = held
    sock.sendall(b"never read")
    connection.close()
    assert eventually(lambda: names(noted) == ["shutdown", "end"])


def test_a_stop_waits_for_the_resume(held, noted):
    server, sock, connection = held
    sock.sendall(b"has arrived")
    stopped = []
    stopper = threading.Thread(target=lambda: stopped.append(server.stop(10_000)))
    stopper.start()
    assert eventually(lambda: server.status == "stopping")
    assert state_of(connection) is State.PAUSED
    assert names(noted) == []
    connection.resume()
    stopper.join(10)
    assert stopped == [True]
    assert names(noted) == ["data", "shutdown", "end"]


def test_a_stop_whose_time_is_over_cuts_it(held, noted):
    server, _, _ = held
    assert server.stop(200) is False
    # A stop waits for last callbacks no longer than it may: on a busy machine they come after it.
    assert eventually(lambda: names(noted) == ["shutdown", "end"])


def test_frames_wait(wire, noted):
    class Framed(Stops):
        framing = Lines()

    server = wire.serve(Framed, handler_options=noted)
    sock = wire.connect(server)
    sock.sendall(b"pause\none\ntwo\nthr")
    connection = paused(server)
    assert noted[1:] == [("data", b"pause")]
    connection.resume()
    assert eventually(lambda: ("data", b"two") in noted)
    sock.sendall(b"ee\n")
    assert eventually(lambda: ("data", b"three") in noted)
    assert names(noted) == ["connection", *["data"] * 4]


def test_a_thread_of_ones_own_goes_on_with_the_socket(wire, noted):
    """As a library does whose thread reads and writes after the callback has returned."""

    class Hands(Stops):
        def handle_data(self, data, socket):
            socket.unread(data)
            worker = threading.Thread(target=self.work, args=(socket,))
            self.noted.append(("worker", worker))
            worker.start()
            return Continue(paused=True)

        def work(self, socket):
            for _ in range(50):
                line = socket.recv_until(b"\n")
                socket.sendall(line.upper())
            socket.connection.resume()

    server = wire.serve(Hands, handler_options=noted)
    sock = wire.connect(server)
    for number in range(50):
        sock.sendall(b"line %d\n" % number)
        expected = b"LINE %d\n" % number
        assert receive(sock, len(expected)) == expected
    worker = dict(noted)["worker"]
    worker.join(5)
    (connection,) = server.connections()
    assert eventually(lambda: state_of(connection) is State.PARKED)
    assert "data" not in names(noted)


def test_that_thread_may_close_it(wire, noted):
    server = wire.serve(Stops, handler_options=noted)
    sock = wire.connect(server)
    echoes(sock, b"pause")
    paused(server)
    dict(noted)["connection"].close()
    assert receive(sock, 1) == b""
    assert eventually(lambda: names(noted)[-1] == "end")
    assert not {"close", "shutdown"} & set(names(noted))


def test_that_thread_may_detach_it(serve, client, noted):
    import socket as stdlib_socket

    server = serve(Stops, handler_options=noted)
    sock = client(server)
    echoes(sock, b"pause")
    paused(server)
    with stdlib_socket.socket(fileno=dict(noted)["connection"].detach()) as ours:
        assert eventually(lambda: names(noted)[-1] == "end")
        ours.sendall(b"by hand")
        assert receive(sock, 7) == b"by hand"


def test_a_stop_wakes_that_thread_where_reads_shall_be_interrupted(wire, noted):
    server = wire.serve(Stops, handler_options=noted, interrupt_reads=True)
    sock = wire.connect(server)
    echoes(sock, b"pause")
    connection = paused(server)
    ended = []

    def work():
        try:
            dict(noted)["connection"].recv()
        except Exception as error:
            ended.append(type(error).__name__)
        connection.resume()

    worker = threading.Thread(target=work)
    worker.start()
    assert server.stop(10_000) is True
    worker.join(5)
    assert ended == ["ServerStopping"]


def test_many_paused_connections_hold_nobody_up(serve, client, noted):
    server = serve(Stops, handler_options=noted, max_handler_threads=2)
    waiting = [client(server) for _ in range(40)]
    for sock in waiting:
        echoes(sock, b"pause")
        sock.sendall(b"later")
    echoes(client(server), b"at once")
    for connection in server.connections():
        connection.resume()
    for sock in waiting:
        assert receive(sock, 5) == b"later"


def test_pauses_and_resumes_from_several_threads_lose_nothing(wire, noted):
    """Each piece pauses; threads resume all the time."""

    class Every(Stops):
        def handle_data(self, data, socket):
            socket.send(data)
            return Continue(paused=True)

    server = wire.serve(Every, handler_options=noted)
    sock = wire.connect(server)
    assert eventually(server.connections)
    (connection,) = server.connections()
    over = threading.Event()

    def resume():
        while not over.is_set():
            connection.resume()

    threads = [threading.Thread(target=resume) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(300):
            echoes(sock, b"%d\n" % number)
    finally:
        over.set()
        for thread in threads:
            thread.join(5)


@pytest.mark.parametrize("kind", ["PollSelector", "SelectSelector"])
def test_other_pollers_neither_spin_nor_miss_a_reset(kind, serve, client, noted, monkeypatch):
    selector = getattr(selectors, kind)
    monkeypatch.setattr(server_run, "new_poller", lambda: SelectorPoller(selector))
    server = serve(Stops, handler_options=noted)
    sock, other = client(server), client(server)
    echoes(sock, b"pause")
    echoes(other, b"pause")
    first = next(one for one in server.connections() if one.peername == sock.getsockname())
    assert eventually(lambda: state_of(first) is State.PAUSED)
    runs = counted_runs(first, monkeypatch)
    sock.sendall(b"waits")
    threading.Event().wait(0.3)
    assert len(runs) <= 3  # it lies there, and would be told of for ever
    first.resume()
    assert receive(sock, 5) == b"waits"
    reset(other)
    assert eventually(lambda: names(noted)[-2:] == ["close", "end"])


def counted_runs(connection, monkeypatch):
    """Each look for whether it goes on, from now on."""
    machine = connection._inbox._link.machine
    runs, step = [], type(machine.pause).step
    monkeypatch.setattr(
        type(machine.pause), "step", lambda self, *more: (runs.append(self), step(self, *more))[1]
    )
    return runs


def test_bytes_that_come_meanwhile_wake_it_a_few_times_at_most(serve, client, noted, monkeypatch):
    """The kernel's buffer is the bound: then the peer is held up."""
    server = serve(Stops, handler_options=noted)
    sock = client(server)
    echoes(sock, b"pause")
    connection = paused(server)
    runs = counted_runs(connection, monkeypatch)
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(b"x" * 65_536)
    sock.setblocking(True)
    assert eventually(lambda: server.info().busy_threads == 0)
    looked = len(runs)
    threading.Event().wait(0.3)
    assert len(runs) - looked <= 100
    connection.close()
