"""What a stop still delivers to one connection.

That is what has arrived, until one receive finds nothing, or 1 MiB; then it gets `handle_shutdown`.
One that is younger than 200 ms and has said nothing gets until that age: its request may be on the
way (`Client.young_until`).
"""

from __future__ import annotations

from .._base.clock import FOREVER

#: Bytes.
MOST = 1 << 20


class Drain:
    """Made when a stop reaches the connection.

    Args:
        messages: how many wait: later ones are not delivered. Not given: the connection did not
            exist yet when the stop began.
    """

    __slots__ = ("_bytes", "_messages")

    def __init__(self, messages: float = FOREVER) -> None:
        self._messages = messages
        self._bytes = 0

    def takes(self, size: int) -> bool:
        """Whether so many more bytes are delivered."""
        self._bytes += size
        return self._bytes <= MOST

    def takes_messages(self) -> bool:
        return self._messages > 0

    def count_message(self) -> None:
        self._messages -= 1
