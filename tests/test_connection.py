"""The connection's state machine, without threads and without a clock that runs: a pool
that is a list, a channel that is a script, and a clock that is a number."""

import contextvars
import socket
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thousand_island_sync import Close, Continue, Error, Handler, HandshakeError, SocketClosed
from thousand_island_sync._connection.environment import Environment, Handlers, Limits
from thousand_island_sync._connection.states import LAST_CALLBACK, ON_STOP, Cause, State
from thousand_island_sync._connection.task import ConnectionTask
from thousand_island_sync._scheduler.task import AGAIN, DONE, PARK
from thousand_island_sync.transports import Channel, Transport

NOTHING = object()


class Script(Channel):
    """A channel that receives what its list says: bytes, `None`, an error to raise."""

    kernel_waits = True

    def __init__(self):
        self.incoming = []
        self.sent = b""
        self.shakes = [True]

    def handshake(self):
        result = self.shakes.pop(0) if len(self.shakes) > 1 else self.shakes[0]
        if isinstance(result, Exception):
            raise result
        return result

    def recv(self, length, flags=0):
        if not self.incoming:
            return None
        item = self.incoming.pop(0)
        if callable(item):
            item = item()
        if isinstance(item, Exception):
            raise item
        if isinstance(item, bytes) and len(item) > length:
            item, rest = item[:length], item[length:]
            self.incoming.insert(0, rest)
        return item

    def wait_recv(self, length, timeout):
        return self.recv(length)

    def send(self, data, flags=0):
        self.sent += bytes(data)
        return len(data)

    def shutdown(self, how):
        pass


class Scripted(Transport):
    """Gives out one prepared channel."""

    def __init__(self, channel):
        super().__init__({})
        self._channel = channel

    def listen(self, port, count):
        return []

    def channel(self, sock):
        return self._channel

    def upgrade(self, sock, old):
        return self._channel


class Pool:
    """What a connection asks of the scheduler, written down."""

    tells_resets = True

    def __init__(self):
        self.ready, self.forgotten, self.replaced, self.timers = [], [], [], []

    def make_ready(self, task):
        self.ready.append(task)

    def start(self, timer):
        self.timers.append(timer)

    def cancel(self, timer):
        self.timers.remove(timer)

    def detach(self, task):
        task.attached = False

    def forget(self, task):
        self.forgotten.append(task)

    def replace(self, task, successor):
        self.replaced.append(successor)

    def attach(self, task):
        task.attached = True

    def watch_writes(self, task):
        pass

    def runs(self, task):
        return False

    def release(self, task):
        task.attached = False


class Recorder(Handler):
    """Writes down each callback; returns or raises what `reactions` says for its name."""

    def __getattribute__(self, name):
        if not name.startswith("handle_"):
            return object.__getattribute__(self, name)
        if name == "handle_drain" and name not in self.options.reactions:
            return object.__getattribute__(self, name)  # most have none

        def callback(*arguments):
            world = self.options
            world.calls.append((name, arguments[0] if len(arguments) > 1 else None))
            reaction = world.reactions.get(name)
            if isinstance(reaction, BaseException):
                raise reaction
            if callable(reaction):
                return reaction(arguments[-1])
            return reaction

        return callback


class World:
    """One connection and everything around it."""

    def __init__(
        self, *, handler_cls=Recorder, read_timeout=10.0, shakes=None, connection_cls=ConnectionTask
    ):
        self.time = 1_000.0
        self.stays = False
        self.calls, self.opened, self.ended, self.refused = [], [], [], []
        self.reactions = {}
        self.probes = 0
        self.pool = Pool()
        census = SimpleNamespace(
            opened=self.opened.append,
            ended=self.ended.append,
            refused=lambda connection, error: self.refused.append(error),
            probed=self._probed,
        )
        self.env = Environment(
            "the server",
            Handlers(handler_cls, self, contextvars.copy_context()),
            Limits(read_timeout, 5.0, 2.0, 5),
            census,
            lambda: self.time,
        )
        self.env.pool = self.pool
        self.channel = Script()
        if shakes is not None:
            self.channel.shakes = shakes
        self.ours, self.theirs = socket.socketpair()
        self.connection = connection_cls(
            self.env, Scripted(self.channel), self.ours, ("peer", 1), 7
        )
        self.connection.attached = True

    def _probed(self):
        self.probes += 1

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.ours.close()
        self.theirs.close()

    def run(self, *incoming):
        """Lets bytes arrive and runs the connection until it parks or ends."""
        self.channel.incoming.extend(incoming)
        for _ in range(1_000):
            if self.stays and self.connection.may_stay():
                verdict, _ = self.connection.stay(0.004, lambda duration: True)
            else:
                verdict = self.connection.run()
            if verdict != AGAIN:
                return verdict
        raise AssertionError("it never parks")

    def names(self):
        return [name for name, _ in self.calls]

    @property
    def state(self):
        return self.connection.machine.state


