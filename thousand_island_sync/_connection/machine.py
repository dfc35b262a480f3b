"""One connection: a state machine that is run in steps; each step returns how it goes on.

The facts. A connection belongs to one thread at a time, its owner: the thread that runs it. Other
threads never act on the connection. They leave a request (a message, an end, a stop) where the
owner will find it, and have the scheduler run the connection. A step handles at most one message
and one piece of data. It returns a verdict: park until an event or the deadline, run again, or
done.

`alert` is the one flag that leads off the hot path. A thread that leaves a request sets the flag
afterwards; the owner clears it before it looks for requests. So every request is seen, and at worst
the owner looks once in vain.
The states, and how a connection ends, are in the tables of `_connection.states`.

A read deadline that has passed ends the connection only after a receive has found nothing: bytes
that came in time win. The total deadline is checked first: no bytes extend it.
"""

from __future__ import annotations

from typing import Any, ClassVar

from .._base.compiled import in_c
from .._base.waits import hand_off
from .._scheduler.task import AGAIN, DONE, PARK
from .._stream.buffer import CHUNK
from .._stream.duplex import Duplex
from .._stream.states import CLOSED_HERE, CUT, ENDED, SHUT, WAS_RESET
from ..errors import SocketClosed
from ..events import By
from ..handler import SwitchTransport
from ..socket import Socket
from ..transports.base import WRITE, Channel, Source, Transport
from .callbacks import Callbacks, End, Outcome
from .closing import Closing
from .drain import Drain
from .environment import Environment
from .handshake import Handshake, begin, no_room_error
from .pause import Pause, take_resume
from .reserve import ARMED, AT_REST, looks_himself
from .served import Served
from .states import (
    BY_PEER,
    BY_SHUTDOWN,
    CLOSED,
    CLOSING,
    HANDSHAKING,
    NEW,
    PARKED,
    PAUSED,
    RUNNING,
    SERVING,
    STOPPING,
    Cause,
    State,
)

_NONE: Any = None


@in_c
class PythonMachine:
    """The fields of a `Machine`; `_native.Machine` is its equal in C."""

    __slots__ = (
        *("_env", "_eof_told", "_task", "_transport", "callbacks", "drain", "handshake"),
        *("no_room", "pause", "short_proves", "socket", "source", "state", "stream"),
    )

    def __init__(
        self, task: Served, env: Environment, transport: Any, callbacks: Callbacks, state: State, /
    ) -> None:
        self._task, self._env, self.callbacks = task, env, callbacks
        self._transport: Transport = transport
        self.state = state
        self._eof_told = False
        self.drain: Drain | None = None
        self.handshake: Handshake | None = None
        self.no_room: OSError | None = None
        self.pause: Pause | None = None
        self.short_proves: bool = _NONE
        self.socket: Socket = _NONE
        self.source: Source = _NONE
        self.stream: Duplex = _NONE


