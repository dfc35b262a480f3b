"""Bytes between the descriptor and the callbacks."""

from __future__ import annotations

#: What one receive asks for when the caller names no length.
CHUNK = 65_536


class ReadBuffer:
    """Bytes that were read and not handed out: some put back, then some fresh.

    Attributes:
        fresh: how many, at the end, no callback has seen yet.
    """

    __slots__ = ("_data", "_start", "fresh")

    def __init__(self, data: bytes, fresh: int) -> None:
        self._data = data
        self._start = 0
        self.fresh = fresh

    def __len__(self) -> int:
        return len(self._data) - self._start

    def peek(self, length: int) -> bytes:
        return self._data[self._start : self._start + length]

    def take(self, length: int) -> bytes:
        taken = self._data[self._start : self._start + length]
        self._start += len(taken)
        self.fresh = min(self.fresh, len(self))
        return taken

    def put_back(self, data: bytes) -> None:
        self._data = data + self._data[self._start :]
        self._start = 0

    def add(self, data: bytes) -> None:
        self._data = self._data[self._start :] + data
        self._start = 0
        self.fresh += len(data)

    def find(self, delimiter: bytes, start: int) -> int:
        """Where the delimiter ends, counted from the front; -1: it is not there."""
        found = self._data.find(delimiter, self._start + start)
        return -1 if found < 0 else found + len(delimiter) - self._start
