"""What receiving and sending share: the descriptor, who may close it, and the errors.

Three locks, each short or held by one kind of call only:

- `_guard`, which all share, is held for a moment around `shutdown` by others and around
  the close of the descriptor, so that nobody touches a number that is somebody else's.
- `_stream.receiving` and `_stream.sending` are held for a whole call, waits included: sends do not
  interleave, and the owner takes both before it closes the descriptor. So does `detach`
  before it gives the descriptor away, on whatever thread.

Who waits in recv(2) is woken by bytes, by `shutdown`, or by the time limit on the descriptor
(SO_RCVTIMEO). That limit is the owner's alone: only the thread that runs the connection's
callback waits there, all others wait in poll(2). And no wait is longer than `LOOK_S` before it
looks whether the socket is still open: what is given away must not be shut down.
"""

from __future__ import annotations

import errno
import os
import socket as stdlib_socket
from typing import TYPE_CHECKING, Any, Protocol

from .._base import addresses, descriptors, waits
from .._base.clock import FOREVER, limited, now, seconds
from .._base.locks import if_free, if_possible, maker, process_lock
from .._base.options import MISSING, Missing, is_milliseconds
from .._base.wake_up import WakeUp
from ..errors import ServerStopping, SocketClosed, SocketError, SocketTimeout
from ..transports.base import Channel

if TYPE_CHECKING:
    from .buffer import ReadBuffer

_LOST_S = 0.5  # seconds after which a turn is taken for lost
_PEER_HAS_GONE = {
    errno.ECONNRESET,
    errno.EPIPE,
    errno.ECONNABORTED,
    errno.ESHUTDOWN,
    errno.ENOTCONN,
    errno.EPROTOTYPE,  # macOS: of a send while the socket is being torn down
}


class Owner(Protocol):
    """What a `Socket` needs of its connection."""

    attached: bool
    #: Set when there is more to look at than the descriptor, once the callback returns.
    alert: bool

    @property
    def read_timeout(self) -> float: ...
    @property
    def handle(self) -> object: ...
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


#: Seconds after which a wait looks whether the socket was given away meanwhile.
LOOK_S = 1.0

_guard = process_lock("socket.guard")
_receiving_turn, _sending_turn = maker("socket.receiving"), maker("socket.sending")


class _WouldBlock(SocketTimeout, BlockingIOError):
    """A call that must not wait would have to; libraries look for BlockingIOError."""


