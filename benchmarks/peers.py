"""The servers that are measured, each run in a process of its own.

`python -m benchmarks.peers NAME [--sleep MS] [--pem FILE]` serves PING on a free port of
127.0.0.1, prints the port, and serves until its standard input ends.

All of them do the same work: one `+PONG` for each PING in what was received.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import socketserver
import ssl
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

PONG = b"+PONG\r\n"
HOST = "127.0.0.1"
SLEEP_S = 0.0
PEM = ""  # certificate and key: TLS
FILE = ""  # sent for each request, instead of a PONG

Announce = Callable[[int], None]


def answer(data: bytes) -> bytes:
    """One `+PONG` for each PING; redis-benchmark begins by asking for two settings."""
    return PONG * data.count(b"PING") or b"-ERR unknown\r\n" * data.count(b"CONFIG")


def tls_context() -> ssl.SSLContext | None:
    """What the peers that use the standard library's `ssl` are given."""
    if not PEM:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(PEM)
    return context


def ours(announce: Announce) -> None:
    from thousand_island_sync import TLS, Handler, ThousandIsland

    class Ping(Handler):
        def handle_data(self, data: bytes, socket: Any) -> None:
            if SLEEP_S:
                time.sleep(SLEEP_S)
            socket.send(answer(data))

    class File(Handler):
        def handle_data(self, data: bytes, socket: Any) -> None:
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {os.path.getsize(FILE)}\r\n\r\n"
            socket.send(head.encode())
            socket.sendfile(FILE)

    chosen: dict[str, Any] = {"handler_cls": File if FILE else Ping, "host": HOST, "port": 0}
    if PEM:
        chosen |= {"transport_cls": TLS, "transport_options": {"certfile": PEM}}
    with ThousandIsland(**chosen) as server:
        announce(server.local_port)
        server.wait()


def ours_looping(announce: Announce) -> None:
    """A handler in the manner of socketserver: it loops over `recv` itself."""
    from thousand_island_sync import Close, Handler, ThousandIsland

    class Ping(Handler):
        def handle_connection(self, socket: Any) -> Close:
            while data := socket.recv():
                if SLEEP_S:
                    time.sleep(SLEEP_S)
                socket.send(answer(data))
            return Close()

    with ThousandIsland(handler_cls=Ping, host=HOST, port=0) as server:
        announce(server.local_port)
        server.wait()


def _threads(announce: Announce, serve: Callable[[socket.socket], None]) -> None:
    listener = socket.create_server((HOST, 0), backlog=1024)
    announce(listener.getsockname()[1])
    while True:
        client, _ = listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(client,), daemon=True).start()


def threads(announce: Announce) -> None:
    """A thread per connection that loops over a raw socket."""
    context = tls_context()

    def serve(client: socket.socket) -> None:
        if context is not None:
            try:
                client = context.wrap_socket(client, server_side=True)
            except OSError:
                client.close()
                return
        with client:
            while data := client.recv(65_536):
                if SLEEP_S:
                    time.sleep(SLEEP_S)
                client.sendall(answer(data))

    _threads(announce, serve)


def threading_server(announce: Announce) -> None:
    """socketserver.ThreadingTCPServer."""

    class Ping(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while data := self.request.recv(65_536):
                if SLEEP_S:
                    time.sleep(SLEEP_S)
                self.request.sendall(answer(data))

    class Server(socketserver.ThreadingTCPServer):
        request_queue_size = 1024
        daemon_threads = True

    with Server((HOST, 0), Ping) as server:
        announce(server.server_address[1])
        server.serve_forever()


class _PingProtocol(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.write = transport.write

    def data_received(self, data: bytes) -> None:
        self.write(answer(data))


async def _serve_protocol(announce: Announce) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_PingProtocol, HOST, 0, backlog=1024, ssl=tls_context())
    announce(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def asyncio_protocol(announce: Announce) -> None:
    asyncio.run(_serve_protocol(announce))


def uvloop_protocol(announce: Announce) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve_protocol(announce))


PEERS: dict[str, Callable[[Announce], None]] = {
    "ours": ours,
    "ours, looping": ours_looping,
    "raw threads": threads,
    "socketserver": threading_server,
    "asyncio Protocol": asyncio_protocol,
    "uvloop Protocol": uvloop_protocol,
}


def main() -> None:
    global SLEEP_S, PEM, FILE
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=PEERS)
    parser.add_argument("--sleep", type=float, default=0.0, metavar="MS")
    parser.add_argument("--pem", default="", help="certificate and key: TLS")
    parser.add_argument("--file", default="", help="ours: send this file for each request")
    given = parser.parse_args()
    SLEEP_S, PEM, FILE = given.sleep / 1000, given.pem, given.file

    def announce(port: int) -> None:
        print(port, flush=True)

    threading.Thread(target=PEERS[given.name], args=(announce,), daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
