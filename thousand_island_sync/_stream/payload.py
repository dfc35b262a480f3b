"""What one send has to send, and how much of it was sent."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from typing import Any

from .._base.clock import FOREVER, REAL, Times
from .._base.fast_enum import FastEnum
from .._base.sigpipe import DONTWAIT, NOSIGNAL

#: Pieces of at most so many bytes in all are joined: that costs less than a gathering send.
JOINED_MOST = 16_384


def joined(pieces: list[Any]) -> Any:
    """The pieces joined, if they are plain bytes-likes and small; else as they are."""
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


def views_of(data: Any) -> tuple[Any, list[memoryview]]:
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


def let_go(error: BaseException | None) -> None:
    """Clears the frames of an error, which hold memory views: so the caller can resize a bytearray,
    or close a mapping, while it has the error."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__


class NoRoom(FastEnum):
    """What a send does about bytes that find no room in the kernel's buffer, or in TLS's."""

    WAIT = "it waits until they have gone out"
    RETURN = "it waits until some have gone out, and returns how many"
    KEEP = "it puts them into the send buffer, and waits if that is full"


WAIT, RETURN, KEEP = NoRoom.WAIT, NoRoom.RETURN, NoRoom.KEEP

#: (`settimeout` has set a limit, the call wants all sent or gives a time of its own) -> what a send
#: does. Code that sets a limit expects what `socket.socket` does: `send` may send a part.
BY_LIMIT: dict[tuple[bool, bool], NoRoom] = {
    (False, False): KEEP,
    (False, True): KEEP,
    (True, False): RETURN,
    (True, True): WAIT,
}


def no_room(limited: bool, all_of_it: bool, flags: int) -> NoRoom:
    """As `BY_LIMIT`, with the flags of send(2). MSG_DONTWAIT: the send returns. With other flags
    nothing is kept, as kept bytes are sent without flags."""
    if flags & DONTWAIT:
        return RETURN
    otherwise = BY_LIMIT[limited, all_of_it]
    return WAIT if otherwise is KEEP and flags & ~NOSIGNAL else otherwise


class Payload:
    """Views that are to be sent by a deadline, in one turn.

    Attributes:
        sent: how many bytes were sent.
        views: what is left.
        flags: as for `socket.send`.
        no_room: what to do about bytes that find no room.
        waited: whether it has waited for room.
        timeout: seconds for all of it, for the text of errors.
        deadline: when they are over.
    """

    __slots__ = (
        "_times",
        "deadline",
        "flags",
        "no_room",
        "sent",
        "timeout",
        "views",
        "waited",
    )

    def __init__(self, timeout: float = FOREVER, sent: int = 0, times: Times = REAL) -> None:
        self._times = times
        self.sent = sent
        self.views: list[memoryview] = []
        self.flags = 0
        self.no_room = WAIT
        self.waited = False
        self.timeout = timeout
        self.deadline = FOREVER if timeout == FOREVER else times.clock() + timeout

    def limit(self, timeout: float) -> None:
        """So many seconds from now on."""
        self.timeout = timeout
        self.deadline = self._times.clock() + timeout

    def left(self) -> float:
        """Seconds until the deadline."""
        return self._times.left(self.deadline)

    def take(self, data: Any) -> Any:
        """Sets what is to be sent, without the bytes already sent. Returns `data`, an iterable as a
        list."""
        data, self.views = views_of(data)
        if self.sent:
            self._forget_sent(self.sent)
        return data

    def advance(self, count: int) -> None:
        """So many more bytes were sent."""
        self.sent += count
        self._forget_sent(count)

    def _forget_sent(self, count: int) -> None:
        views, whole = self.views, 0
        while whole < len(views) and count >= len(views[whole]):
            count -= len(views[whole])
            whole += 1
        del views[:whole]
        if count:
            views[0] = views[0][count:]
