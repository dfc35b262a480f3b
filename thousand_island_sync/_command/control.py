"""The servers that the command line serves, and what may be asked of all of them together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial

from .._admin.commands import begin
from ..logger import LogLevel
from ..server import ThousandIsland
from .logs import Logs
from .reload import Reload


class Control:
    """As `_admin.commands.Control`. Thread: any.

    Args:
        servers: which.
        reload: does what SIGHUP does.
        logs: whose level may change.
        drain_delay_ms: of a drain.
    """

    def __init__(
        self,
        servers: Iterable[ThousandIsland],
        reload: Reload,
        logs: Logs,
        drain_delay_ms: float,
    ) -> None:
        self._servers = tuple(servers)
        self._reload = reload
        self._logs = logs
        self._drain_delay_ms = drain_delay_ms

    def hang_up(self) -> None:
        """As SIGHUP asks for it: a reload; what is wrong is in the log."""
        self._reload()

    def around_reloads(self, around: Callable[[], AbstractContextManager[object]]) -> None:
        """Each reload is made within what this makes."""
        self._reload.around = around

    def reload(self, *, certificates: bool) -> None:
        """Raises ThousandIslandError: it is refused, and the old holds."""
        self._reload.now(certificates)

    def stop(self) -> None:
        """Begins it, and returns."""
        for server in self._servers:
            begin(server.stop, "stop")

    def drain(self) -> None:
        """Begins it, and returns."""
        for server in self._servers:
            begin(partial(server.drain, self._drain_delay_ms), "drain")

    def log_level(self, level: LogLevel) -> None:
        self._logs.write(level)


class Served(tuple[ThousandIsland, ...]):
    """The servers, for what runs beside them (`extras.Begin`).

    Attributes:
        control: changes all of them, as signals do.
    """

    control: Control
