"""A server in a process of its own, which answers questions about itself.

    python -m tests.served Echo [option=value ...]

Each line on standard input (`facts`, `reload`, `suspend`, `resume`) is done and answered
with a line of JSON on standard output; `stop`, or the end of the input, ends it.
"""

from __future__ import annotations

import ast
import ctypes
import gc
import importlib
import json
import logging
import os
import signal
import sys
import threading
from dataclasses import asdict
from typing import Any

from tests import support
from tests.support import memory_kib
from thousand_island_sync import (
    TCP,
    TLS,
    Close,
    Handler,
    HandshakeError,
    Socket,
    SocketError,
    SocketTimeout,
    ThousandIsland,
    events,
)
from thousand_island_sync._base import reports


class Hello(Handler):
    """Answers what looks like a request, and closes."""

    def handle_data(self, data: bytes, socket: Socket) -> Close | None:
        if b"\r\n\r\n" not in data:
            socket.unread(data)
            return None
        socket.send(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        return Close()


class Fills(Handler):
    """Sends ten mebibytes in pieces to who asks, and waits for no room. `b"*"`: as one of 128 whose
    callbacks last until all of them run."""

    piece = bytes(65_536)
    together = threading.Barrier(128)

    def handle_data(self, data: bytes, socket: Socket) -> None:
        for _ in range(0 if b"-" in data else 160):
            try:
                socket.send(self.piece, timeout_ms=0)
            except SocketTimeout:
                break
        if b"*" in data:
            self.together.wait(30)


class _Malloc(ctypes.Structure):
    """mallinfo2(3); `uordblks` is what is in use of the C library's heap."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")
        + ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]


def allocated_kib() -> int:
    """What is allocated, in KiB, Python's own blocks not counted: unlike the resident memory
    it does not grow with holes between allocations. 0 where the C library cannot tell."""
    try:
        ask = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return 0
    ask.restype = _Malloc
    return int(ask().uordblks) // 1024


def facts(server: ThousandIsland) -> dict[str, Any]:
    gc.collect()
    return {
        **asdict(server.info()),
        "memory_kib": memory_kib(),
        "allocated_kib": allocated_kib(),
        "blocks": sys.getallocatedblocks(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
    }


def main(handler: str, *arguments: str) -> None:
    options: dict[str, Any] = {"host": "127.0.0.1", "port": 0}
    for argument in arguments:
        name, _, value = argument.partition("=")
        options[name] = {"TCP": TCP, "TLS": TLS}.get(value) or ast.literal_eval(value)
    module, _, name = handler.rpartition(":")
    found = importlib.import_module(module) if module else support
    handler_cls = globals().get(name) or getattr(found, name)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    errors: list[str] = []

    def note(server: ThousandIsland, *, event: str, measurements: Any, metadata: Any) -> None:
        """What neither the network nor a test is to blame for."""
        error = measurements["error"]
        if not isinstance(error, (SocketError, HandshakeError, ConnectionError)):
            errors.append(repr(error))

    logging.getLogger("thousand_island_sync").addHandler(logging.NullHandler())
    events.handler_error.connect(note)
    with ThousandIsland(handler_cls=handler_cls, **options) as server:
        address = server.local_address
        where = address if isinstance(address, str) else "{}:{}".format(*address)
        print("listening on", where, flush=True)
        for line in sys.stdin:
            asked = line.strip()
            if asked == "stop":
                break
            if asked == "reload":
                server.reload_transport(**options.get("transport_options", {}))
            elif asked != "facts":
                getattr(server, asked)()
            found_out = {"errors": errors[:], "violations": reports.violations[:]}
            del errors[:], reports.violations[:]
            print("answer", json.dumps(facts(server) | found_out), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
