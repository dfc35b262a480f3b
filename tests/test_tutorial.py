"""The tutorial, followed page by page: what it shows is what its reader gets."""

import importlib.util
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest

from tests.notified import NotifySocket
from tests.pages import ran
from tests.programs import ROOT, program
from tests.support import Echo, echoes, eventually, first_client, free_port, receive
from tests.tutorial import FOLDER, PAGES, Reader, blocks, matches

EXAMPLE = ROOT / "examples" / "store"
LAST = FOLDER / "10-production.md"

pytestmark = pytest.mark.usefixtures("authority")  # for TLS: not on a free-threaded 3.13


def test_a_reader_gets_what_the_pages_show(tmp_path):
    """One test, and one folder for all pages: they follow one another, in one process."""
    reader = Reader(tmp_path)
    for page in PAGES:
        try:
            reader.follow(page)
        except AssertionError as error:
            raise AssertionError(f"{page.name}: {error}") from error
        finally:
            reader.close()


def test_what_the_reader_has_in_the_end_is_the_example():
    files = {one.file: one.text for page in PAGES for one in blocks(page) if one.file}
    assert files.pop("test_fixture.py")
    assert files == {path.name: path.read_text() for path in EXAMPLE.iterdir() if path.is_file()}


# ---- the files of a page, also where the page's own commands do not lead ----------------

ASKS = "SET a b c\nGET a\nGET x\nGET\nQUIT\n"
TAKES = "ERR takes SET key value, GET key, or QUIT\n"
ANSWERS = f"OK\nVALUE b c\nNONE\n{TAKES}BYE\n"
LOGIN, WRONG = "LOGIN ada secret\n", "ERR wrong name or password\n"
TOO_MANY = "ERR too many attempts, wait a minute\n"
LOGINS = [
    (ASKS, "ERR log in first: LOGIN name password\n" * 4 + "BYE\n"),
    ("LOGIN ada x\n" * 4, WRONG * 3),
    ("LOGIN eve secret\n" + LOGIN * 3, f"{WRONG}OK\nOK\n{TOO_MANY}"),
]
LONG = "x" * 5_000 + "\n"
LATER = [(f"{LOGIN}|later|GET x\n", "OK\nNONE\n"), ("|later|", "ERR too slow\n")]
#: A page that changes the store -> what a client sends, and what it gets. Three logins are allowed.
CONVERSATIONS = {
    "1-serve.md": [(ASKS, ASKS)],
    "2-lines.md": [(ASKS, ANSWERS.replace("BYE", "BYE after 5 requests")), (LONG, "")],
    "3-database.md": [(ASKS, ANSWERS), (LONG, "")],
    "4-login.md": [*LOGINS, (LOGIN + ASKS, f"OK\n{ANSWERS}"), (LONG, "")],
    "5-limits.md": [
        *LOGINS,
        *LATER,
        (LOGIN + ASKS, f"OK\n{ANSWERS}"),
        (LONG, "ERR line too long\n"),
    ],
    "7-pushes.md": [
        *LOGINS,
        *LATER,
        (LOGIN + ASKS, f"OK\n{ANSWERS}".replace("GET key,", "GET key, WATCH key,")),
        (LONG, "ERR line too long\n"),
        (f"{LOGIN}WATCH b\nSET a 1\nWATCH a\nSET a 2\n", "OK\n" * 4 + "CHANGED a 2\nOK\n"),
    ],
}
#: In the folder of the page; its words are what clients send.
TALK = """
import json, sys
from pathlib import Path
from thousand_island_sync.testing import advance, call
import store

options = None
if Path("database.py").exists():
    from database import Database
    options = database = Database("store.db", connections=2)
if Path("users.py").exists():
    import users
    users.add_user(database, "ada", "secret")
for sent in sys.argv[1:]:
    if hasattr(store, "Shared"):
        options = store.Shared(database, users.Attempts(limit=3))
    parts = [part for part in sent.split("|") if part]
    steps = [advance(5_000) if part == "later" else part.encode() for part in parts]
    said = call(store.Store, *steps, options=options)
    print(json.dumps(said.sent.decode()))
if options is not None:
    database.close()
if hasattr(store, "Shared"):
    now = users.time.monotonic()
    users.time.monotonic = lambda: now
    attempts = users.Attempts(limit=1)
    heard = [attempts.allow(address) for address in ("a", "a", "b")]
    now += 60
    assert [*heard, attempts.allow("a")] == [True, False, True, True]
"""


