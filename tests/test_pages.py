"""Every block of code of every page runs.

How to write a page. Its blocks run in order, in an empty folder, as a reader would run them. Each
has a language, and begins at the left margin:

- `python` and `ini` that begin with `# NAME` are the file NAME; other `python` runs;
- `sh` is typed in, and has to end with 0; `text` behind it is what it prints (`...`: anything);
- before a block, `<!-- serves -->`: it goes on until the next one serves, or the page ends;
- what `toml` and others are for, the test of the page knows.

The tests of the two folders follow a page: docs/tutorial/ by its marks (`tests/tutorial.py` has all
of them), docs/howto/ once it is in the list of `tests/test_howto.py`. A page with a test of its own
is in `RUN_BY`, below. What cannot run is in `NOT_RUN`, with the reason: at most one in twenty.
"""

import json
import mmap
import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from tests import packages
from tests.markdown import blocks_in, python_blocks
from tests.operations_commands import NOT_RUN as COMMANDS_NOT_RUN
from tests.pages import (
    EVERY,
    HERE,
    INSTALLS,
    NOT_RUN,
    PACKAGES,
    PAGES,
    RUN_BY,
    begins_as,
    blocks,
    missing,
    ran,
    run_python,
    runner,
)
from tests.programs import ROOT, Script
from thousand_island_sync import Handler
from thousand_island_sync.testing import call


@pytest.mark.parametrize("page", sorted({page for page, *_ in EVERY}))
def test_each_block_of_a_page_is_run_or_has_a_reason(page):
    for language, text in blocks(page):
        assert language, f"{page}: a block without a language: {text[:60]!r}"
        if not begins_as(page, text, NOT_RUN):
            assert runner(page, language, text), f"{page}: nothing runs {text[:60]!r}; see {HERE}"


@pytest.mark.parametrize(("key", "file"), RUN_BY.items())
def test_what_runs_a_page_is_there(key, file):
    assert any(one[0].startswith(key[0]) for one in EVERY)
    assert (ROOT / file).exists()


@pytest.mark.parametrize(
    ("records", "left"),
    [
        ([("p", "a\n"), ("p", "a\n"), ("p", "one\ntwo\n")], 0),
        ([("p", "a\n"), ("p", "one"), ("p", "two"), ("p", "a\n")], 0),
        ([("p", "a\n"), ("p", "one\ntwo\n")], 1),
        ([("p", "a\n"), ("q", "a\n"), ("p", "one")], 2),
        ([], 3),
    ],
)
def test_a_block_has_run_as_a_whole_or_by_its_commands_as_often_as_it_stands_there(records, left):
    every = [("p", "python", "a\n"), ("p", "sh", "one\ntwo\n"), ("p", "python", "a\n")]
    assert len(missing(every, records)) == left


def test_what_has_run_is_recorded_where_somebody_asks(tmp_path, monkeypatch):
    monkeypatch.setenv("BLOCKS_RAN", str(tmp_path / "ran"))
    page, language, text = EVERY[0]
    ran(ROOT / page, text)
    with pytest.raises(ZeroDivisionError):
        run_python(page, "1 / 0", {})
    records = [tuple(json.loads(line)) for line in (tmp_path / "ran").read_text().splitlines()]
    assert records == [(page, text)]
    assert missing([(page, language, text)], records) == []


@pytest.mark.parametrize(("key", "reason"), NOT_RUN.items())
def test_what_is_not_run_is_there_and_has_a_reason(key, reason):
    page, begins = key
    assert sum(one == page and text.startswith(begins) for one, _, text in EVERY) == 1
    assert len(reason.split()) >= 3


def test_a_mark_in_a_page_is_in_the_list():
    for page in PAGES:
        text = (ROOT / page).read_text()
        for begins in re.findall(r"^<!-- not run: .* -->\n```\w+\n(.*)$", text, re.MULTILINE):
            assert begins_as(page, begins, {*NOT_RUN, *INSTALLS}), (page, begins)


def test_at_most_one_block_in_twenty_is_not_run():
    assert 20 * len(NOT_RUN) <= len(EVERY), (len(NOT_RUN), len(EVERY))
    # Of a block of several commands some may be left out, and are listed there.
    assert len(COMMANDS_NOT_RUN) <= 3


