"""Connections through every interleaving that Hypothesis finds: data, posts, calls, closes,
resets, timeouts, upgrades, cuts and a stop, on an in-memory transport, a clock that is a
number and a scheduler that is a list.

What must hold whatever happens: exactly one last callback, `handle_end` once and nothing
after it, no two callbacks of a connection at once, events paired and in order, contexts never
mixed, and every counter back at zero."""

import contextvars
import logging
import os
import socket
from types import SimpleNamespace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.support import Recorder
from tests.test_connection import Script, Scripted
from thousand_island_sync import (
    Close,
    Continue,
    Error,
    Handler,
    HandshakeError,
    MailboxFull,
    SocketClosed,
    SwitchTransport,
)
from thousand_island_sync._connection.environment import Environment, Handlers, Limits
from thousand_island_sync._connection.mailbox import Call
from thousand_island_sync._connection.states import ON_DRAIN, ON_STOP, Stage, State
from thousand_island_sync._connection.task import ConnectionTask
from thousand_island_sync._listener.connection_limit import ConnectionLimit
from thousand_island_sync._scheduler.task import AGAIN, DONE

LAST = {"handle_close", "handle_error", "handle_timeout", "handle_shutdown"}
whose = contextvars.ContextVar("whose", default=None)


class OwnError(Exception):
    """A bug of the handler's."""


REACTIONS = {
    "nothing": lambda world, it, sock: None,
    "continue": lambda world, it, sock: Continue(),
    "soon": lambda world, it, sock: Continue(timeout_ms=1_000),
    "persistent": lambda world, it, sock: Continue(timeout_ms=2_000, persistent=True),
    "deadline": lambda world, it, sock: Continue(deadline_ms=3_000),
    "no deadline": lambda world, it, sock: Continue(deadline_ms=None),
    "close": lambda world, it, sock: Close(),
    "error": lambda world, it, sock: Error("told so"),
    "wrong": lambda world, it, sock: 5,
    "raise": lambda world, it, sock: it.fail(),
    "socket.close": lambda world, it, sock: sock.close(),
    "detach": lambda world, it, sock: it.detach(sock),
    "close from outside": lambda world, it, sock: it.connection.inbox.close(),
    "post to itself": lambda world, it, sock: it.post(),
    "post to another": lambda world, it, sock: world.others(it).post(),
    "end another": lambda world, it, sock: world.others(it).connection.inbox.close(),
    "unread": lambda world, it, sock: sock.unread(b"half"),
    "send": lambda world, it, sock: sock.send(b"reply") and None,
    "upgrade": lambda world, it, sock: it.upgrade([True]),
    "slow upgrade": lambda world, it, sock: it.upgrade([False, False, True]),
    "failed upgrade": lambda world, it, sock: it.upgrade([False, HandshakeError("no")]),
    "upgrade for ever": lambda world, it, sock: it.upgrade([False]),
}


ARRIVING = {
    "data": lambda: b"data",
    "much": lambda: b"x" * 65_536,
    "end": lambda: b"",
    "reset": lambda: ConnectionResetError(104, "reset"),
}


class Told(Handler):
    """Writes each callback down, and reacts as it is told."""

    def __getattribute__(self, name):
        if not name.startswith("handle_"):
            return object.__getattribute__(self, name)
        return lambda *arguments: self.options.current.called(name, *arguments)


class Upgraded(Scripted):
    """What a SwitchTransport leads to."""

    def __init__(self, options):
        super().__init__(options["channel"])

    @classmethod
    def of(cls, options):
        return cls(options)


