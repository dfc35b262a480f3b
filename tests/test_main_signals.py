"""The command line beside SIGHUP, and beside a standard error that nobody reads."""

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading

import pytest

from tests.programs import ROOT
from tests.support import eventually, receive
from tests.test_main import certificate_of, serving, write_certificate

HANGUP = """
import os, signal
from thousand_island_sync import Handler

os.kill(os.getpid(), signal.SIGHUP)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as some libraries do


class Echo(Handler):
    def handle_data(self, data, socket):
        socket.send(data)


class Forks(Handler):
    def handle_data(self, data, socket):
        child = os.fork()
        if not child:
            os.kill(os.getpid(), signal.SIGHUP)
            os._exit(7)
        socket.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture
def hangup(tmp_path, monkeypatch):
    """A module that sends its own process SIGHUP as it is imported."""
    (tmp_path / "hangup.py").write_text(HANGUP)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def ask(script, data):
    with socket.create_connection(("127.0.0.1", int(script.port)), timeout=10) as sock:
        sock.sendall(data)
        return sock.recv(100)


def test_sighup_never_ends_it_from_its_first_line_to_its_last(hangup):
    with serving("hangup:Echo", "--port", "0") as script:
        over = threading.Event()

        def send_many():
            while script.process.poll() is None and not over.wait(0.001):
                script.process.send_signal(signal.SIGHUP)

        sender = threading.Thread(target=send_many)
        sender.start()
        assert ask(script, b"x") == b"x"
        assert script.stop() == 0
        over.set()
        sender.join()


def test_sighup_ends_a_child_that_a_handler_has_forked_as_ever(hangup):
    with serving("hangup:Forks", "--port", "0") as script:
        assert ask(script, b"x") == b"%d" % -signal.SIGHUP
        assert script.stop() == 0


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGUSR2"])
def test_other_signals_are_in_a_forked_child_what_they_were(name, tmp_path, monkeypatch):
    text = HANGUP.replace("SIGHUP)\n            os._exit", f"{name})\n            os._exit")
    (tmp_path / "hangup.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    number = getattr(signal, name)
    with serving("hangup:Forks", "--port", "0") as script:
        assert ask(script, b"x") == b"%d" % -number
        assert script.stop() == 0


def test_a_program_that_a_handler_starts_does_not_ignore_sighup():
    code = (
        "import os\n"
        "from thousand_island_sync._server import hangup\n"
        "hangup.survive()\n"
        "os.execvp('sh', ['sh', '-c', 'kill -HUP $$'])\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == -signal.SIGHUP


def test_sighup_while_it_starts_loads_certificates_that_came_meanwhile(hangup, tmp_path, authority):
    write_certificate(tmp_path, authority)
    files = ["--certfile", str(tmp_path / "cert.pem"), "--keyfile", str(tmp_path / "key.pem")]
    with serving("hangup:Echo", "--port", "0", *files) as script:
        script.wait_for("(certificates reloaded)")
        new = write_certificate(tmp_path, authority)
        for _ in range(20):  # amid one another
            script.process.send_signal(signal.SIGHUP)
        assert eventually(lambda: certificate_of(script, authority) == new, 10)
        assert script.stop() == 0


@contextlib.contextmanager
def unread(*arguments):
    """The command line with a standard error that nobody reads, and that is full soon: the
    process, its port, and the end of the pipe at which it could be read."""
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "thousand_island_sync", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=writer,
        cwd=ROOT,
        text=True,
    )
    os.close(writer)
    try:
        yield process, int(process.stdout.readline().rpartition(":")[2]), reader
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        os.close(reader)


def test_g13_a_standard_error_that_nobody_reads_holds_up_no_client_and_no_stop():
    with unread("--log-level", "trace") as (process, port, _):
        for _ in range(400):  # 64 KiB of pipe are full after some 40 of them
            with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
                sock.sendall(b"x")
                assert receive(sock, 1) == b"x"
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0


IN_THE_BACKGROUND = """
import fcntl, signal, subprocess, sys, termios
signal.signal(signal.SIGHUP, signal.SIG_IGN)  # when the terminal goes
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
attributes = termios.tcgetattr(0)
attributes[3] |= termios.TOSTOP
termios.tcsetattr(0, termios.TCSANOW, attributes)
command = [sys.executable, "-m", "thousand_island_sync", "--port", "0"]
served = subprocess.Popen(command, process_group=0)
try:
    sys.stdin.readline()
finally:
    served.terminate()
    code = served.wait()
sys.exit(code)
"""


def test_in_the_background_of_a_terminal_that_stops_who_writes_it_writes_and_serves():
    ours, theirs = os.openpty()
    shell = subprocess.Popen(
        [sys.executable, "-c", IN_THE_BACKGROUND],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=ROOT,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        said = b""
        while not (found := re.search(rb"(?m)^127.0.0.1:(\d+)\r?$", said)):
            readable, _, _ = select.select([ours], [], [], 20)
            assert readable, said
            said += os.read(ours, 1 << 16)
        with socket.create_connection(("127.0.0.1", int(found[1])), timeout=10) as sock:
            sock.sendall(b"x")
            assert receive(sock, 1) == b"x"
        os.write(ours, b"\n")
        assert shell.wait(20) == 0
    finally:
        os.close(ours)
        shell.wait(20)


def test_a_stop_that_cuts_says_which_callbacks_still_run(tmp_path, monkeypatch):
    (tmp_path / "stands.py").write_text(
        "import threading\nfrom thousand_island_sync import Handler\n\n\n"
        "class Stands(Handler):\n    def handle_data(self, data, socket):\n"
        "        socket.send(data)\n        threading.Event().wait()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with serving("stands:Stands", "--port", "0", "--shutdown-timeout-ms", "200") as script:
        with socket.create_connection(("127.0.0.1", int(script.port)), timeout=10) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            peer = "{}:{}".format(*client.getsockname())
            assert script.stop() == 1
    (line,) = [one for one in script.errors if "WARNING" in one]
    assert "the exit code is 1" in line
    assert re.search(f"handle_data of connection [0-9a-f]+-1 with {peer}, which is at .*wait", line)


def test_how_many_lines_were_dropped_is_said_when_somebody_reads_again():
    with unread("--log-level", "trace") as (process, port, reader):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
            for _ in range(5_000):
                sock.sendall(b"x")
                assert receive(sock, 1) == b"x"
            text = ""
            while "lines were dropped" not in text:
                text += os.read(reader, 1 << 16).decode()
        os.set_blocking(reader, False)
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
