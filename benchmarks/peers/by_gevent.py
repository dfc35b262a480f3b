"""gevent's StreamServer. What blocks is a sleep that gevent has patched, as its users do."""

from __future__ import annotations

import time
from typing import Any

import gevent
import gevent.server
import gevent.ssl

from .. import work
from ..work import RECEIVE, WORK, answer
from . import Announce


def _ping(sock: Any, address: Any) -> None:
    work.without_delay(sock)
    try:
        while data := sock.recv(RECEIVE):
            sock.sendall(answer(data))
    except OSError:
        pass


def _http(sock: Any, address: Any) -> None:
    work.without_delay(sock)
    try:
        keep = True
        while keep and (data := sock.recv(RECEIVE)):
            kind, size, keep = work.parse(data)
            if kind == "file":
                sock.sendall(work.head(size, keep))
                for piece in work.pieces(size):
                    sock.sendall(piece)
            else:
                for part in work.message(size, keep):
                    sock.sendall(part)
    except OSError:
        pass


def serve(announce: Announce) -> None:
    time.sleep = gevent.sleep
    options = {}
    if WORK.pem:
        options["ssl_context"] = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_SERVER)
        options["ssl_context"].load_cert_chain(WORK.pem)
    handle = _http if WORK.http else _ping
    server = gevent.server.StreamServer((work.HOST, 0), handle, backlog=work.BACKLOG, **options)
    server.start()
    announce(server.server_port)
    server.serve_forever()