@pytest.fixture
def world():
    with World() as made:
        yield made


def test_a_new_connection_makes_its_handler_shakes_hands_and_parks(world):
    assert world.state is State.NEW
    assert world.run() == PARK
    assert world.names() == ["handle_connection"]
    assert world.state is State.PARKED
    assert world.opened == [world.connection]
    assert world.connection.deadline == 1_010.0


def test_data_is_delivered_and_moves_the_deadline(world):
    world.run()
    world.time += 5
    assert world.run(b"one") == PARK
    assert world.calls[-1] == ("handle_data", b"one")
    assert world.connection.deadline == 1_015.0


def test_a_deadline_that_fires_looks_at_the_socket_first(world):
    world.run()
    world.time += 60
    assert world.run(b"in time") == PARK
    assert world.names()[-1] == "handle_data"
    world.time += 60
    assert world.run() == DONE
    assert world.names()[-2:] == ["handle_timeout", "handle_end"]


def test_a_total_deadline_does_not(world):
    world.reactions["handle_connection"] = Continue(deadline_ms=1_000)
    world.run()
    assert world.connection.deadline == 1_001.0
    world.time += 2
    assert world.run(b"too late") == DONE
    assert "handle_data" not in world.names()
    assert world.names()[-2] == "handle_timeout"


def test_a_wake_up_for_nothing_changes_nothing(world):
    world.run()
    for _ in range(3):
        assert world.run() == PARK
    assert world.names() == ["handle_connection"]
    assert world.connection.deadline == 1_010.0


def test_a_full_read_is_followed_by_another_look(world):
    world.run()
    assert world.run(b"x" * 65_536, b"y") == PARK
    assert [len(data) for name, data in world.calls if name == "handle_data"] == [65_536, 1]


def test_after_a_hang_up_a_short_read_proves_nothing(world):
    world.reactions["handle_eof"] = Close()
    world.run()
    world.connection.hung_up = world.connection.alert = True
    assert world.run(b"last words", b"") == DONE
    assert world.names()[1:] == ["handle_data", "handle_eof", "handle_close", "handle_end"]


def test_a_handshake_parks_until_the_peer_has_spoken():
    with World(shakes=[False, False, True]) as world:
        assert world.run() == PARK
        assert world.state is State.HANDSHAKING
        assert world.connection.deadline == 1_002.0
        world.time += 1
        assert world.run() == PARK
        assert world.names() == []
        assert world.run() == PARK
        assert world.names() == ["handle_connection"]


def test_a_handshake_ends_at_its_deadline():
    with World(shakes=[False]) as world:
        world.run()
        world.time += 2
        assert world.run() == DONE
        assert world.names() == ["handle_error", "handle_end"]
        assert isinstance(world.calls[0][1], HandshakeError)


def test_a_handler_that_cannot_be_made_is_refused(caplog):
    class Fails(Handler):
        def __init__(self, options):
            raise SystemExit

    with World(handler_cls=Fails) as world:
        assert world.run() == DONE
        assert isinstance(world.refused[0], SystemExit)
        assert world.state is State.CLOSED
        assert (world.opened, world.ended) == ([], [])
        assert world.pool.forgotten == [world.connection]


def test_one_that_is_broken_off_at_its_very_end_is_let_go_of(world):
    """An exception may come between the last line of its last step and its return."""
    world.run()
    world.connection.inbox.post("never", 60_000)
    assert end_by(world, Cause.SHUTDOWN) == DONE
    world.connection.broke()
    assert world.state is State.CLOSED
    assert world.pool.timers == []


