"""Bytes that are received: the one place that waits for them, and the buffer of those that no call
has returned."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING, Any

from .. import events
from .._base import waits
from .._base.clock import FOREVER, now
from .._base.compiled import in_c
from .._base.locks import maker
from .._base.options import MISSING, Missing
from ..errors import SocketClosed, SocketError
from . import failures, gather, turns
from .buffer import CHUNK, ReadBuffer
from .states import (
    AFTER_END,
    AFTER_RESET,
    CUT,
    ENDED,
    INTERRUPTED,
    WAS_RESET,
    Incoming,
)
from .wait import Wait

if TYPE_CHECKING:
    from .duplex import Duplex

_received = events.socket_recv
_turn = maker("socket.receiving")
#: Seconds between two checks whether a receive that is under way has seen `Channel.exposed`.
_A_MOMENT_S = 0.01


@in_c
class PythonReader:
    """The fields of a `Reader`; `_native.Reader` is its equal in C."""

    __slots__ = (
        *("_receiving", "_stream", "buffer", "bytes_received", "framed", "incoming"),
        "recv_count",
    )

    def __init__(self, stream: Duplex, incoming: Incoming, /) -> None:
        self._stream = stream
        self.incoming = incoming
        self._receiving: Any = None  # made when first used
        self.buffer: ReadBuffer | None = None
        self.framed = False
        self.bytes_received = 0
        self.recv_count = 0


class Reader(PythonReader):
    """One direction of a `Duplex`: from the peer.

    Args:
        stream: that.
        incoming: `COMES`.

    Attributes:
        bytes_received, recv_count: what was received so far.
        buffer: what was received and no call has returned, or `None`.
        framed: whether it is cut into frames, and stays in the buffer until then.
        incoming: whether the peer sends, or how it ended this direction.
    """

    __slots__ = ()

    # ---- what callers of `Socket` get -----------------------------------------

    def recv(
        self, length: int = CHUNK, flags: int = 0, timeout_ms: float | Missing | None = MISSING
    ) -> bytes:
        """See `Socket.recv`."""
        # For a handler that loops over recv. This thread has waited in this callback already
        # (`waiter`), so it has no permit to hand off, and nothing is buffered: it waits in the
        # kernel at once.
        stream = self._stream
        if (
            stream.waiter == get_ident()
            and timeout_ms is MISSING
            and not flags
            and length > 0
            and not self._receiving._is_owned()
            and self._receiving.acquire(False)
        ):
            began, met = now(), 0
            try:
                data = stream.sock.recv(length)
                if data:
                    self.bytes_received += len(data)
                    self.recv_count += 1
            except OSError as error:
                data, met = b"", error.errno or errno.EIO
            finally:
                self._receiving.release()
            if data and not _received.receivers:
                return data
            return self._waited(length, began, met, data)
        if length < 0:
            raise ValueError(f"recv: length: got {length}, takes 0 or more")
        if flags:
            return gather.with_flags(self, stream, length, flags, timeout_ms)
        return self._recv(length, self.timeout(timeout_ms), FOREVER, None)

    def _waited(self, length: int, began: float, met: int, data: bytes | None) -> bytes:
        """For a thread that has waited in the kernel: reports the bytes, or goes on with the errno
        that it got instead (`met`, as in `receive`)."""
        if data:
            self.tell(data)
            return data
        timeout = self._stream.connection.read_timeout
        return self._recv(length, timeout, began + timeout, met)

    def _recv(self, length: int, timeout: float, deadline: float, met: int | None) -> bytes:
        try:
            with self.turn():
                self._stream.check_open("recv")
                if not length:
                    return b""
                if self.buffer is not None:
                    return self.take(length)
                data = self.receive("recv", length, timeout, deadline, met)
        except SocketError as error:
            failures.tell(self._stream.connection, error)
            raise
        self.tell(data)
        return data

    def run(self, doing: str, call: Callable[..., bytes], *arguments: Any) -> bytes:
        """A call of user code that makes several receives: with the turn, and with its event."""
        try:
            with self.turn():
                self._stream.check_open(doing)
                data = call(self, *arguments)
        except SocketError as error:
            failures.tell(self._stream.connection, error)
            raise
        self.tell(data)
        return data

    def unread(self, data: Any) -> None:
        """See `Socket.unread`."""
        if isinstance(data, str):
            raise TypeError("unread: got str, takes bytes")
        data = bytes(memoryview(data))
        stream = self._stream
        with self.turn():
            stream.check_open("unread")
            if not data:
                return
            unread = len(data)
            if self.buffer is not None:
                unread += len(self.buffer) - self.buffer.fresh
            most = stream.connection.max_unread
            if unread > most:
                raise self.limit_exceeded(
                    "unread",
                    f"{unread} bytes, takes at most {most} (max_unread); raise it, or keep more"
                    " than that in the handler",
                )
            stream.forget_waiter()
            if self.buffer is None:
                self.buffer = ReadBuffer(data, 0)
            else:
                self.buffer.put_back(data)

    # ---- receiving ------------------------------------------------------------

    def receive(
        self,
        doing: str,
        length: int,
        timeout: float,
        deadline: float,
        met: int | None = None,
        flags: int = 0,
    ) -> bytes:
        """Waits for bytes from the channel. With the turn.

        `timeout` is that of the whole call. If the call makes several receives, or has waited
        before, `deadline` says when it ends, else `FOREVER`. `met`: the result of a receive that
        was made already, an errno, or 0 for the end of the stream (the kernel reports a reset
        only once). `flags`: MSG_PEEK, or none.
        """
        stream = self._stream
        channel, connection = stream.channel, stream.connection
        if stream.state is INTERRUPTED:
            raise failures.stopping(connection, doing)
        try:
            data: bytes | None = None
            if met == 0:
                data = b""
            elif met is not None and met != errno.EAGAIN:
                raise OSError(met, os.strerror(met))
            # Once this callback has waited, the next bytes are probably not there either.
            elif connection.attached or timeout == 0 or not channel.kernel_waits:
                data = channel.recv(length, flags) if flags else channel.recv(length)
            if data is None:
                wait = Wait(stream, doing, timeout, deadline)
                data = wait.for_bytes(length, flags, early=met == errno.EAGAIN)
        except SocketError:
            raise
        except OSError as error:
            raise self.failed(doing, error) from error
        if not data:
            self._came_to_an_end(doing)
        elif not flags:
            self.bytes_received += len(data)
            self.recv_count += 1
        return data

    def _came_to_an_end(self, doing: str) -> None:
        """A receive found the end of the stream. Raises SocketClosed: the peer did not send it."""
        stream = self._stream
        if stream.state is INTERRUPTED:
            raise failures.stopping(stream.connection, doing)
        stream.check_open(doing)
        if stream.state is CUT or self.incoming in WAS_RESET:
            raise self.gone(doing, "connection closed by the peer")
        self.end()
        stream.connection.alert = True

    def turn(self) -> Any:
        """The turn to receive, for the caller to take. It is made when first used, as most
        connections never call `recv`: that saves 88 bytes.

        Raises:
            SocketError: this thread has it.
        """
        turn = self._receiving
        while turn is None:
            made = _turn()
            with turns.guard:
                self._receiving = turn = made if self._receiving is None else self._receiving
        if turn._is_owned():
            raise failures.amid_another(self._stream.connection, "recv")
        return turn

    def clock(self) -> float:
        """The time on the clock of time-outs."""
        return self._stream.times.clock()

    def timeout(self, given: float | Missing | None) -> float:
        """Seconds that a call may take."""
        stream = self._stream
        return stream.timeout(given, stream.connection.read_timeout)

    # ---- what was read, and no call has returned ------------------------------

    def keep(self, data: bytes, seen: int) -> None:
        """Keeps bytes, of which a callback has seen the first `seen`. With the turn, and with an
        empty buffer."""
        if data:
            self.buffer = ReadBuffer(data, len(data) - min(seen, len(data)))
            self._stream.forget_waiter()
            self._stream.connection.alert = True

    def add_fresh(self, data: bytes) -> None:
        """Appends bytes that no callback has seen. Thread: the owner's."""
        if self.buffer is None:
            self.keep(data, 0)
        else:
            self.buffer.add(data)
            self._stream.forget_waiter()

    def take(self, length: int) -> bytes:
        """At most so many of what is kept."""
        buffer = self.buffer
        if buffer is None:
            return b""
        data = buffer.take(length)
        if not len(buffer):
            self.buffer = None
        return data

    def take_fresh(self) -> bytes:
        """All of the buffer, if it has bytes that no callback has seen. Thread: the owner's."""
        buffer = self.buffer
        if buffer is None or not buffer.fresh:
            return b""
        self.buffer = None
        return buffer.take(len(buffer))

    def came_early(self, data: bytes) -> None:
        """Bytes that were received before the step that receives them. Thread: the owner's."""
        if data:
            self.bytes_received += len(data)
            self.recv_count += 1
            self.add_fresh(data)
        else:
            self.end()

    def has_news(self, end_is_known: bool) -> bool:
        """Whether there are bytes, or an end, that no callback knows. Thread: the owner's."""
        if self.buffer is not None and self.buffer.fresh > 0:
            return True
        return not end_is_known and self.incoming in ENDED

    def received(self, data: bytes) -> bytes:
        """The owner has received bytes. Returns them, after those that were put back before; if
        frames are cut, without these. Thread: the owner's."""
        self.bytes_received += len(data)
        self.recv_count += 1
        buffer = self.buffer
        if buffer is None or self.framed:
            return data
        self.buffer = None
        return buffer.take(len(buffer)) + data

    def drop(self) -> int:
        """Drops the buffer at an upgrade: plaintext must never count as received over TLS. How many
        bytes. Thread: the owner's."""
        buffer, self.buffer = self.buffer, None
        return 0 if buffer is None else len(buffer)

    # ---- what happens to this direction ---------------------------------------

    def owes_an_answer(self) -> bool:
        """Whether bytes came since the last send: a request is under way."""
        return self.bytes_received != self._stream.writer.answered

    def end(self) -> None:
        """The end of the stream came."""
        with turns.guard:
            self.incoming = AFTER_END.get(self.incoming, self.incoming)

    def failed(self, doing: str, cause: OSError) -> SocketError:
        """The library's error for a system's, which a send may have met."""
        if isinstance(cause, SocketError):
            return cause
        if cause.errno == errno.ECONNRESET:
            with turns.guard:
                self.incoming = AFTER_RESET.get(self.incoming, self.incoming)
        stream = self._stream
        return failures.of_system(stream.connection, stream.state, doing, cause)

    def gone(self, doing: str, what: str) -> SocketClosed:
        """The error for a stream from which nothing comes any more."""
        stream = self._stream
        return failures.gone(stream.connection, stream.state, doing, what)

    def limit_exceeded(self, doing: str, what: str) -> SocketError:
        """The error for a limit on bytes that are kept here."""
        return failures.limit_exceeded(self._stream.connection, doing, what)

    def is_inside(self) -> bool:
        """Whether this thread was interrupted in the middle of a receive."""
        return turns.is_mine(self._receiving)

    def comes_home(self, wait: bool = True) -> bool:
        """Waits until no receive is under way; `False`: one may still be. Thread: the owner's."""
        turn = self._receiving
        if turn is None:
            return True
        return turns.comes_back(turn, self._stream) if wait else bool(turn.acquire(False))

    def hold(self, held: contextlib.ExitStack) -> None:
        """Takes the turn, however long that lasts; not if this thread has it, in a call that this
        one interrupts, and which cannot go on meanwhile."""
        if not self.is_inside():
            turns.hold(self.turn(), held)

    def let_unlimit(self, held: contextlib.ExitStack) -> None:
        """Returns when the receiving thread has taken its time limit off the descriptor (which it
        does after a second of waiting), or with the turn. Thread: any, after `Channel.expose`."""
        if self.is_inside():
            return
        stream, turn = self._stream, self.turn()
        waits.before_wait()
        while not stream.channel.exposed:
            stream.forget_waiter()
            if turn.acquire(timeout=_A_MOMENT_S):
                held.callback(turn.release)
                return

    def renew(self) -> None:
        """In a forked child: no thread has the turn."""
        self._receiving = None

    # ---- events ---------------------------------------------------------------

    def tell(self, data: bytes) -> None:
        if events.socket_recv.receivers:
            connection = self._stream.connection
            events.emit(
                events.socket_recv,
                connection.server,
                {"data": data},
                events.About(connection),
            )
