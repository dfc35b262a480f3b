"""`slowhttptest` in all its modes against `http_hello`, while `wrk` measures good clients."""

import functools
import os
import re
import socket
import statistics
import subprocess
import threading
import time

import pytest

from tests.programs import UNCHECKED, Script, program
from tests.support import receive, running

pytestmark = pytest.mark.heavy

#: Each mode, and what it does. -i: seconds between two pieces; -r: connections a second.
MODES = {
    "slow headers": ["-H", "-i", "1"],
    "slow body": ["-B", "-i", "1", "-s", "8192"],
    "ranges": ["-R", "-a", "10", "-b", "3000"],
    "slow read": ["-X", "-w", "1", "-y", "2", "-n", "1", "-z", "1", "-k", "10"],
}
SLOW_CLIENTS = 500


def wrk(url, seconds):
    """The 99th percentile in milliseconds of a few good clients; all must be answered."""
    done = subprocess.run(
        [program("wrk"), "-t1", "-c4", f"-d{seconds}", "--latency", url],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "Socket errors" not in done.stdout, done.stdout
    assert "Non-2xx" not in done.stdout, done.stdout
    found = re.search(r"99%\s+([\d.]+)(us|ms|s)", done.stdout)
    assert found is not None, done.stdout
    return float(found[1]) * {"us": 0.001, "ms": 1, "s": 1_000}[found[2]]


@pytest.mark.alone
@pytest.mark.parametrize("mode", MODES)
def test_good_clients_do_not_notice(mode):
    slow = [program("slowhttptest"), "-c", str(SLOW_CLIENTS), "-r", "250", "-p", "3", "-l", "4"]
    with Script("examples/http_hello.py", "--port", "0", environment=UNCHECKED) as script:
        url = f"http://127.0.0.1:{script.port}/"
        before = wrk(url, 1)
        attack = subprocess.Popen(
            [*slow, *MODES[mode], "-u", url],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        # One bad second is the machine's; where clients notice, they notice in most.
        during = statistics.median(wrk(url, 1) for _ in range(3))
        report = re.sub(r"\x1b\[[0-9;]*m", "", attack.communicate(timeout=60)[0])
        after = wrk(url, 1)
        assert "service available:   YES" in report, report[-1_500:]
        assert "service available:   NO" not in report
        # At most double, give or take what a shared machine does to a percentile.
        assert during <= 2 * max(before, after) + 10, (before, during, after)
        threads = len(os.listdir(f"/proc/{script.process.pid}/task"))
        assert threads < 40, "no thread is held by a slow client"


def test_a_slow_head_ends_at_its_deadline_also_on_a_kept_connection():
    """A byte a second buys no time, neither for the first request nor for a later one."""
    with Script("examples/http_hello.py", "--port", "0", environment=UNCHECKED) as script:
        address = ("127.0.0.1", int(script.port))
        ended = {}

        def dribble(name, first):
            with socket.create_connection(address, timeout=30) as sock:
                sock.sendall(first)
                if first:
                    assert b"200 OK" in receive(sock, 60)
                began = time.monotonic()
                try:
                    for byte in b"GET / HTTP/1.1\r\nX: " + b"y" * 1_000:
                        sock.sendall(bytes([byte]))
                        if time.monotonic() - began > 20:
                            break
                        threading.Event().wait(0.5)
                except OSError:
                    pass
                ended[name] = time.monotonic() - began

        requests = {"new": b"", "kept": b"GET / HTTP/1.1\r\n\r\n"}
        with running(*[functools.partial(dribble, *pair) for pair in requests.items()]):
            pass
    assert 9.5 < ended["new"] < 12
    assert 9.5 < ended["kept"] < 12
