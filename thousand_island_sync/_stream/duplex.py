"""A connection's bytes: the descriptor, who may close it, and the two directions over it.

Three locks, each short or held by one kind of call only:

- `guard`, which all share, is held for a moment around `shutdown` by others and around
  the close of the descriptor, so that nobody touches a number that is somebody else's.
- The turns of `Reader` and `Writer` (`socket.receiving` and `socket.sending`) are held for a whole
  call, waits included: sends do not interleave, and the owner takes both before it closes the
  descriptor. So does `detach` before it gives the descriptor away, on whatever thread.

Who waits in recv(2) is woken by bytes, by `shutdown`, or by the time limit on the descriptor
(SO_RCVTIMEO). That limit is the owner's alone: only the thread that runs the connection's
callback waits there, all others wait in poll(2). And no wait is longer than `look_s` before it
looks whether the stream is still open, or has a bell (`room_waits`): what is given away must not be
shut down.
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
    #: It is not read from: bytes wait to go out.
    deaf: bool
    #: Set when there is more to look at than the descriptor, once the callback returns.
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
        """Something was read of which the poller will not tell."""

    def interrupt(self) -> int | None:
        """The descriptor that becomes readable when waiting reads shall end, if any."""

    def close_asked(self) -> None:
        """`Socket.close()` was called, for the first time; on any thread."""

    def let_step_end(self) -> None:
        """Returns when the owner is in a callback, or nobody runs the connection: no step of its
        own uses the descriptor then. One that begins after `alert` was set sees that first."""

    def give_up(self) -> None:
        """The descriptor is somebody else's from now on; on any thread. `alert` is set, and no
        call of the socket's is under way."""

    def end_soon(self) -> None:
        """It was given up: the connection shall end; on any thread."""


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
        channel: what carries the bytes over it; another one after an upgrade.
        state: what was done to it on this side.
        waiter: the thread that waits in the kernel in this callback, and may at once do so again.
        reader, writer: the two directions, until `take_apart`.
    """

    __slots__ = ()

    def use(self, channel: Channel) -> None:
        """After an upgrade. Thread: the owner's, with the turn to send."""
        self.channel = channel
        self.writer.use(channel)

    def take_apart(self) -> None:
        """The directions lead back to here: in such a circle they would be garbage of the
        collector's. Thread: the owner's, at the end."""
        writer: Writer | None = self.writer
        if writer is not None and writer.buffer is not None:
            writer.buffer.let_go()
        self.reader = self.writer = None  # type: ignore[assignment]

    # ---- times ----------------------------------------------------------------

    @property
    def times(self) -> Times:
        """The clocks that its calls wait by."""
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
        """The owner's thread has waited in the kernel for so long at most: if nothing else is to
        be minded, it waits there at once the next time."""
        connection = self.connection
        if connection.attached or timeout != connection.read_timeout or self._limit is not MISSING:
            return
        if self.times is not REAL:  # the kernel knows no other clock
            return
        self.waiter = thread
        connection.alert = True  # the callback's end forgets it
        if self.channel.exposed or self.state in CLOSED_HERE:  # detached, or about to be
            self.waiter = 0

    def forget_waiter(self) -> None:
        """The callback has ended, or there is more to mind than the descriptor."""
        self.waiter = 0

    # ---- its state ------------------------------------------------------------

    def on(self, move: Move) -> bool:
        """Something was done; whether that changes the state. With `guard`, or as good as it."""
        while True:
            before = self.state
            after = move.get(before, before)
            if self.state is before:  # no signal's handler has come in between
                self.state = after
                return after is not before

    def check_open(self, doing: str) -> None:
        """Raises SocketClosed: it was closed here, or handed over."""
        if self.state in CLOSED_HERE:
            raise failures.closed(self.connection, self.state, doing)

    def close(self) -> None:
        """See `Socket.close`."""
        if if_possible(guard, lambda: self.end(ON_CLOSE)):
            self.connection.close_asked()

    def end(self, move: Move) -> bool:
        """As `on`, of what ends it for all who come."""
        changed = self.on(move)
        self.waiter = 0  # a receive that waits again does not look whether it is closed
        return changed

    def shut_both(self, close_notify: bool = False) -> bool:
        """Ends what other threads wait for. `False`: this thread was interrupted, and must not
        wait for what that takes. Thread: any."""
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
        """Ends a read that waits, now or later; sends go on. `False`: the calling thread was
        interrupted, and must not wait for what that takes. Thread: any."""
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
        """Whether this thread was interrupted in the middle of a call here, and is in one more."""
        return self.writer.is_inside() or self.reader.is_inside() or self.channel.is_inside()

    def come_home(self) -> bool:
        """No call is under way after this, and none begins: the descriptor may be closed.
        `False`: a turn is not given back. Thread: the owner's."""
        with guard:  # it is closed or detached, and not both
            if self.state is OPEN:  # as `on` does it, in one step
                self.state = CLOSED
            else:
                self.on(ON_CLOSE)
        quiet = self.writer.comes_home()
        return self.reader.comes_home() and quiet

    def leave(self) -> bool:
        """Whether `detach` has the descriptor, or gets it: it closes it if it is broken off.
        Thread: the owner's, after `come_home`."""
        with guard:
            self.on(ON_LEAVE)
            return self.state is LEFT

    def close_descriptor(self, quiet: bool) -> None:
        """After `come_home`, which said whether it is `quiet`: if not, whoever is in a call still
        closes it as he lets go. Thread: the owner's."""
        if quiet:
            descriptors.close(self.sock, guard)
        else:
            descriptors.leave(self.sock)

    # ---- the descriptor in others' hands --------------------------------------

    def fileno(self) -> int:
        """The number, to be shown; -1 once closed."""
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
        """No time limit of ours is on the descriptor from now on. Nobody waits with one."""
        with guard:
            if self.state not in CLOSED_HERE:
                self._unlimit()
            self.waiter = 0

    def take_descriptor(self) -> int:
        """The number, which nothing here knows from now on. Thread: who detaches it, with both
        turns."""
        with descriptors.thread.no_fork, guard:
            self._unlimit()
            self._set_blocking()
            return descriptors.give_up(self.sock)

    def keep_descriptor(self) -> State:
        """Nobody got it: it is closed by whom this says. LEFT: by who tried to detach it."""
        with guard:
            if self.sock.fileno() >= 0:
                self.on(ON_KEEP)
            return self.state

    def _unlimit(self) -> None:
        self.channel.expose()  # an upgrade may have come in between
        try:
            self.channel.unlimit()
        except OSError:
            pass  # it is no descriptor any more: whoever closed it breaks the rule

    def _set_blocking(self) -> None:
        """As `gettimeout` says."""
        try:
            os.set_blocking(self.sock.fileno(), self.gettimeout() is None)
        except OSError:
            pass  # as above