def end_by(world, cause):
    """Ends a parked connection for a cause, from outside or through its peer."""
    if cause is Cause.PEER:
        return world.run(ConnectionResetError(104, "reset"))
    if cause is Cause.ERROR:
        return world.run(OSError(113, "no route"))
    if cause is Cause.TIMEOUT:
        world.time += 3_600
        return world.run()
    if cause is Cause.SHUTDOWN:
        world.connection.inbox.close()
        return world.run()
    if cause is Cause.LOCAL:
        world.connection.machine.socket.close()
        return world.run()
    world.reactions["handle_data"] = Close()
    return world.run(b"x")


ENDING = [cause for cause in Cause if cause is not Cause.REFUSED]


@pytest.mark.parametrize("cause", ENDING, ids=lambda cause: cause.name)
def test_whatever_ends_it_the_table_decides_the_last_callback(cause, world):
    world.run()
    assert end_by(world, cause) == DONE
    expected = [LAST_CALLBACK[State.PARKED, cause], "handle_end"]
    assert [name for name in world.names()[1:] if name != "handle_data"] == [
        name for name in expected if name
    ]
    assert world.state is State.CLOSED
    assert world.ended == [world.connection]
    assert world.pool.forgotten == [world.connection]
    with pytest.raises(SocketClosed):
        world.connection.inbox.post("x", 0)


@pytest.mark.parametrize("cause", [Cause.SHUTDOWN, Cause.LOCAL], ids=lambda cause: cause.name)
def test_whatever_is_asked_during_a_callback_ends_it_afterwards(cause, world):
    def ask(socket):
        end = world.connection.inbox.close
        (socket.close if cause is Cause.LOCAL else end)()

    world.reactions["handle_data"] = ask
    world.run()
    assert world.run(b"x") == DONE
    last = LAST_CALLBACK[State.RUNNING, cause]
    assert world.names()[2:] == [name for name in (last, "handle_end") if name]


def test_messages_come_one_a_step_between_the_bytes(world):
    world.run()
    for number in range(3):
        world.connection.inbox.post(number, 0)
    assert world.run(b"data") == PARK
    assert [what for name, what in world.calls if name == "handle_info"] == [0, 1, 2]
    assert world.calls[1] == ("handle_info", 0)
    assert world.calls[2] == ("handle_data", b"data")


def test_delayed_messages_are_cancelled_with_the_connection(world):
    world.run()
    world.connection.inbox.post("later", 5_000)
    assert world.pool.timers[0].when == 1_005.0
    assert world.connection.inbox.pending() == 1
    end_by(world, Cause.SHUTDOWN)
    assert world.pool.timers == []


def test_a_delayed_message_arrives(world):
    world.run()
    world.connection.inbox.post("later", 5_000)
    world.pool.timers[0].target()
    assert world.run() == PARK
    assert world.calls[-1] == ("handle_info", "later")


def test_a_stop_delivers_what_has_arrived_and_then_shuts_down(world):
    world.run()
    world.run(b"before")
    world.connection.inbox.post("a message", 0)
    world.env.move(ON_STOP)
    world.connection.stop_begins()
    assert world.run(b"one", b"two") == DONE
    assert world.names()[2:] == [
        "handle_info",
        "handle_data",
        "handle_data",
        "handle_shutdown",
        "handle_end",
    ]


def test_a_stop_that_comes_to_a_connection_at_its_end_finds_it_ended(world):
    """`Run` walks over a copy of all connections."""
    world.run()
    world.reactions["handle_data"] = Close()
    assert world.run(b"x") == DONE
    world.connection.stop_begins()
    assert world.state is State.CLOSED


def test_what_a_stop_says_of_messages_is_kept_when_bytes_come(world):
    """Bytes that came in the same moment made room for all messages."""
    world.run()
    world.run(b"before")
    world.env.move(ON_STOP)
    world.reactions["handle_data"] = lambda socket: world.connection.inbox.post("later", 0)
    world.connection.stop_begins()
    assert world.run(b"one") == DONE
    assert world.names()[2:] == ["handle_data", "handle_shutdown", "handle_end"]