class Machine(PythonMachine):
    """Runs one connection from its first step to its last.

    Args:
        task: the connection, as the scheduler knows it.
        env, transport: what the connections of one run share, and what it was accepted on.
        callbacks, state: what calls its handler; `NEW`.

    Attributes:
        short_proves: a receive of less than was asked for proves that there is no more.
        no_room: the error, if the poller had no room for the descriptor.
        pause: while it is not `None`, nothing is read.
        socket, stream: what callbacks get, and what is under it; `None` before the first step, and
            after the end.
    """

    __slots__ = ()

    callbacks_cls: ClassVar[type[Callbacks]] = Callbacks

    @property
    def listens(self) -> bool:
        """Whether bytes that arrive must lead to a run: not after the end of the stream."""
        return self.state in (PARKED, HANDSHAKING) and not (self._eof_told or self._task.deaf)

    # ---- what was received ------------------------------------------------------

    def after_data(self, result: object, size: int) -> int:
        """The verdict after `handle_data`, which got `size` bytes that this step received."""
        outcome = self.callbacks.returned(result, "handle_data", self.socket)
        if type(outcome) is End:
            return self.finish(outcome.cause, outcome.reason, outcome.told)
        verdict = self._settle(outcome)
        return self._go_on(size > 0 and self.drained_after(size)) if verdict is None else verdict

    def drained_after(self, size: int) -> bool:
        """Whether nothing is left to receive. A short read proves that, unless the end of the
        stream came with it, or the channel has a buffer of its own (TLS)."""
        if self._task.hung_up:
            return False
        stream = self.stream
        if stream.channel.kernel_waits:
            return size < CHUNK
        return stream.state in CLOSED_HERE or stream.channel.drained()

    def came_early(self, data: bytes) -> int:
        """Bytes that were received before the step that receives them."""
        self.stream.reader.came_early(data)
        return self.step()

    # ---- the other steps ------------------------------------------------------

    def step(self) -> int:
        task, callbacks, env = self._task, self.callbacks, self._env
        task.no_sample = True
        if task.known_inbox is not None:
            take_resume(task, self)
        if self.state is NEW:
            return begin(task, self, self._transport)
        if self.no_room is not None:  # before any step that parks: no event would wake it
            return self.finish(Cause.ERROR, no_room_error(task.client.peer_shown(), self.no_room))
        if self.state is CLOSING:
            return self.closing().go_on()
        if self.handshake is not None:
            return self.handshake.step()
        # Clear it before looking: a request that is left from now on sets it again.
        task.alert = callbacks.has_total_deadline or env.stage is STOPPING
        if (ending := task.why_to_end() or self._heed()) is not None:
            return self.finish(ending)
        if callbacks.total_is_over:
            return self.finish(Cause.TIMEOUT)
        # Messages go before bytes: else a peer that always sends would delay them for ever.
        if self.mail_waits():
            verdict = self._deliver_message()
            if verdict is None and task.why_to_end() is Cause.LOCAL:
                verdict = self.finish(Cause.LOCAL)
            if verdict is not None and self.state is not PAUSED:
                return verdict
        if task.known_inbox is not None:
            take_resume(task, self)
        if env.stage is not SERVING and (verdict := Drain.step(task, self)) is not None:
            return verdict
        return self.read() if self.pause is None else self.pause.step(self.mail_waits())

    def read(self) -> int:
        """Delivers what has arrived: bytes that a `recv` left in the buffer, or the next ones."""
        reader, task = self.stream.reader, self._task
        if task.deaf:
            return AGAIN if self.mail_waits() else self.park()
        data: Any = None if reader.buffer is None else self.callbacks.take_kept(reader)
        kept = bool(data)
        if not data:
            if reader.incoming in ENDED:
                return self.end_of_stream()
            try:
                data = self.stream.channel.recv(CHUNK)
            except OSError as error:
                return self.receive_failed(error)
        if data:
            task.no_sample = False
            size = 0 if kept and self.callbacks.frames else len(data)
            if self.drain is not None and self.drain.counts(size, self._env.stage is STOPPING):
                return self.finish(BY_SHUTDOWN)
            if (kept and not reader.framed) or task.hung_up or self.mail_waits():
                task.alert = True  # the next step must look at more than the socket
        return task.received(data, kept)

    def nothing_there(self) -> int:
        """A receive found nothing, so a passed deadline ends the connection."""
        task = self._task
        task.no_sample = True  # no callback was run
        if self._env.clock() >= self.callbacks.deadline:
            return self.finish(Cause.TIMEOUT)
        task.wants_write = self.stream.channel.recv_wants == WRITE  # TLS may have to send first
        drains = self._env.stage is not SERVING
        return self._nothing_left() if drains or self.mail_waits() else self.park()

    def _nothing_left(self) -> int:
        """All that has arrived was delivered."""
        drains = self._env.stage is not SERVING
        if drains and (verdict := Drain.found_nothing(self._task, self)) is not None:
            return verdict
        if self.mail_waits():
            return self._go_on(False)
        return self.finish(BY_SHUTDOWN) if self._env.stage is STOPPING else self.park()

    def end_of_stream(self) -> int:
        task, reader = self._task, self.stream.reader
        ending = task.why_to_end()
        if ending is not None:
            return self.finish(ending)  # this side ended the reads
        reader.end()
        if reader.framed and (cut_short := self.callbacks.cut_short(reader)) is not None:
            return self.finish(Cause.ERROR, cut_short)
        if self.stream.channel.truncated or reader.incoming in WAS_RESET:
            return self.finish(BY_PEER)
        if self._eof_told:
            if task.client.has_left():
                return self.finish(BY_PEER)
            return self._nothing_left()
        self._eof_told = True
        self.state = RUNNING
        verdict = self._settle(self.callbacks.run("handle_eof", self.socket))
        return verdict if verdict is not None else self._go_on(True)

    def receive_failed(self, error: OSError) -> int:
        stream = self.stream
        failure = stream.reader.failed("receiving from", error)
        if stream.state is CUT or self._task.asked:
            return self.finish(BY_SHUTDOWN)
        if stream.state in CLOSED_HERE:
            return self.finish(Cause.LOCAL)
        gone = isinstance(failure, SocketClosed)
        return self.finish(BY_PEER) if gone else self.finish(Cause.ERROR, failure)

    # ---- callbacks ------------------------------------------------------------

    def _deliver_message(self) -> int | None:
        task = self._task
        try:
            message = task.inbox.take()
        except IndexError:  # withdrawn meanwhile
            return None
        if self.drain is not None:
            self.drain.messages -= 1
        task.no_sample = False
        self.state = RUNNING
        if task.classified.blocks:
            hand_off()
        return self._settle(self.callbacks.message(message, self.socket))

    def raised(self, error: BaseException, name: str) -> int:
        end = self.callbacks.raised(error, name, self.socket)
        return self.finish(end.cause, end.reason, end.told)

    def _settle(self, outcome: Outcome) -> int | None:
        """After a callback: a verdict if it ends, switches or pauses the connection; else `None`,
        and the connection is PARKED."""
        if outcome is not None:
            if type(outcome) is End:
                return self.finish(outcome.cause, outcome.reason, outcome.told)
            if isinstance(outcome, SwitchTransport):
                self.pause, self._task.reads, self._task.deaf = None, True, False
                return Handshake.upgrade(self._task, self, outcome)
            self.pause = self.pause or Pause(self._task, self)
        if self._eof_told:
            self.callbacks.expect_nothing()
            if self.stream.writer.outgoing is SHUT:
                return self.finish(BY_PEER)  # both directions have ended
        if self.pause is not None:
            return self.pause.begin()
        self.state = PARKED
        return None

    def _go_on(self, drained: bool) -> int:
        """After a callback that ended nothing: AGAIN if there is more to do, else it parks."""
        if (
            not drained
            or self._task.why_to_end() is not None
            or (self.callbacks.frames or self.stream.reader).has_news(self._eof_told)
            or self.mail_waits()
            or self._env.stage is not SERVING
        ):
            # AGAIN, not PARK: the poller reports edges, so no event comes for bytes that are here
            # already. `alert`: the next step looks at everything, not at the socket alone.
            self._task.alert = True
            self.state = PARKED
            return AGAIN
        return self.park()

    def mail_waits(self) -> bool:
        inbox = self._task.known_inbox
        if inbox is None or inbox.waiting() <= 0:
            return False
        buffer = self.stream.writer.buffer
        return buffer is None or not buffer.over_half

    def park(self) -> int:
        task = self._task
        self.state = PARKED
        was_deaf = task.deaf
        self._heed(parks=True)
        task.deadline = self.callbacks.deadline
        if not task.deaf:
            return AGAIN if was_deaf else PARK  # bytes that came while it was deaf are unread
        if self._env.reserve.level is ARMED:
            task.deadline = min(task.deadline, self._env.times.real() + looks_himself(task.fd))
        return PARK

    def _heed(self, parks: bool = False) -> Cause | None:
        held = self._task.deaf or self.stream.writer.buffer is not None
        idle = self._env.reserve.level is AT_REST and not held
        return None if idle else self.callbacks.heed(self.stream, self.pause is not None, parks)

    # ---- the way in -----------------------------------------------------------

    def use(self, channel: Channel) -> None:
        self.source = channel.source()
        self.short_proves = plain = channel.kernel_waits
        # A plain socket waits for room only inside of its sends; a TLS channel also between them.
        if plain:
            self._task.write_edges = False
        else:
            self._env.pool.watch_writes(self._task)

    def call_then_receive(self, name: str) -> int:
        """One callback (`handle_connection`, `handle_upgrade`, `handle_drain`), then the same step
        receives: as a rule the first bytes are there by then."""
        task = self._task
        self.handshake = None
        self.state = RUNNING
        env = self._env
        if env.stage is not SERVING or env.reserve.level is ARMED:
            task.alert = True
        if task.alert or self.callbacks.named(name) is not None:
            verdict = self._settle(self.callbacks.run(name, self.socket))
            if verdict is not None:
                return verdict
            if task.alert:
                return self._go_on(False)
        task.no_sample = False
        self.state = PARKED
        return task.receive()

    # ---- the way out ----------------------------------------------------------

    def finish(self, cause: Cause, reason: Any = None, told: By | None = None) -> int:
        """Begins the end of the connection. Arguments as for `End`."""
        if cause is BY_SHUTDOWN and self._env.stage is not SERVING:
            verdict = Drain.before_shutdown(self._task, self, reason is not None)
            if verdict is not None:
                return verdict
        return self.closing().begin(cause, reason, told)

    def closing(self, kind: type[Closing] = Closing) -> Closing:
        return kind(self._task, self.stream, self, self._env)

    def over(self) -> int:
        """Breaks the reference cycles: the socket, and perhaps the handler, refer to the task, and
        the task no longer to them. With such cycles a hundred short connections cost one run of
        the garbage collector."""
        self.state = CLOSED
        task: Served | None = self._task
        stream: Duplex | None = self.stream
        if stream is not None:
            stream.take_apart()
        self.handshake = self.pause = _NONE
        if task is not None:
            if task.known_inbox is not None:
                task.close_inbox()
            task.machine = OVER
        return DONE


#: The machine of each connection that has ended: it runs nothing.
OVER = Machine(_NONE, _NONE, _NONE, Callbacks(_NONE, _NONE, _NONE, 0.0, 0.0), CLOSED)
