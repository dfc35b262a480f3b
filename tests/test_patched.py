"""In a process whose threads and sockets were replaced `start` says so, and nothing else does."""

import importlib.util
import os
import socket
import subprocess
import sys
import sysconfig
import textwrap

import pytest

from tests.programs import ROOT
from thousand_island_sync._base import compiled, patched

#: What `patch_all` of both does, as far as it matters here.
STAND_IN = """
import select, socket, sys, threading, types
for module, name in [(socket, "socket"), (threading, "Thread")]:
    fake = type(name, (getattr(module, name),), {"__module__": "WHO.replaced"})
    setattr(module, name, fake)
del select.epoll
"""
PATCHES = {
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "gevent, threads alone": "from gevent import monkey; monkey.patch_thread()",
    "gevent, sockets alone": "from gevent import monkey; monkey.patch_socket()",
    "gevent, select alone": "from gevent import monkey; monkey.patch_select()",
    "a stand-in for gevent": STAND_IN.replace("WHO", "gevent"),
    "a stand-in for eventlet": STAND_IN.replace("WHO", "eventlet"),
}
STARTS = """
import threading
from thousand_island_sync import Handler, ThousandIsland, ThousandIslandError
server = ThousandIsland(port=0, host="127.0.0.1", handler_cls=Handler)
try:
    server.start()
except ThousandIslandError as error:
    print(type(error).__name__, error)
print(server.status, server.stop())
"""


def run(program):
    """What a program of its own process says; a warning ends it, as any other error does."""
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, "THOUSAND_ISLAND_DEBUG": "0"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def needs(patch):
    """Where gevent has no build for this Python, the stand-in must do."""
    if patch.startswith("from gevent") and not importlib.util.find_spec("gevent"):
        has_build = sys.version_info < (3, 14) and not sysconfig.get_config_var("Py_GIL_DISABLED")
        if os.environ.get("REQUIRE_PROGRAMS") and has_build:
            pytest.fail("gevent is not installed, and this run requires it")
        pytest.skip("gevent is not installed")


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("name", PATCHES)
def test_g12_start_says_that_the_process_was_patched(name, order):
    """Whether it was patched before this library was imported, or after."""
    patch = PATCHES[name]
    needs(patch)
    if order == "after":
        patch = f"import thousand_island_sync\n{patch}"
    said = run(patch + STARTS)
    who = "eventlet" if "eventlet" in name else "gevent"
    assert said.startswith(f"ThousandIslandError start: this process was monkey-patched by {who}")
    assert said.endswith("new True\n")
    assert said.count("\n") == 2


SERVES = """
import socket
from thousand_island_sync import Handler, ThousandIsland
class Echo(Handler):
    def handle_data(self, data, socket):
        socket.send(data)
with ThousandIsland(port=0, host="127.0.0.1", handler_cls=Echo) as server:
    with socket.create_connection(("127.0.0.1", server.local_port)) as client:
        client.sendall(b"served")
        print(client.recv(6))
"""


@pytest.mark.parametrize(
    "patch",
    [
        "from gevent import monkey; monkey.patch_ssl()",
        "from gevent import monkey; monkey.patch_time()",
        "import socket\nclass ByProxy(socket.socket): pass\nsocket.socket = ByProxy",
    ],
    ids=["ssl", "time", "a proxy's sockets"],
)
def test_where_other_parts_were_patched_it_serves(patch):
    needs(patch)
    assert run(patch + SERVES) == "b'served'\n"


def test_a_compiled_file_of_another_version_is_still_told(recwarn, monkeypatch):
    assert patched.patched_by() is None
    compiled.warn_of_another_version(TypeError("a slot"))
    assert "of another version" in str(recwarn.pop(RuntimeWarning).message)
    monkeypatch.setattr(socket, "socket", type("socket", (), {"__module__": "gevent._socket3"}))
    compiled.warn_of_another_version(TypeError("a slot"))
    assert not recwarn.list
