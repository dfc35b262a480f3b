"""`serve_forever`: signals, and several servers that live and stop together."""

from __future__ import annotations

import select
import signal
import threading
from collections import deque
from enum import Enum
from typing import Any, Protocol

from .._base import fork
from .._base.signal_handlers import NotedSignals
from ..errors import ThousandIslandError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_WAKES = b"\xff"  # no signal's number


class Server(Protocol):
    """What is served."""

    @property
    def status(self) -> str: ...
    def start(self) -> Any: ...
    def stop(self, timeout_ms: float = ...) -> bool: ...
    def wait(self) -> bool: ...


def serve_until_signalled(servers: tuple[Server, ...]) -> None:
    """Starts what is not started; returns when all have stopped. Thread: the main one."""
    with NotedSignals(_SIGNALS) as signals:
        _Serving(servers, signals).run()


class _Phase(Enum):
    """How far the end has come."""

    SERVING = "none was asked for"
    STOPPING = "a graceful stop was asked for"
    CUT = "a stop at once was asked for"


class _Serving:
    """Waits for signals, which come as bytes, and for servers that have stopped."""

    def __init__(self, servers: tuple[Server, ...], signals: NotedSignals) -> None:
        self._servers = servers
        self._signals = signals
        self._count = 0  # of signals so far
        self._phase = _Phase.SERVING
        self._ended: deque[Server] = deque()
        self._threads: list[threading.Thread] = []
        self._forks = fork.forks

    def run(self) -> None:
        """Returns when all have stopped."""
        try:
            for server in self._servers:
                if server.status in ("new", "stopped"):
                    server.start()
            for server in self._servers:
                self._begin(self._watch, server)
            self._wait_for_all()
        except BaseException:
            if fork.forks == self._forks:
                for server in self._servers:
                    server.stop()
            raise
        for thread in self._threads:
            thread.join()

    def _wait_for_all(self) -> None:
        poller = select.poll()
        poller.register(self._signals.fileno(), select.POLLIN)
        while len(self._ended) < len(self._servers):
            poller.poll()
            if fork.forks != self._forks:
                raise ThousandIslandError(
                    "serve_forever: this process was forked inside it; the servers belong to the"
                    " parent process"
                )
            self._count_signals()
            self._go_on()

    def _count_signals(self) -> None:
        noted = self._signals.noted()
        # Other signals that somebody handles are noted as well, and are no reason to stop;
        # where they leave no room, what counts is known by its handler.
        count = self._count + sum(map(noted.count, _SIGNALS))
        self._count = max(count, self._signals.handled)

    def _go_on(self) -> None:
        """The servers stop with the first signal, or with one of them, and a second one cuts."""
        if self._phase is _Phase.SERVING and (self._count or self._ended):
            self._phase = _Phase.STOPPING
            for server in self._servers:
                self._begin(server.stop)
        if self._phase is _Phase.STOPPING and self._count > 1:
            self._phase = _Phase.CUT
            for server in self._servers:
                self._begin(server.stop, 0)

    def _begin(self, target: Any, *args: Any) -> None:
        """Calls it on a thread of its own."""

        def run() -> None:
            fork.this_thread_is_ours()
            target(*args)

        thread = threading.Thread(target=run, name="serve-forever", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _watch(self, server: Server) -> None:
        server.wait()
        self._ended.append(server)
        self._signals.note(_WAKES)
