"""docs/howto/operations.md: each command is run by a test, or is named with the reason why none
does."""

import contextlib
import json
import logging
import os
import re
import shlex
import signal
import socket
import subprocess
import sys

import pytest

from tests.markdown import python_blocks
from tests.operations_commands import (
    ACTIVATED,
    ENDS,
    NOT_RUN,
    PAGE,
    RUN_ELSEWHERE,
    SERVES,
    commands,
)
from tests.pages import ran, run_python
from tests.programs import ROOT, program
from tests.support import echoes, first_client, free_port
from thousand_island_sync import detach_logger

APP = """
from thousand_island_sync import Handler


class Echo(Handler):
    def handle_data(self, data, socket):
        socket.send(data)
"""


def test_each_command_is_run_or_has_a_reason_and_none_is_there_that_the_page_has_not():
    known = [*ENDS, *SERVES, *ACTIVATED, *RUN_ELSEWHERE, *NOT_RUN]
    assert sorted(set(commands())) == sorted(known)
    assert all(len(reason) > 10 for reason in NOT_RUN.values())


class Site:
    """A folder as the page has it, and how its commands are run there."""

    def __init__(self, folder, authority):
        self.folder = folder
        (folder / "app.py").write_text(APP)
        for name, data in (
            ("fullchain.pem", authority.chain),
            ("privkey.pem", authority.key),
            ("ca.pem", authority.ca_pem),
        ):
            (folder / name).write_bytes(data)
        (folder / "bin").mkdir()
        installed = folder / "bin" / "thousand-island"
        run = [sys.executable, "-m", "thousand_island_sync"]
        # systemd-socket-activate hands few variables on.
        installed.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {shlex.join(run)} "$@"\n')
        installed.chmod(0o755)
        self.ports = [str(free_port()), str(free_port())]  # for 4000 and 8081

    def begin(self, command):
        """Runs it, on ports that are free."""
        for port, free in zip(("4000", "8081"), self.ports, strict=True):
            command = re.sub(rf"\b{port}\b", free, command)
        path = os.pathsep.join((str(self.folder / "bin"), os.environ["PATH"], "/usr/sbin"))
        return subprocess.Popen(
            ["sh", "-c", command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        )

    @contextlib.contextmanager
    def serving(self, command):
        """Beside the block; it is told to stop afterwards, and has to exit with 0."""
        process = self.begin(f"exec {command}")
        try:
            address = process.stdout.readline()
            assert re.fullmatch(r"\S+:\d+\n", address), (address, process.stderr.read())
            yield
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.communicate()


@pytest.fixture
def site(tmp_path, authority):
    return Site(tmp_path, authority)


@pytest.mark.parametrize("command", ENDS)
def test_a_command_runs(command, site):
    program(ENDS[command])
    server = (
        "thousand-island app:Echo --port 4000 --certfile fullchain.pem --keyfile privkey.pem"
        " --health 127.0.0.1:8081"
    )
    beside = "127.0.0.1:" in command
    with site.serving(server) if beside else contextlib.nullcontext():
        process = site.begin(command)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert output
    ran(PAGE, command)


@pytest.mark.parametrize("command", SERVES)
def test_a_command_serves(command, site):
    more = "" if "--port" in command else " --port 4000"
    address = ("127.0.0.1", int(site.ports[0]))
    with site.serving(command + more), socket.create_connection(address, 5):
        pass
    ran(PAGE, command)


@pytest.mark.parametrize("command", ACTIVATED)
def test_a_command_serves_what_systemd_passes(command, site):
    program(command.split()[0])
    process = site.begin(f"exec {command}")
    try:
        with first_client(int(site.ports[0])) as sock:
            echoes(sock)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()
    ran(PAGE, command)


@pytest.mark.parametrize("command", RUN_ELSEWHERE)
def test_the_test_that_runs_a_command_is_there(command):
    path, _, name = RUN_ELSEWHERE[command].partition("::")
    assert f"def {name}(" in (ROOT / path).read_text()


@pytest.fixture
def _log():
    """As it was."""
    loggers = [logging.getLogger(name) for name in ("app", "thousand_island_sync")]
    before = [list(one.handlers) for one in loggers]
    yield
    detach_logger()
    for logger, handlers in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers


@pytest.mark.usefixtures("_log")
@pytest.mark.parametrize("block", python_blocks(PAGE))
def test_a_block_of_python_runs(block):
    names = run_python(PAGE, block, {})
    record = logging.LogRecord("app", logging.INFO, "app.py", 1, "hello", None, None)
    assert names["handler"].filter(record)
    assert "hello" in names["handler"].format(record)


@pytest.mark.usefixtures("_log")
@pytest.mark.parametrize("block", [one for one in python_blocks(PAGE) if "structlog" in one])
def test_structlog_s_lines_have_the_traceback(block):
    names = run_python(PAGE, block, {})
    try:
        raise ValueError("a bug")
    except ValueError:
        record = logging.LogRecord("app", logging.ERROR, "app.py", 1, "oops", None, sys.exc_info())
    assert "Traceback (most recent call last)" in names["handler"].format(record)


def test_setup_may_give_the_command_line_s_handler_the_filter(site):
    call = "logging.getLogger().handlers[0].addFilter(ConnectionFilter())"
    assert call in (ROOT / PAGE).read_text()
    (site.folder / "app.py").write_text(
        f"import logging\n{APP}        logging.getLogger('app').warning('mine')\n\n\n"
        "def setup():\n    from thousand_island_sync.logger import ConnectionFilter\n\n"
        f"    {call}\n"
    )
    process = site.begin(
        "exec thousand-island app:Echo --port 4000 --setup app:setup --log-format json"
    )
    try:
        assert process.stdout.readline()
        with socket.create_connection(("127.0.0.1", int(site.ports[0])), 5) as client:
            client.sendall(b"hello")
            assert client.recv(5) == b"hello"
        process.send_signal(signal.SIGINT)
        lines = [json.loads(line) for line in process.communicate(timeout=20)[1].splitlines()]
    finally:
        process.kill()
        process.communicate()
    mine = next(line for line in lines if line["message"] == "mine")
    assert mine["client_address"] == "127.0.0.1"
    assert re.fullmatch(r"[0-9a-f]+-1", mine["connection_id"])


def test_the_contents_name_every_section():
    text = (ROOT / PAGE).read_text()
    sections = re.findall(r"^## (.*)$", text, re.MULTILINE)
    listed = re.findall(r"^- \[(.*)\]\(#(.*)\)$", text, re.MULTILINE)
    assert [title for title, _ in listed] == sections
    for title, anchor in listed:
        assert anchor == re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
