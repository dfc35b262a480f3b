"""What a thousand clients that never read cost a server: what may wait for them, and a tenth."""

import contextlib
import re
import resource
import socket
from pathlib import Path

import pytest

from tests.programs import UNCHECKED, Script
from tests.support import eventually

pytestmark = [pytest.mark.heavy, pytest.mark.memory]

CLIENTS = 1_000
#: `max_unsent_total` where nothing is said, in KiB.
TOTAL = 65_536
#: A record of TLS and what OpenSSL puts around it, in KiB.
RECORD = 17


def status_of(script, name):
    text = Path(f"/proc/{script.process.pid}/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+)", text).group(1))


def forget_peak(script):
    Path(f"/proc/{script.process.pid}/clear_refs").write_text("5")  # proc(5)


@pytest.fixture
def many_descriptors():
    """Enough for all of them, here and in the process that is started."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2 * CLIENTS:
        pytest.skip(f"a process may have {hard} descriptors here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * CLIENTS), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(params=["tcp", "tls"])
def crowd(request, tmp_path, authority, many_descriptors):
    """The server alone in its process, clients that have read nothing, and what each may cost."""
    options = {"send_buffer": 16_384}
    arguments = ["-m", "tests.served", "Fills"]
    if request.param == "tls":
        (tmp_path / "chain.pem").write_bytes(authority.chain + authority.key)
        options["certfile"] = str(tmp_path / "chain.pem")
        arguments.append("transport_cls=TLS")
    arguments.append(f"transport_options={options}")
    with (
        Script(*arguments, environment=UNCHECKED) as script,
        contextlib.ExitStack() as stack,
    ):
        clients, context = [], authority.client_context()
        for _ in range(CLIENTS):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            sock.settimeout(30)
            sock.connect(("127.0.0.1", int(script.port)))
            if request.param == "tls":
                sock = stack.enter_context(context.wrap_socket(sock, server_hostname="localhost"))
            clients.append(sock)
        yield script, clients, RECORD * CLIENTS if request.param == "tls" else 0


@pytest.mark.parametrize("at_once", [False, True], ids=["quick callbacks", "128 at once"])
def test_it_grows_by_what_may_wait_and_a_tenth_at_most(at_once, crowd):
    script, clients, beside = crowd
    if at_once:  # their threads are there before
        for sock in clients[:128]:
            sock.sendall(b"*-")
        assert eventually(lambda: script.ask("facts")["handler_threads"] == 128, 30)
    assert eventually(lambda: at_rest(script), 30)
    forget_peak(script)
    before = status_of(script, "VmRSS")
    for number, sock in enumerate(clients):
        sock.sendall(b"*" if at_once and number < 128 else b"+")
    for sock in clients:
        assert sock.recv(1) == b"\0"
    assert eventually(lambda: at_rest(script), 60)
    grown = status_of(script, "VmHWM") - before
    assert TOTAL * 0.9 <= grown <= TOTAL * 1.1 + beside


def at_rest(script):
    facts = script.ask("facts")
    return not facts["busy_threads"] and not facts["waiting_connections"]
