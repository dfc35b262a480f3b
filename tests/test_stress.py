"""Many connections of every kind at once, with the interpreter switching threads as often
as it can: each byte of each stream is checked, and nothing may stand still."""

import contextlib
import random
import socket
import ssl
import threading
import time

import pytest

from tests.support import eventually
from thousand_island_sync import TLS, Close, Handler

ROUNDS, CLIENTS = 12, 12


class Everything(Handler):
    """Echoes in the way that a connection's first byte asks for."""

    mode = b""

    def handle_data(self, data, socket):
        if not self.mode:
            self.mode, data = data[:1], data[1:]
        return self.do(self.mode, data, socket)

    def do(self, mode, data, socket):
        # No getattr with a name that is made anew each time: the interpreter remembers
        # thousands of them, which a soak would take for a leak.
        return self.MODES[mode](self, data, socket)

    def do_e(self, data, socket):
        if data:
            socket.send(data)

    def do_b(self, data, socket):
        """Blocks now and then."""
        time.sleep(random.choice([0, 0.0005, 0.002]))
        self.do_e(data, socket)

    def do_l(self, data, socket):
        """Loops, in the manner of socketserver."""
        socket.unread(data)
        while received := socket.recv():
            socket.send(received)
        return Close()

    def do_u(self, data, socket):
        """Leaves half of it unread, until there is a whole line."""
        *lines, rest = data.split(b"\n")
        for line in lines:
            socket.send([line, b"\n"])
        socket.unread(rest)

    def do_p(self, data, socket):
        """By way of the mailbox."""
        if data:
            socket.connection.post(data)

    def handle_info(self, message, socket):
        socket.send(message)

    MODES = {b"e": do_e, b"b": do_b, b"l": do_l, b"u": do_u, b"p": do_p}


def client(seed, address, context, failures):
    chance = random.Random(seed)
    try:
        for mode in chance.choices(["e", "b", "l", "u", "p"], k=ROUNDS):
            with contextlib.ExitStack() as stack:
                sock = stack.enter_context(socket.create_connection(address, timeout=20))
                if context is not None:
                    sock = stack.enter_context(
                        context.wrap_socket(sock, server_hostname="localhost")
                    )
                sock.sendall(mode.encode())
                for _ in range(chance.randrange(1, 8)):
                    exchange(sock, chance)
                if context is None and chance.random() < 0.3:
                    sock.shutdown(socket.SHUT_WR)
                    assert sock.recv(1) == b""
    except BaseException as error:
        failures.append((seed, mode, repr(error)))


def exchange(sock, chance):
    """Sends a message in pieces; what comes back is the same, in order."""
    message = chance.randbytes(chance.choice([1, 5, 100, 5_000, 40_000])).replace(b"\n", b" ")
    message += b"\n"
    received = bytearray()
    position = 0
    while position < len(message):
        step = chance.choice([1, 3, 1_000, 20_000]) if len(message) < 200 else 7_000
        sock.sendall(message[position : position + step])
        position += step
    while len(received) < len(message):
        data = sock.recv(65_536)
        assert data, f"the stream ended after {len(received)} of {len(message)} bytes"
        received += data
    assert bytes(received) == message


@pytest.mark.parametrize("max_handler_threads", [128, CLIENTS + 1])
@pytest.mark.parametrize("version", [None, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_nothing_is_lost_nor_stands_still(version, max_handler_threads, serve, authority, restless):
    options = {"max_handler_threads": max_handler_threads}
    context = None
    if version is not None:
        options |= {"transport_cls": TLS, "transport_options": authority.options}
        context = authority.client_context(version)
    server = serve(Everything, **options)
    failures = []
    threads = [
        threading.Thread(target=client, args=(seed, server.local_address, context, failures))
        for seed in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures
    assert eventually(lambda: server.info().active_connections == 0)
    assert server.info().accepted_total == CLIENTS * ROUNDS