class One:
    """One connection, and what was seen of it."""

    def __init__(self, world, number, shakes):
        places = world.limit.places()
        assert places.reserve()
        self.world, self.number = world, number
        self.calls, self.depth, self.done, self.results = [], 0, False, []
        self.was_cut = False
        self.upgrades = 0
        self.socket = None  # what its handler was given, and holds
        self.channel = Script()
        self.channel.shakes = shakes
        ours, self.theirs = socket.socketpair()
        self.connection = ConnectionTask(
            world.env, Scripted(self.channel), ours, (f"peer-{number}", number), 1
        )
        self.connection.attached = True
        self.number_given = ours.fileno()
        places.become(1, [self.connection])

    def called(self, name, *arguments):
        # An assertion in here would end as this connection's own error.
        self.world.must(self.depth == 0, f"{name} while another callback runs")
        self.world.must("handle_end" not in self.calls, f"{name} after handle_end")
        self.world.must(whose.get() in (None, self.number), "another connection's context")
        last = LAST & set(self.calls)
        self.world.must(not last or name == "handle_end", f"{name} after {last}")
        whose.set(self.number)
        self.socket = arguments[-1]
        self.calls.append(name)
        self.depth += 1
        try:
            if name in LAST or name == "handle_end":
                return self.world.react_last(self, arguments[-1])
            return self.world.react(self, name, arguments[-1])
        finally:
            self.depth -= 1

    def ended_by_stop(self):
        """And by nothing else, between callbacks: not amid a handshake, say."""
        last = self.calls[-2:-1] == ["handle_shutdown"]
        asked = self.was_cut or self.connection.asked
        return last and not asked and "handle_connection" in self.calls and not self.upgrades

    def is_amid_handshake(self):
        """Whether a handshake is under way, or was when it began to end."""
        awaited = self.calls.count("handle_upgrade") < self.upgrades
        return awaited or "handle_connection" not in self.calls

    def fail(self):
        raise OwnError

    def post(self):
        try:
            self.connection.inbox.post(("posted", self.number), 0)
        except MailboxFull:
            pass
        except SocketClosed:
            ending = self.connection.machine.state in (State.CLOSING, State.CLOSED)
            self.world.must(ending, "a post refused by a connection that goes on")

    def detach(self, sock):
        """The number is this one's from then on, still open, and asked of it once."""
        try:
            number = sock.detach()
        except SocketClosed:
            self.world.must(sock.fileno() == -1, "a detach refused by an open socket")
            return
        self.world.must(number == self.number_given, "another number than its own")
        self.world.must(self.connection not in self.world.pool.forgotten, "given away too late")
        os.close(number)

    def upgrade(self, shakes):
        channel = Script()
        channel.shakes = shakes
        self.channel = channel
        self.upgrades += 1
        return SwitchTransport(Upgraded, {"channel": channel})


class Pool:
    """The scheduler: what is ready is a list, timers are a list."""

    tells_resets = True

    def __init__(self, world):
        self.world = world
        self.ready, self.timers, self.lingering, self.forgotten = [], [], [], []

    def make_ready(self, task):
        if task not in self.ready:
            self.ready.append(task)

    def start(self, timer):
        self.timers.append(timer)

    def cancel(self, timer):
        if timer in self.timers:
            self.timers.remove(timer)

    def detach(self, task):
        task.attached = False

    def forget(self, task):
        task.attached = False
        self.forgotten.append(task)

    def runs(self, task):
        return False

    def release(self, task):
        task.attached = False

    def replace(self, task, successor):
        self.lingering.append(successor)

    def attach(self, task):
        task.attached = True

    def watch_writes(self, task):
        pass


