"""`examples/cluster` as it is run: three nodes, a real HAProxy before them, a real Redis behind."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections import defaultdict

import pytest

from tests.programs import ROOT, Script, program
from tests.support import eventually, free_port, receive

try:
    import redis
except ImportError:
    if os.environ.get("REQUIRE_PROGRAMS"):
        raise
    pytest.skip("the package redis is not installed", allow_module_level=True)

CLUSTER = ROOT / "examples" / "cluster"
ROOMS = ["kitchen", "hall"]
#: Messages that each client says, and how many clients there are.
MESSAGES, CLIENTS = 150, 9


@contextlib.contextmanager
def process(*command):
    """One that is killed afterwards, if it has not ended."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as made:
        try:
            yield made
        finally:
            made.terminate()
            try:
                made.wait(10)
            except subprocess.TimeoutExpired:
                made.kill()


def agent_port(node):
    return node.wait_for(r"agent on (\d+)")


class Cluster:
    """Nodes by name, what is before them and what is behind."""

    def __init__(self, folder, stack):
        self._folder, self._stack = folder, stack
        self.redis = f"unix://{folder}/redis.sock"
        self.port = free_port()
        self.nodes = {}

    def start(self):
        data = ("--port", "0", "--save", "", "--appendonly", "no", "--dir", str(self._folder))
        server = program("redis-server")
        unix = ("--unixsocket", f"{self._folder}/redis.sock")
        self._stack.enter_context(process(server, *unix, *data))
        self._stack.enter_context(contextlib.closing(redis.Redis.from_url(self.redis)))
        assert eventually(self._redis_answers, 20)
        for name in ("n1", "n2", "n3"):
            self.start_node(name)
        config = (CLUSTER / "haproxy.cfg").read_text()
        config = config.replace("127.0.0.1:4080", f"127.0.0.1:{self.port}")
        for number, node in enumerate(self.nodes.values(), 1):
            config = config.replace(f"127.0.0.1:{4080 + number}", f"127.0.0.1:{node.port}")
            config = config.replace(f"agent-port {4090 + number}", f"agent-port {agent_port(node)}")
        config = config.replace("/tmp/cluster-haproxy.sock", f"{self._folder}/haproxy.sock")
        (self._folder / "haproxy.cfg").write_text(config)
        self._stack.enter_context(
            process(program("haproxy"), "-db", "-f", f"{self._folder}/haproxy.cfg")
        )
        assert eventually(lambda: "UP" in self.state("n3"), 20)
        return self

    def _redis_answers(self):
        with contextlib.closing(redis.Redis.from_url(self.redis)) as made:
            try:
                return made.ping()
            except redis.ConnectionError:
                return False

    def start_node(self, name):
        """Where the one of that name was, if there was one."""
        old = self.nodes.get(name)
        port, agent = (old.port, agent_port(old)) if old else ("0", "0")
        node = Script(
            *(str(CLUSTER / "node.py"), "--port", port, "--agent", agent, "--redis", self.redis),
            *("--drain-delay-ms", "1000"),
        )
        self._stack.callback(node.stop)
        self.nodes[name] = node

    def tell_haproxy(self, line):
        """What it answers over its socket."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            try:
                sock.connect(f"{self._folder}/haproxy.sock")
            except OSError:
                return ""
            sock.sendall(line.encode() + b"\n")
            return b"".join(iter(lambda: sock.recv(65_536), b"")).decode()

    def state(self, name):
        """`UP`, `DRAIN`, `DOWN`: as HAProxy sees a node."""
        for line in self.tell_haproxy("show stat").splitlines():
            columns = line.split(",")
            if columns[:2] == ["chat", name]:
                return columns[17]
        return ""


@pytest.fixture
def cluster(tmp_path):
    program("haproxy")
    with contextlib.ExitStack() as stack:
        yield Cluster(tmp_path, stack).start()


@pytest.fixture
def chat(monkeypatch):
    """Clients of the example's."""
    monkeypatch.syspath_prepend(str(CLUSTER))
    monkeypatch.delitem(sys.modules, "client", raising=False)
    import client

    made = []

    def connect(port, room):
        heard = []
        chat = client.Chat(
            ("127.0.0.1", port), [room], lambda room, text: heard.append((room, text))
        )
        chat.heard = heard
        made.append(chat)
        return chat

    yield connect
    for one in made:
        one.close()
    monkeypatch.delitem(sys.modules, "client", raising=False)


