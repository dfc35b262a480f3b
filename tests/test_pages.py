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

import mmap
import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from tests.operations_commands import NOT_RUN as COMMANDS_NOT_RUN
from tests.programs import ROOT, Script, blocks_in, code_blocks, python_blocks
from thousand_island_sync import Handler
from thousand_island_sync.testing import call

PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/*.md", "docs/*/*.md", "examples/*/README.md")
    for path in ROOT.glob(pattern)
)
HERE = "tests/test_pages.py"

#: A page or a folder, and a language (`None`: each) -> what runs these blocks.
RUN_BY = {
    ("docs/tutorial/", None): "tests/test_tutorial.py",
    ("docs/howto/command-line.md", "sh"): HERE,
    ("docs/howto/command-line.md", "toml"): "tests/test_check.py",
    ("docs/howto/handlers.md", None): "tests/test_readme.py",
    ("docs/howto/operations.md", "text"): "tests/test_haproxy.py",
    ("docs/howto/operations.md", None): "tests/test_operations_page.py",
    ("docs/howto/pushing.md", None): "tests/test_slow_consumers.py",
    ("docs/howto/socketserver.md", None): "tests/test_socketserver.py",
    ("docs/howto/testing.md", None): "tests/test_testing_page.py",
    ("docs/howto/tls.md", "python"): "tests/test_readme.py",
    ("docs/howto/", None): "tests/test_howto.py",
    ("docs/explanation/performance.md", "python"): HERE,
    ("docs/reference/events.md", None): HERE,
    ("README.md", "python"): "tests/test_readme.py",
    ("README.md", "sh"): HERE,
    ("CONTRIBUTING.md", None): "tests/packages.py",
    ("RELEASING.md", None): "tests/packages.py",
}

#: A page, and how a block of it begins -> why nothing runs it.
NOT_RUN = {
    ("docs/tutorial/1-serve.md", "mkdir store && cd store"): "it installs from a package index",
    ("docs/tutorial/10-production.md", "sudo "): "it needs systemd as process 1, and root",
    ("docs/howto/from-thousand-island.md", "defmodule Counter"): "it needs Elixir",
    ("docs/howto/operations.md", "systemctl enable"): "it needs systemd as process 1, and root",
    ("docs/howto/operations.md", "pip install"): "it installs from a package index",
    ("docs/explanation/performance.md", "python -m pip"): "it installs from a package index, and"
    " takes hours; tests/test_benchmarks.py runs the benchmarks on little",
    ("examples/cluster/README.md", "pip install"): "it installs, and takes fixed ports;"
    " tests/test_cluster.py does the same on free ones",
    ("examples/cluster/README.md", "kill -TERM"): "it goes on from the block before it",
}
#: Prose, in the form of a block: the steps of the tutorial.
PROSE = {("docs/tutorial/index.md", "text")}


def blocks(page):
    """The language and the text of each block of code."""
    text = (ROOT / page).read_text()
    found = code_blocks(text)
    assert len(re.findall(r"^\s*(```|~~~)", text, re.MULTILINE)) == 2 * len(found), page
    return [one for one in found if not one[0].startswith("{") and (page, one[0]) not in PROSE]


EVERY = [(page, *block) for page in PAGES for block in blocks(page)]


def runner(page, language):
    """What runs it: a page of its own comes before its folder, a language before all."""
    for key in ((page, language), (page, None), (f"{page.rpartition('/')[0]}/", None)):
        if key in RUN_BY:
            return RUN_BY[key]
    return None


def is_left_out(page, text):
    return any(page == its and text.startswith(begins) for its, begins in NOT_RUN)


@pytest.mark.parametrize("page", sorted({page for page, *_ in EVERY}))
def test_each_block_of_a_page_is_run_or_has_a_reason(page):
    for language, text in blocks(page):
        assert language, f"{page}: a block without a language: {text[:60]!r}"
        if not is_left_out(page, text):
            assert runner(page, language), f"{page}: nothing runs {text[:60]!r}; see {HERE}"


@pytest.mark.parametrize(("key", "file"), RUN_BY.items())
def test_what_runs_a_page_is_there_and_names_it(key, file):
    page = key[0]
    assert any(one[0].startswith(page) for one in EVERY), page
    text = (ROOT / file).read_text()
    imported = re.findall(r"^from tests\.(\w+) import", text, re.MULTILINE)
    text += "".join((ROOT / "tests" / f"{name}.py").read_text() for name in imported)
    name = page.rstrip("/").rpartition("/")[2]
    assert name in text or name.removesuffix(".md") in text


@pytest.mark.parametrize(("key", "reason"), NOT_RUN.items())
def test_what_is_not_run_is_there_and_has_a_reason(key, reason):
    page, begins = key
    assert sum(one == page and text.startswith(begins) for one, _, text in EVERY) == 1
    assert len(reason.split()) >= 3


def test_a_mark_in_a_page_is_in_the_list():
    for page in PAGES:
        text = (ROOT / page).read_text()
        for begins in re.findall(r"^<!-- not run: .* -->\n```\w+\n(.*)$", text, re.MULTILINE):
            assert is_left_out(page, begins), (page, begins)


def test_at_most_one_block_in_twenty_is_not_run():
    assert 20 * len(NOT_RUN) <= len(EVERY), (len(NOT_RUN), len(EVERY))
    # Of a block of several commands some may be left out, and are listed there.
    assert len(COMMANDS_NOT_RUN) <= 3


# ---- the blocks that no other test runs ----------------------------------------------


def test_the_receiver_of_the_page_of_events_is_connected(thousand_island_events):
    (block,) = python_blocks("docs/reference/events.md")
    names = {}
    exec(compile(block, "docs/reference/events.md", "exec"), names)
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
            exec(block, {"path": path, "mmap": mmap, "socket": socket})

    assert call(Sends, b"GET").sent == b"of the file"


@pytest.mark.slow
def test_the_command_line_of_the_page_serves_over_tls(tmp_path, authority):
    (block,) = blocks_in("sh", "docs/howto/command-line.md")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_text(
        "from thousand_island_sync import Handler\n\n\nclass HandlerClass(Handler): ...\n"
    )
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
        assert script.stop() == 0


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
    install, serve = blocks_in("sh", "README.md")[0].strip().split(" && ")
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
