"""What every server that is measured does for a request, so that they differ in the serving.

Two protocols. In Redis's, one `+PONG` for each PING; `NAP` is answered after a pause, `CRUNCH`
after some work in Python, `BULK` with a mebibyte. In HTTP, `GET /send/SIZE` and
`GET /file/SIZE` are answered with a body of that size, from memory or from a file; the client
checks each byte of it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import ssl
import time
from collections.abc import Iterator

HOST = "127.0.0.1"
BACKLOG = 1_024
RECEIVE = 65_536
PING, PONG = b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n"
PIECE = 131_072
#: 1 KiB, of which every body is made.
PATTERN = bytes(range(256)) * 4


@dataclasses.dataclass
class Work:
    """What a server is started for.

    Args:
        http: it speaks HTTP.
        sleep_ms: each PING blocks so long.
        nap_ms: each NAP does.
        compute: steps of arithmetic in Python for each PING.
        crunch: as many for each CRUNCH.
        largest: the size of the largest body that is asked for, in bytes.
        file: the path of what `/file/` sends.
        pem: the path of a certificate and its key: TLS.
        threads: `max_handler_threads` of ours.
        acceptors: `num_acceptors` of ours.
        slowed: how many times as slow as otherwise the server runs, about.
    """

    http: bool = False
    sleep_ms: float = 0.0
    nap_ms: float = 0.0
    compute: int = 0
    crunch: int = 0
    largest: int = 0
    file: str = ""
    pem: str = ""
    threads: int = 64
    acceptors: int = 10
    slowed: int = 1

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))


#: Of this process; set once, before it serves.
WORK = Work()
_bulk = b"$%d\r\n%s\r\n" % (1 << 20, PATTERN * 1_024)
_body = memoryview(PATTERN)


def configure(text: str) -> None:
    """Takes what `Work.to_json` wrote."""
    global _body
    for name, value in json.loads(text).items():
        setattr(WORK, name, value)
    if WORK.largest:
        _body = memoryview(PATTERN * (WORK.largest // len(PATTERN) + 1))


def may_block(data: bytes) -> bool:
    """Whether `answer` will take long; an event loop must give it to a thread then."""
    return WORK.sleep_ms > 0 or b"NAP" in data or b"CRUNCH" in data


def answer(data: bytes) -> bytes:
    """The answer to some requests; redis-benchmark begins by asking for two settings."""
    if WORK.sleep_ms:
        time.sleep(WORK.sleep_ms / 1_000)
    pings = data.count(b"PING")
    if WORK.compute:
        _compute(WORK.compute * pings)
    return PONG * pings or _rarer(data)


def _rarer(data: bytes) -> bytes:
    if b"NAP" in data:
        time.sleep(WORK.nap_ms / 1_000)
        return PONG
    if b"CRUNCH" in data:
        _compute(WORK.crunch)
        return PONG
    if b"BULK" in data:
        return _bulk
    return b"-ERR unknown\r\n" * data.count(b"CONFIG")


def _compute(steps: int) -> int:
    total = 0
    for number in range(steps):
        total += number * number % 7
    return total


# ---- HTTP ---------------------------------------------------------------------------


def parse(data: bytes) -> tuple[str, int, bool]:
    """("send" or "file", the size asked for, whether the connection is kept)."""
    line, _, headers = data.partition(b"\r\n")
    _, kind, size = line.split(b" ")[1].decode().split("/")
    return kind, int(size), line.endswith(b"1.1") and b"onnection: close" not in headers


def head(size: int, keep: bool) -> bytes:
    kept = b"keep-alive" if keep else b"close"
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: %s\r\n\r\n" % (size, kept)


def body(size: int) -> memoryview:
    return _body[:size]


def message(size: int, keep: bool) -> list[bytes | memoryview]:
    """Head and body: one piece where it is small, else two, so that nothing large is copied."""
    if size <= 16_384:
        return [head(size, keep) + body(size)]
    return [head(size, keep), body(size)]


def pieces(size: int) -> Iterator[bytes]:
    """The first bytes of the file, read piece by piece."""
    fd = os.open(WORK.file, os.O_RDONLY)
    try:
        done = 0
        while done < size:
            piece = os.pread(fd, min(PIECE, size - done), done)
            done += len(piece)
            yield piece
    finally:
        os.close(fd)


# ---- sockets ------------------------------------------------------------------------


def listening_socket() -> socket.socket:
    return socket.create_server((HOST, 0), backlog=BACKLOG)


def without_delay(sock: socket.socket) -> None:
    """What asyncio and ours do by themselves."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def tls_context() -> ssl.SSLContext | None:
    """What the peers that use the standard library's `ssl` are given."""
    if not WORK.pem:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(WORK.pem)
    return context
