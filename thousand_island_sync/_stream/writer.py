"""Bytes that are sent: at once, or through a `SendBuffer`, which is made when the kernel's buffer
is full for the first time. Every wait for room is in `push` and `wait_for_room`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NoReturn

from .. import events
from .._base import waits
from .._base.compiled import in_c
from .._base.locks import maker
from .._base.options import MISSING, Missing
from .._base.sigpipe import DONTWAIT, QUIETLY
from ..errors import SocketClosed, SocketError, SocketTimeout
from ..transports.base import Channel, Sink
from . import failures, turns
from .keeping import Keeping
from .payload import KEEP, RETURN, Payload, joined, let_go, no_room
from .send_buffer import BLOCKED, SendBuffer
from .states import ON_BARRIER_GONE, OPEN, SENDS_OVER, SHUT, Outgoing
from .wait import wait_for_handshake, wait_for_peer

if TYPE_CHECKING:
    from .duplex import Duplex
    from .reader import Reader

_sent = events.socket_send
make_turn = maker("socket.sending")


@in_c
class PythonWriter:
    """The fields of a `Writer`; `_native.Writer` is its equal in C."""

    __slots__ = (
        *("_reader", "_sending", "_sink", "_stream", "answered", "buffer", "bytes_sent"),
        *("outgoing", "send_count"),
    )

    def __init__(
        self, stream: Duplex, reader: Reader, sink: Sink, turn: Any, outgoing: Outgoing, /
    ) -> None:
        self._stream, self._sink, self._sending = stream, sink, turn
        self._reader = reader  # a send answers what it has received so far
        self.outgoing = outgoing
        self.buffer: SendBuffer | None = None
        self.answered = 0
        self.bytes_sent = 0
        self.send_count = 0


class Writer(PythonWriter):
    """One direction of a `Duplex`: to the peer.

    Attributes:
        buffer: bytes that wait for room; `None`: none ever had to.
        answered: bytes that were received before the last send.
        bytes_sent, send_count: what was taken for sending so far, with the turn (`counts`).
        outgoing: whether this direction is open, or how it was ended.
    """

    __slots__ = ()

    def use(self, channel: Channel) -> None:
        """Sends through this channel from now on, after an upgrade. With the turn."""
        self._sink = channel.sink()
        if self.buffer is not None:
            self.buffer.on(ON_BARRIER_GONE)

    # ---- what callers of `Socket` get -----------------------------------------

    def send(self, data: Any, flags: int = 0, timeout_ms: float | Missing | None = MISSING) -> int:
        """See `Socket.send`."""
        # The common case, in few steps: bytes, no other thread sending, room in the kernel.
        given, kind, turn = data, type(data), self._sending
        if kind is list:
            kind = type(data := joined(data))
        if (
            kind is bytes
            and timeout_ms is MISSING
            and not flags
            and not turn._is_owned()
            and turn.acquire(False)
        ):
            try:
                sent = self._sink.send(data, QUIETLY) if self._stream.state is OPEN else 0
            except BlockingIOError:
                sent = 0
            except BaseException as cause:
                turn.release()
                if isinstance(cause, OSError):
                    self._broke_off(cause)
                raise
            if sent == len(data):
                try:
                    self.bytes_sent += sent
                    self.send_count += 1
                    self.answered = self._reader.bytes_received
                finally:
                    turn.release()
                if _sent.receivers:
                    self.tell_sent(given, sent)
                return sent
            # Negative: the channel has taken `~sent` bytes, but TLS still holds a part to flush.
            return self._send_rest(data, sent if sent >= 0 else ~sent, given)
        return self._send(given, None, flags, timeout_ms, False)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """See `Socket.sendall`."""
        self._send(data, None, flags, MISSING, True)

    def _send_rest(self, data: Any, already: int, told: Any) -> int:
        """Sends `data` after its first `already` bytes. With the turn, which is given back.
        `told`: what receivers get instead of `data`."""
        return self._send(data, already, 0, MISSING, False, told)

    def _send(
        self,
        data: Any,
        already: int | None,
        flags: int,
        timeout_ms: float | Missing | None,
        all_: bool,
        told: Any = None,
    ) -> int:
        """Everything but the common case. `already`: the turn is held, and so many bytes were
        sent; `None`: the turn is not held."""
        stream = self._stream
        payload = Payload(sent=already or 0, times=stream.times)
        amid = already is None and self.is_inside()
        try:
            try:
                timeout = stream.timeout(timeout_ms, stream.connection.send_timeout)
                limited = stream.gettimeout() is not None
                all_of_it = all_ or timeout_ms is not MISSING
                payload.no_room = no_room(limited, all_of_it, flags)
                if flags:
                    stream.channel.check_flags(flags)
                    if flags & DONTWAIT:
                        flags &= ~DONTWAIT
                        timeout = 0.0
                payload.flags = flags
                data = payload.take(data)
                payload.limit(timeout)
                if already is not None:
                    self._turn_begins(amid_send=already > 0)
                elif not (self.try_turn() or Keeping(stream, self).behind(payload)):
                    self.take_turn("send", payload)
                if self.is_inside():
                    self.check("send")
                    self.push(payload)
                    self.finished()
            finally:  # before events: a receiver may close this socket, or send
                if not amid and self.is_inside():
                    self.give_turn_back(payload.sent)
        except BaseException as cause:
            if payload.views:
                let_go(cause)
            if isinstance(cause, OSError):
                raise self.send_failed("send", cause, payload.sent)  # noqa: B904 - has its cause
            raise
        finally:
            payload.views.clear()
        if events.socket_send.receivers:
            self.tell_sent(data if told is None else told, payload.sent)
        return payload.sent

    # ---- sending --------------------------------------------------------------

    def take_turn(self, doing: str, payload: Payload) -> None:
        """Takes the turn to send; waits for other threads' sends until the payload's deadline.

        Raises:
            SocketTimeout: the deadline has passed.
            SocketError: this thread was interrupted in the middle of a send.
        """
        if self._sending._is_owned():
            raise failures.amid_another(self._stream.connection, doing)
        if not self._sending.acquire(blocking=False):
            waits.before_wait()
            if not self._stream.times.acquire(self._sending, payload.deadline):
                raise failures.no_room(self._stream.connection, doing, payload.timeout)
        self._turn_begins()

    def try_turn(self) -> bool:
        """Takes the turn if no thread has it, not even this one."""
        if self.is_inside() or not self._sending.acquire(False):
            return False
        self._turn_begins()
        return True

    def _turn_begins(self, amid_send: bool = False) -> None:
        if self.buffer is not None:
            self.buffer.turn_begins(amid_send)

    def give_turn_back(self, sent: int = 0) -> None:
        """After a send of so many bytes."""
        self.bytes_sent += sent
        self._sending.release()
        if self.buffer is not None:
            self.buffer.settle()  # after the release: the driver that it wakes tries for the turn

    def finished(self) -> None:
        """A send is complete: it answers the bytes that were received before it. With the turn."""
        self.send_count += 1
        self.answered = self._reader.bytes_received

    def push(self, payload: Payload, doing: str = "send") -> None:
        """Sends all, first what earlier sends have left in the buffer. If the rest may be kept, it
        returns once that has found room in the buffer. With the turn."""
        self.tell_owner()
        while not self.go_on(payload):
            self.tell_owner()
            if payload.no_room is KEEP and Keeping(self._stream, self).rest(payload):
                return
            if payload.no_room is RETURN and payload.sent:
                return
            self.wait_for_room(doing, payload)

    def go_on(self, payload: Payload) -> bool:
        """Sends as far as there is room: what was kept before, then the payload, then what TLS
        holds. Whether all was sent. With the turn."""
        channel, views, buffer = self._stream.channel, payload.views, self.buffer
        if buffer is not None:
            if not buffer.send_ahead(channel) or (views and buffer.barred):
                return False
        elif channel.unfinished and not channel.flush():
            return False
        while views:
            if len(views) == 1:
                sent = channel.send(views[0], payload.flags)
            else:
                sent = channel.send_gathered(views, payload.flags)
            if not sent:
                return False
            payload.advance(sent)
            if buffer is not None:
                buffer.moved()
        return not channel.unfinished or channel.flush()

    def buffered(self) -> SendBuffer:
        """The send buffer, made when first needed. Thread: any."""
        while self.buffer is None:
            total = self._stream.connection.env.unsent
            made = SendBuffer(self._stream, total)
            with total.lock:
                if self.buffer is None:
                    self.buffer = made
        return self.buffer

    def block(self, blocked: bool) -> None:
        """Turns the quick way to send off or on. With the lock of all send buffers."""
        self._sink = BLOCKED if blocked else self._stream.channel.sink()

    def flush(self, timeout_ms: float | Missing | None, doing: str = "flush") -> None:
        """See `Socket.flush`."""
        stream, amid, payload = self._stream, self.is_inside(), Payload(times=self._stream.times)
        try:
            try:
                stream.check_open(doing)
                payload.limit(stream.timeout(timeout_ms, stream.connection.send_timeout))
                self.take_turn(doing, payload)
                self.check(doing)
                self.push(payload, doing)
            finally:
                if not amid and self.is_inside():
                    self.give_turn_back()
        except OSError as cause:
            raise self.send_failed(doing, cause)  # noqa: B904 - has its cause

    @property
    def unsent(self) -> int:
        """See `Socket.unsent`."""
        return 0 if self.buffer is None else self.buffer.size

    def check(self, doing: str) -> None:
        """Raises SocketClosed: this side has closed the socket, or sends have ended."""
        connection, buffer = self._stream.connection, self.buffer
        self._stream.check_open(doing)
        if buffer is not None and buffer.sends in SENDS_OVER:
            raise failures.after(connection, doing, buffer.failure)

    def tell_owner(self) -> None:
        """If TLS has received bytes while it tried to send, the owner must look at them."""
        if self._stream.channel.took_in():
            self._stream.connection.look_again()

    def wait_for_room(self, doing: str, payload: Payload) -> None:
        """Returns when the channel may go on, or when it is time to try again. With the turn.

        Raises:
            SocketTimeout: the deadline has passed.
            SocketClosed: this side has closed the socket.
        """
        stream = self._stream
        self.check(doing)
        remains = payload.left()
        if remains <= 0:
            raise failures.no_room(stream.connection, doing, payload.timeout)
        connection, channel, buffer = stream.connection, stream.channel, self.buffered()
        total = connection.env.unsent
        connection.take_out()
        again = payload.waited
        pooled = total.begins_to_wait(buffer, again)
        payload.waited = True
        stream.times.begins(payload.deadline)
        try:
            total.thin_out()
            waits.before_wait()
            look = min(remains, turns.LOOK_SENDING_S, stream.times.look_s)
            if channel.handshaking:
                wait_for_handshake(stream, doing, look)
            elif buffer.barred:  # the upgrade goes first, and needs the turn
                self._sending.release()
                waits.wait_for(stream.sock.fileno(), write=None, timeout=turns.LOOK_BARRED_S)
                self._sending.acquire()
                self._turn_begins()
            else:
                wait_for_peer(stream, buffer, payload, again)
        finally:
            total.ends_to_wait(buffer, pooled)
            stream.times.is_over()
        failure = buffer.failure
        if isinstance(failure, SocketTimeout) and waits.current_task() is connection:
            raise failure  # it also ends the connection
        self.check(doing)

    # ---- what happens to this direction ---------------------------------------

    def shut(self) -> None:
        """This side has called `shutdown`."""
        self.outgoing = SHUT

    def is_inside(self) -> bool:
        """Whether this thread was interrupted in the middle of a send."""
        return turns.is_mine(self._sending)

    def comes_home(self) -> bool:
        """Waits until no send is under way; `False`: one may still be. Thread: the owner's."""
        return turns.comes_back(self._sending, self._stream)

    def hold(self, held: contextlib.ExitStack) -> None:
        """Takes the turn, however long that lasts; not if this thread has it, in a call that this
        one interrupts, and which cannot go on meanwhile."""
        turns.hold(self._sending, held)

    def renew(self) -> None:
        """In a forked child: no thread has the turn, and what waits is the parent's."""
        self._sending = make_turn()
        self.buffer = None
        self._stream.connection.env.unsent.abandon()
        self.block(False)

    # ---- failures and events --------------------------------------------------

    def failed(self, doing: str, cause: OSError) -> SocketError:
        """The library's error for a system's; a reset ends the other direction, too."""
        return self._reader.failed(doing, cause)

    def send_failed(
        self, doing: str, cause: OSError, bytes_sent: int | None = 0, bytes_lost: int = 0
    ) -> SocketError:
        """The library's error for a failure, which receivers are told of. `bytes_sent`: of this
        send; `None`: there is no send, and the error, perhaps an earlier send's, is not changed."""
        error, buffer = self.failed(doing, cause), self.buffer
        if buffer is not None:
            if not isinstance(cause, SocketError):
                buffer.fail(error)  # no rest can follow
            bytes_lost += buffer.take_lost()
        if bytes_sent is not None and isinstance(error, (SocketTimeout, SocketClosed)):
            error.bytes_sent = bytes_sent
        if events.socket_send_error.receivers:
            connection = self._stream.connection
            events.emit(
                events.socket_send_error,
                connection.server,
                {"error": error, "bytes_sent": bytes_sent or 0, "bytes_lost": bytes_lost},
                events.About(connection),
            )
        return error

    def counts(self) -> tuple[int, int]:
        """The bytes that were accepted for sending, and the number of sends."""
        size, sends = (0, 0) if self.buffer is None else self.buffer.counted
        return self.bytes_sent + size, self.send_count + sends

    def _broke_off(self, cause: OSError) -> NoReturn:
        raise self.send_failed("send", cause) from cause

    def tell_sent(self, data: Any, bytes_sent: int) -> None:
        """Tells the receivers; the caller has checked that there are any."""
        connection = self._stream.connection
        events.emit(
            events.socket_send,
            connection.server,
            {"data": data, "bytes_sent": bytes_sent},
            events.About(connection),
        )
