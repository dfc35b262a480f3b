"""How a connection ends: the callbacks, the events, and the close of the descriptor.

The order, each once: the last callback, its event, sending what waits, closing the descriptor, the
event `socket.close`, `handle_end`. If a callback closes the socket itself, and nothing waits to be
sent, the descriptor is closed at once, and the rest follows when the callback returns.
"""

from __future__ import annotations

import socket as stdlib_socket
from typing import Any, Protocol

from .. import events
from .._base import descriptors
from .._base.clock import FOREVER, now_ns
from .._base.compiled import in_c
from .._base.unread import read_away, unread_bytes
from .._scheduler.task import PARK
from .._stream import amid_handshake, failures
from .._stream.duplex import Duplex
from .._stream.send_buffer import SendBuffer
from .._stream.states import CUT, ENDED, GIVEN_AWAY, ON_LAST
from .._stream.turns import guard
from ..errors import SocketTimeout
from ..events import About, By
from ..socket import Socket
from .callbacks import Callbacks
from .environment import Environment
from .linger import MOST_BYTES, Linger
from .reserve import AT_REST
from .served import Served
from .states import (
    BY_HANDLER,
    BY_PEER,
    CLOSED,
    CLOSING,
    HANDSHAKING,
    LAST_CALLBACK,
    REASON,
    STOPPING,
    Cause,
    State,
)

#: Seconds between two checks whether the turn to send is free, and how many of them.
_A_MOMENT_S = 0.005
_TRIES = 100


class Ends(Protocol):
    """What `Closing` needs of its machine."""

    socket: Socket
    state: State
    stream: Duplex

    @property
    def callbacks(self) -> Callbacks: ...
    def over(self) -> int: ...


@in_c
class PythonClosing:
    """The fields of a `Closing`; `_native.Closing` is its equal in C."""

    __slots__ = ("_env", "_machine", "stream", "task")

    def __init__(self, task: Served, stream: Duplex, machine: Ends, env: Environment, /) -> None:
        self.task = task
        self.stream = stream
        self._machine = machine
        self._env = env


