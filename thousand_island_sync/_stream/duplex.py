"""A connection's bytes: the descriptor, which thread may close it, and the two directions.

There are three locks:

- `guard`, which all connections share, is held for a moment around `shutdown` by other threads
  and around the close of the descriptor, so that no thread uses a number that is another file's.
- The turns of `Reader` and `Writer` (`socket.receiving` and `socket.sending`) are held for a whole
  call, waits included: sends do not interleave, and the owner takes both before it closes the
  descriptor. So does `detach` before it gives the descriptor away, on its thread.

A thread in recv(2) is woken by bytes, by `shutdown`, or by the time limit on the descriptor
(SO_RCVTIMEO). That limit is the owner's alone: only the thread that runs the connection's
callback waits there, all others wait in poll(2). Each wait either checks every `look_s`
seconds whether the stream is still open, or has a bell (`room_waits`): a descriptor that was given
away must not be shut down to wake a thread.
"""

from __future__ import annotations

import os
import socket as stdlib_socket
from typing import TYPE_CHECKING, Any, Protocol

from .._base import descriptors
from .._base.clock import REAL, Times, limited, seconds
from .._base.compiled import in_c
from .._base.locks import if_free, if_possible
from .._base.options import MISSING, Missing, is_milliseconds
from ..transports.base import Channel
from . import failures
from .reader import Reader
from .states import (
    CLOSED,
    CLOSED_HERE,
    GIVEN_AWAY,
    LEFT,
    ON_CLOSE,
    ON_CUT,
    ON_INTERRUPT,
    ON_KEEP,
    ON_LEAVE,
    OPEN,
    Move,
    State,
)
from .turns import guard
from .unsent_total import UnsentTotal
from .writer import Writer

if TYPE_CHECKING:
    from ..connection import Connection


class Limits(Protocol):
    """In bytes, and seconds."""

    @property
    def max_unread(self) -> int: ...
    @property
    def send_timeout(self) -> float: ...


class Shared(Protocol):
    """What a `Duplex` needs of what all connections of a run share."""

    @property
    def unsent(self) -> UnsentTotal: ...
    @property
    def limits(self) -> Limits: ...
    @property
    def times(self) -> Times: ...


class Owner(Protocol):
    """What a `Duplex` needs of its connection."""

    attached: bool
    #: It is not read from while bytes wait to be sent.
    deaf: bool
    #: Set when the next step has to look at more than the descriptor.
    alert: bool

    @property
    def env(self) -> Shared: ...
    @property
    def read_timeout(self) -> float: ...
    @property
    def handle(self) -> Connection: ...
    @property
    def id(self) -> str: ...
    @property
    def server(self) -> object: ...
    @property
    def send_timeout(self) -> float: ...
    @property
    def max_unread(self) -> int: ...
    @property
    def peer_address(self) -> Any: ...
    @property
    def stopping(self) -> bool: ...
    def take_out(self) -> None:
        """No events from the poller until the connection is parked again."""

    def look_again(self) -> None:
        """Has the connection run: bytes were read that the poller will not report."""

    def interrupt(self) -> int | None:
        """The descriptor that becomes readable when waiting reads shall end, if any."""

    def close_asked(self) -> None:
        """`Socket.close()` was called, for the first time; on any thread."""

    def let_step_end(self) -> None:
        """Returns when the owner is in a callback, or no thread runs the connection: then no step
        uses the descriptor. A step that begins after `alert` was set checks that first."""

    def give_up(self) -> None:
        """The descriptor was given away; on any thread. `alert` is set, and no call of the socket
        is under way."""

    def end_soon(self) -> None:
        """The descriptor was given up, so the connection is to end; on any thread."""


@in_c
class PythonDuplex:
    """The fields of a `Duplex`; `_native.Duplex` is its equal in C."""

    __slots__ = (
        *("_limit", "channel", "connection", "reader", "sock", "state", "waiter"),
        "writer",
    )
    reader: Reader
    writer: Writer

    def __init__(
        self,
        connection: Owner,
        sock: stdlib_socket.socket,
        channel: Channel,
        state: State,
        limit: float | Missing | None,
        /,
    ) -> None:
        self.connection = connection
        self.sock = sock
        self.channel = channel
        self.state = state
        self._limit = limit
        self.reader = self.writer = None  # type: ignore[assignment]
        self.waiter = 0


