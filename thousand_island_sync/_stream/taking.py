"""How much a peer takes of what is sent to it, as far as the kernel tells.

A peer that does not read takes what fills its own buffer, and then nothing. When bytes begin to
wait in the send buffer, the peer may have taken nothing for long already. So there are two times:
`since` when bytes wait here and none is taken, from which the send timeout counts; and
`stuck_since` when the peer has taken nothing at all, which decides which peer is the slowest.
"""

from __future__ import annotations

import socket

from .._base.clock import FOREVER
from .._base.queued import last_data_sent, queued


class Taking:
    """Of one peer. Thread: any; a late `look` only sees an older state.

    Args:
        time_now: on the clock of its run, as all times here.

    Attributes:
        since: when the peer last took something, or bytes began to wait.
        stuck_since: since when the peer takes nothing, not even what the kernel holds.
    """

    __slots__ = ("_held", "_moved_at", "since", "stuck_since")

    def __init__(self, time_now: float) -> None:
        self._held: int | None = None  # what the kernel held at the last look
        self._moved_at = -FOREVER
        self.begins(time_now)

    def begins(self, time_now: float) -> None:
        """Bytes begin to wait, or a thread."""
        self.since = self.stuck_since = time_now

    def moved(self, time_now: float) -> None:
        """The peer has taken something."""
        self.since = self.stuck_since = self._moved_at = time_now

    def look(self, sock: socket.socket | None, time_now: float, in_real_time: bool) -> None:
        """Asks the kernel. `sock` is `None` if there is no descriptor any more."""
        held = None if sock is None else queued(sock)
        sent = None if sock is None or not in_real_time else last_data_sent(sock)
        before, self._held = self._held, held
        if held is not None and before is not None and held < before:
            self.since = self._moved_at = time_now
        stuck = self.since if sent is None else max(self._moved_at, time_now - sent)
        self.stuck_since = min(self.since, stuck)
