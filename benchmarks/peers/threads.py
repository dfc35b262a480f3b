"""Threads that loop over sockets: one each by hand, by socketserver, or a pool and a queue."""

from __future__ import annotations

import os
import queue
import socket
import socketserver
import sys
import threading
from collections.abc import Callable

from .. import work
from ..work import RECEIVE, WORK, answer
from . import Announce

#: Of the pool; as many as ours has.
WORKERS = 64


def _ping(sock: socket.socket) -> None:
    while data := sock.recv(RECEIVE):
        sock.sendall(answer(data))


def _http(sock: socket.socket) -> None:
    by_pread = "raw threads, pread" in sys.argv
    while data := sock.recv(RECEIVE):
        kind, size, keep = work.parse(data)
        if kind == "send":
            for part in work.message(size, keep):
                sock.sendall(part)
        else:
            sock.sendall(work.head(size, keep))
            if by_pread:
                for piece in work.pieces(size):
                    sock.sendall(piece)
            else:
                _sendfile(sock, size)
        if not keep:
            return


def _sendfile(sock: socket.socket, size: int) -> None:
    fd = os.open(WORK.file, os.O_RDONLY)
    try:
        done = 0
        while done < size:
            done += os.sendfile(sock.fileno(), fd, done, size - done)
    finally:
        os.close(fd)


def _serving() -> Callable[[socket.socket], None]:
    """Serves one connection and closes it."""
    loop = _http if WORK.http else _ping
    context = work.tls_context()

    def serve(sock: socket.socket) -> None:
        try:
            if context is not None:
                sock = context.wrap_socket(sock, server_side=True)
            with sock:
                loop(sock)
        except OSError:
            sock.close()

    return serve


def _accept(announce: Announce, handle: Callable[[socket.socket], None]) -> None:
    listener = work.listening_socket()
    announce(listener.getsockname()[1])
    while True:
        sock, _ = listener.accept()
        work.without_delay(sock)
        handle(sock)


def serve(announce: Announce) -> None:
    """A thread for each connection."""
    serve_one = _serving()
    _accept(
        announce,
        lambda sock: threading.Thread(target=serve_one, args=(sock,), daemon=True).start(),
    )


def serve_pool(announce: Announce) -> None:
    """A queue of connections and a number of threads, each with one until it ends."""
    serve_one = _serving()
    waiting: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()

    def work_on() -> None:
        while True:
            serve_one(waiting.get())

    for _ in range(WORKERS):
        threading.Thread(target=work_on, daemon=True).start()
    _accept(announce, waiting.put)


def serve_socketserver(announce: Announce) -> None:
    """socketserver.ThreadingTCPServer."""
    serve_one = _serving()

    class One(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            work.without_delay(self.request)
            serve_one(self.request)

    class Server(socketserver.ThreadingTCPServer):
        request_queue_size = work.BACKLOG
        daemon_threads = True

    with Server((work.HOST, 0), One) as server:
        announce(server.server_address[1])
        server.serve_forever()
