"""Quick callbacks beside a thread that computes: see the essay in `native/gil.c`."""

import contextlib
import socket

import pytest

from tests.programs import Script
from tests.support import echoes, receive
from thousand_island_sync._server import accelerator

in_c_only = pytest.mark.skipif(
    not accelerator.in_c, reason="the Python lets go of it for each call"
)

CLIENTS, ROUNDS = 20, 50

#: In its process another thread computes. For each line it says how often its threads have
#: waited so far (getrusage(2), ru_nvcsw).
SERVER = """
import json, resource, sys, threading
from tests.support import Echo
from thousand_island_sync import ThousandIsland

def compute():
    while True:
        sum(range(100))

with ThousandIsland(port=0, host="127.0.0.1", handler_cls=Echo) as server:
    threading.Thread(target=compute, daemon=True).start()
    print("listening on :%d" % server.local_port, flush=True)
    for _ in sys.stdin:
        waits = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        print("answer", json.dumps({"waits": waits}), flush=True)
"""


@in_c_only
def test_messages_do_not_wait_for_the_gil_one_by_one():
    """To wait for events, to receive and to send: three waits for each message, that is, of a
    switch interval each, and as many of the thread that computes."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Script("-c", SERVER))
        stack.callback(server.process.kill)
        address = ("127.0.0.1", int(server.port))
        clients = [
            stack.enter_context(socket.create_connection(address, timeout=30))
            for _ in range(CLIENTS)
        ]
        for client in clients:
            echoes(client)
        before = server.ask("")["waits"]
        for _ in range(ROUNDS):
            for client in clients:
                client.sendall(b"ping")
            for client in clients:
                assert receive(client, 4) == b"ping"
        assert server.ask("")["waits"] - before < CLIENTS * ROUNDS
