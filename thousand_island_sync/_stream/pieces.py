"""Bytes in a row, in pieces: what was kept of many sends, small ones joined."""

from __future__ import annotations

from collections import deque
from itertools import islice

#: Bytes of a piece at most, one record of TLS: one that went out in part is still held whole.
PIECE = 16_384
#: Pieces that go out in one call.
_AT_ONCE = 16


class Pieces:
    """A copy of whatever is put in. Its owner lets in one thread at a time, but for what is done
    with the views that `first` gives.

    Attributes:
        size: bytes in all.
    """

    __slots__ = ("_offset", "_row", "size")

    def __init__(self) -> None:
        self._row: deque[bytes | bytearray] = deque()  # one that grows is the last
        self._offset = 0  # into the first one: so much of it has gone
        self.size = 0

    def append(self, view: memoryview) -> None:
        row, done = self._row, 0
        if row and type(row[-1]) is bytearray:
            done = min(PIECE - len(row[-1]), len(view))
            row[-1] += view[:done]
            if len(row[-1]) >= PIECE:
                row[-1] = bytes(row[-1])
        while len(view) - done >= PIECE:
            row.append(bytes(view[done : done + PIECE]))
            done += PIECE
        if done < len(view):
            row.append(bytearray(view[done:]))
        self.size += len(view)

    def first(self, most: int) -> list[memoryview]:
        """The first bytes of the row, at most so many; they stay."""
        row, views, start = self._row, [], self._offset
        if most > 0 and row and type(row[0]) is bytearray:
            row[0] = bytes(row[0])
        for piece in islice(row, _AT_ONCE):
            if most <= 0 or type(piece) is bytearray:
                break
            views.append(memoryview(piece)[start : start + most])
            most -= len(views[-1])
            start = 0
        return views

    def drop(self, count: int) -> None:
        """Takes so many bytes off the front."""
        row = self._row
        self.size -= count
        self._offset += count
        while row and self._offset >= len(row[0]):
            self._offset -= len(row.popleft())

    def cut(self, at: int) -> Pieces:
        """Takes out all that comes behind so many bytes."""
        behind = Pieces()
        left = self.size - at
        while left:
            piece = bytes(self._row.pop())
            start = self._offset if not self._row else 0
            kept = max(start, len(piece) - left)
            behind._row.appendleft(piece[kept:])
            left -= len(piece) - kept
            if kept > start:
                self._row.append(piece[:kept])
        behind.size, self.size = self.size - at, at
        if not self._row:
            self._offset = 0
        return behind

    def extend(self, others: Pieces) -> None:
        """Puts them behind; they are here from now on."""
        self._row.extend(others._row)
        self.size += others.size

    def clear(self) -> None:
        self._row.clear()
        self.size = self._offset = 0
