"""`ctl` and `top`: the words, the line of JSON, the exit codes."""

import json
import os
import socket
import subprocess
import sys
import threading

import pytest

from tests.programs import ROOT
from tests.support import Echo, echoes
from tests.test_admin import Blocks
from thousand_island_sync._admin.client import ctl
from thousand_island_sync._admin.top import top
from thousand_island_sync.admin import AdminServer


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "admin.sock")


@pytest.fixture
def server(serve, path):
    made = serve(Echo)
    with AdminServer(made, path=path):
        yield made


@pytest.fixture
def said(capsys):
    """What a command line prints: exit code, the object on standard output, standard error."""

    def run(command, *words):
        code = command(list(words))
        out, err = capsys.readouterr()
        assert out.count("\n") <= 1
        assert err.count("\n") <= 1
        return code, json.loads(out) if out else None, err

    return run


# ---- ctl -------------------------------------------------------------------------


def test_it_prints_the_answer_as_one_line_of_json(server, path, said, client):
    echoes(client(server))
    code, answer, err = said(ctl, path, "info")
    assert (code, err) == (0, "")
    assert answer["ok"] is True
    assert answer["info"]["active_connections"] == 1
    for command, key in (
        ("workers", "workers"),
        ("dump", "stacks"),
        ("connections", "connections"),
    ):
        code, answer, _ = said(ctl, path, command)
        assert code == 0
        assert answer[key]


def test_commands_with_words_and_flags(server, path, said, client):
    sock = client(server)
    echoes(sock)
    (one,) = server.connections()
    assert said(ctl, path, "close", one.id) == (0, {"ok": True}, "")
    assert sock.recv(1) == b""
    assert said(ctl, path, "log-level", "error") == (0, {"ok": True}, "")
    assert said(ctl, path, "reload", "--wait", "--certificates") == (0, {"ok": True}, "")
    assert said(ctl, "--wait", path, "reload") == (0, {"ok": True}, "")
    assert said(ctl, f"unix:{path}", "suspend") == (0, {"ok": True}, "")
    assert server.status == "suspended"
    assert said(ctl, path, "resume") == (0, {"ok": True}, "")
    assert said(ctl, path, "drain") == (0, {"ok": True}, "")
    assert server.wait(10_000)


def test_what_is_refused_is_exit_code_1(server, path, said):
    code, answer, err = said(ctl, path, "close", "none")
    assert (code, err) == (1, "")
    assert answer["ok"] is False
    assert "none" in answer["error"]


def test_who_cannot_be_reached_is_exit_code_2(path, tmp_path, said):
    for place in (path, str(tmp_path), str(tmp_path / ("x" * 300)), "a\0b"):
        code, answer, err = said(ctl, place, "info")
        assert (code, answer) == (2, None)
        assert err.startswith("thousand-island: cannot reach ")


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 400 Bad Request\r\n", b"{}\n", b"[1]\n"])
def test_what_is_no_admin_socket_is_exit_code_2(path, says, said):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def answer():
            sock, _ = listener.accept()
            with sock:
                sock.recv(1000)
                sock.sendall(says)

        thread = threading.Thread(target=answer)
        thread.start()
        code, _, err = said(ctl, path, "info")
        thread.join()
    assert code == 2
    assert "not an admin socket" in err


def test_a_ninth_client_is_refused(server, path, said):
    socks = [socket.socket(socket.AF_UNIX) for _ in range(8)]
    for sock in socks:
        sock.connect(path)
    code, answer, _ = said(ctl, path, "info")
    for sock in socks:
        sock.close()
    assert code == 1
    assert "8 clients" in answer["error"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "ctl: takes PATH info|workers"),
        (["/a"], "ctl: takes PATH info|workers"),
        (["/a", "inof"], "the nearest is info"),
        (["/a", "close"], "takes close ID"),
        (["/a", "close", "1", "2"], "takes close ID"),
        (["/a", "info", "x"], "takes info"),
        (["/a", "reload", "--wiat"], "the nearest is --wait"),
        (["/a", "info", "--wait"], "info takes no such flag"),
    ],
)
def test_wrong_words_are_exit_code_2(words, says, said):
    code, answer, err = said(ctl, *words)
    assert (code, answer) == (2, None)
    assert says in err


def test_help(capsys):
    assert ctl(["--help"]) == 0
    assert top(["--help"]) == 0
    assert "usage: thousand-island ctl PATH info" in capsys.readouterr().out


# ---- top -------------------------------------------------------------------------


def test_once_as_json(serve, path, said, client):
    Blocks.go = threading.Event()
    server = serve(Blocks, max_handler_threads=4)
    with AdminServer(server, path=path):
        sock = client(server)
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        code, page, err = said(top, path, "--once", "--json")
        Blocks.go.set()
    assert (code, err) == (0, "")
    assert page["info"]["busy_threads"] >= 1
    assert page["rates"]["accepted_per_s"] == 0
    assert page["threads"]["busy"] >= 1
    assert page["threads"]["waited_for"] == 0
    assert [one["callback"] for one in page["callbacks"]] == ["handle_data"]
    assert page["callbacks"][0]["running_ms"] >= 300
    assert "stack" not in page["callbacks"][0]
    assert page["workers"][0]["pid"] == os.getpid()


def test_rates_are_those_between_two_looks(server, path, said, client):
    stop = threading.Event()

    def connect():
        while not stop.wait(0.02):
            echoes(client(server))

    thread = threading.Thread(target=connect)
    thread.start()
    _, page, _ = said(top, path, "--once", "--json")
    stop.set()
    thread.join()
    assert 1 < page["rates"]["accepted_per_s"] < 60


def test_once_as_a_page(server, path, capsys):
    pytest.importorskip("rich")
    assert top([path, "--once"]) == 0
    out = capsys.readouterr().out
    assert server.name in out
    assert "running" in out
    assert "accepted_per_s" in out
    assert f" {os.getpid()} " in out


def test_it_goes_on_until_the_server_has_gone(serve, path):
    server = serve(Echo)
    admin = AdminServer(server, path=path).start()
    code = (
        "import sys; from thousand_island_sync._admin.top import top; sys.exit(top(sys.argv[1:]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, path, "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        lines = [json.loads(process.stdout.readline()) for _ in range(2)]
        admin.stop()
        _, errors = process.communicate(timeout=20)
    assert all(line["info"]["status"] == "running" for line in lines)
    assert process.returncode == 2
    assert errors.count("\n") == 1


def test_without_rich_it_says_what_is_missing(server, path, said, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    code, _, err = said(top, path, "--once")
    assert code == 2
    assert "thousand_island_sync[top]" in err
    assert said(top, path, "--once", "--json")[0] == 0


@pytest.mark.parametrize(
    "words", [[], ["a", "b"], ["a", "--onec"], ["/nowhere", "--once", "--json"]]
)
def test_what_is_wrong_with_top_is_exit_code_2(words, said):
    code, answer, err = said(top, *words)
    assert (code, answer) == (2, None)
    assert err
