"""Whether servers are ready for another client, and why not."""

from __future__ import annotations

from collections.abc import Sequence

from .._base.clock import Clock, now
from ..server import ThousandIsland, run_of

#: Seconds without a free thread, after which a server is not ready. Shorter ones are load.
NO_THREAD_S = 2.0
#: Seconds between two looks.
LOOK_S = 0.2
#: Why a server takes nobody, whatever it could; a stop is a drain's end.
_BY_STATUS = {
    "new": "starting",
    "suspended": "suspended",
    "draining": "draining",
    "stopping": "draining",
    "stopped": "draining",
}


class Readiness:
    """Of some servers: they are ready when all of them are. Thread: one.

    Args:
        servers: them.
        clock: gives seconds.
    """

    def __init__(self, servers: Sequence[ThousandIsland], clock: Clock = now) -> None:
        self._servers = servers
        self._clock = clock
        self._no_thread_since: dict[ThousandIsland, float] = {}

    def look(self) -> None:
        """Sees whether there are threads; to be called every `LOOK_S`. A thread that comes free and
        is taken again in between is not seen."""
        for server in self._servers:
            load = None if server.status != "running" else load_of(server)
            if load is not None and load[0] == 0:
                self._no_thread_since.setdefault(server, self._clock())
            else:
                self._no_thread_since.pop(server, None)

    def why_not(self) -> str | None:
        """`starting`, `draining`, `suspended`, `limit` or `no free thread`; `None`: it is ready."""
        self.look()
        return next(filter(None, map(self._why_not, self._servers)), None)

    def _why_not(self, server: ThousandIsland) -> str | None:
        by_status = _BY_STATUS.get(server.status)
        if by_status is not None:
            return by_status
        run = run_of(server)
        if run is None:
            return "starting"
        if run.load().is_full:
            return "limit"
        since = self._no_thread_since.get(server)
        if since is not None and self._clock() - since >= NO_THREAD_S:
            return "no free thread"
        return None


def accepts(server: ThousandIsland) -> bool:
    """Whether clients are wanted. Thread: any."""
    return server.status not in _BY_STATUS


def load_of(server: ThousandIsland) -> tuple[int, int] | None:
    """Threads that are free, and the bound; `None`: it was not started. Thread: any."""
    run = run_of(server)
    if run is None:
        return None
    load = run.load()
    return load.free, load.most
