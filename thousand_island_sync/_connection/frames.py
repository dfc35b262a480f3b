"""Frames: cuts the bytes of one connection into frames for its `handle_data`.

A connection whose handler has never set `framing` has no such object, and pays nothing for it. If
there is one, it gets the arrived bytes in the place of the handler. Whenever user code runs, the
rest of the bytes (an incomplete frame, or what follows a frame) is in the reader's buffer, where
`recv` and `unread` find it.

A few frames are delivered in a row, then other connections have a turn. Everything else that the
machine must look at (a result, a message, a stop, a pause, bytes that wait unsent) sets `alert`,
and ends the row, too: only the machine decides whether more may be delivered.
"""

from __future__ import annotations

import errno
from operator import index
from typing import Any, Final

from .. import events
from .._base.clock import FOREVER, Clock
from .._stream.buffer import ReadBuffer
from .._stream.reader import Reader
from .._stream.states import ENDED
from ..errors import HandlerResultError, LimitExceeded, SocketClosed, SocketError
from ..framing import Framing, LengthPrefix, Lines, not_a_framing
from ..handler import Error, Handler
from ..socket import Socket
from .result_error import shown
from .served import Served, tell_arrival

#: Frames in a row, and seconds that a row may take, before other connections have a turn: less than
#: the watchdog's tick, after which it would take the row for a callback that blocks.
_ROW, _ROW_S = 64, 0.0005
#: The buffer has no whole frame. No bytes came, so the read timeout goes on.
NO_FRAME: Final = object()


