"""A connection, as other objects see it: the scheduler runs it, its `Socket` calls it, a stop and
a handle reach it from other threads.

Other threads never act on it directly: they leave a request, set `alert`, and have it run. Its
machine decides how it is run and how it ends.
"""

from __future__ import annotations

import functools
import socket as stdlib_socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from .._base import addresses, waits
from .._base.clock import FOREVER, now
from .._base.compiled import in_c
from .._scheduler.task import AGAIN, PARK, Task
from .._stream.buffer import CHUNK
from .._stream.duplex import Duplex
from .._stream.states import CLOSED_HERE, CUT
from .._stream.writer import Writer
from ..transports.base import Transport
from . import delivery
from .client import Client, next_serial
from .closing import Closing
from .environment import Environment
from .inbox import Inbox, making
from .machine import Machine
from .states import APART, BY_SHUTDOWN, CLOSED, CLOSING, NEW, PARKED, STOPPING, Cause

#: Steps of a stay after which it is measured whether callbacks still block.
STAY_STEPS = 256
_begin = Task.__init__  # found once
#: Never set.
_a_moment = threading.Event()


@in_c
class PythonConnection:
    """How a connection is run; `_native.Connection` is its equal in C. It has no fields, as it is a
    base beside `Task`, which has some."""

    __slots__ = ()

    alert: bool
    client: Client
    machine: Machine

    if TYPE_CHECKING:

        def run(self) -> int: ...
        def received(self, data: Any, kept: bool = False, /) -> int: ...
    else:
        run = delivery.run

    def receive(self) -> int:
        """The rest of a step: it receives what has come."""
        return PythonConnection.run(self)

    def stay(self, timeout: float, wanted: Callable[[float], bool]) -> tuple[int, bool]:
        """`run` with a wait in recv(2), in a loop. Other threads do the same at this moment, and
        each holds the GIL for as long as these lines take: so they are few.
        """
        machine, clock = self.machine, self.client.env.clock
        wait_recv = machine.stream.channel.wait_recv
        for _ in range(STAY_STEPS):
            if self.alert:
                return AGAIN, True
            try:
                data = wait_recv(CHUNK, timeout)
            except OSError as error:
                return machine.receive_failed(error), True
            if data is None:
                return machine.nothing_there(), False
            if self.alert or not data:
                return machine.came_early(data), True
            began = clock()
            verdict = self.received(data)
            if verdict != PARK or self.alert:
                return verdict, True
            if wanted(clock() - began):
                break
        return PARK, True


