"""`serve_forever`: signals, and several servers that live and stop together."""

from __future__ import annotations

import select
import signal
import threading
from collections import deque
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
        _serve(servers, signals)


def _serve(servers: tuple[Server, ...], noted_signals: NotedSignals) -> None:
    """Waits for signals, which come as bytes, and for servers that have stopped."""
    threads: list[threading.Thread] = []
    ended: deque[Server] = deque()
    forks = fork.forks

    def run(target: Any, *args: Any) -> None:
        fork.this_thread_is_ours()
        target(*args)

    def begin(target: Any, *args: Any) -> None:
        thread = threading.Thread(
            target=run, args=(target, *args), name="serve-forever", daemon=True
        )
        threads.append(thread)
        thread.start()

    def watch(server: Server) -> None:
        server.wait()
        ended.append(server)
        noted_signals.note(_WAKES)

    try:
        for server in servers:
            if server.status in ("new", "stopped"):
                server.start()
        for server in servers:
            begin(watch, server)
        signals = 0
        stopping = cut = False
        poller = select.poll()
        poller.register(noted_signals.fileno(), select.POLLIN)
        while len(ended) < len(servers):
            poller.poll()
            if fork.forks != forks:
                raise ThousandIslandError(
                    "serve_forever: this process was forked inside it; the servers belong to the"
                    " parent process"
                )
            noted = noted_signals.noted()
            # Other signals that somebody handles are noted as well, and are no reason to stop;
            # where they leave no room, what counts is known by its handler.
            signals = max(signals + sum(map(noted.count, _SIGNALS)), noted_signals.handled)
            if not stopping and (signals or ended):
                stopping = True
                for server in servers:
                    begin(server.stop)
            if signals > 1 and not cut:
                cut = True
                for server in servers:
                    begin(server.stop, 0)
    except BaseException:
        if fork.forks == forks:
            for server in servers:
                server.stop()
        raise
    for thread in threads:
        thread.join()
