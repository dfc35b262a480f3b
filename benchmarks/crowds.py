"""Loads by clients of our own that no program gives: thousands of idle ones, slow readers, ..."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator

from . import work
from .load import Figures, Watch, Wrong, check_ping, connect, redis
from .measure import Server

#: Descriptors that are left for everything but the idle connections.
_SPARE = 400
_SLOW_READERS = 8
#: Those that read nothing at all, and how many mebibytes each asks for.
NON_READERS, _ASKED = 500, 6
#: They read so much, so often: 800 KiB a second each.
_SIP, _PAUSE_S = 8_192, 0.01


def most_connections() -> int:
    """As many as descriptors allow, of a server and of a client alike."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1] - _SPARE


def allow_descriptors() -> None:
    """Raises the soft limit to the hard one; the servers inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def idle(server: Server, seconds: float, count: int) -> Figures:
    """50 active clients without and with `count` idle ones.

    Added to the figures of those with: `each_kib`, the memory of an idle connection;
    `times_alone`, the CPU for each request over that without; `rest_percent`, CPU while
    nothing happens; `more_threads`; and of ours `stop_ms`, with all of them connected.
    """
    alone = redis(server, seconds, 50)
    threads, memory = server.threads(), server.memory_kib()
    with _connected(server, count):
        _wait_for_descriptors(server, count)
        each = (server.memory_kib() - memory) / count
        more = server.threads() - threads
        found = redis(server, seconds, 50)
        before = server.cpu_s()
        time.sleep(2)
        rest = (server.cpu_s() - before) / 2 * 100
        stop_ms = server.finish()
    found |= {"each_kib": each, "more_threads": more, "rest_percent": rest}
    found["times_alone"] = found["cpu_us"] / alone["cpu_us"]
    return found if stop_ms is None else found | {"stop_ms": stop_ms}


@contextlib.contextmanager
def _connected(server: Server, count: int) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(connect(server))
        yield


def _wait_for_descriptors(server: Server, count: int) -> None:
    """Until the server has accepted them all, and has done with that."""
    deadline = time.monotonic() + 60
    while len(os.listdir(f"/proc/{server.pid}/fd")) < count:
        if time.monotonic() > deadline:
            raise Wrong(f"{server.name} did not accept {count} connections")
        time.sleep(0.05)
    used = -1.0
    while server.cpu_s() - used > 0.001 and time.monotonic() < deadline:
        used = server.cpu_s()
        time.sleep(0.1)


def one_by_one(server: Server, seconds: float, rate: float) -> Figures:
    """PINGs of 20 clients, `rate` a second of all of them, each when the one before it is
    answered: there is nothing to do in between."""
    check_ping(server)
    watch, waits = Watch(server), []
    count = max(50, int(rate * seconds))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(20)]
        began, before = time.perf_counter(), server.cpu_s()
        for number in range(count):
            time.sleep(max(0.0, began + number / rate - time.perf_counter()))
            client, sent = clients[number % 20], time.perf_counter()
            client.sendall(work.PING)
            if client.recv(64) != work.PONG:
                raise Wrong(f"{server.name}: a wrong answer to a PING")
            waits.append(time.perf_counter() - sent)
        used, took = server.cpu_s() - before, time.perf_counter() - began
    watch.threads = max(watch.threads, server.threads())
    waits.sort()
    told = {"p50_ms": waits[count // 2] * 1e3, "p99_ms": waits[count * 99 // 100] * 1e3}
    return watch.figures(used, count, count / took) | told


@contextlib.contextmanager
def _beside(
    server: Server, count: int, talk: Callable[[socket.socket, threading.Event], None]
) -> Iterator[None]:
    """Clients that talk until the block is over; what one of them says is wrong is raised."""
    over = threading.Event()
    wrong: list[Wrong] = []

    def run() -> None:
        with connect(server) as client:
            try:
                talk(client, over)
            except Wrong as error:
                wrong.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
    if wrong:
        raise wrong[0]


def beside_sipping_readers(server: Server, seconds: float) -> Figures:
    """50 quick clients beside eight that ask for a mebibyte after another and sip it."""

    def sip(client: socket.socket, over: threading.Event) -> None:
        answer = b"$%d\r\n" % (1 << 20) + work.PATTERN * 1_024 + b"\r\n"
        while not over.is_set():
            client.sendall(b"*1\r\n$4\r\nBULK\r\n")
            got = 0
            while got < len(answer) and not over.wait(_PAUSE_S):
                part = client.recv(_SIP)
                if part != answer[got : got + len(part)] or not part:
                    raise Wrong(f"{server.name}: a slow reader got other bytes")
                got += len(part)

    with _beside(server, _SLOW_READERS, sip):
        return redis(server, seconds, 50)


def beside_non_readers(server: Server, seconds: float) -> Figures:
    """50 quick clients without and with those that ask for six mebibytes and read nothing.

    Added to the figures of those with: `p99_alone`, their 99th percentile over that without.
    """
    alone = redis(server, seconds, 50)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(NON_READERS)]
        _wait_for_descriptors(server, NON_READERS)
        for _ in range(_ASKED):  # the kernel takes two or three mebibytes for each
            for client in clients:
                client.sendall(b"*1\r\n$4\r\nBULK\r\n")
            time.sleep(0.2)
        found = redis(server, seconds, 50)
    return found | {"p99_alone": found["p99_ms"] / alone["p99_ms"]}


def beside_computing(server: Server, seconds: float) -> Figures:
    """50 quick clients beside one whose requests compute; `crunches` is the rate of those."""
    ends: list[float] = []

    def ask(client: socket.socket, over: threading.Event) -> None:
        while not over.is_set():
            client.sendall(b"*1\r\n$6\r\nCRUNCH\r\n")
            answer = client.recv(len(work.PONG))
            if answer != work.PONG:
                raise Wrong(f"{server.name}: a computing request got {answer!r}")
            ends.append(time.monotonic())

    began = time.monotonic()
    with _beside(server, 1, ask):
        found = redis(server, seconds, 50, first=400)
    return found | {"crunches": len(ends) / (ends[-1] - began)}
