"""`serve_forever`: signals, and several servers that live and stop together.

A signal that arrives just before the main thread begins to wait would be noticed only
when the wait ends; so the interpreter writes it to a descriptor that the wait includes
(`signal.set_wakeup_fd`), and the handlers themselves do nothing.
"""

from __future__ import annotations

import select
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any, Protocol

from ._sigpipe import NOSIGNAL

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STOPPED = b"\xff"  # no signal's number


class Server(Protocol):
    """What is served."""

    @property
    def status(self) -> str: ...
    def start(self) -> Any: ...
    def stop(self, timeout_ms: float = ...) -> bool: ...
    def wait(self) -> bool: ...


def serve_until_signalled(servers: tuple[Server, ...]) -> None:
    """Starts what is not started; returns when all have stopped. Thread: the main one."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)

        def note(what: bytes) -> None:
            try:
                theirs.send(what, NOSIGNAL)
            except OSError:
                pass  # nobody listens any more, or plenty is noted

        descriptor = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        before = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
        try:
            _serve(servers, ours, note)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(descriptor)


def _serve(servers: tuple[Server, ...], ours: socket.socket, note: Callable[[bytes], None]) -> None:
    """Waits for signals, which come as bytes, and for servers that have stopped."""
    threads: list[threading.Thread] = []

    def begin(target: Any, *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name="serve-forever", daemon=True)
        threads.append(thread)
        thread.start()

    def watch(server: Server) -> None:
        server.wait()
        note(_STOPPED)

    try:
        for server in servers:
            if server.status in ("new", "stopped"):
                server.start()
        for server in servers:
            begin(watch, server)
        signals = 0
        stopped = 0
        stopping = False
        poller = select.poll()
        poller.register(ours.fileno(), select.POLLIN)
        while stopped < len(servers):
            poller.poll()
            noted = ours.recv(4096)
            signals += sum(map(noted.count, _SIGNALS))
            stopped += noted.count(_STOPPED)
            # Other signals that somebody handles are noted as well, and are no reason to stop.
            if not stopping and (signals or stopped):
                stopping = True
                for server in servers:
                    begin(server.stop)
            if signals > 1:
                for server in servers:
                    begin(server.stop, 0)
    except BaseException:
        for server in servers:
            server.stop()
        raise
    for thread in threads:
        thread.join()
