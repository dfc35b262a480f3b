"""`serve_forever`: signals, and several servers that live and stop together."""

from __future__ import annotations

import logging
import select
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Protocol

from .._base import fork
from .._base.options import MILLISECONDS, is_milliseconds
from .._base.signal_handlers import NotedSignals
from ..errors import ConfigError, ThousandIslandError

_log = logging.getLogger("thousand_island_sync")

#: Each of them ends it.
_ENDS = (signal.SIGINT, signal.SIGTERM)
#: Is heeded, or ignored, while it serves.
HANGUP = getattr(signal, "SIGHUP", None)
_WAKES = b"\xff"  # no signal's number


class Server(Protocol):
    """What is served."""

    @property
    def status(self) -> str: ...
    def start(self) -> Any: ...
    def stop(self, timeout_ms: float = ...) -> bool: ...
    def drain(self, delay_ms: float = ...) -> bool: ...
    def wait(self) -> bool: ...


def check(kind: type, others: tuple[object, ...], reload: object, drain_delay_ms: object) -> None:
    """Looks at the arguments of `serve_forever`; `kind`: what a server is.

    Raises:
        TypeError, ConfigError, ThousandIslandError: as that says.
    """
    for other in others:
        if not isinstance(other, kind):
            raise TypeError(f"serve_forever: got {other!r}, takes further ThousandIsland servers")
    if reload is not None and not callable(reload):
        raise TypeError(f"serve_forever: reload: got {reload!r}, takes a function, or None")
    if not is_milliseconds(drain_delay_ms):
        raise ConfigError(
            f"serve_forever: drain_delay_ms: got {drain_delay_ms!r}, takes {MILLISECONDS}"
        )
    if threading.current_thread() is not threading.main_thread():
        raise ThousandIslandError(
            "serve_forever: call it on the main thread, which alone can handle signals; on other"
            " threads use start() and wait()"
        )


def serve_until_signalled(
    servers: tuple[Server, ...],
    calls: Mapping[int, Callable[[], object]],
    drain_delay_ms: float = 0,
    started: Callable[[], object] = lambda: None,
) -> bool:
    """Starts what is not started; returns when all have stopped. Thread: the main one.

    Args:
        servers: which.
        calls: what other signals call, on this thread; what that raises is logged.
        drain_delay_ms: of the drain that SIGTERM begins; 0: a stop.
        started: called once all have started and signals are heeded.

    Returns:
        Whether every connection ended by itself.
    """
    others = {*calls, *([HANGUP] if HANGUP is not None else [])}
    with NotedSignals((*_ENDS, *others)) as signals:
        return _Serving(servers, signals, calls, drain_delay_ms).run(started)


class _Phase(Enum):
    """How far the end has come."""

    SERVING = "none was asked for"
    STOPPING = "a graceful stop was asked for"
    CUT = "a stop at once was asked for"


