"""examples/container: its server as process 1, and the times of its manifests."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from tests.programs import ROOT, program
from tests.support import eventually, free_port, receive

FOLDER = ROOT / "examples" / "container"
DOCUMENTS = {
    one["kind"]: one for one in yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())
}
POD = DOCUMENTS["Deployment"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
#: A stop takes so many seconds longer than its time at most, and so many are a reserve.
STOP_S, RESERVE_S = 1.0, 5.0
#: Seconds until every node knows that a pod has left its Service, as a rule.
NODES_S = 5.0


def containerfile(instruction):
    """What an instruction says, as a list; the last one counts."""
    text = (FOLDER / "Containerfile").read_text().replace("\\\n", "")
    found = re.findall(rf"^{instruction} (.*)$", text, re.MULTILINE)
    return json.loads(found[-1]) if found[-1].startswith("[") else found[-1].split()


def options(arguments):
    """The flags, by name."""
    words = [word for one in arguments for word in one.split("=", 1)]  # both ways to write them
    flags = {}
    for word in words:
        if word.startswith("--"):
            name = word[2:]
            flags[name] = None
        else:
            flags[name] = word
    return flags


def seconds(name, arguments=CONTAINER["args"]):
    return int(options(arguments)[name]) / 1_000


# ---- the times ------------------------------------------------------------------


def test_kubernetes_waits_longer_than_a_drain_and_a_stop_can_take():
    takes = seconds("drain-delay-ms") + seconds("shutdown-timeout-ms") + STOP_S
    assert POD["terminationGracePeriodSeconds"] >= takes + RESERVE_S


def test_docker_is_told_to_wait_as_long_too():
    text = (FOLDER / "Containerfile").read_text()
    waits = int(re.search(r"docker run .*--stop-timeout (\d+)", text).group(1))
    times = [
        seconds(name, containerfile("CMD")) for name in ("drain-delay-ms", "shutdown-timeout-ms")
    ]
    assert waits >= sum(times) + STOP_S + RESERVE_S


def test_the_drain_lasts_until_everybody_has_noticed():
    probe = CONTAINER["readinessProbe"]
    probed = probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"]
    assert seconds("drain-delay-ms") >= max(probed, NODES_S)


def test_no_server_goes_before_another_has_come():
    rolling = DOCUMENTS["Deployment"]["spec"]["strategy"]["rollingUpdate"]
    assert (rolling["maxUnavailable"], rolling["maxSurge"]) == (0, 1)
    assert DOCUMENTS["Deployment"]["spec"]["replicas"] >= 2
    assert DOCUMENTS["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1


def test_the_files_name_the_same_ports_and_labels():
    flags = options(CONTAINER["args"])
    ports = {one["name"]: one["containerPort"] for one in CONTAINER["ports"]}
    assert ports["shout"] == int(flags["port"])
    assert ports["health"] == int(flags["health"].rpartition(":")[2])
    assert [int(port) for port in containerfile("EXPOSE")] == sorted(ports.values())
    for probe, path in (("readinessProbe", "/readyz"), ("livenessProbe", "/livez")):
        assert CONTAINER[probe]["httpGet"] == {"path": path, "port": "health"}
    (port,) = DOCUMENTS["Service"]["spec"]["ports"]
    assert port["targetPort"] in ports
    labels = DOCUMENTS["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert DOCUMENTS[kind]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert DOCUMENTS["Service"]["spec"]["selector"].items() <= labels.items()


def test_the_memory_limit_has_room_for_what_waits_for_clients():
    limit = CONTAINER["resources"]["limits"]["memory"]
    assert limit.endswith("Mi")
    assert int(limit[:-2]) >= 64 + 128


def test_the_image_runs_the_server_itself_and_not_as_root():
    assert containerfile("ENTRYPOINT") == ["thousand-island", "app:Shout"]
    (user,) = containerfile("USER")
    assert int(user) > 0
    assert POD["securityContext"]["runAsNonRoot"]
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"]
    copied = containerfile("COPY")[0]
    assert ROOT / copied == FOLDER / "app.py"
    assert (FOLDER / "app.py").exists()
    # What it is told in the one file, it is told in the other.
    image, pod = options(containerfile("CMD")), options(CONTAINER["args"])
    assert image.items() <= pod.items()


# ---- the server -----------------------------------------------------------------


class Container:
    """The command of the image, with these arguments, on free ports; as process 1 of a namespace
    if `first`."""

    def __init__(self, arguments, drain_delay_ms, first=False):
        self.health = free_port()
        changed = {
            "host": "127.0.0.1",
            "port": "0",
            "health": f"127.0.0.1:{self.health}",
            "drain-delay-ms": str(drain_delay_ms),
        }
        assert changed.keys() - {"drain-delay-ms"} <= options(arguments).keys()
        given = {**options(arguments), **changed}
        flags = [f"--{name}" if one is None else f"--{name}={one}" for name, one in given.items()]
        program_, *words = containerfile("ENTRYPOINT")
        assert program_ == "thousand-island"
        command = [sys.executable, "-m", "thousand_island_sync", *words, *flags]
        if first:
            unshare = [program("unshare"), "--pid", "--fork", "--kill-child", "--mount-proc"]
            command = [*unshare, *command]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=FOLDER,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        )
        self.first = first
        where = self.process.stdout.readline()
        if not where:
            raise AssertionError(self.process.communicate()[1])
        host, _, port = where.strip().rpartition(":")
        self.address = host, int(port)

    def ready(self):
        """What `/readyz` says: the status, and the reason."""
        url = f"http://127.0.0.1:{self.health}/readyz"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, json.load(answer).get("reason")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error).get("reason")

    def signal(self, number):
        pid = self.process.pid
        if self.first:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            pid = int(children[0])
        os.kill(pid, number)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=20)


def shouts(sock):
    sock.sendall(b"hello\n")
    return receive(sock, 6) == b"HELLO\n"


def test_a_pod_that_is_deleted_serves_until_everybody_has_noticed_and_ends_by_itself():
    with Container(CONTAINER["args"], 1_500) as container:
        assert eventually(lambda: container.ready() == (200, None))
        with socket.create_connection(container.address, 5) as before:
            assert shouts(before)
            container.signal(signal.SIGTERM)
            assert eventually(lambda: container.ready() == (503, "draining"))
            assert receive(before, 13) == b"* going away\n"
            with socket.create_connection(container.address, 5) as late:
                assert receive(late, 13) == b"* going away\n"
                assert shouts(late)
                late.sendall(b"quit\n")
                assert receive(late, 8) == b"goodbye\n"
            assert shouts(before)
        output, errors = container.process.communicate(timeout=30)
        assert container.process.returncode == 0
        lines = [json.loads(line) for line in errors.splitlines()]
    ended = [line for line in lines if line.get("event_name") == "connection"]
    assert {line["reason"] for line in ended} <= {"local_closed", "peer_closed"}
    assert len(ended) == 2
    assert output == ""
    assert "listener.drain" in [line.get("event_name") for line in lines]


@pytest.fixture
def _namespaces():
    allowed = [shutil.which("unshare") or "false", "--pid", "--fork", "--mount-proc", "true"]
    if subprocess.run(allowed, capture_output=True).returncode != 0:
        if os.environ.get("REQUIRE_PROGRAMS"):
            pytest.fail("no process namespace can be made here, and this run requires it")
        pytest.skip("no process namespace can be made here")


@pytest.mark.usefixtures("_namespaces")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_as_process_1_it_heeds_its_signals(number):
    with Container(containerfile("CMD"), 0, first=True) as container:
        with socket.create_connection(container.address, 5) as sock:
            assert shouts(sock)
            container.signal(signal.SIGHUP)
            container.signal(signal.SIGUSR1)
            assert shouts(sock)
            container.signal(number)
            assert receive(sock, 13) == b"* going away\n"
            sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(subprocess.TimeoutExpired):
            container.process.wait(20)
        assert container.process.returncode == 0
