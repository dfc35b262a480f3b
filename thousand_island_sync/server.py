"""`ThousandIsland`: the server. The only module that wires the others together."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Never, Unpack

from ._base.clock import REAL, Times, seconds
from ._base.options import MILLISECONDS_OR_NONE, MISSING, Missing, is_milliseconds
from ._base.signatures import spelled_out, written_out
from ._base.types import Address, Status
from ._server.certificate_watch import Certificates, CertificateWatch
from ._server.changes import Changes
from ._server.config import NO_OPTIONS, Config, config
from ._server.current_transport import CurrentTransport
from ._server.run import NOT_STARTED, Run
from ._server.serving import HANGUP, check, serve_until_signalled
from ._server.status import DRAINING, STOPPING
from .connection import Connection
from .errors import ConfigError, NotSupported, ServerNotRunning
from .handler import Handler
from .transports import TCP, Prepared, ReloadOptions, Transport, TransportOptions

if TYPE_CHECKING:
    from ._server.info import Info


def _import_snapshots() -> None:
    """Imports what `info()` and `Socket.stats()` return, before they can be called: a call may come
    from code that has interrupted an import of the same module."""
    from ._server import info  # noqa: F401
    from ._stream import raw_file, stats  # noqa: F401


class ThousandIsland:
    """A socket server: it accepts clients and runs a `Handler` for each.

    Every option is given by its name. Times are in milliseconds, and `None` means no limit. The
    constructor opens nothing; `start()` does.

    Thread: any, for every method that does not say otherwise; callbacks and receivers may call
    them, too.

    Args:
        handler_cls: the subclass of `Handler` that serves; one instance for each connection.
        handler_options: given to each handler: `handler_cls(handler_options)`.
        port: TCP port; 0 takes a free one, which `local_port` tells; a Unix socket has none.
        host: the same as `transport_options["host"]`; `None`: not given here.
        transport_cls: `TCP`, `TLS`, or a `Transport` of your own.
        transport_options: what the transport takes: see `TransportOptions`; or what `TLS.prepare`
            made.
        num_acceptors: threads that accept.
        num_listen_sockets: listening sockets, shared out over the acceptors; more than one needs
            `reuse_port`.
        max_connections: connections that are open at once.
        max_connections_wait_ms: milliseconds that clients wait in the kernel's backlog at that
            limit, before they are refused.
        max_handler_threads: threads that run callbacks; they are started on demand.
        read_timeout_ms: milliseconds without a byte of the peer's, after which `handle_timeout`
            runs.
        handshake_timeout_ms: milliseconds for a whole handshake.
        send_timeout_ms: milliseconds that one `send` or `sendfile` may wait in all.
        shutdown_timeout_ms: milliseconds that `stop()`, and leaving `with`, may take.
        interrupt_reads: whether a stop wakes a callback that waits for the next request.
        max_pending_messages: messages that may wait for one connection; `None`: no limit.
        max_unread: bytes that `unread` may leave waiting, of one connection.
        max_unsent: bytes of one connection that may wait for its peer, holding no thread; 0:
            `send` waits.
        max_unsent_total: the same for all connections together.
        name: prefix of the threads' names; seen in logs and events.

    Raises:
        ConfigError: an option has a wrong value or an unknown name, or was given without a name.
    """

    #: The clocks of its connections. `testing.serve` sets others.
    _times: Times = REAL

    def _set_up(self, *positional: Any, **given: Any) -> None:
        _import_snapshots()
        self._config = config(positional, given, self._times)
        self._transport = CurrentTransport(self._config.transport)
        self._changes = Changes(self, self._config, self._transport)
        certificates = Certificates(self._transport)
        self._watch = CertificateWatch(certificates, self._changes.wait, self._config.name)

    @written_out(_set_up)
    def __init__(
        self,
        *,
        handler_cls: type[Handler],
        handler_options: Any = None,
        port: int = 4000,
        host: str | None = None,
        transport_cls: type[Transport] = TCP,
        transport_options: TransportOptions | Prepared = NO_OPTIONS,
        num_acceptors: int = 10,
        num_listen_sockets: int = 1,
        max_connections: int = 16_384,
        max_connections_wait_ms: float | None = 5_000,
        max_handler_threads: int = 128,
        read_timeout_ms: float | None = 60_000,
        handshake_timeout_ms: float | None = 5_000,
        send_timeout_ms: float | None = 30_000,
        shutdown_timeout_ms: float | None = 15_000,
        interrupt_reads: bool = False,
        max_pending_messages: int | None = 1_000,
        max_unread: int = 1_048_576,
        max_unsent: int = 262_144,
        max_unsent_total: int = 67_108_864,
        name: str = "thousand-island",
        **unknown: Never,
    ) -> None: ...

    def __repr__(self) -> str:
        return f"<ThousandIsland {self.name!r} {self._changes.status}>"

    @property
    def name(self) -> str:
        """The option `name`, a `str`."""
        return self._config.name

    @property
    def status(self) -> Status:
        """`"new"`, `"running"`, `"suspended"`, `"draining"`, `"stopping"` or `"stopped"`.

        The status is `"suspended"`, too, while no acceptor thread stays alive; the server starts
        them again every few seconds.
        """
        self._changes.check_process()
        return self._changes.shown()

    # ---- starting and stopping ------------------------------------------------

    def start(self) -> ThousandIsland:
        """Binds, listens, and starts the threads.

        Returns:
            This server.

        Raises:
            ListenError: the server cannot listen on the address; nothing stays open then.
            ThousandIslandError: the server is running already, a thread cannot be started, or the
                process was monkey-patched (gevent, eventlet).
        """
        self._changes.check_process()
        self._changes.start()
        self._watch.begin()
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
        """Stops gracefully, within one time limit for everything.

        Args:
            timeout_ms: milliseconds in all; `None` means no limit. Not given:
                `shutdown_timeout_ms`.

        Returns:
            `True` if every connection ended by itself, `False` if any was cut. A call from a
            callback or receiver waits for the other connections only.

        Raises:
            ValueError: `timeout_ms` is not a number of milliseconds.
        """
        self._changes.check_process()
        if timeout_ms is MISSING:
            timeout_ms = self._config.shutdown_timeout_ms
        if timeout_ms is not None and not is_milliseconds(timeout_ms):
            raise ValueError(f"stop: timeout_ms: got {timeout_ms!r}, takes {MILLISECONDS_OR_NONE}")
        return self._changes.stop(seconds(timeout_ms))  # type: ignore[arg-type]

    def drain(self, delay_ms: float | None = 0) -> bool:
        """Announces a stop, goes on serving while load balancers move clients away, then stops.

        The status becomes `"draining"`, `info().draining` becomes true, the event `listener.drain`
        is sent, and each connection gets `handle_drain`. The server accepts new clients for
        `delay_ms`, unless it is suspended. Then it stops, as `stop()` does, within
        `shutdown_timeout_ms`. A `stop()` meanwhile ends the delay. On a server that is not started,
        `drain` does nothing.

        Args:
            delay_ms: milliseconds until the stop; `None`: until another call of `stop()`, or of
                `drain` with a shorter delay.

        Returns:
            The same as `stop`.

        Raises:
            ValueError: `delay_ms` is not a number of milliseconds.
        """
        self._changes.check_process()
        if delay_ms is not None and not is_milliseconds(delay_ms):
            raise ValueError(f"drain: delay_ms: got {delay_ms!r}, takes {MILLISECONDS_OR_NONE}")
        timeout_ms = self._config.shutdown_timeout_ms
        return self._changes.drain(seconds(delay_ms), seconds(timeout_ms))

    def wait(self, timeout_ms: float | None = None) -> bool:
        """Waits until the server is stopped; a new server has to be started and stopped.

        Args:
            timeout_ms: milliseconds to wait; `None` means no limit.

        Returns:
            `True` if the server is stopped, `False` if the time is over.

        Raises:
            ThousandIslandError: the call would wait for itself. Its thread is inside `start`,
                `stop`, `suspend` or `resume` (a signal handler has interrupted it there), or is
                one of the server's own, outside callbacks and receivers.
        """
        self._changes.check_process()
        return self._changes.wait(seconds(timeout_ms))

    def serve_forever(
        self,
        *others: ThousandIsland,
        reload: Callable[[], object] | None = None,
        drain_delay_ms: float = 0,
    ) -> None:
        """Starts the server if needed, and serves until it is stopped.

        SIGINT and SIGTERM begin a graceful stop; a second one cuts every connection at once. The
        previous signal handlers are restored before it returns.

        Args:
            others: further servers, which start and stop together with this one.
            reload: a function without arguments, which SIGHUP calls on the main thread. Its
                exceptions are logged. All signals that arrive while it runs lead to one more call
                afterwards. `None`: SIGHUP is ignored.
            drain_delay_ms: milliseconds for which the server still accepts clients after SIGTERM,
                as `drain` does. SIGINT has no such delay.

        Raises:
            ListenError: as for `start`; servers that were started before are stopped again.
            ThousandIslandError: the call is not on the main thread.
            TypeError: one of `others` is not a server, or `reload` is not a function; nothing was
                started.
            ConfigError: `drain_delay_ms` is not a number of milliseconds.

        Thread: the main thread only.
        """
        check(ThousandIsland, others, reload, drain_delay_ms)
        calls = {} if reload is None or HANGUP is None else {HANGUP: reload}
        serve_until_signalled((self, *others), calls, drain_delay_ms)

    # ---- suspending -----------------------------------------------------------

    def suspend(self) -> None:
        """Closes the listening sockets and keeps the connections.

        On a suspended server it does nothing.

        Raises:
            ServerNotRunning: the server is not started.
        """
        self._changes.check_process()
        self._changes.suspend()

    def resume(self) -> None:
        """Listens again on the same address and port. On a running server it does nothing.

        Raises:
            ListenError: the server cannot listen on the address, or cannot start a thread; it
                stays suspended.
            ServerNotRunning: the server is not started.
        """
        self._changes.check_process()
        self._changes.resume()

    @spelled_out(ReloadOptions)
    def reload_transport(self, **transport_options: Unpack[ReloadOptions]) -> None:
        """Changes the transport's options for new connections; open connections keep theirs.

        Args:
            transport_options: see `ReloadOptions`. Options that are left out keep their values.
                A call without options reads the files of certificates and keys again.

        Raises:
            ConfigError: an option is wrong, or belongs to the listening socket; the previous
                options stay.
        """
        self._changes.check_process()
        if "transport_options" in transport_options:
            raise ConfigError(
                "reload_transport: got transport_options=...; give the options themselves, by name"
            )
        self._transport.reload({**transport_options})

    def watch_certificates(self, interval_ms: float = 60_000) -> None:
        """Loads the files of certificates, keys, CAs and CRLs again whenever they have changed.

        The files of `sni` are watched, too. New connections get the new files; open connections
        keep theirs. For a bad file one ERROR line is logged by `thousand_island_sync`, and the
        previous files stay in use. A thread of its own does this. It begins at once, or at `start`,
        and ends with the server.

        Args:
            interval_ms: milliseconds between two checks. A later call replaces an earlier one.

        Raises:
            ConfigError: `interval_ms` is not a number of milliseconds above 0, or there are no
                files: the server does not use TLS, or its certificate was given as bytes.
        """
        self._changes.check_process()
        self._watch.ask(interval_ms)
        if self._changes.status not in ("new", "stopped"):
            self._watch.begin()

    # ---- what it is doing -----------------------------------------------------

    def _listening(self) -> Address:
        self._changes.check_process()
        run = self._run
        address: Address | None = None if run is None else run.listener.address
        if address is None:
            raise ServerNotRunning(
                f"the server is {self._changes.status}: it has no address; call start()"
                " or resume() first"
            )
        return address

    @property
    def local_address(self) -> Address:
        """Where the server listens: `(host, port)`, a Unix path, or `"@name"` (abstract).

        Raises:
            ServerNotRunning: the server is not listening.
        """
        return self._listening()

    @property
    def local_port(self) -> int:
        """The TCP port on which the server listens, an `int`.

        Raises:
            ServerNotRunning: the server is not listening.
            NotSupported: it listens on a Unix socket.
        """
        address = self._listening()
        if not isinstance(address, tuple):
            raise NotSupported(f"local_port: the Unix socket {address} has none")
        return address[1]

    def connections(self) -> list[Connection]:
        """A list of the open connections: a snapshot."""
        self._changes.check_process()
        run = self._run
        return [] if run is None else run.handles()

    def info(self) -> Info:
        """A snapshot of the server's counters, an `Info`.

        It takes constant time, but for a walk over the open connections once a second at most.
        """
        from ._server.info import Info

        self._changes.check_process()
        run = self._run
        status = self.status
        draining = status in (DRAINING, STOPPING)
        return Info(status, *(NOT_STARTED if run is None else run.counts()), draining)

    # ---- inside ---------------------------------------------------------------

    @property
    def _run(self) -> Run | None:
        return self._changes.run


def config_of(server: ThousandIsland) -> Config:
    """Its options, as they were checked."""
    return server._config


def run_of(server: ThousandIsland) -> Run | None:
    """The run of its last start; `None` if there was none."""
    return server._run


def certificates_of(server: ThousandIsland) -> Certificates:
    """The certificates that it serves."""
    return Certificates(server._transport)
