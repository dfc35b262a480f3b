"""HAProxy itself, with agent-check and health-check, in front of two servers: one drains, and no
request is lost. The configuration is that of docs/howto/operations.md."""

import contextlib
import csv
import socket
import subprocess
import threading

import pytest

from tests.markdown import blocks_in
from tests.pages import ran
from tests.programs import program
from tests.support import eventually, receive_all, running
from thousand_island_sync import Close, Handler
from thousand_island_sync.contrib.haproxy import Agent
from thousand_island_sync.health import HealthServer

PAGE = "docs/howto/operations.md"


class Names(Handler):
    """Says which server this is, for each request."""

    def handle_data(self, data, sock):
        sock.send(self.options.encode())
        return Close()


def written():
    """The backend of the page."""
    (backend,) = blocks_in("text", PAGE)
    return backend


class Balancer:
    """An HAProxy; a context manager. `servers` are those that it has: the server, its health
    server and its agent, by their names."""

    def __init__(self, folder, servers):
        self.front, self.admin = f"{folder}/front", f"{folder}/admin"
        backend = written()
        for number, (server, health, agent) in enumerate(servers, 1):
            for shown, real in (
                (f"10.0.0.{number}:4000", f"127.0.0.1:{server.local_port}"),
                (f"10.0.0.{number}", "127.0.0.1"),
                ("port 8081", f"port {health.local_address[1]}"),
                ("agent-port 8082", f"agent-port {agent.local_address[1]}"),
            ):
                backend = backend.replace(shown, real, 1)
        self.config = f"{folder}/haproxy.cfg"
        with open(self.config, "w") as file:
            file.write(
                f"global\n    stats socket {self.admin} level admin\n"
                "defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 20s\n"
                "    timeout server 20s\n"
                f"frontend all\n    bind unix@{self.front}\n    default_backend app\n"
                f"{backend}"
            )

    def __enter__(self):
        self.process = subprocess.Popen(
            [program("haproxy"), "-db", "-f", self.config],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return self

    def __exit__(self, *exc):
        self.process.kill()
        self.process.communicate()

    def request(self):
        """The name of the server that has answered."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(self.front)
            sock.sendall(b"?")
            return receive_all(sock).decode()

    def status(self, name):
        """As `show stat` has it; `None`: HAProxy is not there yet."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(self.admin)
            sock.sendall(b"show stat\n")
            lines = receive_all(sock).decode().lstrip("# ").splitlines()
            for row in csv.DictReader(lines):
                if row["pxname"] == "app" and row["svname"] == name:
                    assert self.process.poll() is None
                    return row
        return None

    def is_up(self, name):
        row = self.status(name)
        return (
            row is not None
            and row["status"] == "UP"
            and row["check_status"] == "L7OK"
            and row["agent_status"] == "L7OK"
        )


@pytest.fixture
def behind(serve, tmp_path):
    """Two servers, and HAProxy in front of them."""
    with contextlib.ExitStack() as stack:
        sides = []
        for name in ("one", "two"):
            server = serve(Names, handler_options=name, name=name)
            health = stack.enter_context(HealthServer(server))
            agent = stack.enter_context(Agent(server))
            sides.append((server, health, agent))
        balancer = stack.enter_context(Balancer(tmp_path, sides))
        assert eventually(lambda: balancer.is_up("one") and balancer.is_up("two"), 20), (
            balancer.status("one"),
            balancer.process.poll(),
        )
        yield balancer, [server for server, _, _ in sides]


def test_a_server_drains_behind_haproxy_and_no_request_is_lost(behind):
    balancer, (one, _) = behind
    over, answers = threading.Event(), []

    def ask():
        while not over.is_set():
            answers.append(balancer.request())

    with running(*[ask] * 4):
        try:
            assert eventually(lambda: {"one", "two"} <= set(answers), 20)
            assert one.drain(delay_ms=3_000), "every connection ended by itself"
            told = len(answers)
            assert eventually(lambda: len(answers) >= told + 100, 20)
        finally:
            over.set()
    assert set(answers) == {"one", "two"}, "a request was not answered"
    assert set(answers[told + 4 :]) == {"two"}
    ran(PAGE, written())


def test_haproxy_looks_away_while_the_server_still_accepts(behind):
    balancer, (one, _) = behind
    with running(lambda: one.drain(60_000)):
        assert eventually(
            lambda: balancer.status("one")["status"].startswith(("DRAIN", "DOWN")), 20
        )
        assert one.status == "draining"
        assert {balancer.request() for _ in range(10)} == {"two"}
        with socket.create_connection(one.local_address, timeout=10) as late:
            late.sendall(b"?")
            assert receive_all(late) == b"one", "whoever comes all the same is served"
        one.stop()


def test_the_weight_goes_by_the_threads_that_are_free(serve, tmp_path):
    release = threading.Event()

    class Blocks(Handler):
        def handle_data(self, data, sock):
            release.wait(30)
            return Close()

    with contextlib.ExitStack() as stack:
        sides = []
        for _ in ("one", "two"):
            server = serve(Blocks, max_handler_threads=4)
            health = stack.enter_context(HealthServer(server))
            agent = stack.enter_context(Agent(server))
            sides.append((server, health, agent))
        balancer = stack.enter_context(Balancer(tmp_path, sides))
        assert eventually(lambda: balancer.is_up("one"), 20)
        full = int(balancer.status("one")["weight"])
        busy = stack.enter_context(socket.create_connection(sides[0][0].local_address))
        busy.sendall(b"?")
        assert eventually(lambda: int(balancer.status("one")["weight"]) * 4 == full * 3, 20)
        release.set()
        assert eventually(lambda: int(balancer.status("one")["weight"]) == full, 20)
