"""docs/howto/: the blocks of each page run, one after the other, as a reader would run them."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import importlib
import importlib.util
import json
import logging
import os
import queue
import re
import shlex
import signal
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.markdown import code_blocks, python_blocks
from tests.pages import ran, run_python
from tests.programs import ROOT, program
from tests.support import eventually, first_client, free_port, receive
from thousand_island_sync import Handler, detach_logger
from thousand_island_sync.testing import call

FOLDER = ROOT / "docs" / "howto"
#: The other pages have tests of their own.
PAGES = (
    *("containers", "databases", "from-asyncio", "from-gevent", "from-gunicorn"),
    *("from-thousand-island", "graceful-deploys", "json-logs", "metrics", "mtls-fleet"),
    *("rate-limits", "threads"),
)
#: The ports that the pages name.
PORTS = ("4000", "8081", "8082")
#: What a page tells to save -> under which name.
SAVED = {"ini": "ca.cnf", "dockerfile": "Containerfile"}
#: The programs that are replaced run in processes of their own -> what they need.
BEFORE = {"from-asyncio": "asyncio", "from-gevent": "gevent", "from-gunicorn": "gunicorn"}
#: The first words of the blocks that no test runs -> why.
NOT_RUN = {"defmodule Counter": "it needs Elixir"}


#: What the pages' blocks made: its classes are kept, as a module's are.
MODULES = []


def module():
    MODULES.append({"__name__": "page"})
    return MODULES[-1]


@pytest.fixture(autouse=True)
def _the_objects_go_before_their_classes():
    """Where both go in one round of the collector, and the object's method receives a signal,
    `weakref.WeakMethod` meets itself gone."""
    yield
    for names in MODULES:
        for name, what in list(names.items()):
            if not isinstance(what, (type, types.FunctionType, types.ModuleType)):
                del names[name]
    gc.collect()


def blocks(page):
    """The language and the text of each."""
    return code_blocks((FOLDER / f"{page}.md").read_text())


def is_run(text):
    return not text.startswith(tuple(NOT_RUN))


def test_at_most_one_block_in_twenty_is_not_run():
    every = [text for page in PAGES for _, text in blocks(page)]
    assert sum(not is_run(text) for text in every) == len(NOT_RUN) <= len(every) / 20


@pytest.fixture
def on_free_ports():
    """A function: a text that names ports that are free, instead of the page's."""
    free = {port: str(free_port()) for port in PORTS}
    return lambda text: re.sub(rf"\b({'|'.join(PORTS)})\b", lambda found: free[found[0]], text)


@pytest.fixture
def environment(tmp_path):
    """Of a shell that has the console script."""
    script = tmp_path / "bin" / "thousand-island"
    script.parent.mkdir()
    run = shlex.join([sys.executable, "-m", "thousand_island_sync"])
    script.write_text(f'#!/bin/sh\nexec {run} "$@"\n')
    script.chmod(0o755)
    path = (script.parent, Path(sys.executable).parent, os.environ["PATH"])
    return {
        **os.environ,
        "PATH": os.pathsep.join(map(str, path)),
        "PYTHONPATH": str(ROOT),
    }


@contextlib.contextmanager
def started(command, folder, environment):
    """A process, and all that it has started, which end with the block."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env=environment,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def run_shell(text, folder, environment):
    program(text.split()[0]) if text.startswith("openssl") else None
    with started(["sh", "-euc", text], folder, environment) as process:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output


def texts_under(page, heading):
    """The blocks of a section."""
    text = (FOLDER / f"{page}.md").read_text()
    section = re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return [block for _, block in code_blocks(section[1])]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder to be in, whose `app.py` can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    if app := sys.modules.pop("app", None):
        MODULES.append(vars(app))


def run(page, folder, environment, on_free_ports):
    """All of it, but for what is migrated, and for servers that go on.

    The program is `app.py`; each further block of Python is a file of its own.
    """
    elsewhere = texts_under(page, "Before") if page in BEFORE else []
    saved = {}
    for language, text in blocks(page):
        if text in elsewhere or text.endswith("&\n") or not is_run(text):
            continue
        if language == "python":
            if not (folder / "app.py").exists():
                (folder / "app.py").write_text(on_free_ports(text))
                importlib.invalidate_caches()
                importlib.import_module("app")
                ran(f"docs/howto/{page}.md", text)
            else:
                run_python(f"docs/howto/{page}.md", text, module())
        elif language == "sh":
            run_shell(on_free_ports(text), folder, environment)
            for one in [text, *(saved[name] for name in saved if name in text)]:
                ran(f"docs/howto/{page}.md", one)
        else:
            saved[SAVED[language]] = text
            (folder / SAVED[language]).write_text(text)


@pytest.fixture
def _log():
    """As it was."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    detach_logger()


@pytest.mark.slow
@pytest.mark.usefixtures("_log")
@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_run(page, place, environment, on_free_ports, request):
    if page == "mtls-fleet":
        request.getfixturevalue("authority")  # where there is no TLS, it skips
    run(page, place, environment, on_free_ports)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_what_to_save(page):
    """Where a block takes names from `app`, a reader was told what that is."""
    text = (FOLDER / f"{page}.md").read_text()
    assert len(re.findall(r"\b[Ss]ave it as\s`app\.py`", text)) == int(
        "app:" in text or "from app import" in text
    )


