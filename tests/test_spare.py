"""A process whose descriptors are at their end, and those who ask it what is wrong."""

import subprocess
import sys

import pytest

from tests.programs import ROOT

PROGRAM = """
import http.client, json, resource, socket, sys
from thousand_island_sync import Handler, ThousandIsland
from thousand_island_sync.admin import AdminServer
from thousand_island_sync.health import HealthServer

def info(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        yield  # it has a descriptor of its own
        sock.connect(path)
        sock.sendall(b'{"v": 1, "do": "info"}\\n')
        return json.loads(sock.makefile().readline())["info"]["status"]

def ready(address):
    with socket.socket() as sock:
        sock.settimeout(10)
        yield
        sock.connect(address)
        sock.sendall(b"GET /livez HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
        return sock.makefile().readline().split()[1]

def goes_on(one):
    try:
        next(one)
    except StopIteration as over:
        return over.value

server = ThousandIsland(handler_cls=Handler, host="127.0.0.1", port=0).start()
with AdminServer(server, path=sys.argv[1]) as admin:
    with HealthServer(server, host="127.0.0.1", port=0) as health:
        asks = [info(sys.argv[1]) for _ in range(3)]
        asks += [ready(health.local_address) for _ in range(3)]
        for one in asks:
            next(one)
        # Who waits for any that is given back.
        clients = [socket.socket() for _ in range(int(sys.argv[2]))]
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (60, most))
        full = []
        try:
            while True:
                full.append(socket.socket())
        except OSError as error:
            assert error.errno == 24, error
        for client in clients:
            client.connect(server.local_address)
        print([goes_on(one) for one in asks])
        for sock in (*clients, *full):
            sock.close()
server.stop()
"""


@pytest.mark.parametrize("waiting", [0, 4])
def test_admin_and_health_answer_when_no_descriptor_is_free(waiting, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(tmp_path / "admin"), str(waiting)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.stdout == str(["running"] * 3 + ["200"] * 3) + "\n", done.stderr
