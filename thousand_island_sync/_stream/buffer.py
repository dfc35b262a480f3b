"""Bytes between the descriptor and the callbacks."""

from __future__ import annotations

#: The length of a receive whose caller gives none.
CHUNK = 65_536


class ReadBuffer:
    """Bytes that were received and not returned: first those that were put back, then fresh ones.
    Adding bytes costs only their own length, however many are here: they may come one by one.

    Attributes:
        fresh: how many, at the end, no callback has seen yet.
        searched: how many, in front, were searched for a frame in vain.
    """

    __slots__ = ("_data", "_start", "fresh", "searched")

    def __init__(self, data: bytes, fresh: int) -> None:
        self._data: bytes | bytearray = data
        self._start = 0
        self.fresh = fresh
        self.searched = 0

    def __len__(self) -> int:
        return len(self._data) - self._start

    def peek(self, length: int) -> bytes:
        return bytes(self._data[self._start : self._start + length])

    def last(self, length: int) -> bytes:
        """The last bytes; `length` is not 0."""
        return bytes(self._data[-length:])

    def take(self, length: int) -> bytes:
        taken = self._data[self._start : self._start + length]
        self._start_at(self._start + len(taken))
        return bytes(taken)

    def put_back(self, data: bytes) -> None:
        self._data = data + self._data[self._start :]
        self._start = self.searched = 0

    def add(self, data: bytes) -> None:
        kept = self.whole()
        try:
            kept.extend(data)
        except BufferError:  # user code keeps a view of it
            self._data = kept + data
        self.fresh += len(data)

    def find(self, delimiter: bytes, start: int) -> int:
        """Where the delimiter ends, counted from the front; -1: it is not there."""
        found = self._data.find(delimiter, self._start + start)
        return -1 if found < 0 else found + len(delimiter) - self._start

    # ---- for frames -------------------------------------------------------------

    def whole(self) -> bytearray:
        """All of it, to be looked at."""
        data = self._data
        if not isinstance(data, bytearray):
            data = self._data = bytearray(data)
        if self._start:
            try:
                del data[: self._start]  # moves nothing: CPython notes a new beginning
            except BufferError:  # user code keeps a view of it
                data = self._data = data[self._start :]
            self._start = 0
        return data

    def lacks(self, delimiter: bytes) -> bool:
        """Whether the delimiter is missing; searches only what was not searched before."""
        data = self.whole()
        if data.find(delimiter, max(0, self.searched - len(delimiter) + 1)) >= 0:
            return False
        self.searched = len(data)
        return True

    def cut(self, begin: int, end: int, following: int) -> bytes:
        """Cuts a frame out; the next one begins at `following`. All that is left counts as fresh,
        even if it was put back before: the next callback has not seen it as a frame."""
        begin += self._start
        with memoryview(self._data) as view:
            piece = bytes(view[begin : end + self._start])
        self._start_at(self._start + following)
        self.fresh = len(self)
        return piece

    def _start_at(self, start: int) -> None:
        self._start = start
        self.searched = 0
        left = len(self._data) - start
        if left < self.fresh:
            self.fresh = left
