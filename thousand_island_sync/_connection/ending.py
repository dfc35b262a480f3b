"""How a connection ends.

`_finish` is the only way out: the last callback, its event, the descriptor, the event
`socket.close`, `handle_end`, in that order, each once. Where a callback closes the
socket itself, the descriptor goes at once and the rest follows when it returns.
"""

from __future__ import annotations

import contextvars
import functools
import logging
import socket as stdlib_socket
import threading
from typing import Any

from .. import events
from .._base import descriptors, locks, waits
from .._base.clock import now_ns
from .._base.unread import read_away, unread_bytes
from .._scheduler.task import DONE
from .._stream.core import _guard
from .._telemetry.signals import EventSignal
from ..events import By, Told
from ..handler import IDLE
from ..socket import Socket
from .core import ConnectionCore
from .linger import MOST_BYTES, Linger
from .states import BY_HANDLER, BY_PEER, CLOSED, CLOSING, LAST_CALLBACK, REASON, Cause

_log = logging.getLogger("thousand_island_sync")
_NOTHING = contextvars.Context()


class Ending(ConnectionCore):
    """Ends a connection, once."""

    __slots__ = ()

    def close_asked(self) -> None:
        socket: Socket | None = self._socket
        if socket is None:
            return  # it has ended since
        if waits.current_task() is self:
            self.alert = True
            if not socket._is_inside():  # else it goes when the callback returns
                self._let_go()
            return
        if not socket._shut_both(goodbye=True):
            self._env.pool.soon(functools.partial(socket._shut_both, goodbye=True))
        self._left_something()

    def _finish(self, cause: Cause, reason: Any = None, told: By | None = None) -> int:
        """Thread: the owner's, once. `told`: what has told of an error already."""
        if not self._socket._bytes_received and self._was_probe(cause):
            self._env.probed()
            if cause is BY_HANDLER:
                cause = BY_PEER
        last = LAST_CALLBACK[self._state, cause]
        self._become(CLOSING)
        self._close_mailbox()
        is_error = last == "handle_error"
        if last is not None:
            self._last_callback(last, *([reason] if is_error else []))
        signal = events.handler_error if is_error else events.handler_shutdown
        if signal.receivers:
            what = {"error": reason} if is_error else {"reason": REASON[cause]}
            self._tell_end(signal, what, told)
        self._let_go()
        if events.socket_close.receivers:
            self._tell_closed()
        self._last_callback("handle_end")
        self._become(CLOSED)
        self._env.ended(self)
        self._let_go_of_the_users()
        return DONE

    def _was_probe(self, cause: Cause) -> bool:
        """Whether the peer has ended it, of a connection that no bytes were received of."""
        socket = self._socket
        by_peer = cause is BY_PEER or (socket._eof and cause in (BY_HANDLER, Cause.LOCAL))
        return by_peer and not socket._channel.heard

    def _let_go_of_the_users(self) -> None:
        """The socket, and perhaps the handler, lead back to here. In such circles a hundred
        short connections were garbage of the collector's for each of its rounds: now the
        last one who holds any of it frees it all. Thread: the owner's."""
        self._socket = self._handler = self._source = None  # type: ignore[assignment]
        self._context = _NOTHING
        self._loosen_handle()

    def _last_callback(self, name: str, *reason: Any) -> None:
        callback = getattr(self._handler, name)
        if getattr(callback, "__func__", None) in IDLE:
            return
        arguments = (*reason, self._socket)
        try:
            self._context.run(callback, *arguments)
        except BaseException as error:
            locks.release_all()
            self._log_error(error, name)

    def _tell_end(self, signal: EventSignal, what: dict[str, Any], told: By | None) -> None:
        what["duration_ns"] = now_ns() - self.accepted_at_ns
        metadata: dict[str, Any] = {"connection_id": self.id}
        if told is not None:
            metadata = Told(metadata, told)
        events.emit(signal, self._env.server, what, metadata)

    def _tell_closed(self) -> None:
        stats = self._socket.stats()
        events.emit(
            events.socket_close,
            self._env.server,
            {
                "bytes_sent": stats.bytes_sent,
                "send_count": stats.send_count,
                "bytes_received": stats.bytes_received,
                "recv_count": stats.recv_count,
            },
            {"connection_id": self.id},
        )

    def _let_go(self) -> None:
        """The descriptor: said goodbye to, taken out of the poller, closed or left to
        linger. Thread: the owner's; only the first call does anything."""
        if self._gone:
            return
        self._gone = True
        ends = getattr(self._handler.handle_end, "__func__", None)
        if self._handle is not None or ends not in IDLE:
            self._note_sockname()  # somebody may ask for it afterwards
        socket, pool = self._socket, self._env.pool
        quiet = socket._send_home()
        if socket._detached and self._was_handed_over():
            pool.forget(self)
            return
        if quiet and not socket._cut:
            try:
                socket._channel.say_goodbye()
            except OSError:
                pass  # the peer has gone
            if not socket._eof and unread_bytes(self._sock) and self._shut_writing():
                if not self._env.stopping:
                    sock = socket._give_descriptor_away()
                    pool.replace(self, Linger(sock, pool, self._clock))
                    return
                read_away(self._sock, MOST_BYTES)
        pool.forget(self)
        if quiet:
            descriptors.close(self._sock, _guard)
        else:
            descriptors.leave(self._sock)

    def _was_handed_over(self) -> bool:
        """Whether `detach` has the descriptor, or gets it: it closes it if it is broken off."""
        socket = self._socket
        with _guard:
            if socket._detached:
                socket._detached = "left"
            return bool(socket._detached)

    def _shut_writing(self) -> bool:
        try:
            self._sock.shutdown(stdlib_socket.SHUT_WR)
        except OSError:
            return False  # the peer has gone
        return True

    def _refuse(self, error: BaseException) -> None:
        """The handler could not be made."""
        self._log_error(error, "__init__")
        self._gone = True
        self._close_mailbox()
        self._become(CLOSED)
        self._env.pool.forget(self)
        descriptors.close(self._sock)
        self._env.refused(self, error)
        self._let_go_of_the_users()

    def broke(self) -> None:
        """A bug of ours: lets go of everything, without callbacks."""
        self._close_mailbox()
        socket: Socket | None = getattr(self, "_socket", None)
        quiet = True
        if not self._gone:
            self._gone = True
            quiet = socket is None or socket._send_home()
        if self._sock.fileno() != self.fd:
            self.attached = False  # the number is somebody else's by now
        self._env.pool.forget(self)
        (descriptors.close if quiet else descriptors.leave)(self._sock)
        self._state = CLOSED
        self._env.ended(self)
        self._let_go_of_the_users()

    def _log_error(self, error: BaseException, where: str) -> None:
        try:
            _log.error(
                "%s.%s of connection %s with %s raised %s, on thread %s",
                self._env.handler_cls.__name__,
                where,
                self.id,
                self.peer_shown(),
                type(error).__name__,
                threading.current_thread().name,
                exc_info=error,
            )
        except BaseException:
            pass  # a handler of the log's: `handle_error` and `handle_end` are to follow