def test_a_stop_delivers_no_more_than_a_mebibyte(world):
    world.run()
    world.run(b"before")
    world.env.move(ON_STOP)
    world.connection.stop_begins()
    assert world.run(*[b"x" * 65_536] * 100) == DONE
    assert world.names().count("handle_data") == 1 + 16


def test_a_young_silent_connection_may_still_speak_at_a_stop(world):
    world.run()
    world.env.move(ON_STOP)
    world.connection.stop_begins()
    assert world.run() == PARK
    assert world.connection.deadline == pytest.approx(1_000.2)
    world.time += 0.1
    assert world.run(b"hello") == DONE
    assert world.names()[1:] == ["handle_data", "handle_shutdown", "handle_end"]


def test_unread_bytes_wait_for_new_ones(world):
    world.reactions["handle_data"] = lambda socket: socket.unread(b"<")
    world.run()
    assert world.run(b"one") == PARK
    assert world.run() == PARK
    assert world.run(b"two") == PARK
    assert [what for name, what in world.calls if name == "handle_data"] == [b"one", b"<two"]


def test_handle_eof_comes_once_and_then_no_read_timeout(world):
    world.reactions["handle_eof"] = Continue()
    world.run()
    assert world.run(b"") == PARK
    assert world.run(b"") == PARK
    assert world.names().count("handle_eof") == 1
    assert world.connection.deadline == float("inf")
    world.connection.inbox.post("still alive", 0)
    assert world.run() == PARK
    assert world.names()[-1] == "handle_info"


def test_a_write_that_was_shut_after_their_end_ends_it(world):
    def shut(socket):
        socket.shutdown("write")
        return Continue()

    world.reactions["handle_eof"] = shut
    world.run()
    assert world.run(b"") == DONE
    assert world.names()[-2:] == ["handle_close", "handle_end"]


STEPS = st.sampled_from(
    ["data", "data and post", "empty", "eof", "reset"]
    + ["post", "close", "local", "time", "stop", "cut"]
)
REACTIONS = st.sampled_from(
    [None, Continue(), Continue(deadline_ms=3_000), Close(), Error("x"), ValueError("x"), 5]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=12), st.lists(REACTIONS, min_size=4, max_size=4), st.booleans())
def test_whatever_happens_in_whatever_order(steps, reactions, stays):
    """One last callback at most, `handle_end` once and nothing after it, no state but
    the table's, and every verdict is true."""
    with World() as world:
        names = ("handle_connection", "handle_data", "handle_info", "handle_eof")
        world.reactions = dict(zip(names, reactions, strict=True))
        world.stays = stays
        verdict = world.run()
        for step in steps:
            if verdict == DONE:
                break
            verdict = step_of(world, step)
        if verdict != DONE:
            world.env.move(ON_STOP)
            world.connection.stop_begins()
            world.time += 1
            verdict = world.run()
        assert verdict == DONE
        last = {"handle_close", "handle_error", "handle_timeout", "handle_shutdown"}
        called = world.names()
        assert called[-1] == "handle_end"
        assert called.count("handle_end") == 1
        ends = [name for name in called if name in last]
        assert len(ends) <= 1
        assert not ends or called[-2] == ends[0]
        assert world.state is State.CLOSED
        assert world.ended == [world.connection]
        assert len(world.pool.forgotten) + len(world.pool.replaced) == 1
        for successor in world.pool.replaced:
            successor.broke()


def step_of(world, step):
    connection = world.connection
    if step == "data":
        return world.run(b"data")
    if step == "data and post":
        # The message comes while a thread waits for the data.
        return world.run(lambda: world.connection.inbox.post("message", 0) or b"data")
    if step == "eof":
        return world.run(b"")
    if step == "reset":
        return world.run(ConnectionResetError(104, "reset"))
    if step == "post":
        connection.inbox.post("message", 0)
    elif step == "close":
        connection.inbox.close()
    elif step == "local":
        connection.machine.socket.close()
    elif step == "time":
        world.time += 4
    elif step == "cut":
        connection.cut_off()
    elif step == "stop":
        world.env.move(ON_STOP)
        connection.stop_begins()
    return world.run()