def test_the_blocks_that_install_are_run_with_the_packages(monkeypatch):
    """`tox -e packages` does that; here nothing is run."""
    typed = []

    def run(*command, folder=ROOT, **environment):
        typed.append(command)
        return ""

    monkeypatch.setattr(packages, "_run", run)
    packages.follow_pages()
    blocks_run = [command[2] for command in typed if command[:2] == ("bash", "-euc")]
    every = [text for page, language, text in EVERY if runner(page, language, text) == PACKAGES]
    assert sorted(blocks_run) == sorted(every)
    assert len(every) >= 7
    assert "python -m tests.packages" in (ROOT / "tox.ini").read_text()


# ---- the blocks that no other test runs ----------------------------------------------


def test_the_receiver_of_the_page_of_events_is_connected(thousand_island_events):
    (block,) = python_blocks("docs/reference/events.md")
    names = run_python("docs/reference/events.md", block, {})
    assert thousand_island_events.handler_error.receivers
    thousand_island_events.handler_error.disconnect(names["on_error"])


@pytest.fixture
def thousand_island_events():
    from thousand_island_sync import events

    assert not events.handler_error.receivers
    return events


def test_a_file_that_is_mapped_can_be_sent(tmp_path):
    (block,) = python_blocks("docs/explanation/performance.md")
    path = tmp_path / "file"
    path.write_bytes(b"of the file")

    class Sends(Handler):
        def handle_data(self, data, socket):
            names = {"path": path, "mmap": mmap, "socket": socket}
            run_python("docs/explanation/performance.md", block, names)

    said = call(Sends, b"GET")
    assert (said.sent, said.error) == (b"of the file", None)


@pytest.mark.slow
def test_the_command_line_of_the_page_serves_over_tls(tmp_path, authority):
    (block,) = blocks_in("sh", "docs/howto/command-line.md")
    (program,) = python_blocks("README.md")
    (tmp_path / "app.py").write_text(program)
    (tmp_path / "chain.pem").write_bytes(authority.chain)
    (tmp_path / "key.pem").write_bytes(authority.key)
    words = block.replace("\\\n", " ").replace("--port 4000", "--port 0").split()
    assert words.pop(0) == "thousand-island"
    with Script(
        *("-m", "thousand_island_sync", *words),
        announcement=r"(127\.0\.0\.1:\d+)\n",
        environment={"PYTHONPATH": str(ROOT)},
        folder=tmp_path,
    ) as script:
        context = authority.client_context()
        with (
            socket.create_connection(("127.0.0.1", int(script.port)), 5) as sock,
            context.wrap_socket(sock, server_hostname="localhost") as secure,
        ):
            assert secure.version().startswith("TLS")
            secure.sendall(b"hello")
            assert secure.recv(5) == b"hello"
        assert script.stop() == 0
    ran("docs/howto/command-line.md", block)


def test_the_tests_are_run_by_the_readmes_command():
    install, run = blocks_in("sh", "README.md")
    assert install.startswith("python -m pip install . && ")
    assert run.strip() in (ROOT / "README.md").read_text()
    assert "python -m pip install --quiet tox && " in (ROOT / ".ci" / "run").read_text()


@pytest.mark.slow
def test_the_readmes_first_command_installs_and_serves(tmp_path):
    """Into a folder of the test's; it takes what is installed here, and no index."""
    pytest.importorskip("pip")
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in ROOT.iterdir():
        if path.suffix in (".py", ".toml", ".md", ".in") or path.name == "LICENSE":
            shutil.copy(path, copy)
    for folder in ("thousand_island_sync", "native"):
        skipped = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(ROOT / folder, copy / folder, ignore=skipped)
    block = blocks_in("sh", "README.md")[0]
    install, serve = block.strip().split(" && ")
    environment = {
        **{name: it for name, it in os.environ.items() if not name.startswith("PYTHON")},
        "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it the other way round
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_TARGET": str(tmp_path / "installed"),
        "PYTHONPATH": str(tmp_path / "installed"),
        "THOUSAND_ISLAND_PURE": "1",
        "THOUSAND_ISLAND_PORT": "0",
    }
    done = subprocess.run(
        ["sh", "-c", install], cwd=copy, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done
    with subprocess.Popen(
        ["sh", "-c", f"exec {serve}"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            host, _, port = process.stdout.readline().strip().rpartition(":")
            with socket.create_connection((host, int(port)), 5) as sock:
                sock.sendall(b"echo")
                assert sock.recv(4) == b"echo"
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        finally:
            process.kill()
    ran("README.md", block)
