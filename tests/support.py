"""Small helpers of the tests: waiting with a deadline, recording events."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from thousand_island_sync import Handler, ThousandIsland, events
from thousand_island_sync._scheduler.watchdog_timer import SLEEPS
from thousand_island_sync.testing import Event, EventRecorder


def eventually(condition: Callable[[], object], timeout: float = 5) -> bool:
    """Whether a condition comes true within `timeout` seconds; looks often, sleeps little."""
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.002)
    return True


_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10_000


def _below_ephemeral() -> Iterator[int]:
    """Those that the kernel gives nobody who asks for port 0: who runs beside this test, and its
    clients, do not get one between the moment it was found free and its use. Each process begins
    somewhere else."""
    end = int(_EPHEMERAL.read_text().split()[0]) if _EPHEMERAL.exists() else 32_768
    count = end - _LOWEST
    first = os.getpid() * 7_919
    return (_LOWEST + (first + step) % count for step in itertools.count())


_ports = _below_ephemeral()


def free_port() -> int:
    """One of 127.0.0.1 that nobody listens on, for a program that must be told a number."""
    for port in _ports:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("there are always more")


def first_client(port: int) -> socket.socket:
    """Connects to a port of this machine once somebody listens there."""
    made: list[socket.socket] = []

    def connects() -> bool:
        try:
            made.append(socket.create_connection(("127.0.0.1", port), 20))
        except ConnectionRefusedError:
            return False
        return True

    assert eventually(connects, 20)
    return made[0]


def receive(sock: socket.socket, length: int) -> bytes:
    """Exactly that many bytes, or what came before the end."""
    parts = []
    while length:
        data = sock.recv(min(length, 1 << 20))
        if not data:
            break
        parts.append(data)
        length -= len(data)
    return b"".join(parts)


def receive_all(sock: socket.socket) -> bytes:
    """Everything until the end of the stream."""
    parts = []
    while data := sock.recv(1 << 16):
        parts.append(data)
    return b"".join(parts)


def is_held(lock: Any) -> bool:
    """Whether another thread has it."""
    free: bool = lock.acquire(False)
    if free:
        lock.release()
    return not free


def answers(sock: socket.socket) -> bool:
    """Whether a byte comes back."""
    sock.sendall(b"x")
    return receive(sock, 1) == b"x"


def echoes(sock: socket.socket, data: bytes = b"x") -> None:
    """Asserts that what is sent comes back."""
    sock.sendall(data)
    received = receive(sock, len(data))
    assert received == data, f"{len(received)} of {len(data)} bytes came back"


@contextlib.contextmanager
def running(*jobs: Callable[[], object], within: float = 60) -> Iterator[list[threading.Thread]]:
    """Each job on a thread of its own, beside the block; after it they are waited for, so many
    seconds each. What one of them raised is raised here."""
    errors: list[BaseException] = []

    def work(job: Callable[[], object]) -> None:
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    yield threads
    for thread in threads:
        thread.join(within)
    assert not any(thread.is_alive() for thread in threads), "a thread stands still"
    if errors:
        raise errors[0]


def busy_seconds(duration: float) -> float:
    """The CPU time, in seconds, that the process uses while this thread waits."""
    before = time.process_time()
    threading.Event().wait(duration)
    return time.process_time() - before


def memory_kib() -> int:
    """What the process holds in memory, in KiB (proc(5), VmRSS)."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    raise AssertionError("no VmRSS in /proc/self/status")


def reset(sock: socket.socket) -> None:
    """Closes with RST."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


def task_of(connection: Any) -> Any:
    """What the scheduler runs, of a connection that has not ended."""
    return connection._inbox._link


def received(server: ThousandIsland, count: int) -> bool:
    """Whether its one connection has received so many bytes."""
    return any(
        task_of(one).machine.socket.stats().bytes_received == count for one in server.connections()
    )


def watch_sleeps(server: ThousandIsland) -> bool:
    """Whether the watchdog has looked, and waits to be told."""
    scheduler = server._run.scheduler
    looked = scheduler._watchdog._stalls._pace.turns >= 0
    return looked and scheduler._watchdog_timer.state == SLEEPS


def break_start_off(
    monkeypatch: Any, error: type[BaseException], come_to: Callable[[Any], bool] = bool
) -> None:
    """Whoever starts a supervised thread is interrupted once that runs, and has `come_to` a point,
    before he knows of it."""
    from thousand_island_sync._base import supervised

    launch = supervised.start

    def broken_off(thread: Any) -> None:
        launch(thread)
        assert eventually(lambda: come_to(thread))
        raise error

    monkeypatch.setattr(supervised, "start", broken_off)


def go_by(monkeypatch: Any, way: str) -> None:
    """TLS in the `"quick"` way, by pyOpenSSL's private names, or by its `"public"` calls."""
    from thousand_island_sync.transports._tls import (
        accelerator,  # noqa: F401 - it looks for the names once
        private,
        proof,
    )

    if not _quick:
        assert private.names is not None, proof.__doc__
        _quick.append(private.names)
    monkeypatch.setattr(private, "names", _quick[0] if way == "quick" else None)