class Interleavings(RuleBasedStateMachine):
    @initialize(shakes=st.sampled_from([[True], [False, True], [False], [HandshakeError("no")]]))
    def begin(self, shakes):
        self.time, self.broken = 1_000.0, []
        self.logger = logging.getLogger("thousand_island_sync")
        self.logger.disabled = True
        self.all, self.current, self.reaction, self.last_reaction = [], None, "nothing", "nothing"
        self.recorder = Recorder(
            ("handler.start", "handler.shutdown", "handler.error", "socket.close")
            + ("socket.handshake", "socket.handshake_error")
        )
        self.limit = ConnectionLimit(10, 0, lambda *edge: None)
        self.pool = Pool(self)
        census = SimpleNamespace(
            opened=self.limit.opened,
            ended=self.limit.ended,
            refused=lambda connection, error: self.limit.refused(connection),
            probed=self.limit.count_probe,
        )
        self.env = Environment(
            "the server",
            Handlers(Told, self, contextvars.Context()),
            Limits(10.0, 5.0, 2.0, 5),
            census,
            lambda: self.time,
        )
        self.env.pool = self.pool
        self.accept(shakes)
        self.accept([True])

    def accept(self, shakes):
        one = One(self, len(self.all), shakes)
        self.all.append(one)
        self.pool.make_ready(one.connection)
        self.run_all()

    def others(self, one):
        return self.all[(one.number + 1) % len(self.all)]

    def react(self, one, name, sock):
        return REACTIONS[self.reaction](self, one, sock) if name != "handle_call" else name

    def react_last(self, one, sock):
        if self.last_reaction == "raise":
            raise OwnError
        if self.last_reaction == "socket.close":
            sock.close()
        elif self.last_reaction == "detach":
            one.detach(sock)
        elif self.last_reaction == "post":
            one.post()
        elif self.last_reaction == "send":
            try:
                sock.send(b"bye")
            except SocketClosed:
                refused = sock.fileno() == -1 or one.is_amid_handshake()
                self.must(refused, "a last send refused by an open socket")
            else:
                self.must(not one.is_amid_handshake(), "a last send that can never go out")

    def must(self, holds, what):
        if not holds:
            self.broken.append(what)

    def run_all(self):
        """Runs what is ready until everything is parked or over."""
        for count in range(10_000):
            if count == 500:  # those who post to each other would never end
                self.reaction = "nothing"
            assert not self.broken
            if not self.pool.ready:
                return
            task = self.pool.ready.pop(0)
            one = next(one for one in self.all if one.connection is task)
            if one.done:
                continue
            self.current = one
            before = task.alert
            verdict = task.run()
            assert whose.get() is None, "a context that leaked"
            if verdict == AGAIN:
                self.pool.make_ready(task)
            elif verdict == DONE:
                one.done = True
                assert task.machine.state is State.CLOSED
            else:
                assert task.machine.state in (State.PARKED, State.HANDSHAKING), (
                    task.machine.state,
                    before,
                )
        raise AssertionError("it never parks")

    def to(self, number):
        return self.all[number % len(self.all)]

    # ---- what may happen ------------------------------------------------------

    numbers = st.integers(0, 3)

    @precondition(lambda self: self.env.stage is not Stage.STOPPING and len(self.all) < 4)
    @rule(shakes=st.sampled_from([[True], [False, True], [False]]))
    def another_client(self, shakes):
        self.accept(shakes)

    @rule(reaction=st.sampled_from(sorted(REACTIONS)))
    def will_react(self, reaction):
        self.reaction = reaction

    @rule(reaction=st.sampled_from(["nothing", "raise", "socket.close", "detach", "post", "send"]))
    def will_react_last(self, reaction):
        self.last_reaction = reaction

    @rule(number=numbers, what=st.lists(st.sampled_from(sorted(ARRIVING)), max_size=3))
    def arrives(self, number, what):
        one = self.to(number)
        if not one.done:
            for name in what:
                one.channel.incoming.append(ARRIVING[name]())
                if name in ("end", "reset"):  # nothing comes after it
                    one.channel.incoming.append(lambda: b"")
                    break
            self.pool.make_ready(one.connection)
        self.run_all()

    @rule(number=numbers)
    def wakes_for_nothing(self, number):
        self.pool.make_ready(self.to(number).connection)
        self.run_all()

    @rule(number=numbers, count=st.integers(1, 7))
    def posted(self, number, count):
        one = self.to(number)
        for _ in range(count):
            try:
                one.connection.inbox.post("message", 0)
            except SocketClosed:
                assert one.done
            except MailboxFull:
                assert one.connection.inbox.pending() == 5
        self.run_all()

    @rule(number=numbers, delay_ms=st.sampled_from([1, 500, 5_000]))
    def posted_for_later(self, number, delay_ms):
        one = self.to(number)
        try:
            one.connection.inbox.post("later", delay_ms)
        except SocketClosed:
            assert one.done
        except MailboxFull:
            assert one.connection.inbox.pending() == 5

    @rule(number=numbers)
    def called(self, number):
        one = self.to(number)
        call = Call("question")
        try:
            taken = one.connection.inbox._open("call")[1].put(call)
        except MailboxFull:
            return
        except SocketClosed:
            taken = False
        if not taken:
            assert one.done
            return
        one.results.append(call)
        one.connection.look_again()
        self.run_all()

    @rule(number=numbers)
    def closed_from_outside(self, number):
        one = self.to(number)
        if not one.done:
            one.connection.inbox.close()
        self.run_all()

    @rule(number=numbers)
    def socket_closed_from_outside(self, number):
        one = self.to(number)
        socket = one.socket or getattr(one.connection, "_socket", None)
        if socket is not None:
            socket.close()
        self.run_all()

    @rule(number=numbers)
    def detached_from_outside(self, number):
        one = self.to(number)
        socket = one.socket or getattr(one.connection, "_socket", None)
        if socket is not None:
            one.detach(socket)
        self.run_all()

    @rule(seconds=st.sampled_from([0.1, 1.0, 2.5, 11.0]))
    def time_passes(self, seconds):
        self.time += seconds
        for timer in [timer for timer in self.pool.timers if timer.when <= self.time]:
            self.pool.timers.remove(timer)
            timer.target()
        for one in self.all:
            if not one.done and one.connection.deadline <= self.time:
                self.pool.make_ready(one.connection)
        self.run_all()

    @rule()
    def drains(self):
        self.env.move(ON_DRAIN)
        for one in self.all:
            if not one.done:
                one.connection.alert = True
                self.pool.make_ready(one.connection)
        self.run_all()

    @rule()
    def stops(self):
        self.env.move(ON_STOP)
        for one in self.all:
            if not one.done:
                one.connection.stop_begins()
                self.pool.make_ready(one.connection)
        self.run_all()

    @precondition(lambda self: self.env.stage is Stage.STOPPING)
    @rule(number=numbers)
    def is_cut(self, number):
        one = self.to(number)
        if not one.done:
            one.was_cut = True
            one.connection.cut_off()
        self.run_all()

    # ---- what must have happened ------------------------------------------------

    def teardown(self):
        if not hasattr(self, "recorder"):
            return
        self.reaction = "nothing"
        self.stops()
        for _ in range(3):
            self.time_passes(11.0)
        self.recorder.close()
        self.logger.disabled = False
        try:
            for one in self.all:
                self.check(one)
            assert self.limit.active == self.limit._reserved == 0
            assert self.limit.snapshot() == []
            assert self.limit.accepted == len(self.all)
            assert self.pool.timers == []
        finally:
            for one in self.all:
                one.theirs.close()
                one.connection.client.sock.close()
            for one in self.pool.lingering:
                one.broke()

    def check(self, one):
        assert one.done, (one.number, one.connection.machine.state, one.calls)
        assert one.calls.count("handle_end") == 1
        assert one.calls[-1] == "handle_end"
        assert sum(name in LAST for name in one.calls) <= 1
        assert one.calls.count("handle_drain") <= 1
        if one.ended_by_stop():
            assert "handle_drain" in one.calls
        events = [
            told.name
            for told in self.recorder.told
            if told.metadata["connection_id"] == one.connection.id
        ]
        shakes = [name for name in events if name.startswith("socket.handshake")]
        others = [name for name in events if not name.startswith("socket.handshake")]
        assert others[0] == "handler.start"
        assert others[1] in ("handler.shutdown", "handler.error")
        assert others[2:] == ["socket.close"]
        assert events[-1] == "socket.close"
        assert shakes.count("socket.handshake_error") <= 1
        last = [name for name in one.calls if name in LAST]
        assert (others[1] == "handler.error") is (last == ["handle_error"])
        if not last:
            closed = [
                told.measurements["reason"]
                for told in self.recorder.told
                if told.name == "handler.shutdown"
                and told.metadata["connection_id"] == one.connection.id
            ]
            assert closed == ["local_closed"]
        assert one.connection.inbox.pending() == 0
        for call in one.results:
            assert call._done.acquire(blocking=False), "a call without an answer"
            assert call.result == "handle_call" or isinstance(call.error, SocketClosed)


Interleavings.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestInterleavings = Interleavings.TestCase
