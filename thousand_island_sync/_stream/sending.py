"""The sending half of `Socket`."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from typing import Any, NoReturn

from .. import events
from .._base import waits
from .._base.clock import FOREVER, now
from .._base.options import MISSING, Missing
from .._base.sigpipe import DONTWAIT, QUIETLY
from ..errors import SocketClosed, SocketError, SocketTimeout
from ..transports.base import WRITE
from .core import LOOK_S, SocketCore

_sent = events.socket_send
#: Several pieces of so many bytes in all are copied into one: it costs less than to gather.
JOINED_MOST = 16_384


def _joined(pieces: list[Any]) -> Any:
    """They in one, if there is nothing odd about them and they are small; else as they are."""
    size = 0
    for piece in pieces:
        kind = type(piece)
        if kind is bytes:
            size += len(piece)
        elif kind is memoryview and piece.c_contiguous:
            size += piece.nbytes
        else:
            return pieces
    return b"".join(pieces) if size <= JOINED_MOST else pieces


def _views(data: Any) -> tuple[Any, list[memoryview]]:
    """`data`, an iterable as a list, and its bytes-likes as flat memory views, empty
    ones left out.

    Raises:
        TypeError: `str`, or no bytes-like and no iterable of them.
    """
    if isinstance(data, str):
        raise TypeError("send: got str, takes bytes; encode it first")
    try:
        pieces = [memoryview(data)]
    except TypeError:
        if not isinstance(data, Iterable):
            raise TypeError(
                f"send: got {type(data).__name__}, takes a bytes-like or an iterable of them"
            ) from None
        data = list(data)
        if any(isinstance(piece, str) for piece in data):
            raise TypeError("send: got str, takes bytes; encode it first") from None
        pieces = [memoryview(piece) for piece in data]
    return data, [piece.cast("B") for piece in pieces if piece.nbytes]


def _let_go(error: BaseException | None) -> None:
    """Empties the frames of a failure, in which memory views lie: a bytearray can change its
    size, and a mapping be closed, as soon as the caller has the error."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__