class Closing(PythonClosing):
    """Of one connection; made when it ends, or its descriptor is closed. Thread: its owner's.

    Args:
        task, stream, machine: the connection's.
        env: what the connections of its run share.
    """

    __slots__ = ()

    # ---- who is told --------------------------------------------------------------

    def begin(self, cause: Cause, reason: Any, told: By | None) -> int:
        """The last callback, and what follows; a verdict. As for `End`."""
        task, machine, stream = self.task, self._machine, self.stream
        if stream.writer.buffer is not None or not stream.reader.bytes_received:
            cause, reason = self._seen_as(cause, reason)
        last = LAST_CALLBACK[machine.state, cause]
        if machine.state is HANDSHAKING:
            self._env.handshaking.discard(task)
            if last is not None and machine.callbacks.named(last) is not None:
                amid_handshake.end_sends(stream)
        machine.state = CLOSING
        # An inbox that is made at this moment is closed by its maker, which reads the state.
        if task.known_inbox is not None:
            task.close_inbox()
        self.tell_end(last, cause, reason, told)
        return self.go_on()

    def go_on(self) -> int:
        """After the last callback: ends the connection, once nothing waits to be sent any more.
        Returns a verdict."""
        task, machine = self.task, self._machine
        if self._env.reserve.level is not AT_REST:
            self._env.reserve.leaves(task)
        if self.stream.writer.buffer is not None and self._sends_what_waits():
            return PARK
        callbacks = machine.callbacks
        end = callbacks.named("handle_end")
        self.let_go(end is not None)
        if events.socket_close.receivers:
            self._tell_closed()
        if end is not None:
            callbacks.last("handle_end", end, machine.socket)
        machine.state = CLOSED
        ended = self._env.census.ended
        ended(task)
        return machine.over()

    def _seen_as(self, cause: Cause, reason: Any) -> tuple[Cause, Any]:
        """Cause and reason for the handler, if no bytes were received, or some had to wait to be
        sent. Reports lost bytes."""
        if not self.stream.reader.bytes_received:
            cause = self._as_probe(cause)
        buffer = self.stream.writer.buffer
        if buffer is None or buffer.failure is None:
            return cause, reason
        self._tell_lost(buffer)
        # If the peer took nothing in time, that is the cause, in spite of what came since.
        if isinstance(buffer.failure, SocketTimeout) and cause is not Cause.LOCAL:
            return Cause.ERROR, buffer.failure
        return cause, reason

    def _as_probe(self, cause: Cause) -> Cause:
        """The cause for a connection that has received no bytes. If its peer has ended it, it was
        a probe, and is counted as one."""
        ended = self.stream.reader.incoming in ENDED
        by_peer = cause is BY_PEER or (ended and cause in (BY_HANDLER, Cause.LOCAL))
        if not by_peer or self.stream.channel.heard:
            return cause
        self._env.census.probed()
        return BY_PEER if cause is BY_HANDLER else cause

    def tell_end(self, last: str | None, cause: Cause, reason: Any, told: By | None) -> None:
        """`last`: the last callback's name; the others as for `End`."""
        if last == "handle_error":
            self._tell_error(reason, told)
            return
        if last is not None:
            callbacks = self._machine.callbacks
            callback = callbacks.named(last)
            if callback is not None:
                callbacks.last(last, callback, self._machine.socket)
        if events.handler_shutdown.receivers:
            self._tell(events.handler_shutdown, {"reason": REASON[cause]}, told)

    def _tell_error(self, reason: Any, told: By | None) -> None:
        callbacks = self._machine.callbacks
        callback = callbacks.named("handle_error")
        if callback is not None:
            callbacks.last("handle_error", callback, reason, self._machine.socket)
        if events.handler_error.receivers:
            self._tell(events.handler_error, {"error": reason}, told)
        buffer = self.stream.writer.buffer
        if buffer is not None and isinstance(reason, SocketTimeout):
            buffer.fail(reason)  # a send has waited for this peer already

    def _sends_what_waits(self) -> bool:
        """Whether bytes still wait to be sent. Nothing may be sent after them."""
        task, writer = self.task, self.stream.writer
        buffer = writer.buffer
        if buffer is None or task.client.closed:
            return False
        buffer.on(ON_LAST)
        if self.stream.state is CUT:
            buffer.fail(failures.cut(self.stream.connection))
        amid_handshake.drop(self.stream, buffer)
        self._tell_lost(buffer)
        if buffer.failure is not None:
            return False
        task.deaf, task.deadline = True, FOREVER
        if buffer.waits:
            return True
        # The thread that sent the last of it may have the turn for a moment yet: wait for that.
        if buffer.tries >= _TRIES:
            return False
        if writer.try_turn():
            writer.give_turn_back()
            return False
        buffer.tries += 1
        task.deadline = self._env.clock() + _A_MOMENT_S
        return True

    def _tell_lost(self, buffer: SendBuffer) -> None:
        """Reports that bytes which waited were lost, unless that was reported before."""
        if buffer.failure is not None and buffer.lost:
            self.stream.writer.send_failed("send", buffer.failure, None)

    def _tell(self, signal: Any, what: dict[str, Any], told: By | None) -> None:
        client = self.task.client
        what["duration_ns"] = now_ns() - client.accepted_at_ns
        stats = self._machine.socket.stats()
        about = About(client, told, (stats.bytes_received, stats.bytes_sent))
        events.emit(signal, self._env.server, what, about)

    def _tell_closed(self) -> None:
        stats = self._machine.socket.stats()
        events.emit(
            events.socket_close,
            self._env.server,
            {
                "bytes_sent": stats.bytes_sent,
                "send_count": stats.send_count,
                "bytes_received": stats.bytes_received,
                "recv_count": stats.recv_count,
            },
            About(self.task.client),
        )

    # ---- the descriptor -----------------------------------------------------------

    def let_go(self, is_shown: bool) -> None:
        """The peer is told of the end; the descriptor leaves the poller, and is closed or lingers.
        Only the first call does anything. `is_shown`: a callback follows."""
        task, stream = self.task, self.stream
        client, pool = task.client, self._env.pool
        if client.closed:
            return
        client.closed = True
        if is_shown or task.known_inbox is not None:
            client.note_sockname()  # it may be asked for afterwards
        was_cut = stream.state is CUT
        quiet = stream.come_home()
        buffer = stream.writer.buffer
        if buffer is not None:
            buffer.let_go()
        if stream.state in GIVEN_AWAY and stream.leave():
            pool.forget(task)
            return
        if quiet and not was_cut:
            try:
                stream.channel.send_close_notify()
            except OSError:
                pass  # the peer has disconnected
            sock, ended = client.sock, stream.reader.incoming in ENDED
            if not ended and unread_bytes(sock) and _shut_writing(sock):
                if self._env.stage is not STOPPING:
                    rest = descriptors.replace(sock, guard)
                    pool.replace(task, Linger(rest, pool, self._env.times.real))
                    return
                read_away(sock, MOST_BYTES)
        forget = pool.forget
        forget(task)
        stream.close_descriptor(quiet)

    def refuse(self, error: BaseException) -> None:
        """The handler could not be made."""
        task, client = self.task, self.task.client
        task.came_back("__init__", error)
        self._machine.callbacks.log(error, "__init__")
        client.closed = True
        task.close_inbox()
        self._env.pool.forget(task)
        descriptors.close(client.sock)
        self._env.census.refused(task, error)

    def break_off(self) -> None:
        """A bug of the library: the peer is not told, and no callback runs."""
        task, client = self.task, self.task.client
        stream: Duplex | None = self.stream
        quiet = client.closed or stream is None or stream.come_home()
        if stream is not None and stream.writer.buffer is not None:
            stream.writer.buffer.let_go()
        client.closed = True
        self._env.reserve.leaves(task)
        if client.sock.fileno() != task.fd:
            task.attached = False  # the number may be another file's by now
        self._env.pool.forget(task)
        (descriptors.close if quiet else descriptors.leave)(client.sock)
        self._env.handshaking.discard(task)
        self._env.census.ended(task)


def _shut_writing(sock: stdlib_socket.socket) -> bool:
    try:
        sock.shutdown(stdlib_socket.SHUT_WR)
    except OSError:
        return False  # the peer has disconnected
    return True
