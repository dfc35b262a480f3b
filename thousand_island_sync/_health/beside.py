"""A small listener beside servers: the common part of a health server and an agent."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from .._admin.commands import check_servers
from .._base import addresses
from .._base.clock import FOREVER
from .._base.listen_errors import listen_error, no_thread
from .._base.types import Address
from ..errors import ConfigError, ServerNotRunning, ThousandIslandError
from ..server import ThousandIsland
from ..transports.base import ListenSocket
from ..transports.tcp import TCP
from .small_server import SmallServer, Talk

#: What is called so often, in seconds.
Tick = tuple[float, Callable[[], None]]
NO_TICK: Tick = (FOREVER, lambda: None)


class BesideServers:
    """A listener of its own, beside servers that need not run: a context manager.

    Args:
        servers: which it tells of.
        host, port: as for `HealthServer`.
        talk: with the clients.
        tick: what its thread calls now and then.

    Raises:
        ConfigError: as for `HealthServer`.
    """

    #: Ends the name of its thread.
    _kind = "probes"

    def __init__(
        self,
        servers: Sequence[ThousandIsland],
        host: str,
        port: int,
        talk: Talk,
        tick: Tick = NO_TICK,
    ) -> None:
        check_servers(type(self).__name__, servers)
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65_535:
            raise ConfigError(f"port: got {port!r}, takes a port number, 0 to 65535")
        self._transport = TCP({"host": host})
        if addresses.is_unix(self._transport.options["host"]) and port:
            raise ConfigError(
                f"port: got {port!r}, but a Unix socket (host) has no port; leave it out"
            )
        self._port = port
        self._talk = talk
        self._tick = tick
        self._thread_name = f"{servers[0].name}-{self._kind}"
        self._running: SmallServer | None = None
        self._address: Address | None = None
        self._pid = os.getpid()

    def start(self) -> Self:
        """Listens and starts its thread.

        Returns:
            This object.

        Raises:
            ListenError: the address cannot be had.
            ThousandIslandError: it was started already, or no thread can be started.

        Thread: any.
        """
        named = type(self).__name__
        if self._running is not None:
            raise ThousandIslandError(f"{named}: started already; call stop() first")
        listening = self._listen()
        self._pid = os.getpid()
        try:
            running = SmallServer(listening, self._talk, self._thread_name, self._tick)
        except BaseException as error:
            listening.close()
            if isinstance(error, OSError):
                raise self._refused(error) from error
            raise
        try:
            running.start()
        except RuntimeError as error:
            raise no_thread(named, error) from error
        self._address = addresses.pair(listening.address)
        self._running = running
        return self

    def _listen(self) -> ListenSocket:
        try:
            return self._transport.listen(self._port, 1)[0]
        except (UnicodeError, OverflowError) as error:  # no name that could resolve
            raise self._refused(OSError(22, str(error))) from error
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> Any:
        return listen_error(error, self._transport.options["host"], self._port)

    def stop(self) -> None:
        """Closes everything and ends its thread. On one that was not started, and in a forked
        child, it does nothing. Thread: any."""
        running, self._running = self._running, None
        if running is not None and self._pid == os.getpid():
            running.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def local_address(self) -> Address:
        """`(host, port)`, or the Unix path, `"@name"` for an abstract one.

        Raises:
            ServerNotRunning: not started.
        """
        if self._running is None or self._address is None:
            raise ServerNotRunning(f"{type(self).__name__}: not started; call start() first")
        return self._address