class SocketCore:
    """The fields of a `Socket`, and the calls that are about neither direction."""

    __slots__ = (
        "_answered",
        "_buffer",
        "_bytes_received",
        "_bytes_sent",
        "_channel",
        "_closed",
        "_connection",
        "_cut",
        "_default_timeout",
        "_detached",
        "_eof",
        "_interrupted",
        "_receiving",
        "_recv_count",
        "_send_count",
        "_sending",
        "_sink",
        "_sock",
        "_waiter",
        "_was_reset",
        "_write_shut",
    )

    def __init__(self, connection: Owner, sock: stdlib_socket.socket, channel: Channel) -> None:
        self._connection = connection
        self._sock = sock
        self._use(channel)
        self._receiving: Any = None  # made when first used
        self._sending = _sending_turn()
        self._buffer: ReadBuffer | None = None
        self._closed = False
        self._detached: bool | str = False  # closed, and the descriptor is somebody else's
        self._cut = False  # shut down from outside, by a stop
        self._interrupted = False  # reads shall end, by Connection.close()
        self._eof = False
        self._was_reset = False  # by the peer: the kernel says so but once, and `b""` from then on
        self._write_shut = False
        self._waiter = 0  # the thread that waits in the kernel in this callback
        self._default_timeout: float | Missing | None = MISSING
        self._bytes_received = 0
        self._recv_count = 0
        self._bytes_sent = 0
        self._send_count = 0
        self._answered = 0  # bytes received before the last send

    def _use(self, channel: Channel) -> None:
        """From now on; another one after an upgrade. Thread: the owner's."""
        self._channel = channel
        self._sink = channel.sink()

    def _reading(self) -> Any:
        """The lock of receiving. Most connections are only ever delivered to: 88 bytes. Raises
        SocketError: this thread has it."""
        lock = self._receiving
        while lock is None:
            made = _receiving_turn()
            with _guard:
                self._receiving = lock = made if self._receiving is None else self._receiving
        if lock._is_owned():
            raise self._amid_another("recv")
        return lock

    def _is_inside(self) -> bool:
        """Whether this thread was interrupted in the middle of a call here, and is in one more."""
        receiving = self._receiving
        return bool(
            self._sending._is_owned()
            or (receiving is not None and receiving._is_owned())
            or self._channel.is_inside()
        )

    # ---- errors ---------------------------------------------------------------

    def _who(self) -> str:
        return addresses.show(self._connection.peer_address)

    def _made(self, error: SocketError) -> SocketError:
        error._origin = self
        return error

    def _closed_error(self, doing: str) -> SocketError:
        how = "detached" if self._detached else "closed"
        return self._made(
            SocketClosed(errno.EBADF, f"{doing}: this socket ({self._who()}) was {how} here")
        )

    def _amid_another(self, doing: str) -> SocketError:
        why = "a __del__ or a signal's handler came amid another call here; post() from there"
        return self._made(SocketError(errno.EDEADLK, f"{doing} {self._who()}: {why}"))

    def _stopping_error(self, doing: str) -> SocketError:
        why = "the server is stopping" if self._connection.stopping else "Connection.close()"
        return self._made(ServerStopping(errno.ESHUTDOWN, f"{doing} {self._who()}: ended, {why}"))

    def _gone(self, doing: str, what: str, number: int = errno.ECONNRESET) -> SocketClosed:
        if self._closed:
            what = "closed by another thread"
        elif self._cut:
            what = "cut, the server's stop has run out of time"
        error = SocketClosed(number, f"{doing} {self._who()}: {what}")
        error._origin = self
        return error

    def _failed(self, doing: str, cause: OSError) -> SocketError:
        """The system's error as one of ours."""
        if isinstance(cause, SocketError):
            return cause
        number = cause.errno or errno.EIO
        if number == errno.ECONNRESET:
            self._was_reset = True
        if number in _PEER_HAS_GONE:
            error: SocketError = self._gone(doing, "the peer has gone", number)
        else:
            error = SocketError(number, f"{doing} {self._who()}: {cause.strerror or cause}")
        error.__cause__ = cause
        return self._made(error)

    def _timed_out(self, doing: str, timeout: float, what: str, hint: str) -> SocketTimeout:
        if timeout == 0:
            error: SocketTimeout = _WouldBlock(
                errno.EAGAIN, f"{doing} {self._who()}: would have to wait; {what}"
            )
        else:
            error = SocketTimeout(
                errno.ETIMEDOUT,
                f"{doing} {self._who()}: timed out after {timeout * 1000:g} ms; {what} ({hint})",
            )
        error._origin = self
        return error

    # ---- times ----------------------------------------------------------------

    def _timeout(self, given: float | Missing | None, otherwise: float) -> float:
        """Seconds, from `timeout_ms`, or `settimeout`, or the connection's own."""
        if given is not MISSING:
            if given is not None and not is_milliseconds(given):
                raise ValueError(f"timeout_ms: got {given!r}, takes milliseconds, 0 or more")
            return seconds(given)  # type: ignore[arg-type]
        if self._default_timeout is not MISSING:
            return limited(self._default_timeout)  # type: ignore[arg-type]
        return otherwise

    @staticmethod
    def _left(deadline: float) -> float:
        return FOREVER if deadline == FOREVER else max(0.0, deadline - now())

    def settimeout(self, value: float | None) -> None:
        """Sets the default time of every later call here, in **seconds**; `None`: no limit.

        Raises:
            ValueError: it is negative.
        """
        if value is not None:
            value = float(value)
            if not value >= 0:
                raise ValueError("settimeout: takes seconds, 0 or more, or None")
        self._default_timeout = value
        self._waiter = 0
        if self._channel.exposed:
            with _guard:
                if not self._closed:
                    self._set_blocking()

    def gettimeout(self) -> float | None:
        """What `settimeout` was given, in seconds; `None` before."""
        return None if self._default_timeout is MISSING else self._default_timeout  # type: ignore[return-value]

    def setblocking(self, flag: bool) -> None:
        """`settimeout(None)` or `settimeout(0.0)`."""
        self.settimeout(None if flag else 0.0)

    def getblocking(self) -> bool:
        """Whether calls wait."""
        return self.gettimeout() != 0.0

    def _wait_for_hands(self, doing: str, timeout: float) -> bool:
        """Waits while the connection's owner upgrades it. `False`: the time, in seconds, ran out.

        Raises:
            SocketClosed: it has come to its end meanwhile.
        """
        channel, bell = self._channel, WakeUp()
        try:
            if not channel.when_shaken(bell.wake):
                return True
            fd = self._sock.fileno()
            if not waits.wait_for(fd, write=None, timeout=timeout, also=bell.fileno()):
                return False
        finally:
            bell.close()
        self._open(doing)
        if channel.shaking:
            raise self._gone(doing, "the connection ended in the middle of a handshake")
        return True

    # ---- the end --------------------------------------------------------------

    def _open(self, doing: str) -> None:
        if self._closed:
            raise self._closed_error(doing)

    def close(self) -> None:
        """Closes the connection; idempotent. No last callback runs then.

        Thread: any. The connection's own thread closes the descriptor, now or as soon
        as it comes to it; another thread only ends the traffic.
        """
        if if_possible(_guard, self._mark_closed):
            self._connection.close_asked()

    def _mark_closed(self) -> bool:
        was, self._closed = not self._closed, True
        self._waiter = 0  # the quick receive does not look whether it is closed
        return was

    def _unlimit(self) -> None:
        """With `_guard`; the descriptor is there, and nobody waits with a limit."""
        self._channel.expose()  # an upgrade may have come in between
        try:
            self._channel.unlimit()
        except OSError:
            pass  # it is no descriptor any more: whoever closed it breaks the rule

    def _set_blocking(self) -> None:
        """As `gettimeout` says. With `_guard`; the descriptor is there."""
        try:
            os.set_blocking(self._sock.fileno(), self.gettimeout() is None)
        except OSError:
            pass  # as above

    def _shut_both(self, goodbye: bool = False) -> bool:
        """Ends what other threads wait for. `False`: this thread was interrupted, and must not
        wait for what that takes. Thread: any."""
        if goodbye and self._channel.is_inside():
            return False
        if _guard._is_owned():
            self._shut(goodbye)
            return True
        return if_free(_guard, lambda: self._shut(goodbye))

    def _shut(self, goodbye: bool) -> None:
        try:
            if self._sock.fileno() >= 0 and not self._detached:
                if goodbye:
                    self._channel.say_goodbye()
                self._sock.shutdown(stdlib_socket.SHUT_RDWR)
        except OSError:
            pass  # the peer was quicker

    def _cut_off(self) -> None:
        """A stop has run out of time. Thread: any."""
        self._cut = True
        self._shut_both()

    def _interrupt_read(self) -> bool:
        """Ends a read that waits, now or later; sends go on. `False`: the calling thread was
        interrupted, and must not wait for what that takes. Thread: any."""
        self._interrupted = True
        return if_free(_guard, self._end_reads)

    def _end_reads(self) -> None:
        try:
            if self._sock.fileno() >= 0 and not self._detached:
                self._channel.end_reads()
        except OSError:
            pass  # the peer was quicker

    def _send_home(self) -> bool:
        """No call is under way after this, and none begins: the descriptor may be closed.
        `False`: a turn is not given back; lost, as an exception came when it was taken, or not.
        Thread: the owner's."""
        quiet = True
        with _guard:  # it is closed or detached, and not both
            self._closed = True
        for lock in (self._sending, self._receiving):
            if lock is None:
                continue
            if not lock.acquire(False):
                self._shut_both()
                waits.give_way()
                if not lock.acquire(timeout=_LOST_S):
                    quiet = False
                    continue
            lock.release()
        return quiet

    def _give_descriptor_away(self) -> stdlib_socket.socket:
        """The descriptor in a new socket; this one is closed. Thread: the
        owner's, after `_send_home`."""
        return descriptors.replace(self._sock, _guard)
