"""A server in a process of its own, which answers questions about itself.

    python -m tests.served Echo [option=value ...]

`facts` on standard input is answered with a line of JSON on standard output; `stop`, or
the end of the input, ends it.
"""

from __future__ import annotations

import ast
import gc
import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict
from typing import Any

from tests import support
from tests.support import memory_kib
from thousand_island_sync import TCP, TLS, Close, Handler, Socket, ThousandIsland, events


class Sink(Handler):
    """Reads, and says nothing."""


class Hello(Handler):
    """Answers what looks like a request, and closes."""

    def handle_data(self, data: bytes, socket: Socket) -> Close | None:
        if b"\r\n\r\n" not in data:
            socket.unread(data)
            return None
        socket.send(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        return Close()


def facts(server: ThousandIsland) -> dict[str, Any]:
    gc.collect()
    return {
        **asdict(server.info()),
        "memory_kib": memory_kib(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "cpu_s": time.process_time(),
        "time_s": time.monotonic(),
    }


def main(handler: str, *arguments: str) -> None:
    options: dict[str, Any] = {"host": "127.0.0.1", "port": 0}
    for argument in arguments:
        name, _, value = argument.partition("=")
        options[name] = {"TCP": TCP, "TLS": TLS}.get(value) or ast.literal_eval(value)
    handler_cls = globals().get(handler) or getattr(support, handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    errors: list[str] = []

    def note(server: ThousandIsland, *, event: str, measurements: Any, metadata: Any) -> None:
        errors.append(repr(measurements["error"]))

    events.handler_error.connect(note)
    with ThousandIsland(handler_cls=handler_cls, **options) as server:
        print("listening on", f"127.0.0.1:{server.local_port}", flush=True)
        for line in sys.stdin:
            if line.strip() == "stop":
                break
            print("answer", json.dumps(facts(server) | {"errors": errors}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
