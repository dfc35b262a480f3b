"""Those threads that wait for room at one peer, and what ends a wait before its time.

The facts. Whoever waits for room sleeps in poll(2), which room ends, an error, and `shutdown`. Not
so what is done to the send buffer: that its connection ends for others' sake, that sends have
ended, that an upgrade begins. Half of the pool may wait; each that wakes up only to look takes the
GIL from those who serve, and as they began together, they look together.

Our decision. A wait that is not over soon has a bell of its own, and is rung up.
"""

from __future__ import annotations

from .._base.wake_up import WakeUp


class RoomWaits:
    """Of one send buffer. Changed with the lock of all of them.

    Attributes:
        threads: how many wait.
        pooled: how many of those are the pool's.
    """

    __slots__ = ("_bell", "pooled", "threads")

    def __init__(self) -> None:
        self._bell: WakeUp | None = None
        self.threads = self.pooled = 0

    def changed(self, by: int, pooled: int) -> None:
        """So many threads more, or less."""
        self.threads += by
        self.pooled += pooled

    def forget(self) -> None:
        """They are counted out."""
        self.threads = self.pooled = 0

    def hang_up(self, bell: WakeUp | None) -> None:
        """From now on this one is rung. Thread: who has the turn to send; without the lock."""
        self._bell = bell

    def ring(self) -> None:
        """Whoever waits shall look. Thread: any, wherever it was interrupted; without the lock."""
        bell = self._bell
        if bell is not None:
            bell.wake()
