"""IPv6 link-local addresses are complete: the interface is a part of them (RFC 4007, 11)."""

import json
import shutil
import socket
import subprocess
import sys

import pytest

from tests import network
from tests.programs import ROOT
from thousand_island_sync._base import addresses

LOOPBACK = socket.if_nametoindex("lo")


@pytest.mark.parametrize(
    ("given", "shown", "pair"),
    [
        (("fe80::1", 5, 0, LOOPBACK), "[fe80::1%lo]:5", ("fe80::1%lo", 5)),
        (("fe80::1", 5, 0, 1 << 30), f"[fe80::1%{1 << 30}]:5", (f"fe80::1%{1 << 30}", 5)),
        (("fe80::1%lo", 5, 0, LOOPBACK), "[fe80::1%lo]:5", ("fe80::1%lo", 5)),
        (("::1", 5, 0, 0), "[::1]:5", ("::1", 5)),
        (("fd00::1", 5, 7, 0), "[fd00::1]:5", ("fd00::1", 5)),
    ],
)
def test_how_an_address_with_a_scope_is_shown(given, shown, pair):
    assert addresses.show(given) == shown
    assert addresses.pair(given) == addresses.remote(given) == pair
    assert addresses.pair(addresses.sharing_host(given)) == pair
    assert addresses.sharing_host(given)[1:] == given[1:]


def test_an_accepted_address_keeps_its_interface_when_that_has_gone(monkeypatch):
    accepted = addresses.sharing_host(("fe80::1", 5, 0, LOOPBACK))

    def gone(number):
        raise OSError("no such interface")

    monkeypatch.setattr(socket, "if_indextoname", gone)
    assert addresses.show(accepted) == "[fe80::1%lo]:5"


CODE = """
import json, logging, socket, subprocess, sys
from thousand_island_sync import Close, Handler, ThousandIsland, attach_logger, events

def ip(words):
    subprocess.run(["ip", *words.split()], check=True)

ip("link set lo up")
ip("link add d0 type veth peer name d1")
for name in ("d0", "d1"):
    ip(f"link set {name} up")
ip("addr add fe80::1/64 dev d0 nodad")
lines, told = [], []

class Lines(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage())

class Tells(Handler):
    def handle_connection(self, sock):
        connection = sock.connection
        told.append([connection.peername, connection.sockname, repr(connection)])
        sock.send(b"ok")
        return Close()

logger = logging.getLogger("thousand_island_sync")
logger.setLevel(1)
logger.addHandler(Lines())
attach_logger("debug")

@events.acceptor_accept.connect
def accepted(server, *, event, measurements, metadata):
    told.append(metadata["remote_address"])

found = {}
for host in ("fe80::1%d0", "::"):
    told.clear()
    with ThousandIsland(port=0, host=host, handler_cls=Tells) as server:
        local = server.local_address
        with socket.create_connection(("fe80::1%d0", server.local_port), 5) as client:
            assert client.recv(2) == b"ok"
        if host != "::":
            socket.create_connection(local, 5).close()
        found[host] = {"local": local, "told": told[:2]}
found["lines"] = [line for line in lines if "fe80" in line]
print(json.dumps(found))
"""


def test_it_is_in_every_address_that_is_told():
    for program in ("ip", "unshare"):
        if shutil.which(program) is None:
            network.refuse(f"the program {program} is not installed")
    pair = ["ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1"]
    allowed = subprocess.run(["unshare", "-n", *pair], capture_output=True, text=True)
    if allowed.returncode:
        network.refuse(f"network namespaces are not allowed: {allowed.stderr.strip()}")
    result = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", CODE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["fe80::1%d0"]["local"][0] == "fe80::1%d0"
    for host in ("fe80::1%d0", "::"):
        remote, (peername, sockname, shown) = found[host]["told"]
        assert remote == peername[0] == sockname[0] == "fe80::1%d0"
        assert "[fe80::1%d0]:" in shown
    assert found["lines"]
    for line in found["lines"]:
        assert line.count("fe80::1") == line.count("fe80::1%d0"), line
