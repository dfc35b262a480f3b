"""Keeping what a send found no room for in the send buffer, as far as that has room."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import events
from ..errors import SendBufferFull, SocketError
from . import failures
from .payload import KEEP, Payload
from .send_buffer import SendBuffer

if TYPE_CHECKING:
    from .duplex import Duplex
    from .writer import Writer


class Keeping:
    """Keeps what is sent on one connection. Thread: any.

    Args:
        stream: the connection's.
        writer: the stream's, which has none after its end; `None`: looked up.
    """

    __slots__ = ("_stream", "_writer")

    def __init__(self, stream: Duplex, writer: Writer | None = None) -> None:
        self._stream = stream
        self._writer: Writer = stream.writer if writer is None else writer

    def push(self, data: Any) -> int:
        """`Connection.send`: sends as much as there is room for, and keeps the rest; never waits.
        While another thread sends, or in a handshake, all of it is kept.

        Returns:
            How many bytes: all.

        Raises:
            SendBufferFull: it is longer than what `max_unsent` and `max_unsent_total` leave, even
                if the kernel had room; nothing of it is sent.
            SocketClosed: the peer or this side has closed the connection, or sends have ended.
            SocketError: any other failure; or the calling thread was interrupted in the middle of
                another send on this connection.
            TypeError: `str`, or nothing bytes-like.
        """
        payload, writer = Payload(), self._writer
        data = payload.take(data)
        size = sum(map(len, payload.views))
        if writer is None:  # type: ignore[redundant-expr, unused-ignore]
            raise failures.closed(self._stream.connection, self._stream.state, "send")
        try:
            self._push(payload, size)
        except SendBufferFull:
            raise
        except OSError as cause:
            raise writer.send_failed("send", cause) from cause
        finally:
            payload.views.clear()
        if events.socket_send.receivers:
            writer.tell_sent(data, size)
        return size

    def _push(self, payload: Payload, size: int) -> None:
        stream, writer = self._stream, self._writer
        buffer, total = writer.buffered(), stream.connection.env.unsent
        if writer.is_inside() or total.is_inside():
            raise failures.amid_another(stream.connection, "send")
        writer.check("send")
        if size > buffer.room():
            others_have_it = size <= total.most_each - buffer.size
            if not (others_have_it and total.end_slowest() and size <= buffer.room()):
                raise self._full(buffer, size)
        if not writer.try_turn():
            self._all_behind(payload)
            return
        try:
            writer.check("send")  # it may have ended before the turn was free
            if not total.claim(buffer, size):
                raise self._full(buffer, size)
            if not writer.go_on(payload):
                writer.tell_owner()
                if stream.channel.unfinished:
                    buffer.keep_record(True)
                kept = buffer.keep(payload.views, mine=not buffer.barred, over=True)
                payload.advance(kept)
            writer.finished()
        finally:
            total.claim(buffer, 0)
            writer.give_turn_back(payload.sent)
        if payload.sent < size:
            raise self._gone(buffer)

    def rest(self, payload: Payload) -> bool:
        """Keeps as much of it as has room. Whether that is all. With the turn."""
        stream, buffer, views = self._stream, self._writer.buffered(), payload.views
        if not stream.connection.env.unsent.most_each:
            return False
        if stream.channel.unfinished:
            buffer.keep_record(True)
        if not views:
            return buffer.record
        if buffer.lacks_total(sum(map(len, views))):
            stream.connection.env.unsent.end_slowest()
        fills = not buffer.barred and (not buffer.ahead or payload.left() <= 0)
        payload.advance(buffer.keep(views, whole=not fills, mine=not buffer.barred))
        return not views

    def behind(self, payload: Payload) -> bool:
        """While another thread sends: keeps all of it, if it may be kept, instead of waiting.
        Whether it did."""
        writer = self._writer
        if payload.no_room is not KEEP or not payload.views or writer.is_inside():
            return False
        writer.check("send")
        try:
            payload.sent = self._all_behind(payload)
        except SendBufferFull:
            return False
        return True

    def _all_behind(self, payload: Payload) -> int:
        """Another thread sends: keeps all, to be sent after that. How many bytes.

        Raises:
            SendBufferFull: there is no room for all of it.
            SocketClosed: sends have ended.
        """
        buffer, size = self._writer.buffered(), sum(map(len, payload.views))
        if buffer.keep(payload.views, whole=True) < size:
            raise self._full(buffer, size) if buffer.failure is None else self._gone(buffer)
        buffer.count(size)
        buffer.settle()
        return size

    def _full(self, buffer: SendBuffer, size: int) -> SendBufferFull:
        connection = self._stream.connection
        most = connection.env.unsent.most_each
        return failures.full(connection, size, buffer.size, most)

    def _gone(self, buffer: SendBuffer) -> SocketError:
        return failures.after(self._stream.connection, "send", buffer.failure)
