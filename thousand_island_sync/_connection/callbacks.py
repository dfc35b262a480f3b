"""Calling the handler of one connection, and what its callbacks return and raise, as two tables.

A handler's methods run in the connection's own context, and never while the library holds a lock.
The result is an `End`, or the connection goes on. The documentation of `Handler` has the tables for
users; `_connection.states` has those for the states that follow.
"""

from __future__ import annotations

import contextvars
import errno
import logging
import threading
from collections.abc import Callable
from typing import Any, ClassVar

from .. import events
from .._base import locks
from .._base.clock import FOREVER, Clock, seconds
from .._base.compiled import in_c
from .._base.options import MISSING, Missing
from .._stream.buffer import ReadBuffer
from .._stream.duplex import Duplex
from .._stream.reader import Reader
from .._stream.states import WAS_RESET
from .._telemetry import log_fields
from ..errors import ServerStopping, SocketClosed, SocketError, SocketTimeout
from ..events import By
from ..handler import IDLE, Close, Continue, Error, Handler, SwitchTransport
from ..socket import Socket
from .environment import Environment
from .frames import NO_FRAME, Frames
from .mailbox import Call
from .reserve import AT_REST
from .result_error import result_error
from .served import Served, tell_arrival
from .states import BY_HANDLER, BY_PEER, BY_SHUTDOWN, LAST_CALLBACK, Cause

_log = logging.getLogger("thousand_island_sync")

#: What a callback returned -> why its connection ends. (`None` and `Continue` go on,
#: `SwitchTransport` begins another handshake, all else is the handler's error.)
RETURNED: dict[type, Cause] = {Close: BY_HANDLER, Error: Cause.ERROR}

#: An error of its own socket that a callback did not catch -> why its connection ends; the first
#: class that fits. (Any other error is the handler's.)
RAISED: tuple[tuple[type[SocketError], Cause], ...] = (
    (ServerStopping, BY_SHUTDOWN),
    (SocketClosed, BY_PEER),
    (SocketTimeout, Cause.TIMEOUT),
    (SocketError, Cause.ERROR),
)

#: Callbacks after which the read timeout begins anew.
_BEGIN_ANEW = ("handle_connection", "handle_data")
#: Methods whose exceptions are not the reason of the end, so there is no `handler.error` event.
_ENDS_NOTHING = {"__init__", "handle_end", *LAST_CALLBACK.values()}


class End:
    """Why a connection ends.

    Attributes:
        cause: one of the causes.
        reason: what `handle_error` and its event get, if they are called.
        told: what has reported it already: an event, or a traceback in the log.
    """

    __slots__ = ("cause", "reason", "told")

    def __init__(self, cause: Cause, reason: Any = None, told: By | None = None) -> None:
        self.cause = cause
        self.reason = reason
        self.told = told


#: For each cause the `End` without a reason, which is the usual one.
PLAIN = {cause: End(cause) for cause in Cause}


#: What follows from a callback. `None`: the connection goes on; `Continue`: it goes on, paused.
Outcome = End | SwitchTransport | Continue | None


@in_c
class PythonCallbacks:
    """The fields of `Callbacks`, without the one that is unset until the handler is made;
    `_native.Callbacks` is its equal in C."""

    __slots__ = (
        *("_left", "_whose", "clock", "context", "frames", "read_deadline"),
        *("read_timeout", "receiver", "total_deadline"),
    )

    def __init__(
        self,
        whose: Served,
        clock: Clock,
        context: contextvars.Context,
        read_timeout: float,
        read_deadline: float,
        /,
    ) -> None:
        self._whose, self.clock, self.context = whose, clock, context
        self.read_timeout, self.read_deadline = read_timeout, read_deadline
        self.receiver: Handler | Frames = None  # type: ignore[assignment]  # gets what arrives
        self.frames: Frames | None = None
        self._left = self.total_deadline = FOREVER


