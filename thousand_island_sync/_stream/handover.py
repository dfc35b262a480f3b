"""The descriptor in user code: `Socket.fileno` shows it, `Socket.detach` gives it away.

The facts. A library that wraps a socket, as `ssl` of the standard library does for STARTTLS,
makes a second object of `fileno()` and then calls `detach()` (`ssl.SSLSocket._create`). If
`detach` does nothing, or raises, one number has two owners. The first that closes it gives it to
the next client, and what is sent to one client arrives at another.

Other threads may use the descriptor meanwhile. One waits in a receive, another is half through a
send, and the connection's owner, if this is another thread, may be about to receive, or to put
the descriptor into the poller. `shutdown` would wake them, but also end the stream that is given
away.

Our decision. Sends go first, in order as always: this thread takes the turn, and flushes. Then the
stream is DETACHED, so no call begins any more, and the others end by themselves: receives check
every second, sends that wait are rung, and the owner's steps end or reach a callback, as each of
them checks `alert`. Then, with both locks, the descriptor leaves the poller and the socket.
`detach` raises only if the socket was closed before, or if it is interrupted, as by Ctrl-C. After
an interruption the caller does not have the descriptor, so it is closed: by the connection's owner
or, if that has ended (LEFT), here.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from .._base import waits
from ..errors import SocketError
from . import failures
from .payload import Payload
from .states import CLOSED_HERE, DETACHED, LEFT, ON_DETACH
from .turns import guard

if TYPE_CHECKING:
    from .duplex import Duplex


class HandOver:
    """One `detach`. Thread: any."""

    __slots__ = ("_begun", "_number", "_reader", "_stream", "_writer")

    def __init__(self, stream: Duplex) -> None:
        self._stream = stream
        self._reader = stream.reader
        self._writer = stream.writer
        self._number = stream.sock.fileno()
        self._begun = False  # the stream is DETACHED by this call

    def run(self) -> int:
        """See `Socket.detach`."""
        stream, connection = self._stream, self._stream.connection
        stream.check_open("detach")
        try:
            error = self._send_first()
            connection.alert = True
            connection.let_step_end()
            with contextlib.ExitStack() as held:
                self._hold_both(held)
                connection.give_up()
                lost = stream.channel.left_behind()
                lost += self._drop_unsent()
                self._reader.drop()
                descriptor = stream.take_descriptor()
            if error is not None and lost:
                self._writer.send_failed("detach", error, 0, lost)
        except BaseException:
            if self._begun:
                self._nobody_got_it()
                connection.end_soon()
            raise
        connection.end_soon()
        return descriptor

    def _send_first(self) -> SocketError | None:
        """Sends what counts as sent, after the sends of other threads, and makes the stream
        DETACHED. Returns the error if not all was sent."""
        stream, writer = self._stream, self._writer
        payload = Payload(stream.connection.send_timeout, times=stream.times)
        failure: SocketError | None = None
        with contextlib.ExitStack() as held:
            try:
                writer.take_turn("detach", payload)
                held.callback(writer.give_turn_back)
                if not stream.channel.handshaking:  # else what waits belongs to the handshake
                    writer.push(payload)
            except OSError as error:
                failure = writer.failed("detach", error)
            with guard:
                stream.check_open("detach")
                self._begun = True  # first: an exception may come at any point
                stream.end(ON_DETACH)
        if writer.buffer is not None:
            writer.buffer.waiting.ring()
        return failure

    def _drop_unsent(self) -> int:
        """Drops the send buffer. How many bytes of it are lost."""
        buffer = self._writer.buffer
        if buffer is None:
            return 0
        buffer.keep_record(False)
        buffer.fail(failures.closed(self._stream.connection, DETACHED, "send"))
        buffer.unwatch()
        return buffer.take_lost()

    def _hold_both(self, held: contextlib.ExitStack) -> None:
        self._reader.hold(held)
        self._writer.hold(held)

    def _nobody_got_it(self) -> None:
        """Closes the descriptor now, or leaves that to the owner, as after `close()`."""
        stream = self._stream
        state = stream.keep_descriptor()
        if stream.sock.fileno() < 0:
            os.close(self._number)
        elif state is not LEFT:
            stream.shut_both()
        else:  # the owner has ended, and leaves the close to this thread
            with contextlib.ExitStack() as held:
                self._hold_both(held)
                stream.close_descriptor(quiet=True)


def share(stream: Duplex) -> None:
    """User code gets the number: takes the library's time limit off it for good. Thread: any."""
    channel, connection, reader = stream.channel, stream.connection, stream.reader
    if channel.exposed or stream.state in CLOSED_HERE:
        return
    channel.expose()
    stream.forget_waiter()
    with contextlib.ExitStack() as held:
        if waits.current_task() is not connection:
            # The owner may have begun to wait with the limit, and must not wait without one.
            connection.let_step_end()
            reader.let_unlimit(held)
        stream.unlimit()