def test_a_container_s_command_serves(tmp_path, environment, on_free_ports):
    ((python, app), (dockerfile, text), *_) = blocks("containers")
    assert (python, dockerfile) == ("python", "dockerfile")
    (tmp_path / "app.py").write_text(app)
    lines = re.findall(
        r"^(?:ENTRYPOINT|CMD) (.*)$", on_free_ports(text).replace("\\\n", ""), re.MULTILINE
    )
    command = [word for line in lines for word in json.loads(line)]
    command[command.index("--drain-delay-ms") + 1] = "0"
    with started(command, tmp_path, environment) as process:
        port = int(on_free_ports("4000"))
        with first_client(port) as client:
            client.sendall(b"hello\n")
            assert receive(client, 6) == b"HELLO\n"
            process.send_signal(signal.SIGTERM)
            assert receive(client, 13) == b"* going away\n"
        assert process.wait(30) == 0
    ran("docs/howto/containers.md", text)


# ---- what the pages say beside -----------------------------------------------------


def names_of(page, *numbers):
    """What some of its blocks leave."""
    names = module()
    python = python_blocks(f"docs/howto/{page}.md")
    for number in numbers:
        exec(compile(python[number], f"docs/howto/{page}.md", "exec"), names)
    return names


def test_an_address_is_forgotten_when_it_has_gone_and_rested(monkeypatch):
    names = names_of("rate-limits", 0)
    now = [1_000.0]
    monkeypatch.setattr(names["time"], "monotonic", lambda: now[0])
    clients = names["Clients"]()
    for address in ("gone", "here"):
        clients.enter(address)
        for _ in range(names["BURST"]):
            assert clients.take(address) == 0
        assert clients.take(address) == 1_000 / names["RATE"]
    clients.leave("gone")
    clients._forget()
    assert list(clients._known) == ["gone", "here"]
    now[0] += names["BURST"] / names["RATE"] + 1
    clients._forget()
    assert list(clients._known) == ["here"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::1", True),
    ],
)
def test_a_client_is_one_ipv4_address_or_one_ipv6_network(one, other, same):
    address_of = names_of("rate-limits", 0)["address_of"]
    assert (address_of((one, 1)) == address_of((other, 2))) is same


@pytest.mark.parametrize("takes_it_along", [True, False])
def test_an_executor_s_thread_sees_the_context_that_it_is_given(takes_it_along):
    user = contextvars.ContextVar("user", default="nobody")

    class Asks(Handler):
        def handle_data(self, data, socket):
            user.set("ada")
            run = contextvars.copy_context().run if takes_it_along else lambda function: function()
            with ThreadPoolExecutor(1) as executor:
                socket.send(executor.submit(run, user.get).result().encode())

    said = call(Asks, b"x")
    assert said.sent == (b"ada" if takes_it_along else b"nobody")


def test_a_full_queue_of_lines_drops_them(capsys):
    handler = names_of("json-logs", 0)["QueueHandler"](queue.Queue(1))
    for _ in range(2):
        handler.handle(logging.makeLogRecord({"msg": "a line"}))
    assert handler.queue.qsize() == 1
    assert "queue.Full" in capsys.readouterr().err


# ---- before and after -------------------------------------------------------------


def chat(one, two):
    with one.makefile("rb") as heard_by_one, two.makefile("rb") as heard_by_two:
        one.sendall(b"hel")
        one.sendall(b"lo\n")
        assert heard_by_one.readline() == b"hello\n"
        two.sendall(b"here, too\n")
        assert heard_by_one.readline() == b"here, too\n"
        assert b"here, too\n" in heard_by_two  # it may have been there for the first line


def look_up(one, two):
    one.sendall(b"island\nnothing\n")
    two.sendall(b"island\n")
    assert receive(one, 27) == b"land with water around it\n?"
    assert receive(two, 26) == b"land with water around it\n"


def shout(one, two):
    for client in (one, two):
        client.sendall(b"hel")
        client.sendall(b"lo\n")
        assert receive(client, 6) == b"HELLO\n"


#: The page and the section -> what its clients say.
TALKS = {"from-asyncio": chat, "from-gevent": look_up, "from-gunicorn": shout}


@pytest.mark.slow
@pytest.mark.parametrize("section", ["Before", "After"])
@pytest.mark.parametrize("page", TALKS)
def test_a_program_does_after_what_it_did_before(
    page, section, tmp_path, environment, on_free_ports
):
    if section == "Before" and importlib.util.find_spec(BEFORE[page]) is None:
        pytest.skip(f"{BEFORE[page]} is not installed")
    shown = texts_under(page, section)
    text, *commands = map(on_free_ports, shown)
    saved = "before.py" if section == "Before" else "app.py"
    (tmp_path / saved).write_text(text)
    command = shlex.split(commands[0].removesuffix("&\n")) if page == "from-gunicorn" else None
    with started(command or [sys.executable, saved], tmp_path, environment) as process:
        port = int(on_free_ports("4000"))
        with first_client(port) as one, first_client(port) as two:
            TALKS[page](one, two)
        process.send_signal(signal.SIGTERM)
        assert eventually(lambda: process.poll() is not None, 20)
    for one in shown[: 2 if command else 1]:
        ran(f"docs/howto/{page}.md", one)
