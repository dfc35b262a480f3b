"""The descriptor in others' hands: `Socket.fileno` shows it, `Socket.detach` gives it away.

The facts. Who wants to go on with a socket in a manner of his own, as STARTTLS of the
standard library does, makes a second object of `fileno()` and then calls `detach()`
(`ssl.SSLSocket._create`). If that does nothing, or raises, one number has two owners. The
first who closes it gives it to the next client; what is sent to one arrives at another.

Others may be in the middle of it. A thread waits in a receive, another one is half through a
send, and the connection's owner, if this is another thread, may be about to receive, or to put
the descriptor into the poller. None of them can be woken by `shutdown`, for it would be
found done to what is handed over.

Our decision. Sends go first, one after the other as always, this one's as well: it takes its
turn, and flushes. Then the stream is DETACHED for all who come, and whoever is in the way leaves
by itself: receives look every second, sends that wait are rung, the owner's own steps end or come
to a callback, which none of them does without seeing `alert`. Then, with both locks, the
descriptor leaves the poller and the socket. Nothing on this way raises but that it was
closed before, and what interrupts it, as Ctrl-C may: then nobody got the descriptor, and it
is closed, by the connection's owner, or here where that has left it to whoever detaches.
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
        self._begun = False  # the descriptor is this thread's to hand over

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
        """Sends what counts as sent, after all who send now, and closes the stream for all who
        come; why not all went out."""
        stream, writer = self._stream, self._writer
        payload = Payload(stream.connection.send_timeout, times=stream.times)
        failure: SocketError | None = None
        with contextlib.ExitStack() as held:
            try:
                writer.take_turn("detach", payload)
                held.callback(writer.give_turn_back)
                if not stream.channel.handshaking:  # what waits is the handshake's then
                    writer.push(payload)
            except OSError as error:
                failure = writer.failed("detach", error)
            with guard:
                stream.check_open("detach")
                self._begun = True  # first, as what interrupts it may come anywhere
                stream.end(ON_DETACH)
        if writer.buffer is not None:
            writer.buffer.waiting.ring()
        return failure

    def _drop_unsent(self) -> int:
        """Nothing goes out from here any more. How many bytes of the send buffer are lost."""
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
        """The descriptor is closed now, or by the owner, as after `close()`."""
        stream = self._stream
        state = stream.keep_descriptor()
        if stream.sock.fileno() < 0:
            os.close(self._number)
        elif state is not LEFT:
            stream.shut_both()
        else:  # the owner has gone, and relied on us
            with contextlib.ExitStack() as held:
                self._hold_both(held)
                stream.close_descriptor(quiet=True)


def share(stream: Duplex) -> None:
    """Somebody will see the descriptor: from now on no time limit of ours is on it. Thread: any."""
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