class Speakers:
    """All of the clients say something all the time, until all is said."""

    def __init__(self, chats):
        self.said = defaultdict(list)
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._speak, args=(number, room, one))
            for number, (room, one) in enumerate(chats)
        ]

    def _speak(self, number, room, one):
        for message in range(MESSAGES):
            text = f"{number} says {message} things"
            with self._lock:
                self.said[room].append(text)
            one.say(room, text)
            threading.Event().wait(random.uniform(0.005, 0.03))

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        for thread in self._threads:
            thread.join(60)


def test_a_node_is_drained_and_replaced_under_load_and_no_message_is_lost(cluster, chat):
    chats = [(ROOMS[n % 2], chat(cluster.port, ROOMS[n % 2])) for n in range(CLIENTS)]
    assert all(one.wait_until_joined(20) for _, one in chats)
    port = cluster.nodes["n2"].port
    with socket.create_connection(("127.0.0.1", int(port)), 20) as stays:
        stays.sendall(b"JOIN kitchen\n")
        assert receive(stays, 15) == b"JOINED kitchen "
        with Speakers(chats) as speakers:
            drain_and_replace(cluster, "n1")
            assert any(one.told_to_go for _, one in chats)
            kill_and_replace(cluster, "n3")
        assert all(one.wait_until_said(20) for _, one in chats)
        for room, one in chats:
            wanted = {(room, text) for text in speakers.said[room]}
            assert eventually(lambda one=one, wanted=wanted: len(one.heard) >= len(wanted), 20)
            assert len(one.heard) == len(wanted)  # each of them once
            assert set(one.heard) == wanted
        for room in ROOMS:  # and in the same order for all
            orders = [one.heard for its, one in chats if its == room]
            assert all(one == orders[0] for one in orders)
        assert texts(stays, len(speakers.said["kitchen"])) == [
            text for _, text in next(one.heard for its, one in chats if its == "kitchen")
        ]
    stayed = [one for _, one in chats if one.connects == 1]
    assert stayed, "nobody was on the node that nothing happened to"


def drain_and_replace(cluster, name):
    """As one rolls out a new version: nobody new comes, who is there is told to go."""
    old = cluster.nodes[name]
    old.process.send_signal(signal.SIGTERM)
    assert eventually(lambda: cluster.state(name).startswith("DRAIN"))
    assert old.process.wait(20) == 0, old.errors
    cluster.start_node(name)
    assert eventually(lambda: cluster.state(name).startswith("UP"), 20)


def kill_and_replace(cluster, name):
    """A machine is gone: what it had not confirmed is said again."""
    old = cluster.nodes[name]
    old.process.kill()
    old.process.wait(20)
    cluster.start_node(name)
    assert eventually(lambda: cluster.state(name).startswith("UP"), 20)


def texts(sock, count):
    """Of so many messages."""
    with sock.makefile("r", encoding="utf-8") as lines:
        lines.readline()  # the rest of the answer to JOIN
        return [lines.readline().rstrip("\n").split(" ", 3)[3] for _ in range(count)]


def test_what_a_node_answers(cluster):
    ports = [int(node.port) for node in cluster.nodes.values()]
    with contextlib.ExitStack() as stack:
        one, two = (
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 20))
            for port in ports[:2]
        )
        two.sendall(b"JOIN kitchen\n")
        lines = stack.enter_context(two.makefile("r"))
        assert lines.readline().startswith("JOINED kitchen")
        # With one token it is said once, however often it comes.
        one.sendall(b"SAY kitchen t1 hello\nSAY kitchen t1 hello\nSAY kitchen t2 bye\n")
        assert receive(one, 24) == b"SAID t1\nSAID t1\nSAID t2\n"
        told = [lines.readline().split() for _ in range(2)]
        assert [text for _, _, _, text in told] == ["hello", "bye"]
        # Who comes later gets what has come since.
        one.sendall(f"JOIN kitchen {told[0][2]}\n".encode())
        answers = stack.enter_context(one.makefile("r"))
        assert answers.readline() == f"JOINED kitchen {told[0][2]}\n"
        assert answers.readline().split() == told[1]
        one.sendall(b"HELLO\nJOIN\nSAY kitchen\nJOIN kitchen nonsense\nJOIN kitchen 1-1 2-2\n")
        assert all(answers.readline().startswith("ERR takes") for _ in range(5))
        one.sendall(b"QUIT\n")
        assert answers.read() == "BYE\n"
