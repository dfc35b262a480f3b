"""Threads that meddle: sends, posts and closes from everywhere at once, while descriptors are
closed and used again. Each byte of each stream is checked: whose it is, and whether it is the
next one."""

import contextlib
import random
import socket
import ssl
import struct
import threading
import time

import pytest

from tests.support import eventually
from thousand_island_sync import (
    TLS,
    Handler,
    MailboxFull,
    SocketClosed,
    SocketTimeout,
    ThousandIslandError,
)
from thousand_island_sync._server import checked

HEADER = struct.Struct("!IIII")  # whose connection, which sender, which of its messages, length
SECONDS = 2.5


@pytest.fixture
def disturbed(monkeypatch):
    """Threads give way now and then where the scheduler hands something over."""
    chance = random.Random(3)

    def disturb():
        if chance.random() < 0.05:
            time.sleep(0)

    monkeypatch.setattr(checked, "disturb", disturb)


def message(tag, sender, number, size):
    payload = bytes([(tag * 7 + sender * 31 + number) % 251]) * size
    return HEADER.pack(tag, sender, number, size) + payload


class Meddled(Handler):
    """Gets its number from its client, then echoes and passes on."""

    def handle_connection(self, socket):
        (self.tag,) = struct.unpack("!I", socket.recv_exactly(4))
        self.sent = 0
        self.posted = 0
        self.options.add(self.tag, socket)

    def handle_data(self, data, socket):
        for _ in data:
            socket.send(message(self.tag, 0, self.sent, min(len(data), 90) * 100))
            self.sent += 1

    def handle_info(self, number, socket):
        socket.send(message(self.tag, 1, number, 300))

    def handle_call(self, number, socket):
        return self.tag, number

    def handle_end(self, socket):
        if hasattr(self, "tag"):
            self.options.remove(self.tag)


class Registry:
    """Open connections, and what each meddler has sent to them."""

    def __init__(self):
        self._lock = threading.Lock()
        self._open = {}
        self.seen = 0

    def add(self, tag, sock):
        with self._lock:
            self._open[tag] = (sock, {}, threading.Lock())
            self.seen += 1

    def remove(self, tag):
        with self._lock:
            self._open.pop(tag, None)

    def pick(self, chance):
        with self._lock:
            if not self._open:
                return None
            tag = chance.choice(list(self._open))
            return (tag, *self._open[tag])


class World:
    def __init__(self, server, registry, context):
        self.server, self.registry, self.context = server, registry, context
        self.over = threading.Event()
        self.failures = []
        self.checked_messages = 0
        self._tags = iter(range(1, 1 << 30))
        self._lock = threading.Lock()

    def job(self, work, seed):
        chance = random.Random(seed)
        try:
            while not self.over.is_set():
                work(chance, seed)
        except BaseException as error:
            self.failures.append((work.__name__, repr(error)))

    # ---- clients --------------------------------------------------------------

    def client(self, chance, seed):
        with self._lock:
            tag = next(self._tags)
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(socket.create_connection(self.server.local_address, 20))
            if self.context is not None:
                wrap = self.context.wrap_socket
                try:
                    sock = stack.enter_context(wrap(sock, server_hostname="localhost"))
                except (ConnectionError, ssl.SSLError):
                    return
            try:
                sock.sendall(struct.pack("!I", tag))
                self.read(sock, tag, chance)
            except (ConnectionError, ssl.SSLEOFError):
                pass  # a meddler has closed it

    def read(self, sock, tag, chance):
        buffer, expected = bytearray(), {}
        until = time.monotonic() + chance.random()
        while time.monotonic() < until:
            sock.sendall(b"x" * chance.randrange(1, 4))
            data = sock.recv(65_536)
            if not data:
                break
            buffer += data
            self.check(buffer, tag, expected)

    def check(self, buffer, tag, expected):
        while len(buffer) >= HEADER.size:
            whose, sender, number, size = HEADER.unpack_from(buffer)
            if (whose, number) != (tag, expected.get(sender, 0)) or size > 10_000:
                raise AssertionError(f"{tag}: got {(whose, sender, number, size)} of {expected}")
            if len(buffer) < HEADER.size + size:
                return
            whole = bytes(buffer[: HEADER.size + size])
            if whole != message(tag, sender, number, size):
                raise AssertionError(f"{tag}: a foreign byte inside a message of {sender}")
            del buffer[: HEADER.size + size]
            expected[sender] = number + 1
            self.checked_messages += 1

    # ---- meddlers -------------------------------------------------------------

    def sender(self, chance, seed):
        picked = self.registry.pick(chance)
        if picked is None:
            return
        tag, sock, numbers, lock = picked
        with lock, contextlib.suppress(SocketClosed, SocketTimeout):
            # One sender at a time counts; the others of the same connection send beside it.
            number = numbers.get(seed, 0)
            numbers[seed] = number + 1
            sock.send(message(tag, seed, number, chance.randrange(1, 5_000)))

    def poster(self, chance, seed):
        picked = self.registry.pick(chance)
        if picked is None:
            return
        _, sock, numbers, lock = picked
        with lock, contextlib.suppress(ThousandIslandError):
            number = numbers.get("posted", 0)
            sock.connection.post(number)
            numbers["posted"] = number + 1

    def caller(self, chance, seed):
        picked = self.registry.pick(chance)
        if picked is None:
            return
        tag, sock, _, _ = picked
        with contextlib.suppress(SocketClosed, SocketTimeout, MailboxFull):
            assert sock.connection.call(seed, timeout_ms=5_000) == (tag, seed)

    def closer(self, chance, seed):
        self.over.wait(0.01)
        picked = self.registry.pick(chance)
        if picked is not None and chance.random() < 0.3:
            chance.choice([picked[1].close, picked[1].connection.close])()

    def churner(self, chance, seed):
        pairs = [socket.socketpair() for _ in range(4)]
        for one, other in pairs:
            one.sendall(b"private")
            got = other.recv(100)
            if got != b"private":
                raise AssertionError(f"foreign bytes: {got[:50]}")
        for pair in pairs:
            for end in pair:
                end.close()
        self.over.wait(0.001)


@pytest.mark.heavy
@pytest.mark.parametrize("max_handler_threads", [64, 4])
@pytest.mark.parametrize("version", [None, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_foreign_byte_and_no_lost_one(
    version,
    max_handler_threads,
    serve,
    authority,
    restless,
    disturbed,
):
    options = {"max_handler_threads": max_handler_threads}
    context = None
    if version is not None:
        options |= {"transport_cls": TLS, "transport_options": authority.options}
        context = authority.client_context(version)
    registry = Registry()
    server = serve(Meddled, handler_options=registry, **options)
    world = World(server, registry, context)
    jobs = [world.client] * 8
    jobs += [world.sender] * 3 + [world.poster] * 2 + [world.caller] * 2
    jobs += [world.closer, world.churner, world.churner]
    threads = [
        threading.Thread(target=world.job, args=(job, 10 + seed)) for seed, job in enumerate(jobs)
    ]
    for thread in threads:
        thread.start()
    world.over.wait(SECONDS)
    world.over.set()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert not world.failures
    assert world.checked_messages > 100
    assert registry.seen > 10
    assert eventually(lambda: server.info().active_connections == 0)
    assert not server.connections()