class Sending(SocketCore):
    """`send` and `sendall`. Every wait for room is in `_push` and `_wait_for_room`."""

    __slots__ = ()

    def send(
        self, data: Any, flags: int = 0, *, timeout_ms: float | Missing | None = MISSING
    ) -> int:
        """Sends all of `data`.

        After `settimeout` was given a number, and without `timeout_ms`, it is as
        `socket.send` is: it may send a part, and raises only if nothing went out.

        Args:
            data: bytes-like, or an iterable of bytes-like.
            flags: as for `socket.send`.
            timeout_ms: milliseconds for all of it; not given: `settimeout`'s, or
                `send_timeout_ms`.

        Returns:
            How many bytes.

        Raises:
            SocketTimeout: not all went out in time; `.bytes_sent` says how many did.
            SocketClosed: the peer has gone, or the socket was closed here.
            SocketError: any other failure, with its errno.
            TypeError: `str`, or nothing bytes-like.
            NotSupported: a flag that the transport cannot honour.

        Thread: any; sends do not interleave inside one another.
        """
        # The common case, in few steps: bytes, nobody else sending, room in the kernel.
        given = data
        if type(data) is list:
            data = _joined(data)
        if (
            type(data) is bytes
            and timeout_ms is MISSING
            and not flags
            and not self._sending._is_owned()
            and self._sending.acquire(False)
        ):
            try:
                sent = 0 if self._closed else self._sink.send(data, QUIETLY)
            except BlockingIOError:
                sent = 0
            except BaseException as cause:
                self._sending.release()
                if isinstance(cause, OSError):
                    self._broke_off(cause)
                raise
            if sent == len(data):
                try:
                    self._bytes_sent += sent
                    self._send_count += 1
                    self._answered = self._bytes_received
                finally:
                    self._sending.release()
                if _sent.receivers:
                    self._tell_sent(given, sent)
                return sent
            # Negative: all that was taken counts as sent, but a rest waits to be flushed.
            taken = sent if sent >= 0 else ~sent
            return self._send(data, taken, 0, MISSING, False, True, told=given)
        return self._send(given, 0, flags, timeout_ms, False, False)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Sends all of `data`, whatever `settimeout` was given.

        Raises:
            SocketError: as for `send`.

        Thread: any; sends do not interleave inside one another.
        """
        self._send(data, 0, flags, MISSING, True, False)

    def _send(
        self,
        data: Any,
        already: int,
        flags: int,
        timeout_ms: float | Missing | None,
        all_: bool,
        my_turn: bool,
        told: Any = None,
    ) -> int:
        """Everything but the common case.

        `already`: how many bytes of `data` went out; `my_turn`: `_stream.sending` is held; `told`:
        what receivers get instead of `data`.
        """
        progress = [already]
        views: list[memoryview] = []
        try:
            try:
                timeout = self._timeout(timeout_ms, self._connection.send_timeout)
                default = self._default_timeout
                partly = not all_ and timeout_ms is MISSING and isinstance(default, float)
                if flags:
                    self._channel.check_flags(flags)
                    if flags & DONTWAIT:
                        flags &= ~DONTWAIT
                        timeout, partly = 0.0, True
                data, views = _views(data)
                deadline = now() + timeout
                if not my_turn:
                    self._take_turn("send", timeout, deadline)
                    my_turn = True
                self._open("send")
                if already:
                    views = [views[0][already:]] if already < len(views[0]) else []
                self._push(views, flags, timeout, deadline, partly, progress)
                self._send_count += 1
                self._answered = self._bytes_received
            finally:  # before anybody is told: a receiver may close this socket, or send
                if my_turn:
                    self._bytes_sent += progress[0]
                    self._sending.release()
        except BaseException as cause:
            if views:
                _let_go(cause)
            if isinstance(cause, OSError):
                raise self._send_failed("send", cause, progress[0])  # noqa: B904 - has its cause
            raise
        finally:
            views.clear()
        if events.socket_send.receivers:
            self._tell_sent(data if told is None else told, progress[0])
        return progress[0]

    def _take_turn(self, doing: str, timeout: float, deadline: float) -> None:
        """Waits for the others' sends."""
        if self._sending._is_owned():
            raise self._amid_another(doing)
        if self._sending.acquire(blocking=False):
            return
        waits.give_way()
        left = self._left(deadline)
        if not self._sending.acquire(timeout=-1 if left == FOREVER else left):
            raise self._no_room(doing, timeout)

    def _push(
        self,
        views: list[memoryview],
        flags: int,
        timeout: float,
        deadline: float,
        partly: bool,
        progress: list[int],
    ) -> None:
        """Sends views until none is left; holds `_stream.sending`; counts in `progress`."""
        channel = self._channel
        self._tell_owner()
        while channel.unfinished and not channel.flush():
            self._wait_for_room("send", timeout, deadline)
        while views:
            if len(views) == 1:
                sent = channel.send(views[0], flags)
            else:
                sent = channel.send_gathered(views, flags)
            if sent:
                progress[0] += sent
                whole = 0
                while whole < len(views) and sent >= len(views[whole]):
                    sent -= len(views[whole])
                    whole += 1
                del views[:whole]
                if sent:
                    views[0] = views[0][sent:]
                continue
            self._tell_owner()
            if partly and progress[0]:
                return
            self._wait_for_room("send", timeout, deadline)
        while channel.unfinished and not channel.flush():
            if partly:
                return
            self._wait_for_room("send", timeout, deadline)

    def _tell_owner(self) -> None:
        """After each attempt that sent nothing: the next may succeed without a wait."""
        if self._channel.took_in():
            self._connection.look_again()

    def _wait_for_room(self, doing: str, timeout: float, deadline: float) -> None:
        """Returns when the descriptor is ready for what the channel wants; holds `_stream.sending`.

        Raises:
            SocketTimeout: the deadline has passed.
            SocketClosed: the socket was closed here.
        """
        if self._closed:
            raise self._closed_error(doing)
        left = self._left(deadline)
        if left <= 0:
            raise self._no_room(doing, timeout)
        self._connection.take_out()
        waits.give_way()
        look = min(left, LOOK_S)
        if self._channel.shaking:
            came = self._wait_for_hands(doing, look)
        else:
            write = self._channel.send_wants == WRITE
            came = waits.wait_for(self._sock.fileno(), write=write, timeout=look)
        if not came and left <= LOOK_S:
            raise self._no_room(doing, timeout)
        if self._closed:
            raise self._closed_error(doing)

    def _no_room(self, doing: str, timeout: float) -> SocketTimeout:
        error = self._timed_out(
            doing,
            timeout,
            "the peer does not read",
            "send_timeout_ms, settimeout, or timeout_ms of the call",
        )
        error._sending = True
        return error

    def _send_failed(
        self, doing: str, cause: OSError, bytes_sent: int = 0, bytes_lost: int = 0
    ) -> SocketError:
        error = self._failed(doing, cause)
        if isinstance(error, (SocketTimeout, SocketClosed)):
            error.bytes_sent = bytes_sent
        if events.socket_send_error.receivers:
            connection = self._connection
            events.emit(
                events.socket_send_error,
                connection.server,
                {"error": error, "bytes_sent": bytes_sent, "bytes_lost": bytes_lost},
                {"connection_id": connection.id},
            )
        return error

    def _broke_off(self, cause: OSError) -> NoReturn:
        raise self._send_failed("send", cause) from cause

    def _tell_sent(self, data: Any, bytes_sent: int) -> None:
        connection = self._connection
        events.emit(
            events.socket_send,
            connection.server,
            {"data": data, "bytes_sent": bytes_sent},
            {"connection_id": connection.id},
        )
