"""This library, as its users would write it."""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import Any

from thousand_island_sync import Close, Handler, Socket, ThousandIsland, attach_logger, events
from thousand_island_sync._scheduler import alarm

from .. import work
from ..work import WORK, answer
from . import Announce


class Ping(Handler):
    def handle_data(self, data: bytes, socket: Socket) -> None:
        socket.send(answer(data))


class Looping(Handler):
    """In the manner of socketserver: it loops over `recv` itself."""

    def handle_connection(self, socket: Socket) -> Close:
        while data := socket.recv():
            socket.send(answer(data))
        return Close()


class Http(Handler):
    def handle_data(self, data: bytes, socket: Socket) -> Close | None:
        kind, size, keep = work.parse(data)
        if kind == "file":
            socket.send(work.head(size, keep))
            socket.sendfile(WORK.file, 0, size)
        else:
            socket.send(work.message(size, keep))
        return None if keep else Close()


def _serve(announce: Announce, handler_cls: type[Handler]) -> None:
    chosen: dict[str, Any] = {"max_handler_threads": WORK.threads, "num_acceptors": WORK.acceptors}
    chosen["max_connections"] = 1_000_000  # no other server has a limit
    if WORK.pem:
        from thousand_island_sync import TLS  # not there on a free-threaded Python

        chosen |= {"transport_cls": TLS, "transport_options": {"certfile": WORK.pem}}
    if WORK.slowed > 1:
        # The watchdog looks by the clock: under valgrind it would for each few requests.
        alarm.TICK *= WORK.slowed
        alarm.CALM_TICK *= WORK.slowed
    server = ThousandIsland(handler_cls=handler_cls, host=work.HOST, port=0, **chosen).start()
    announce(server.local_port)
    sys.stdin.read()
    began = time.perf_counter()
    server.stop(5_000)
    print((time.perf_counter() - began) * 1_000, flush=True)


def serve(announce: Announce) -> None:
    _serve(announce, Http if WORK.http else Ping)


def serve_looping(announce: Announce) -> None:
    _serve(announce, Looping)


def serve_heard(announce: Announce) -> None:
    counts: dict[str, int] = {}

    def count(sender: Any, *, event: str, **_: Any) -> None:
        counts[event] = counts.get(event, 0) + 1

    for signal in events.ALL.values():
        signal.connect(count, weak=False)
    _serve(announce, Ping)


def serve_logged(announce: Announce) -> None:
    logging.basicConfig(level=1, filename=os.devnull)
    attach_logger("trace")
    _serve(announce, Ping)
