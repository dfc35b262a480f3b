"""Waiting for bytes: in recv(2) if possible, else in poll(2)."""

from __future__ import annotations

from threading import get_ident
from typing import TYPE_CHECKING

from .._base import waits
from .._base.clock import FOREVER
from .._base.wake_up import WakeUp
from ..transports.base import WRITE
from . import failures
from .payload import KEEP
from .states import BARRIER, CLOSED_HERE, INTERRUPTED, MAY_SEND, SENDS_OVER

if TYPE_CHECKING:
    from .duplex import Duplex
    from .payload import Payload
    from .send_buffer import SendBuffer

#: Seconds in which most waits for room are over; longer ones get a bell (`room_waits`).
_SOON_S = 0.1
#: Seconds after which those try to send without an event; up to twice as many, by the descriptor's
#: number.
_TRY_S = 5.0
#: Checks of a send without a bell before it tries again; seconds between two, unless more threads
#: wait than may.
_LOOKS, _LOOK_S = 4, 0.25


class Wait:
    """One wait of a receive, with the turn.

    `timeout` is that of the whole call, in seconds. If the call makes several receives, or has
    waited before, `deadline` says when it ends, else `FOREVER`.
    """

    __slots__ = ("_deadline", "_doing", "_stream", "_timeout")

    def __init__(self, stream: Duplex, doing: str, timeout: float, deadline: float) -> None:
        self._stream = stream
        self._doing = doing
        self._timeout = timeout
        self._deadline = deadline

    def for_bytes(self, length: int, flags: int, *, early: bool) -> bytes:
        """At most so many; `b""` at the end of the stream.

        `early`: a wait in recv(2) returned without bytes. If that was before its time, the
        descriptor does not block: code that has the descriptor, or a copy of it, has set
        O_NONBLOCK, which copies share (open(2)). So poll(2) waits for the rest.
        """
        stream = self._stream
        if self._timeout == 0:
            raise self._nothing_came()
        stream.connection.take_out()
        waits.before_wait()
        try:
            return self._in_turns(length, flags, early)
        finally:
            stream.times.is_over()

    def _in_turns(self, length: int, flags: int, early: bool) -> bytes:
        """Waits until bytes are there, or the wait has to end."""
        stream = self._stream
        connection, channel = stream.connection, stream.channel
        # Only the owner waits with the descriptor's time limit; MSG_PEEK must not.
        kernel_waits = channel.kernel_waits and not flags and waits.current_task() is connection
        while True:
            interrupt = connection.interrupt()
            # A request that is under way may be finished: a stop does not end its reads.
            bell = None if stream.reader.owes_an_answer() else interrupt
            self._must_go_on(bell)
            left = self._next_timeout()
            channel.heed()
            if kernel_waits and bell is None and not early:
                data = channel.wait_recv(length, left)
                early = data is None
                if interrupt is None:
                    stream.may_wait_again(get_ident(), self._timeout)
            elif channel.handshaking:
                wait_for_handshake(stream, self._doing, left)
                data = None
            else:
                write = channel.recv_wants == WRITE
                waits.wait_for(stream.sock.fileno(), write=write, timeout=left, also=bell)
                # A TLS session that read the end which an interruption made could send no more.
                interrupted = stream.state is INTERRUPTED
                data = None if interrupted else channel.recv(length, flags)
            if data is not None:
                return data

    def _must_go_on(self, bell: int | None) -> None:
        """Raises if the wait has to end."""
        stream = self._stream
        stream.check_open(self._doing)
        stopping = bell is not None and stream.connection.stopping
        if stopping or stream.state is INTERRUPTED:
            raise failures.stopping(stream.connection, self._doing)

    def _next_timeout(self) -> float:
        """Seconds of the next wait; the deadline is set with the first."""
        times = self._stream.times
        left = self._timeout if self._deadline == FOREVER else times.left(self._deadline)
        if left <= 0:
            raise self._nothing_came()
        if self._deadline == FOREVER and self._timeout != FOREVER:
            self._deadline = times.clock() + self._timeout
        times.begins(self._deadline)
        return min(left, times.look_s)

    def _nothing_came(self) -> BaseException:
        return failures.nothing_came(self._stream.connection, self._doing, self._timeout)