#: pyOpenSSL's private names, once they are known.
_quick: list[Any] = []


class Recorder(EventRecorder):
    """That of the testing kit, of some events only: a receiver of the others would change what is
    tested. `wait_for` gives all that came, for tests that say how many."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)
        #: Who has sent each.
        self.senders: list[Any] = []
        super().__init__()

    def _signals(self) -> Iterable[events.EventSignal[Any, Any]]:
        return [events.ALL[name] for name in self._names]

    def _receive(self, server: Any, **told: Any) -> None:
        with self._changed:
            self.senders.append(server)
            super()._receive(server, **told)

    @property
    def told(self) -> list[Event]:
        return self.events

    def names(self) -> list[str]:
        return [one.name for one in self.events]

    def of(self, name: str) -> list[Event]:
        return [one for one in self.events if one.name == name]

    def wait_for(self, name: str, count: int = 1, timeout_ms: float = 5_000) -> list[Event]:
        super().wait_for(name, count, timeout_ms)
        return self.of(name)


class Noting(Handler):
    """Notes what it is called with in its `handler_options`, a list of pairs."""

    def __init__(self, options):
        super().__init__(options)
        self.noted = options

    def handle_connection(self, socket):
        self.noted.append(("connection", socket))

    def handle_info(self, message, socket):
        self.noted.append(("info", message))

    def handle_shutdown(self, socket):
        self.noted.append(("shutdown", None))

    def handle_end(self, socket):
        self.noted.append(("end", None))


def names(noted):
    return [name for name, _ in list(noted)]


class Echo(Handler):
    """Sends back what it gets."""

    def handle_data(self, data, socket):
        socket.send(data)


def journal(base: type = Handler) -> type:
    """A handler class that writes each callback's name, and what it got, to `cls.lines`; when
    last, to `cls.noted_at` (of `time.monotonic`)."""

    class Journal(base):  # type: ignore[misc, valid-type]
        lines: list[tuple[str, Any]] = []
        noted_at: dict[str, float] = {}

        def note(self, name: str, what: Any = None) -> None:
            type(self).noted_at[name] = time.monotonic()
            type(self).lines.append((name, what))

        def handle_close(self, socket):
            self.note("close")

        def handle_error(self, reason, socket):
            self.note("error", reason)

        def handle_timeout(self, socket):
            self.note("timeout")

        def handle_shutdown(self, socket):
            self.note("shutdown")

        def handle_end(self, socket):
            self.note("end", socket.fileno())

        @classmethod
        def names(cls):
            return [name for name, _ in cls.lines]

        @classmethod
        def ended(cls):
            return eventually(lambda: "end" in cls.names())

    Journal.lines, Journal.noted_at = [], {}
    return Journal


def exchange(sock: socket.socket, data: bytes, length: int, timeout: float = 20) -> bytes:
    """Sends `data` while it receives `length` bytes, on one thread: an `ssl.SSLSocket` does
    not bear two."""
    sock.setblocking(False)
    deadline = time.monotonic() + timeout
    left, parts, missing = memoryview(data), [], length
    while (left or missing) and time.monotonic() < deadline:
        waiting = 0
        try:
            if left:
                left = left[sock.send(left[:16_384]) :]
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            waiting += 1
        try:
            if missing:
                got = sock.recv(min(missing, 1 << 16))
                if not got:
                    break
                parts.append(got)
                missing -= len(got)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            waiting += 1
        if waiting == 2:
            select.select([sock], [sock] if left else [], [], 1)
    sock.setblocking(True)
    return b"".join(parts)