class Frames:
    """Cuts what has arrived into frames, and calls `handle_data` with each. Thread: the
    connection's owner's, in its context.

    Args:
        whose: the connection.
        handler: its handler; `framing` is looked up on it before each frame.
        reader: where bytes wait.
        clock: that of its run.
    """

    __slots__ = (
        "_clock",
        "_handler",
        "_known",
        "_limit",
        "_may_differ",
        "_most",
        "_reader",
        "_told",
        "_whose",
    )

    def __init__(self, whose: Served, handler: Handler, reader: Reader, clock: Clock) -> None:
        self._whose = whose
        self._handler = handler
        self._reader = reader
        self._clock = clock
        self._known: object = None  # the framing that has searched the buffer
        self._may_differ = False  # a callback has run since, which may have set another
        self._limit: float = FOREVER  # bytes of a frame, if `find` does not check its limit
        self._most = 0  # bytes that may wait for its end
        self._told = 0  # bytes received that `handler.async_recv` has reported, or need not
        reader.framed = True

    # ---- what the machine asks ------------------------------------------------------

    def has_news(self, end_is_known: bool) -> bool:
        """As `Reader.has_news`."""
        return self._waits() or (not end_is_known and self._reader.incoming in ENDED)

    def _waits(self) -> bool:
        """Whether the buffer has bytes that were not searched, or that are due without framing."""
        buffer = self._reader.buffer
        if buffer is None:
            return False
        framing = self._framing()
        if framing is None:
            return buffer.fresh > 0
        differs = self._may_differ and not self._knows(framing)
        return differs or buffer.searched < len(buffer)

    def called_back(self) -> None:
        """Another callback than `handle_data` has run."""
        self._may_differ = True
        if self._waits():
            self._whose.alert = True

    def kept(self) -> ReadBuffer | None:
        """The buffer, if `_waits`."""
        return self._reader.buffer if self._waits() else None

    def cut_short(self) -> SocketClosed | None:
        """The error, if the stream has ended inside a frame."""
        reader = self._reader
        buffer = reader.buffer
        if buffer is None or self._framing() is None:
            return None
        error = reader.gone("receiving a frame from", f"end of stream after {len(buffer)} bytes")
        error.partial = reader.take(len(buffer))
        return error

    def _framing(self) -> object:
        """The framing, read outside of callbacks. It may be a property, which runs user code."""
        try:
            return self._handler.framing
        except BaseException:
            return self  # `handle_data` will get the same error, and report it

    # ---- what it gets -----------------------------------------------------------------

    def handle_data(self, data: bytes | ReadBuffer, socket: Socket) -> object:
        """Called in the place of the handler's: delivers frames until none is left, or `alert` is
        set. Returns the handler's last result. `data`: bytes that have arrived, or the reader's
        buffer, if that has news."""
        reader, handler = self._reader, self._handler
        if isinstance(data, ReadBuffer):
            result = self._row(data, socket, NO_FRAME) if len(data) else NO_FRAME
            self._whose.alert = True  # the descriptor was not read in this step
            return result
        buffer, framing = reader.buffer, handler.framing
        self._told = reader.bytes_received
        if buffer is None:  # as a rule exactly one frame has come
            frame: bytes | None = None
            if framing.__class__ is Lines:
                end = len(data) - len(framing.delimiter)
                if 0 <= end <= framing.limit and data.find(framing.delimiter) == end:
                    frame = data if framing.keep_end else data[:end]
            elif framing.__class__ is LengthPrefix:
                frame = framing.payload_of(data)
            if frame is not None:
                result = handler.handle_data(frame, socket)
                buffer = reader.buffer
                if buffer is None or result is not None or self._whose.alert:
                    return result
                return self._row(buffer, socket)
            reader.buffer = buffer = ReadBuffer(data, len(data))
        else:
            buffer.add(data)
            line: Any = framing if framing is self._known else None
            many = line.__class__ is Lines and buffer.lacks(line.delimiter)
            if many and len(buffer) <= line.limit:
                return None  # one line in many pieces
        return self._row(buffer, socket)

    def _row(self, buffer: ReadBuffer, socket: Socket, none: object = None) -> object:
        """Delivers a row of frames from the buffer. `none`: returned if there is no frame."""
        whose, reader, handler = self._whose, self._reader, self._handler
        until = 0.0
        for _ in range(_ROW):
            if reader.bytes_received != self._told:
                self._tell_rest(buffer)
            framing = handler.framing
            try:
                frame = self._next_frame(framing, buffer)
            except LimitExceeded as error:
                return Error(self._too_long(framing, error))
            if frame is None:
                return none
            if not until:
                until, none = self._clock() + _ROW_S, None
            result = handler.handle_data(frame, socket)
            following = reader.buffer
            if following is None or result is not None or whose.alert:
                return result
            if self._clock() > until:
                break
            buffer = following
        whose.alert = True  # there is more to deliver, after the others' turn
        return None

    def _tell_rest(self, buffer: ReadBuffer) -> None:
        """A call of user code has received more than it returned: `handle_data` gets the rest."""
        received = self._reader.bytes_received
        untold, self._told = received - self._told, received
        if events.handler_async_recv.receivers and (rest := min(untold, buffer.fresh)):
            tell_arrival(self._whose, buffer.last(rest))

    # ---- one frame ----------------------------------------------------------------------

    def _next_frame(self, framing: Framing | None, buffer: ReadBuffer) -> bytes | None:
        """The next frame; `None`: its end has not come. Raises BaseException: that of `find`."""
        if framing is None:  # bytes that `unread` put back wait for fresh ones
            return self._reader.take(len(buffer)) if buffer.fresh else None
        if not self._knows(framing):
            self._know(framing)
            buffer.searched = 0
        self._may_differ = False
        data = buffer.whole()
        size = len(data)
        found: Any = framing.find(data, buffer.searched)
        if found is None and len(data) == size:
            buffer.searched = size
            if size > self._most:
                name = "limit" if getattr(framing, "limit", None) is not None else "max_unread"
                raise LimitExceeded(
                    errno.EMSGSIZE, f"a frame without an end within {self._most} bytes ({name})"
                )
            return None
        try:
            begin, end, following = map(index, found)
            fits = 0 <= begin <= end <= following <= size and following > 0 and len(data) == size
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise _wrong(framing, f"find returned {shown(found)} for a buffer of {size} bytes")
        if end - begin > self._limit:
            raise LimitExceeded(
                errno.EMSGSIZE,
                f"a frame of {end - begin} bytes, takes at most {self._limit} (limit)",
            )
        frame = buffer.cut(begin, end, following)
        if not len(buffer):
            self._reader.buffer = None
        return frame

    def _knows(self, framing: object) -> bool:
        """Whether this framing has searched the buffer; or an equal `Lines` or `LengthPrefix`, as
        a property may make a new one each time."""
        known = self._known
        if framing is known:
            return True
        kind: Any = framing.__class__
        return (
            kind in (Lines, LengthPrefix)
            and kind is known.__class__
            and framing.parameters == known.parameters  # type: ignore[attr-defined]
        )

    def _know(self, framing: Framing) -> None:
        """Checks a framing, and uses it from now on.

        Raises:
            HandlerResultError: it is not a framing.
        """
        problem = not_a_framing(framing)
        if problem:
            raise HandlerResultError(f"{self._whose.env.handlers.name}.framing: {problem}")
        limit = getattr(framing, "limit", None)
        if limit is not None and not (isinstance(limit, int) and limit >= 0):
            raise _wrong(framing, f"limit is {shown(limit)}, takes a number of bytes")
        self._limit = FOREVER if limit is None else limit
        self._most = self._whose.max_unread if limit is None else limit
        if isinstance(framing, (Lines, LengthPrefix)):
            # They check the payload's length; a subclass may not, and its frames may be longer.
            more = framing.overhead + 1
            self._limit += more if getattr(framing, "keep_end", True) else 0
            self._most += framing.overhead
        self._known = framing

    def _too_long(self, framing: object, error: LimitExceeded) -> SocketError:
        """The same error, with the peer in its text."""
        what = error.strerror or str(error)
        doing = f"{type(framing).__name__}: receiving from"
        made = self._reader.limit_exceeded(doing, f"{what}; raise it, or drop this peer")
        made.__cause__ = error.__cause__
        return made


def _wrong(framing: Framing, what: str) -> HandlerResultError:
    return HandlerResultError(
        f"{type(framing).__name__}: {what}; find takes (buffer, start) and returns None or"
        " (begin, end, next) with 0 <= begin <= end <= next, next > 0, none beyond the buffer"
    )
