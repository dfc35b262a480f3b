"""What one send has to send, and how far it has come."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from typing import Any

from .._base.clock import FOREVER, REAL, Times
from .._base.fast_enum import FastEnum
from .._base.sigpipe import DONTWAIT, NOSIGNAL

#: Several pieces of so many bytes in all are copied into one: it costs less than to gather.
JOINED_MOST = 16_384


def joined(pieces: list[Any]) -> Any:
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
    """Empties the frames of a failure, in which memory views lie: a bytearray can change its
    size, and a mapping be closed, as soon as the caller has the error."""
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
#: does. Who sets a limit expects what a `socket.socket` does: `send` may take a part.
BY_LIMIT: dict[tuple[bool, bool], NoRoom] = {
    (False, False): KEEP,
    (False, True): KEEP,
    (True, False): RETURN,
    (True, True): WAIT,
}


def no_room(limited: bool, all_of_it: bool, flags: int) -> NoRoom:
    """As `BY_LIMIT`, with the flags of send(2): a send that must not wait returns, and what is kept
    goes out without flags, so a send that has some is not kept."""
    if flags & DONTWAIT:
        return RETURN
    otherwise = BY_LIMIT[limited, all_of_it]
    return WAIT if otherwise is KEEP and flags & ~NOSIGNAL else otherwise


class Payload:
    """Views that are to be sent by a deadline, in one turn.

    Attributes:
        sent: how many bytes went out.
        views: what is left.
        flags: as for `socket.send`.
        no_room: what is done about bytes that find none.
        waited: whether it has waited for room.
        timeout: seconds for all of it, as an error says it.
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
        """What is to be sent, less what went out; `data`, an iterable as a list."""
        data, self.views = views_of(data)
        if self.sent:
            self._forget_sent(self.sent)
        return data

    def advance(self, count: int) -> None:
        """So many bytes more went out."""
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
