"""What a stop still delivers to one connection.

That is what has arrived, until one receive finds nothing, or 1 MiB; then it gets `handle_shutdown`.
One that is younger than 200 ms and has said nothing gets until that age: its request may be on the
way (`Client.young_until`).
"""

from __future__ import annotations

#: Bytes.
MOST = 1 << 20


class Drain:
    """Made when the first bytes come after a stop has begun. Thread: the owner's."""

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        self._bytes = 0

    def takes(self, size: int) -> bool:
        """Whether so many more bytes are delivered."""
        self._bytes += size
        return self._bytes <= MOST
