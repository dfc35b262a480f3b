"""The threads that wait for room to send to one peer, and what ends a wait early.

The facts. A thread that waits for room sleeps in poll(2). Room, an error or `shutdown` ends that;
changes of the send buffer do not: its connection is ended in favour of others, sends have ended, an
upgrade begins. To wake up now and then to check would be too dear: half of the pool may wait, each
check takes the GIL from threads that serve, and threads that began together check together.

Our decision. A wait that is not over soon gets a descriptor of its own, the bell, which ends it.
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
        """So many threads more or, if negative, fewer."""
        self.threads += by
        self.pooled += pooled

    def forget(self) -> None:
        """The caller has taken them out of the total."""
        self.threads = self.pooled = 0

    def hang_up(self, bell: WakeUp | None) -> None:
        """From now on this bell is rung. Thread: the one with the turn to send."""
        self._bell = bell

    def ring(self) -> None:
        """Ends a wait. Thread: any, wherever it was interrupted; without the lock."""
        bell = self._bell
        if bell is not None:
            bell.wake()