def test_each_page_that_changes_the_store_has_a_conversation():
    changing = [page.name for page in PAGES if any(one.file == "store.py" for one in blocks(page))]
    assert changing == list(CONVERSATIONS)


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_store_of_a_page_answers_all_that_it_says_it_takes(name, tmp_path):
    for page in itertools.takewhile(lambda page: page.name != name, PAGES):
        write_files(page, tmp_path)
    write_files(FOLDER / name, tmp_path)
    sent, expected = zip(*CONVERSATIONS[name], strict=True)
    done = subprocess.run(
        [sys.executable, "-c", TALK, *sent],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == list(expected)


def test_what_page_5_gives_the_server_stays():
    kept = [
        re.findall(r"^ +(handler_options=|(?:max|read|send)_\w+=[\d_]+,$)", one.text, re.MULTILINE)
        for page in PAGES
        for one in blocks(page)
        if one.file == "serve.py"
    ]
    assert [len(one) for one in kept] == [6] * 4
    assert kept == kept[:1] * 4


def write_files(page, folder):
    for block in blocks(page):
        if block.file:
            (folder / block.file).write_text(block.text)


def test_the_metrics_count_refusals_and_each_server_its_own(serve, client):
    spec = importlib.util.spec_from_file_location("metrics", EXAMPLE / "metrics.py")
    metrics = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(metrics)
    servers = [serve(Echo, max_connections=1, max_connections_wait_ms=0) for _ in range(2)]
    counted = [metrics.Metrics(server) for server in servers]

    def ends(one):
        return re.findall(r'end="(\w+)"} (\d+)', one.report())

    for server, one in zip(servers, counted, strict=True):
        stays = client(server)
        echoes(stays)
        assert receive(client(server), 1) == b""
        stays.close()
        assert eventually(lambda one=one: len(ends(one)) == 2)
    assert [ends(one) for one in counted] == [[("peer_closed", "1"), ("refused", "1")]] * 2


def test_the_last_page_s_store_is_served_in_a_terminal_too(tmp_path, authority):
    folder, port = tmp_path / "store", free_port()
    shutil.copytree(EXAMPLE, folder)
    serves = folder / "serve.py"
    serves.write_text(serves.read_text().replace("4000", str(port)))
    (folder / "cert.pem").write_bytes(authority.chain)
    (folder / "key.pem").write_bytes(authority.key)
    with subprocess.Popen(
        [sys.executable, serves],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            context = authority.client_context()
            with context.wrap_socket(first_client(port), server_hostname="localhost") as sock:
                sock.sendall(b"QUIT\n")
                assert sock.recv(4) == b"BYE\n"
                assert sock.recv(1) == b""
            process.send_signal(signal.SIGINT)
            printed, _ = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0
    assert matches(
        'store_connections_total{end="local_closed"} 1\nstore_connection_seconds_total ...\n',
        printed,
    )


# ---- what is installed -----------------------------------------------------------------


def test_systemd_understands_the_units(tmp_path):
    for name in ("store.socket", "store.service"):
        text = (EXAMPLE / name).read_text()
        text = text.replace("/srv/store/.venv/bin/thousand-island", "/usr/bin/env")
        # Before systemd 253 that is unknown; the page says so.
        (tmp_path / name).write_text(text.replace("Type=notify-reload\n", "Type=notify\n"))
    command = [program("systemd-analyze"), "verify", "./store.socket", "./store.service"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for block in blocks(LAST):
        if block.kind == "ini":
            ran(LAST, block.text)


#: In sudo's place. What needs root, systemd or the network does nothing; nothing else is taken than
#: what the page has.
SUDO = """#!/bin/sh
[ "$1 $2" = "-u store" ] && shift 2
case "$*" in
"useradd --system store" | "chown store $SRV/store/key.pem") ;;
"systemctl daemon-reload" | "systemctl enable --now store.socket") ;;
"python3 -m venv $SRV/store/.venv") mkdir -p "$4/bin" && cp "$COMMANDS"/* "$4/bin" ;;
"$SRV/store/.venv/bin/python -m pip install ..") ;;
"mkdir $SRV/"* | "cp "* | "chmod 400 $SRV/"* | "$SRV/store/.venv/bin/python $SRV/"*) exec "$@" ;;
*) exit 9 ;;
esac
"""


def test_what_the_last_page_installs_is_what_its_units_start(tmp_path):
    """In a folder in place of /; the service is started as store.service says, and has no more."""
    reader, root, folder = Reader(tmp_path), tmp_path / "root", tmp_path / "copy" / "store"
    shutil.copytree(EXAMPLE, folder)
    (made,) = (one for one in blocks(FOLDER / "6-tls.md") if one.text.startswith("openssl"))
    (installs,) = (one for one in blocks(LAST) if one.text.startswith("sudo "))
    (adds,) = re.findall(r"`(sudo -u store [^`]*)`", LAST.read_text())
    (tmp_path / "sudo").write_text(SUDO)
    (tmp_path / "sudo").chmod(0o755)
    units = root / "etc" / "systemd" / "system"
    for needed in (root / "srv", units):
        needed.mkdir(parents=True)
    variables = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SRV": str(root / "srv"),
        "COMMANDS": str(tmp_path / "bin"),
    }

    def here(text):
        return re.sub(r"(?<![\w.])/(srv|etc|var)/", rf"{root}/\1/", text)

    def shell(text, typed=""):
        done = subprocess.run(
            ["bash", "-euc", here(text)],
            cwd=folder,
            env=variables,
            input=typed,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (text, done)
        return done.stdout

    program("openssl")
    shell(made.text)
    shell(installs.text)
    socket_unit, unit = (
        dict(re.findall(r"^(\w+)=(.*)$", here((units / name).read_text()), re.MULTILINE))
        for name in ("store.socket", "store.service")
    )
    (root / "var" / "lib" / unit["StateDirectory"]).mkdir(parents=True)
    talk = f"sed s/4000/{reader.port}/ talk.py > talk_here.py && {tmp_path}/bin/python talk_here.py"
    with NotifySocket(tmp_path / "notify") as notified:
        name, _, path = unit["Environment"].partition("=")
        said = {
            name: path,
            "NOTIFY_SOCKET": notified.address,
            "WATCHDOG_USEC": f"{int(unit['WatchdogSec']) * 100_000}",  # a tenth: it is seen here
        }
        passed = [f"--setenv={name}" for name in said]
        listens = f"--listen=127.0.0.1:{reader.port} --fdname={socket_unit['FileDescriptorName']}"
        with subprocess.Popen(
            [program("systemd-socket-activate"), *listens.split(), *passed]
            + shlex.split(unit["ExecStart"]),
            cwd=unit["WorkingDirectory"],
            env=said,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as service:
            try:
                first_client(int(reader.port)).close()
                notified.wait_for("READY=1")
                assert (
                    shell(talk, "LOGIN ada secret\nQUIT\n") == "ERR wrong name or password\nBYE\n"
                )
                shell(adds, "secret\n")
                assert shell(talk, "LOGIN ada secret\nQUIT\n") == "OK\nBYE\n"
                notified.wait_for("WATCHDOG=1")
                if unit["Type"] == "notify-reload":
                    service.send_signal(signal.SIGHUP)
                    notified.wait_for("RELOADING=1")
                    notified.wait_for("READY=1", 2)
                service.send_signal(signal.SIGTERM)
                notified.wait_for("STOPPING=1")
                _, log = service.communicate(timeout=20)
            finally:
                service.kill()
    assert service.returncode == 0, log


# ---- the pages -------------------------------------------------------------------------


def test_the_first_page_lists_all_pages_in_order():
    index = (FOLDER / "index.md").read_text()
    assert re.findall(r"\]\((\S+\.md)\)", index) == [page.name for page in PAGES]
    for page, after in itertools.pairwise(PAGES):
        assert page.read_text().rstrip().endswith(f"]({after.name}).")


def test_at_most_one_block_in_twenty_is_not_run_and_it_has_a_reason():
    every = [one for page in PAGES for one in blocks(page)]
    left_out = [one for one in every if one.reason]
    assert all(len(one.reason) > 10 for one in left_out)
    assert 20 * len(left_out) <= len(every)


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a\n", "a\n", True),
        ("a\n", "a\nb\n", False),
        ("a in ...s\n", "a in 0.1s\n", True),
        ("a in ...s\n", "b in 0.1s\n", False),
        ("a.\n", "ab\n", False),
    ],
)
def test_what_is_printed_is_compared(shown, printed, same):
    assert matches(shown, printed) is same