class _Serving:
    """Waits for signals, which come as bytes, and for servers that have stopped."""

    def __init__(
        self,
        servers: tuple[Server, ...],
        signals: NotedSignals,
        calls: Mapping[int, Callable[[], object]],
        drain_delay_ms: float,
    ) -> None:
        self._servers = servers
        self._signals = signals
        self._calls = calls
        self._drain_delay_ms = drain_delay_ms
        self._noted: Counter[int] = Counter()  # signals so far, as their bytes tell
        self._seen: Counter[int] = Counter()  # the same, as bytes or handlers tell
        self._called: Counter[int] = Counter()  # how many of them were answered by a call
        self._phase = _Phase.SERVING
        self._ended: deque[Server] = deque()
        self._results: deque[bool] = deque()
        self._threads: list[threading.Thread] = []
        self._poller = select.poll()
        self._forks = fork.forks

    def run(self, started: Callable[[], object]) -> bool:
        """Returns when all have stopped: whether all connections ended by themselves."""
        self._poller.register(self._signals.fileno(), select.POLLIN)
        try:
            for server in self._servers:
                if server.status in ("new", "stopped"):
                    server.start()
            for server in self._servers:
                self._start_thread(self._watch, server)
            started()
            while not self._is_over():
                self._turn()
                self._make_calls()
        except BaseException:
            if fork.forks == self._forks:
                for server in self._servers:
                    server.stop()
            raise
        for thread in self._threads:
            thread.join()
        return all(self._results)

    def _is_over(self) -> bool:
        return len(self._ended) == len(self._servers)

    def _turn(self) -> None:
        """Waits for something, and lets it be the beginning of the end if it is."""
        self._poller.poll()
        self._check_process()
        self._count_signals()
        self._advance_phase()

    def _check_process(self) -> None:
        if fork.forks != self._forks:
            raise ThousandIslandError(
                "serve_forever: this process was forked inside it; the servers belong to the"
                " parent process"
            )

    def _count_signals(self) -> None:
        # Other signals with a handler are noted as well, and are no reason to stop;
        # where they leave no room, what counts is known by its handler. That may run before the
        # byte is written, which another thread does that the signal has come to: so neither is
        # added to the other.
        self._noted.update(self._signals.noted())
        handled = self._signals.handled
        for number in (*self._noted, *handled):
            self._seen[number] = max(self._noted[number], handled.get(number, 0))

    def _advance_phase(self) -> None:
        """The servers stop with the first signal, or with one of them, and a second one cuts."""
        asked = sum(self._seen[number] for number in _ENDS)
        if self._phase is _Phase.SERVING and (asked or self._ended):
            self._phase = _Phase.STOPPING
            drains = self._drain_delay_ms and not (self._seen[signal.SIGINT] or self._ended)
            for server in self._servers:
                if drains:
                    self._start_thread(self._end, server.drain, self._drain_delay_ms)
                else:
                    self._start_thread(self._end, server.stop)
        if self._phase is _Phase.STOPPING and asked > 1:
            self._phase = _Phase.CUT
            for server in self._servers:
                self._start_thread(self._end, server.stop, 0)

    def _make_calls(self) -> None:
        """Calls what signals call: once for all of a kind that have come until now."""
        while due := [one for one in self._calls if self._seen[one] > self._called[one]]:
            for number in due:
                self._called[number] = self._seen[number]
                self._run_call(self._calls[number])

    def _run_call(self, call: Callable[[], object]) -> None:
        """On this thread, the main one; whatever it waits for, another goes on meanwhile to heed
        the signals that end it."""
        returned = threading.Event()
        raised: list[BaseException] = []

        def look() -> None:
            try:
                while not returned.is_set() and not self._is_over():
                    self._turn()
            except BaseException as error:  # it is told where the servers are stopped for it
                raised.append(error)

        looks: threading.Thread | None = _thread(look)
        try:
            looks.start()  # type: ignore[union-attr]
        except RuntimeError:  # no thread can be started now
            looks = None
        try:
            call()
        except Exception as error:
            _log.error("serve_forever: what a signal calls has raised", exc_info=error)
        finally:
            self._check_process()
            returned.set()
            self._signals.note(_WAKES)
            if looks is not None:
                looks.join()
        if raised:
            raise raised[0]

    def _start_thread(self, target: Callable[..., object], *args: Any) -> None:
        thread = _thread(target, *args)
        self._threads.append(thread)
        thread.start()

    def _end(self, ends: Callable[..., bool], *args: Any) -> None:
        done = False
        try:
            done = ends(*args)
        finally:
            self._results.append(done)

    def _watch(self, server: Server) -> None:
        server.wait()
        self._ended.append(server)
        self._signals.note(_WAKES)


def _thread(target: Callable[..., object], *args: Any) -> threading.Thread:
    def run() -> None:
        fork.this_thread_is_ours()
        target(*args)

    return threading.Thread(target=run, name="serve-forever", daemon=True)
