"""`ThousandIsland`: the server. The only module that wires the others together."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Never

from ._base.clock import seconds
from ._base.options import MISSING, Missing, is_milliseconds
from ._server.changes import Changes
from ._server.config import Config, config
from ._server.current_transport import CurrentTransport
from ._server.run import NOT_STARTED, Run
from ._server.serving import serve_until_signalled
from .connection import Connection
from .errors import ConfigError, NotSupported, ServerNotRunning, ThousandIslandError


@dataclass(frozen=True, slots=True)
class Info:
    """A snapshot of a server; see `ThousandIsland.info`."""

    status: str
    local_address: Any
    active_connections: int
    peak_connections: int
    accepted_total: int
    rejected_total: int
    handler_threads: int
    busy_threads: int
    waiting_connections: int
    probes_total: int


class ThousandIsland:
    """A socket server. See the README for the options, all keyword-only.

    Every method may be called from any thread, callbacks and receivers included,
    unless it says otherwise. Nothing is opened before `start()`.

    Raises:
        ConfigError: an option has a wrong value, or there is none of that name.
    """

    def __init__(self, *positional: Never, **options: Any) -> None:
        self._config = config(positional, options)
        self._transport = CurrentTransport(self._config.transport)
        self._changes = Changes(self, self._config, self._transport)

    def __repr__(self) -> str:
        return f"<ThousandIsland {self.name!r} {self._changes.status}>"

    @property
    def name(self) -> str:
        """The option `name`."""
        return self._config.name

    @property
    def status(self) -> str:
        """`"new"`, `"running"`, `"suspended"`, `"stopping"` or `"stopped"`.

        It is `"suspended"`, too, while every acceptor has died again and again; they are tried
        again every few seconds.
        """
        self._changes.check_process()
        return self._changes.shown()

    # ---- starting and stopping ------------------------------------------------

    def start(self) -> ThousandIsland:
        """Binds, listens, and starts the threads.

        Returns:
            This server.

        Raises:
            ListenError: the address cannot be had; nothing is left behind.
            ThousandIslandError: it has been started, a thread cannot be, or the process was
                monkey-patched (gevent, eventlet).
        """
        self._changes.check_process()
        self._changes.start()
        return self

    def __enter__(self) -> ThousandIsland:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._changes.is_the_parents():
            self.stop()

    def stop(self, timeout_ms: float | Missing | None = MISSING) -> bool:
        """Stops gracefully, within one deadline.

        Args:
            timeout_ms: milliseconds in all; not given: `shutdown_timeout_ms`.

        Returns:
            `True` if every connection ended by itself, `False` if any was cut. Called
            from a callback or a receiver it waits for the other connections only.

        Raises:
            ValueError: `timeout_ms` is no number of milliseconds.
        """
        self._changes.check_process()
        if timeout_ms is MISSING:
            timeout_ms = self._config.shutdown_timeout_ms
        if timeout_ms is not None and not is_milliseconds(timeout_ms):
            raise ValueError(f"stop: timeout_ms: got {timeout_ms!r}, takes milliseconds or None")
        return self._changes.stop(seconds(timeout_ms))  # type: ignore[arg-type]

    def wait(self, timeout_ms: float | None = None) -> bool:
        """Blocks until the server is stopped (a new one: started and stopped).

        Args:
            timeout_ms: milliseconds; `None`: no limit.

        Returns:
            Whether it is stopped.

        Raises:
            ThousandIslandError: inside `start`, `stop`, `suspend` or `resume` on the same thread
                (a signal's handler, say), or on a thread of the server's outside a callback or
                receiver: it would wait for itself.
        """
        self._changes.check_process()
        return self._changes.wait(seconds(timeout_ms))

    def serve_forever(self, *others: ThousandIsland) -> None:
        """Serves until stopped; SIGINT and SIGTERM begin a graceful stop, a second one
        cuts at once.

        Args:
            others: servers that live and stop with this one.

        Raises:
            ListenError: as for `start`; what had been started is stopped again.
            ThousandIslandError: not on the main thread.
            TypeError: one of `others` is no server; nothing was started.

        Thread: the main thread only.
        """
        for other in others:
            if not isinstance(other, ThousandIsland):
                raise TypeError(f"serve_forever: got {other!r}, takes further servers or nothing")
        if threading.current_thread() is not threading.main_thread():
            raise ThousandIslandError("serve_forever: main thread only; elsewhere: start, wait")
        serve_until_signalled((self, *others))

    # ---- suspending -----------------------------------------------------------

    def suspend(self) -> None:
        """Closes the listening sockets and keeps the connections. Does nothing when
        suspended already.

        Raises:
            ServerNotRunning: not started.
        """
        self._changes.check_process()
        self._changes.suspend()

    def resume(self) -> None:
        """Listens again on the same address and port. Does nothing when running.

        Raises:
            ListenError: the address cannot be had, or a thread cannot be started; it stays
                suspended.
            ServerNotRunning: not started.
        """
        self._changes.check_process()
        self._changes.resume()

    def reload_transport(self, **transport_options: Any) -> None:
        """New connections get these options, merged over the present ones.

        Raises:
            ConfigError: they are bad, or belong to the listening socket; the old stay.
        """
        self._changes.check_process()
        if "transport_options" in transport_options:
            raise ConfigError("transport_options: give the options themselves, by name")
        self._transport.reload(transport_options)

    # ---- what it is doing -----------------------------------------------------

    def _listening(self) -> Any:
        self._changes.check_process()
        run = self._run
        address = None if run is None else run.listener.address
        if address is None:
            raise ServerNotRunning(
                f"the server is {self._changes.status}: it has no address; start() it, or"
                " resume() it"
            )
        return address

    @property
    def local_address(self) -> Any:
        """`(host, port)`, or the Unix path, `"@name"` for an abstract one.

        Raises:
            ServerNotRunning: not listening.
        """
        return self._listening()

    @property
    def local_port(self) -> int:
        """The TCP port.

        Raises:
            ServerNotRunning: not listening.
            NotSupported: a Unix socket.
        """
        address = self._listening()
        if not isinstance(address, tuple):
            raise NotSupported(f"local_port: the Unix socket {address} has none")
        return int(address[1])

    def connections(self) -> list[Connection]:
        """The open connections, a snapshot."""
        self._changes.check_process()
        run = self._run
        return [] if run is None else run.handles()

    def info(self) -> Info:
        """Counts, in constant time."""
        self._changes.check_process()
        run = self._run
        return Info(self.status, *(NOT_STARTED if run is None else run.counts()))

    # ---- inside ---------------------------------------------------------------

    @property
    def _run(self) -> Run | None:
        return self._changes.run


def config_of(server: ThousandIsland) -> Config:
    """Its options, as they were checked."""
    return server._config