class Callbacks(PythonCallbacks):
    """One handler, the context in which it is called, and its time-outs.
    Thread: the connection's owner's.

    Attributes:
        clock: that of time-outs.
        context: all callbacks run in it.
        frames: cuts frames for `handle_data`; `None` unless the handler has ever set `framing`.
        read_deadline: when bytes must have come. A receive that finds bytes wins.
        read_timeout: seconds, unless a callback gives others.
        receiver: whose `handle_data` gets what arrives: the handler, or `frames`.
        total_deadline: when the connection ends, however many bytes come.
    """

    __slots__ = ("_handler",)

    #: `testing.call` has a subclass, which records each frame.
    frames_cls: ClassVar[type[Frames]] = Frames
    _handler: Handler

    # ---- calling it -------------------------------------------------------------

    def make(self, env: Environment, reader: Reader) -> None:
        """Makes the handler. Raises BaseException: what that raised."""
        handlers = env.handlers
        self._handler = self.receiver = handler = self.context.run(handlers.new)
        if handlers.framed or handler._sets_framing:
            self.cut_frames(reader)
        if self._whose.alert:
            self._whose.came_back("__init__")

    def cut_frames(self, reader: Reader) -> None:
        """Cuts frames from now on: the handler or its class has set `framing`."""
        self.frames = self.receiver = self.frames_cls(
            self._whose, self._handler, reader, self.clock
        )

    def look_at_framing(self) -> None:
        """A callback may have set it, or another thread."""
        if self.frames is None and self._handler._sets_framing:
            self.cut_frames(self._whose.machine.stream.reader)

    def calls(self, handler: Handler, or_makes: bool = False) -> bool:
        """Whether its handler is this one; `or_makes`: or may be, as it is just being made.
        Thread: any."""
        known = getattr(self, "_handler", None)
        return known is handler or (or_makes and known is None and self._whose is not None)

    def run(self, name: str, *arguments: Any) -> Outcome:
        """Calls a callback that is not a last one; the socket is its last argument."""
        callback = self.named(name)
        if callback is None:
            return self.returned(None, name, arguments[-1])
        try:
            result = self.call(name, callback, *arguments)
        except BaseException as error:
            return self.raised(error, name, arguments[-1])
        return self.returned(result, name, arguments[-1])

    def message(self, message: Any, socket: Socket) -> Outcome:
        """Calls `handle_info`; or `handle_call`, whose result or exception goes to the caller."""
        self.look_at_framing()
        if not isinstance(message, Call):
            return self.run("handle_info", message, socket)
        try:
            result = self.call("handle_call", self._handler.handle_call, message.message, socket)
        except BaseException as error:
            locks.release_all()
            self._whose.came_back("handle_call", error)
            message.finish(None, error)
        else:
            message.finish(result, None)
        return self.returned(None, "handle_call", socket)

    def last(self, name: str, callback: Callable[..., Any], *arguments: Any) -> None:
        """Calls a last callback, or `handle_end`: what it raises is only logged."""
        try:
            self.call(name, callback, *arguments)
        except BaseException as error:
            locks.release_all()
            self._whose.came_back(name, error)
            if not self._is_the_peers_doing(error):
                self.log(error, name)
        else:
            self._whose.came_back(name)

    def _is_the_peers_doing(self, error: BaseException) -> bool:
        """Whether the peer has disconnected, or did not send or read in time: not logged."""
        if not isinstance(error, (SocketClosed, SocketTimeout)) or error._origin is not self._whose:
            return False
        return error.errno != errno.EBADF  # EBADF: it was closed locally

    def named(self, name: str, idle: frozenset[object] = IDLE) -> Callable[..., Any] | None:
        """A callback by its name; `None`: the handler does not define it."""
        found: Any = getattr(self._handler, name)
        try:
            return None if found.__func__ in idle else found
        except AttributeError:  # set on the handler, and not a method
            return found  # type: ignore[no-any-return]

    def call(self, name: str, callback: Callable[..., Any], *arguments: Any) -> object:
        return self.context.run(callback, *arguments)

    # ---- what has arrived ---------------------------------------------------------

    def take_kept(self, reader: Reader) -> bytes | ReadBuffer | None:
        """What is in the read buffer and to be delivered, if anything: see `delivery.run`."""
        return reader.take_fresh() if self.frames is None else self.frames.kept()

    def cut_short(self, reader: Reader) -> SocketClosed | None:
        """The error, if the stream has ended inside a frame. A reset has another error."""
        if self.frames is None or reader.incoming in WAS_RESET:
            return None
        return self.frames.cut_short()

    # ---- the times ------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """The earlier of the two."""
        return min(self.read_deadline, self.total_deadline)

    @property
    def has_total_deadline(self) -> bool:
        """Whether there is one that holds however many bytes come."""
        return self.total_deadline != FOREVER

    @property
    def total_is_over(self) -> bool:
        return self.total_deadline != FOREVER and self.clock() >= self.total_deadline

    def count_from(self, time_now: float) -> None:
        """The read timeout begins anew."""
        self.read_deadline = time_now + self.read_timeout

    def wait_after_upgrade(self, timeout_ms: float | Missing | None) -> None:
        """The time-out after an upgrade, as `SwitchTransport` gave it."""
        given = self.read_timeout if timeout_ms is MISSING else seconds(timeout_ms)  # type: ignore[arg-type]
        self.read_deadline, self._left = self.clock() + given, FOREVER

    def expect_nothing(self) -> None:
        """The peer has ended its side, so there is no read deadline any more."""
        self.read_deadline = self._left = FOREVER

    def stand_still(self) -> None:
        """Stops the read timeout: in a pause, and while bytes wait to be sent. Called again after
        each callback, which may have set another."""
        if self.read_deadline != FOREVER:
            self._left = self.read_deadline - self.clock()
            self.read_deadline = FOREVER

    def run_on(self) -> None:
        """Starts the read timeout again with the time that was left."""
        if self._left != FOREVER:
            self.read_deadline, self._left = self.clock() + self._left, FOREVER

    def heed(self, stream: Duplex, paused: bool, parks: bool = False) -> Cause | None:
        """Sets `deaf`: nothing is delivered while bytes wait to be sent, or while the reserve holds
        the connection back. Returns why it ends, if it does. (A stop makes connections that are
        held back run again.) `parks`: it is about to park, so nothing would be delivered."""
        whose, unsent = self._whose, stream.writer.buffer
        reserve = whose.env.reserve
        held_back = reserve.level is not AT_REST and (
            reserve.leaves(whose) if paused else reserve.holds(whose, stream, parks)
        )
        was_deaf = whose.deaf
        held = whose.deaf = held_back or (unsent is not None and unsent.waits)
        # Read `waits` again: the thread that sends the last byte wakes only a connection that it
        # finds deaf, so one that became deaf just now must see that for itself.
        if held and unsent is not None:
            held = whose.deaf = held_back or unsent.waits
        if held:
            whose.alert = True
            self.stand_still()
        elif was_deaf and not paused:
            self.run_on()
        if unsent is not None and unsent.failure is not None:
            return BY_PEER
        return BY_SHUTDOWN if held and not (held_back or paused) and whose.stopping else None

    def _set_times(self, given: Continue, begins_anew: bool) -> None:
        time_now, timeout = self.clock(), given.timeout_ms
        if timeout is not MISSING:
            limit = seconds(timeout)  # type: ignore[arg-type]
            if given.persistent:
                self.read_timeout = limit
            self.read_deadline, self._left = time_now + limit, FOREVER
        elif begins_anew:
            self.read_deadline = time_now + self.read_timeout
        if given.deadline_ms is not MISSING:
            self.total_deadline = time_now + seconds(given.deadline_ms)  # type: ignore[arg-type]
            self._whose.alert = self._whose.alert or self.has_total_deadline

    # ---- what comes of it ---------------------------------------------------------

    def returned(self, result: object, name: str, socket: Socket) -> Outcome:
        """What follows from what a callback returned."""
        whose = self._whose
        if self.frames is not None and name != "handle_data":
            self.frames.called_back()
        if whose.alert:  # set by a request to end, a wait in the kernel, a new `framing`
            self.look_at_framing()
            whose.came_back(name)
            asked = whose.why_to_end()
            if asked is not None:
                return PLAIN[asked]
        if result is None:
            if name in _BEGIN_ANEW:
                self.count_from(self.clock())
            return None
        cause = RETURNED.get(type(result))
        if cause is None:  # perhaps an instance of a subclass
            if result is NO_FRAME:
                return None
            cause = next((RETURNED[one] for one in RETURNED if isinstance(result, one)), None)
        if cause is BY_HANDLER:
            return PLAIN[BY_PEER if name == "handle_eof" else cause]
        if cause is not None:
            return End(cause, result.reason)  # type: ignore[attr-defined]
        if isinstance(result, Continue):
            self._set_times(result, name in _BEGIN_ANEW)
            return result if result.paused else None
        if isinstance(result, SwitchTransport):
            return result
        error = result_error(f"{type(self._handler).__name__}.{name}", result)
        self.log(error, name)
        return End(Cause.ERROR, error, By.TRACEBACK)

    def raised(self, error: BaseException, name: str, socket: Socket) -> End:
        """The end that follows from what a callback raised."""
        whose = self._whose
        whose.came_back(name, error)
        asked = whose.why_to_end()
        # An error of another connection's socket tells nothing about this peer: it is as any other.
        if not (isinstance(error, SocketError) and error._origin is self._whose):
            locks.release_all()
            self.log(error, name)
            return End(asked if asked is Cause.LOCAL else Cause.ERROR, error, By.TRACEBACK)
        # The request to end goes first: the error is only how a stop or a close ended a wait.
        if asked is not None:
            return End(asked)
        if isinstance(error, SocketTimeout) and error._sending:
            return End(Cause.ERROR, error)  # the peer does not read: not a read timeout
        cause = next(cause for kind, cause in RAISED if isinstance(error, kind))
        return End(cause, error)

    # ---- who is told ----------------------------------------------------------------

    def log(self, error: BaseException, where: str) -> None:
        whose = self._whose
        try:
            _log.error(
                "%s.%s of connection %s with %s raised %s, on thread %s",
                whose.env.handlers.name,
                where,
                whose.client.id,
                whose.client.peer_shown(),
                type(error).__name__,
                threading.current_thread().name,
                exc_info=error,
                extra=log_fields.of_traceback(whose.client, error, where not in _ENDS_NOTHING),
            )
        except BaseException:
            pass  # a logging handler raised: `handle_error` and `handle_end` must follow

    def tell_start(self) -> None:
        whose, client = self._whose, self._whose.client
        events.emit(
            events.handler_start,
            whose.env.server,
            {},
            {
                "connection_id": client.id,
                "acceptor_id": client.acceptor_id,
                **client.remote(),
            },
        )

    def tell_arrival(self, data: Any) -> None:
        if not isinstance(data, ReadBuffer):  # for buffered bytes `Frames` emits the event
            tell_arrival(self._whose, data)


def set_on_handler(callbacks: Callbacks, name: str) -> bool:
    """Whether the handler itself, not its class, has a callback. Thread: any."""
    handler: Handler | None = getattr(callbacks, "_handler", None)
    return handler is not None and name in vars(handler)