class ConnectionTask(PythonConnection, Task):
    """See the module's docstring.

    Args:
        env: what the connections of this run share.
        transport: what the client was accepted on.
        sock: its descriptor.
        peer_address: as `accept` gave it.
        acceptor_id: the acceptor that accepted it.
    """

    __slots__ = ("client", "deaf", "known_inbox")

    #: A step goes on with bytes that it, or another call, has received.
    received: ClassVar[Any] = delivery.run
    #: Debug mode and forked children have other classes.
    machine_cls: ClassVar[type[Machine]] = Machine
    inbox_cls: ClassVar[type[Inbox]] = Inbox

    def __init__(
        self,
        env: Environment,
        transport: Transport,
        sock: stdlib_socket.socket,
        peer_address: Any,
        acceptor_id: int,
    ) -> None:
        _begin(self, sock.fileno())
        real, new_context = env.times.real, env.handlers.new_context
        host, port = addresses.apart(peer_address)
        self.client = client = Client(env, sock, host, port, real(), next_serial())
        client.acceptor_id = acceptor_id
        self.deaf = False
        self.known_inbox: Inbox | None = None
        cls = self.machine_cls
        read_timeout = env.limits.read_timeout
        callbacks = cls.callbacks_cls(self, env.clock, new_context(), read_timeout, FOREVER)
        self.machine = cls(self, env, transport, callbacks, NEW)

    # ---- what the scheduler asks ----------------------------------------------

    def may_stay(self) -> bool:
        machine = self.machine
        unused = self.known_inbox is None or not self.known_inbox.used
        return unused and not self.alert and machine.state is PARKED and machine.short_proves

    def broke(self) -> None:
        """A bug of the library: releases everything, without callbacks."""
        self.close_inbox()
        machine = self.machine
        Closing(self, machine.stream, machine, self.env).break_off()
        self.machine.over()

    def unwatched(self, error: OSError) -> None:
        self.machine.no_room = error
        self.alert = True

    def stop_begins(self) -> None:
        with making:
            inbox = self.known_inbox
        if inbox is not None:
            inbox.stop_begins()
        self.alert = True

    # ---- its inbox, and the handle that holds it --------------------------------

    @property
    def inbox(self) -> Inbox:
        """Made when first used, by any thread."""
        inbox = self.known_inbox
        while inbox is None:
            made = self.inbox_cls(self, self.client)
            with making:
                if self.known_inbox is None:
                    self.known_inbox = made
                inbox = self.known_inbox
                ended = self.machine.state in (CLOSING, CLOSED)
            # A stop sets the stage first, then tells the inboxes that exist.
            if inbox is made and self.client.env.stage is STOPPING:
                inbox.stop_begins()
            # The owner sets the state first, then closes the inbox if there is one.
            if ended:
                inbox.close_for_good()
            if self.machine.state is CLOSED:
                inbox.let_go()
        return inbox

    @property
    def handle(self) -> Any:
        """The one `Connection` of this connection."""
        return self.inbox.handle

    @property
    def asked(self) -> bool:
        """Whether `Connection.close()` was called."""
        inbox = self.known_inbox
        return inbox is not None and inbox.asked

    def close_inbox(self) -> None:
        """The inbox takes nothing more; once the connection has ended, it does not refer to it any
        more. Thread: the owner's."""
        with making:
            inbox = self.known_inbox
        if inbox is not None:
            inbox.close_for_good()
            if self.machine.state is CLOSED:
                inbox.let_go()

    # ---- what its Socket asks ---------------------------------------------------

    @property
    def env(self) -> Environment:
        """What the connections of its run share."""
        return self.client.env

    @property
    def id(self) -> str:
        return self.client.id

    @property
    def peer_address(self) -> Any:
        return self.client.peer_address

    @property
    def server(self) -> Any:
        return self.env.server

    @property
    def stopping(self) -> bool:
        return self.env.stage is STOPPING

    @property
    def read_timeout(self) -> float:
        return self.machine.callbacks.read_timeout

    @property
    def send_timeout(self) -> float:
        return self.env.limits.send_timeout

    @property
    def max_unread(self) -> int:
        return self.env.limits.max_unread

    def interrupt(self) -> int | None:
        return self.env.interrupt

    def take_out(self) -> None:
        """Only the owner may take it out: a parked connection needs its events."""
        if self.attached and waits.current_task() is self:
            self.env.pool.detach(self)
            self.alert = True  # so that the callback's end calls `forget_waiter`

    def let_step_end(self, timeout: float = FOREVER) -> None:
        # In a callback the owner uses the descriptor only through the socket, under its locks;
        # when CLOSING, it checks the socket's state first. In all other states it may receive.
        if waits.current_task() is self:
            return
        waits.before_wait()
        until = now() + timeout
        while self.machine.state not in APART and self.env.pool.runs(self) and now() < until:
            _a_moment.wait(0.001)

    def give_up(self) -> None:
        self.client.note_sockname()
        self.env.pool.release(self)

    def close_asked(self) -> None:
        stream: Duplex | None = self.machine.stream
        if stream is None:
            return  # it has ended meanwhile
        writer: Writer | None = stream.writer
        buffer = None if writer is None else writer.buffer  # it may end at this moment
        going_out = buffer is not None and buffer.waits
        if buffer is not None:
            buffer.waiting.ring()  # a send that sleeps sees the state
        if waits.current_task() is self:
            self.alert = True
            if not going_out and not stream.is_inside():  # else when the callback returns
                machine = self.machine
                is_shown = machine.callbacks.named("handle_end") is not None
                machine.closing().let_go(is_shown)
            return
        if going_out:
            self.end_from_outside()  # what waits is sent first
            return
        if not stream.shut_both(close_notify=True):
            self.env.pool.soon(functools.partial(stream.shut_both, close_notify=True))
        self.look_again()

    def look_again(self) -> None:
        """A request was left: runs the connection."""
        self.alert = True
        self.env.pool.make_ready(self)

    end_soon = look_again

    # ---- what others ask --------------------------------------------------------

    def why_to_end(self) -> Cause | None:
        """The cause, if the connection was asked to end. Thread: the owner's."""
        state = self.machine.stream.state
        if state in CLOSED_HERE:
            return Cause.LOCAL
        return BY_SHUTDOWN if self.asked or state is CUT else None

    def cut_off(self) -> None:
        """A stop has run out of time. Thread: any."""
        stream: Duplex | None = self.machine.stream
        if stream is not None:
            stream.cut_off()
        self.look_again()

    def end_from_outside(self, abort: bool = False) -> None:
        """Its inbox was asked to close. Thread: any."""
        stream: Duplex | None = self.machine.stream
        writer: Writer | None = None if stream is None or not abort else stream.writer
        buffer = None if writer is None else writer.buffer
        aborted = buffer is None or buffer.abort()
        if stream is None or (stream.interrupt_reads() and aborted):
            self.look_again()
        else:
            self.env.pool.soon(functools.partial(self.end_from_outside, abort))

    def came_back(self, name: str, error: BaseException | None = None) -> None:
        """A callback has returned or raised. In a forked child the connection ends there."""
        stream: Duplex | None = self.machine.stream
        if stream is not None:
            stream.forget_waiter()
