"""`serve_forever`: signals, and several servers that live and stop together.

A signal handler runs between any two steps of the main thread, which may hold a lock;
so it does nothing but send a byte to the main thread itself.
"""

from __future__ import annotations

import select
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any, Protocol


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
                theirs.send(what)
            except OSError:
                pass  # nobody listens any more, or plenty is noted

        before = {
            number: signal.signal(number, lambda *_: note(b"s"))
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            _serve(servers, ours, note)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _serve(servers: tuple[Server, ...], ours: socket.socket, note: Callable[[bytes], None]) -> None:
    """Waits for signals (`s`) and for servers that have stopped (`x`)."""
    threads: list[threading.Thread] = []

    def begin(target: Any, *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name="serve-forever", daemon=True)
        threads.append(thread)
        thread.start()

    def watch(server: Server) -> None:
        server.wait()
        note(b"x")

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
            signals += noted.count(b"s")
            stopped += noted.count(b"x")
            if not stopping:
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