class Duplex(PythonDuplex):
    """What both directions share, and what is done to both; `opening` makes one.

    Attributes:
        connection: the owner.
        sock: the descriptor.
        channel: carries the bytes over it; an upgrade replaces it.
        state: what this side has done to it.
        waiter: the thread that has waited in recv(2) in this callback, and may do so again without
            any check.
        reader, writer: the two directions, until `take_apart`.
    """

    __slots__ = ()

    def use(self, channel: Channel) -> None:
        """After an upgrade. Thread: the owner's, with the turn to send."""
        self.channel = channel
        self.writer.use(channel)

    def take_apart(self) -> None:
        """Breaks the reference cycle with the directions, which would need the garbage collector.
        Thread: the owner's, at the end."""
        writer: Writer | None = self.writer
        if writer is not None and writer.buffer is not None:
            writer.buffer.let_go()
        self.reader = self.writer = None  # type: ignore[assignment]

    # ---- times ----------------------------------------------------------------

    @property
    def times(self) -> Times:
        """The clocks of its calls."""
        return self.connection.env.times

    def timeout(self, given: float | Missing | None, otherwise: float) -> float:
        """Seconds, from `timeout_ms`, or `settimeout`, or the connection's own."""
        if given is not MISSING:
            if given is not None and not is_milliseconds(given):
                raise ValueError(f"timeout_ms: got {given!r}, takes milliseconds, 0 or more")
            return seconds(given)  # type: ignore[arg-type]
        if self._limit is not MISSING:
            return limited(self._limit)  # type: ignore[arg-type]
        return otherwise

    def settimeout(self, value: float | None) -> None:
        """See `Socket.settimeout`."""
        if value is not None:
            value = float(value)
            if not value >= 0:
                raise ValueError(f"settimeout: got {value!r}, takes seconds, 0 or more, or None")
        self._limit = value
        self.waiter = 0
        if self.channel.exposed:
            with guard:
                if self.state not in CLOSED_HERE:
                    self._set_blocking()

    def gettimeout(self) -> float | None:
        """What `settimeout` was given, in seconds; `None` before."""
        return None if self._limit is MISSING else self._limit  # type: ignore[return-value]

    # ---- waiting --------------------------------------------------------------

    def may_wait_again(self, thread: int, timeout: float) -> None:
        """The owner's thread has waited in recv(2), with this time limit. If there is nothing else
        to check, its next receive waits there at once."""
        connection = self.connection
        if connection.attached or timeout != connection.read_timeout or self._limit is not MISSING:
            return
        if self.times is not REAL:  # the kernel knows no other clock
            return
        self.waiter = thread
        connection.alert = True  # so that the callback's end calls `forget_waiter`
        if self.channel.exposed or self.state in CLOSED_HERE:  # detached, or about to be
            self.waiter = 0

    def forget_waiter(self) -> None:
        """The callback has ended, or there is more to check than the descriptor."""
        self.waiter = 0

    # ---- its state ------------------------------------------------------------

    def on(self, move: Move) -> bool:
        """Moves along a table; whether that changes the state. With `guard`, if possible."""
        while True:
            before = self.state
            after = move.get(before, before)
            if self.state is before:  # no signal handler has changed it in between
                self.state = after
                return after is not before

    def check_open(self, doing: str) -> None:
        """Raises SocketClosed: this side has closed it, or given it away."""
        if self.state in CLOSED_HERE:
            raise failures.closed(self.connection, self.state, doing)

    def close(self) -> None:
        """See `Socket.close`."""
        if if_possible(guard, lambda: self.end(ON_CLOSE)):
            self.connection.close_asked()

    def end(self, move: Move) -> bool:
        """As `on`, for a move after which no call may begin."""
        changed = self.on(move)
        self.waiter = 0  # else a receive would wait again without a check
        return changed

    def shut_both(self, close_notify: bool = False) -> bool:
        """Shuts both directions down, which ends other threads' waits. `False`: a lock was not
        free, and interrupting code must not wait for it. Thread: any."""
        if close_notify and self.channel.is_inside():
            return False
        if guard._is_owned():
            self._shut(close_notify)
            return True
        return if_free(guard, lambda: self._shut(close_notify))

    def _shut(self, close_notify: bool) -> None:
        try:
            if self.sock.fileno() >= 0 and self.state not in GIVEN_AWAY:
                if close_notify:
                    self.channel.send_close_notify()
                self.sock.shutdown(stdlib_socket.SHUT_RDWR)
        except OSError:
            pass  # the peer was quicker

    def cut_off(self) -> None:
        """A stop has run out of time. Thread: any."""
        if_possible(guard, lambda: self.on(ON_CUT))
        self.shut_both()

    def interrupt_reads(self) -> bool:
        """Ends a read that waits, now or later; sends go on. `False`: a lock was not free, and
        interrupting code must not wait for it. Thread: any."""
        if_possible(guard, lambda: self.on(ON_INTERRUPT))
        return if_free(guard, self._end_reads)

    def _end_reads(self) -> None:
        try:
            if self.sock.fileno() >= 0 and self.state not in GIVEN_AWAY:
                self.channel.end_reads()
        except OSError:
            pass  # the peer was quicker

    # ---- the owner's end ------------------------------------------------------

    def is_inside(self) -> bool:
        """Whether this thread is in a call here that was interrupted in the middle."""
        return self.writer.is_inside() or self.reader.is_inside() or self.channel.is_inside()

    def come_home(self) -> bool:
        """Waits until no call is under way; none begins any more. Then the descriptor may be
        closed. `False`: a turn was not given back. Thread: the owner's."""
        with guard:  # either this closes it or `detach` gets it
            if self.state is OPEN:  # as `on` does it, in one step
                self.state = CLOSED
            else:
                self.on(ON_CLOSE)
        quiet = self.writer.comes_home()
        return self.reader.comes_home() and quiet

    def leave(self) -> bool:
        """Whether `detach` has the descriptor, or gets it; if that is interrupted, `detach` closes
        it. Thread: the owner's, after `come_home`."""
        with guard:
            self.on(ON_LEAVE)
            return self.state is LEFT

    def close_descriptor(self, quiet: bool) -> None:
        """After `come_home`, which returned `quiet`. If not quiet, the thread that is still in a
        call closes it when that drops the socket. Thread: the owner's."""
        if quiet:
            descriptors.close(self.sock, guard)
        else:
            descriptors.leave(self.sock)

    # ---- the descriptor in others' hands --------------------------------------

    def fileno(self) -> int:
        """The number, for user code; -1 once closed."""
        with guard:
            if self.state in CLOSED_HERE:
                return -1
            self._set_blocking()
            return self.sock.fileno()

    def ask(self, call: str, *args: Any) -> Any:
        """A call of `socket.socket` that does not wait."""
        with guard:
            self.check_open(call)
            try:
                return getattr(self.sock, call)(*args)
            except OSError as cause:
                raise self.reader.failed(call, cause) from cause

    def shutdown(self, how: int) -> None:
        """shutdown(2), as the channel does it."""
        with guard:
            self.check_open("shutdown")
            try:
                self.channel.shutdown(how)
            except OSError as cause:
                raise self.reader.failed("shutdown", cause) from cause
            if how != stdlib_socket.SHUT_RD:
                self.writer.shut()

    def unlimit(self) -> None:
        """Takes the time limit off the descriptor. No thread waits with it."""
        with guard:
            if self.state not in CLOSED_HERE:
                self._unlimit()
            self.waiter = 0

    def take_descriptor(self) -> int:
        """Gives the number away, and forgets it. Thread: that of `detach`, with both turns."""
        with descriptors.thread.no_fork, guard:
            self._unlimit()
            self._set_blocking()
            return descriptors.give_up(self.sock)

    def keep_descriptor(self) -> State:
        """`detach` was interrupted. The state says which thread closes the descriptor: LEFT, that
        of `detach`; else the owner."""
        with guard:
            if self.sock.fileno() >= 0:
                self.on(ON_KEEP)
            return self.state

    def _unlimit(self) -> None:
        self.channel.expose()  # an upgrade may have come in between
        try:
            self.channel.unlimit()
        except OSError:
            pass  # other code has closed the number

    def _set_blocking(self) -> None:
        """As `gettimeout` says."""
        try:
            os.set_blocking(self.sock.fileno(), self.gettimeout() is None)
        except OSError:
            pass  # as above