def wait_for_peer(stream: Duplex, buffer: SendBuffer, payload: Payload, again: bool) -> None:
    """Waits for room, until the payload's deadline, or until the connection was ended to free its
    thread. It may also return without a reason. With the turn to send."""
    total, fd = stream.connection.env.unsent, stream.sock.fileno()
    if fd < 0:
        return
    lacks = _lacks_total(buffer, payload)
    looks = total.crowded() or lacks or buffer.sends in BARRIER or not total.is_real()
    # In a handshake, another thread may read the bytes that TLS waits for: no event would come.
    looks = looks or stream.channel.send_wants != WRITE
    if not looks and (_finds_room(stream, payload, _SOON_S) or not again):
        return  # the first time: try to send, and check the peer, before a long wait
    bell = _new_bell()
    try:
        if bell is not None and not total.may_sleep(buffer, bell) and buffer.sends not in BARRIER:
            return
        if bell is None or looks:
            _look_for_others(stream, buffer, payload, bell, lacks)
        elif stream.state not in CLOSED_HERE:
            _finds_room(stream, payload, _TRY_S * (1 + fd % 16 / 16), bell)
    finally:
        buffer.waiting.hang_up(None)
        if bell is not None:
            bell.close()


def _finds_room(
    stream: Duplex, payload: Payload, seconds: float, bell: WakeUp | None = None
) -> bool:
    """Whether this wait is over: there is room, or no time left, or the bell has rung."""
    most = seconds if bell is not None else min(seconds, stream.times.look_s)
    timeout = min(payload.left(), most)
    if timeout <= 0:
        return True
    fd, write = stream.sock.fileno(), stream.channel.send_wants == WRITE
    also = None if bell is None else bell.fileno()
    return waits.wait_for(fd, write=write, timeout=timeout, also=also)


def _new_bell() -> WakeUp | None:
    try:
        return WakeUp()
    except OSError:  # no descriptor is left
        return None


def _lacks_total(buffer: SendBuffer, payload: Payload) -> bool:
    """Whether more of the payload would be kept if the total had more room."""
    return payload.no_room is KEEP and buffer.lacks_total(sum(map(len, payload.views)))


def _look_for_others(
    stream: Duplex, buffer: SendBuffer, payload: Payload, bell: WakeUp | None, lacks: bool
) -> None:
    """The wait of a thread that also ends the slowest connections (`thin_out`): it came when as
    many threads waited as may, or it lacks room in the total. So while there is a connection to
    end, at least one thread checks."""
    fd, total = stream.sock.fileno(), stream.connection.env.unsent
    for _ in range(_LOOKS):
        if buffer.failure is not None or not stream.sock.fileno() == fd >= 0:
            break
        look = total.until_look(fd, lacks) if total.crowded() else _LOOK_S
        if _finds_room(stream, payload, min(look, stream.times.look_s), bell):
            break
        if buffer.sends is not MAY_SEND or (lacks and not _lacks_total(buffer, payload)):
            break
        total.thin_out()


def wait_for_handshake(stream: Duplex, doing: str, timeout: float) -> bool:
    """Waits while the connection's owner upgrades it. `False`: the time, in seconds, ran out.

    Raises:
        SocketClosed: the connection has ended meanwhile.
    """
    channel, buffer = stream.channel, stream.writer.buffer
    if channel.handshaking and buffer is not None and buffer.sends in SENDS_OVER:
        raise failures.amid_handshake(stream.connection, doing)
    bell = WakeUp()
    try:
        if not channel.when_handshake_done(bell.wake):
            return True
        fd = stream.sock.fileno()
        if not waits.wait_for(fd, write=None, timeout=timeout, also=bell.fileno()):
            return False
    finally:
        bell.close()
    stream.check_open(doing)
    if channel.handshaking:
        what = "the connection ended in the middle of a handshake"
        raise failures.gone(stream.connection, stream.state, doing, what)
    return True
