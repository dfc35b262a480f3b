"""How many clients a server can take, for HAProxy's `agent-check`: `Agent`.

HAProxy connects every `agent-inter`, reads a line and sets the server's weight and state by it
(HAProxy 2.6, configuration manual, 5.2, "agent-check").
"""

from __future__ import annotations

from collections.abc import Sequence

from .._health.beside import BesideServers
from .._health.readiness import accepts, load_of
from .._health.small_server import Answer
from ..server import ThousandIsland

__all__ = ["Agent"]


class Agent(BesideServers):
    """Sends one line to each client that connects: a context manager.

    - `up ready N%`: N percent of the threads are free, at least 1; of several servers, the figure
      of the one with the fewest. HAProxy multiplies the server's weight with it and rounds down, so
      give the server a weight of 100 (`weight 100`): 99 % of the default weight, 1, are 0.
    - `drain`: a server drains, or accepts nobody for another reason: it is not started, suspended,
      stopping or stopped. HAProxy sends no new clients, and lets the present ones finish.

    It has a listener and one thread of its own, as `HealthServer`.

    Args:
        servers: one or more; they need not have been started.
        host: as the option of `TCP`: a name, an address, or `unix:PATH`.
        port: 0 takes a free one, which `local_address` tells; a Unix socket has none.

    Raises:
        ConfigError: there is no server, or one of them is not a `ThousandIsland`; `host` or `port`
            has a wrong value.

    Thread: any.
    """

    _kind = "agent"

    def __init__(self, *servers: ThousandIsland, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(servers, host, port, _Line(servers))


class _Line:
    """As `small_server.Talk`."""

    def __init__(self, servers: Sequence[ThousandIsland]) -> None:
        self._servers = servers

    def greet(self) -> Answer | None:
        return Answer(self._line().encode() + b"\n", 0, False)

    def answer(self, received: bytes, over: bool) -> Answer | None:
        return None  # what HAProxy sends (`agent-send`) changes nothing

    def too_late(self) -> Answer:
        return Answer(b"\n", 0, False)

    def _line(self) -> str:
        if not all(map(accepts, self._servers)):
            return "drain"
        free, most = min(
            (load_of(server) or (0, 1) for server in self._servers),
            key=lambda load: load[0] / load[1],
        )
        return f"up ready {max(1, 100 * free // most)}%"
