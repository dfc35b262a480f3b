"""The command line's log, as whoever reads its standard error gets it; or does not read it."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

from tests.programs import ROOT
from tests.support import answers, eventually, receive, receive_all, reset
from tests.test_main import serving

HANDLER = "tests.handlers:Talks"


def connect(script):
    return socket.create_connection(("127.0.0.1", int(script.port)), timeout=10)


def lines_of(script):
    """Its standard error; each line is an object."""
    return [json.loads(line) for line in script.errors]


def of(lines, event):
    return [line for line in lines if line.get("event_name") == event]


def ask(script, word):
    """Has the handler do something; the connection ends."""
    with connect(script) as sock:
        sock.sendall(word)
        return receive_all(sock)


# ---- JSON ---------------------------------------------------------------------


def test_every_line_of_json_is_an_object_whatever_wrote_it():
    """A logger of the user's, a traceback, a warning, an error in a thread or in a `__del__`."""
    words = [b"log", b"raise", b"warn", b"thread", b"del", b"unprintable"]
    with serving(HANDLER, "--port", "0", "--log-format", "json") as script:
        for word in words:
            ask(script, word)
        script.wait_for(r"(cannot be formatted)")
        assert script.stop() == 0
    lines = lines_of(script)
    for line in lines:
        assert {"timestamp", "level", "logger", "message"} <= set(line), line
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(\+00:00|Z)", line["timestamp"])
    (own,) = [line for line in lines if line["logger"] == "app" and "order" in line]
    assert (own["level"], own["message"], own["order"]) == ("WARNING", "logged", 7)
    (bug,) = of(lines, "handler.error")
    assert (bug["error_type"], bug["reason"]) == ("KeyError", "error")
    assert "Traceback" in bug["exc_info"]
    text = json.dumps(lines)
    for what in ("UserWarning: warned", "ZeroDivisionError", "ArithmeticError", "cannot be format"):
        assert what in text
    (start,) = of(lines, "listener.start")
    assert start["server_name"] == "thousand-island"
    assert of(lines, "listener.shutdown")[0]["duration_ms"] > 0


def test_json_without_its_package_is_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "pythonjsonlogger.py").write_text("raise ImportError('no')")
    done = subprocess.run(
        [sys.executable, "-m", "thousand_island_sync", "--port", "0", "--log-format", "json"],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "log_format: json needs the package python-json-logger" in line


# ---- the access log -------------------------------------------------------------


@pytest.mark.parametrize("level", ["error", "trace"])
@pytest.mark.parametrize("how", ["json", "text"])
def test_one_line_for_each_connection_at_its_end_whatever_the_level(level, how):
    flags = ["--log-format", how, "--log-level", level, "--log-access", "--read-timeout-ms", "300"]
    with serving(HANDLER, "--port", "0", *flags) as script:
        assert ask(script, b"close") == b"goodbye"
        ask(script, b"error")
        with connect(script) as silent:
            assert receive_all(silent) == b""
        with connect(script) as leaves:
            assert answers(leaves)
            port = leaves.getsockname()[1]
        script.wait_for(r"(peer_closed)")
        with connect(script) as stays:
            assert answers(stays)
            assert script.stop() == 0
    if how == "text":
        found = [line for line in script.errors if re.search(r" INFO connection \S+ of ", line)]
        reasons = [re.search(r": (\w+) after [\d.]+ ms, ", line).group(1) for line in found]
        (left,) = [line for line in found if f"from 127.0.0.1:{port}: peer_closed" in line]
        assert left.endswith(" ms, 1 bytes received, 1 sent\n")
    else:
        found = of(lines_of(script), "connection")
        reasons = [line["reason"] for line in found]
        (left,) = [line for line in found if line["client_port"] == port]
        assert (left["client_address"], left["reason"]) == ("127.0.0.1", "peer_closed")
        assert (left["bytes_received"], left["bytes_sent"]) == (1, 1)
        assert left["duration_ms"] > 0
    assert sorted(reasons) == ["error", "local_closed", "peer_closed", "shutdown", "timeout"]


def test_without_the_flag_there_is_none():
    with serving(HANDLER, "--port", "0") as script:
        ask(script, b"close")
        assert script.stop() == 0
    assert "connection " not in "".join(script.errors)


# ---- a log that nobody reads ------------------------------------------------------


class Unread:
    """A server whose standard error nobody reads until `read`."""

    def __init__(self, *flags):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "thousand_island_sync", "--port", "0", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        host, _, port = self.process.stdout.readline().strip().rpartition(":")
        self.address = host, int(port)

    def serve(self, count):
        """Asserts that each of so many clients is served at once."""
        for _ in range(count):
            with socket.create_connection(self.address, 5) as sock:
                assert answers(sock)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=20)


@pytest.mark.parametrize(
    "flags",
    [
        ("--log-access", "--log-level", "trace"),
        ("--log-access", "--log-format", "json"),
    ],
    ids=["text", "json"],
)
@pytest.mark.slow
def test_a_stderr_that_nobody_reads_costs_no_connection_and_no_stop(flags, stopwatch):
    with Unread(*flags) as server:
        server.serve(2_000)
        with socket.create_connection(server.address, 5) as stays:
            assert answers(stays)
            server.process.send_signal(signal.SIGTERM)
            assert receive(stays, 1) == b""
            ended = stopwatch()
            assert server.process.wait(20) == 0
            assert stopwatch() - ended < 0.5 + 1.0, "half a second, and the interpreter's end"


@pytest.mark.slow
def test_how_many_lines_were_lost_is_said_when_somebody_reads_again():
    connections = 6_000
    with Unread("--log-access", "--log-level", "error", "--log-format", "json") as server:
        server.serve(connections)
        # Whoever reads now gets what waited, and how many are missing.
        told = dropped = 0
        too_late = threading.Timer(60, server.process.kill)
        too_late.start()
        for text in server.process.stderr:
            line = json.loads(text)
            told += line["event_name"] == "connection"
            dropped += line.get("dropped", 0)
            if told + dropped == connections:
                break
        too_late.cancel()
        too_late.join()
        assert told + dropped == connections
        assert dropped > 0
        server.serve(1)
        assert json.loads(server.process.stderr.readline())["event_name"] == "connection"
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0


# ---- what clients do ----------------------------------------------------------------


def test_what_clients_do_is_no_traceback_and_a_flood_is_ten_lines_a_second(tmp_path, authority):
    (tmp_path / "chain.pem").write_bytes(authority.chain + authority.key)
    flags = ["--certfile", str(tmp_path / "chain.pem"), "--log-format", "json"]
    with serving("--port", "0", *flags) as script:
        for number in range(60):
            sock = connect(script)
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n" if number % 2 else b"\x16\x03\x01")
            (reset if number % 3 else socket.socket.close)(sock)
        assert eventually(lambda: "left out" in "".join(script.errors))
        assert script.stop() == 0
    lines = lines_of(script)
    failed = of(lines, "socket.handshake_error")
    written = [line for line in failed if "left out" not in line["message"]]
    assert 0 < len(written) <= 60
    assert all(line["error_type"] == "HandshakeError" for line in failed)
    assert not [line for line in lines if "exc_info" in line]
    seconds = {line["timestamp"][:19] for line in written}
    assert len(written) <= 10 * (len(seconds) + 1)
