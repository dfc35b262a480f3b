"""How a connection ends: who is told, and what becomes of the descriptor.

The last callback, its event, the descriptor, the event `socket.close`, `handle_end`, in that order,
each once. Where a callback closes the socket itself, the descriptor goes at once and the rest
follows when it returns.
"""

from __future__ import annotations

import socket as stdlib_socket
from typing import Any

from .. import events
from .._base import descriptors
from .._base.clock import now_ns
from .._base.unread import read_away, unread_bytes
from .._stream.duplex import Duplex
from .._stream.states import CUT, ENDED, GIVEN_AWAY
from ..events import By, Told
from ..socket import Socket
from .callbacks import Callbacks
from .environment import Environment
from .linger import MOST_BYTES, Linger
from .served import Served
from .states import BY_HANDLER, BY_PEER, REASON, Cause


class Closing:
    """Of one connection; made when it ends, or its descriptor goes. Thread: its owner's."""

    __slots__ = ("_callbacks", "_env", "socket", "stream", "task")

    def __init__(
        self,
        task: Served,
        env: Environment,
        callbacks: Callbacks,
        socket: Socket,
        stream: Duplex,
    ) -> None:
        self.task = task
        self._env = env
        self._callbacks = callbacks
        self.socket = socket
        self.stream = stream

    def seen_as(self, cause: Cause) -> Cause:
        """Of a connection that no bytes were received of: if its peer has ended it, it was a
        probe, and that is counted."""
        ended = self.stream.reader.incoming in ENDED
        by_peer = cause is BY_PEER or (ended and cause in (BY_HANDLER, Cause.LOCAL))
        if not by_peer or self.stream.channel.heard:
            return cause
        self._env.census.probed()
        return BY_PEER if cause is BY_HANDLER else cause

    def tell_all(self, last: str | None, cause: Cause, reason: Any, told: By | None) -> None:
        """`last`: the last callback's name; the others as for `End`."""
        callbacks, socket = self._callbacks, self.socket
        is_error = last == "handle_error"
        if is_error:
            callbacks.last("handle_error", reason, socket)
        elif last is not None:
            callbacks.last(last, socket)
        signal = events.handler_error if is_error else events.handler_shutdown
        if signal.receivers:
            what = {"error": reason} if is_error else {"reason": REASON[cause]}
            self._tell_end(signal, what, told)
        self.let_go()
        if events.socket_close.receivers:
            self._tell_closed()
        callbacks.last("handle_end", socket)

    def _tell_end(self, signal: Any, what: dict[str, Any], told: By | None) -> None:
        client = self.task.client
        what["duration_ns"] = now_ns() - client.accepted_at_ns
        metadata: dict[str, Any] = {"connection_id": client.id}
        if told is not None:
            metadata = Told(metadata, told)
        events.emit(signal, self._env.server, what, metadata)

    def _tell_closed(self) -> None:
        stats = self.socket.stats()
        events.emit(
            events.socket_close,
            self._env.server,
            {
                "bytes_sent": stats.bytes_sent,
                "send_count": stats.send_count,
                "bytes_received": stats.bytes_received,
                "recv_count": stats.recv_count,
            },
            {"connection_id": self.task.client.id},
        )

    # ---- the descriptor -----------------------------------------------------------

    def let_go(self) -> None:
        """It is said goodbye to, taken out of the poller, closed or left to linger. Only the
        first call does anything."""
        task, stream = self.task, self.stream
        client, pool = task.client, self._env.pool
        if client.closed:
            return
        client.closed = True
        if task.known_inbox is not None or self._callbacks.named("handle_end") is not None:
            client.note_sockname()  # somebody may ask for it afterwards
        sock = client.sock
        was_cut = stream.state is CUT
        quiet = stream.come_home()
        if stream.state in GIVEN_AWAY and stream.leave():
            pool.forget(task)
            return
        if quiet and not was_cut:
            try:
                stream.channel.say_goodbye()
            except OSError:
                pass  # the peer has gone
            ended = stream.reader.incoming in ENDED
            if not ended and unread_bytes(sock) and _shut_writing(sock):
                if not self._env.stopping:
                    rest = stream.give_descriptor_away()
                    pool.replace(task, Linger(rest, pool, self._env.times.real))
                    return
                read_away(sock, MOST_BYTES)
        pool.forget(task)
        stream.close_descriptor(quiet)

    def refuse(self, error: BaseException) -> None:
        """The handler could not be made."""
        task, client = self.task, self.task.client
        task.came_back("__init__", error)
        self._callbacks.log(error, "__init__")
        client.closed = True
        task.close_inbox()
        self._env.pool.forget(task)
        descriptors.close(client.sock)
        self._env.census.refused(task, error)

    def break_off(self) -> None:
        """A bug of ours: no goodbye, and no callbacks."""
        task, client = self.task, self.task.client
        stream: Duplex | None = self.stream
        quiet = client.closed or stream is None or stream.come_home()
        client.closed = True
        if client.sock.fileno() != task.fd:
            task.attached = False  # the number is somebody else's by now
        self._env.pool.forget(task)
        (descriptors.close if quiet else descriptors.leave)(client.sock)
        self._env.census.ended(task)


def _shut_writing(sock: stdlib_socket.socket) -> bool:
    try:
        sock.shutdown(stdlib_socket.SHUT_WR)
    except OSError:
        return False  # the peer has gone
    return True
