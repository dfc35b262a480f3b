"""The command line as a service: systemd's sockets and notifications, `--admin`, `ctl`, `top`."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.notified import NotifySocket
from tests.programs import ROOT, Script, program
from tests.support import echoes, first_client, free_port

COMMAND = "-m", "thousand_island_sync"
SERVES = r"(127\.0\.0\.1:\d+)\n"
HANDLERS = '''
import time
import ctypes
from thousand_island_sync import Handler, ThousandIsland


class Holds(Handler):
    """Computes in C for ten seconds, and lets nobody else have the GIL."""

    def handle_data(self, data, socket):
        socket.send(data)
        ctypes.PyDLL(None).sleep(10)


class Sleeps(Handler):
    def handle_data(self, data, socket):
        socket.send(data)
        time.sleep(60)


def several():
    return [ThousandIsland(handler_cls=Sleeps, host="127.0.0.1", port=0, name=n) for n in "ab"]
'''


@pytest.fixture
def notified(tmp_path):
    with NotifySocket(tmp_path / "notify") as one:
        yield one


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "app_of_test.py").write_text(HANDLERS)
    return {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}


def run(*words, notified=None, environment=None, announcement=SERVES):
    variables = {} if notified is None else {"NOTIFY_SOCKET": notified.address}
    return Script(
        *COMMAND,
        *words,
        announcement=announcement,
        environment={**variables, **(environment or {})},
    )


def connect(script):
    return socket.create_connection(("127.0.0.1", int(script.port)), 10)


def ctl(path, *words):
    """Exit code, and the answer; or what stands on standard error."""
    done = subprocess.run(
        [sys.executable, *COMMAND, "ctl", str(path), *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


# ---- what systemd is told -----------------------------------------------------------


def test_ready_when_it_serves_and_stopping_when_it_ends(notified):
    with run("--port", "0", notified=notified) as script:
        notified.wait_for("READY=1")
        with connect(script) as sock:
            echoes(sock)
        assert script.stop() == 0
    notified.wait_for("STOPPING=1")
    lines = notified.lines()
    assert lines[0] == "READY=1"
    assert lines[1].startswith("STATUS=running on 127.0.0.1:")
    assert lines.count("READY=1") == lines.count("STOPPING=1") == 1


def test_what_cannot_start_says_nothing(notified):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = subprocess.run(
            [sys.executable, *COMMAND, "--port", str(taken.getsockname()[1])],
            env={**os.environ, "NOTIFY_SOCKET": notified.address},
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
    assert done.returncode == 2
    assert notified.lines() == []


def test_a_reload_is_told_with_its_time_and_ready_after_also_when_refused(notified, tmp_path):
    config = tmp_path / "a.toml"
    config.write_text('log_level = "info"\n')
    with run("--port", "0", "--config", str(config), notified=notified) as script:
        notified.wait_for("READY=1")
        for count, text in enumerate(('log_level = "debug"\n', "nonsense = 1\n"), 1):
            config.write_text(text)
            before = time.monotonic_ns() // 1000
            script.process.send_signal(signal.SIGHUP)
            notified.wait_for("READY=1", 1 + count)
            said = [lines for lines in notified.said if "RELOADING=1" in lines]
            assert len(said) == count
            assert before <= int(said[-1][1].removeprefix("MONOTONIC_USEC="))
        with connect(script) as sock:
            echoes(sock)


def test_a_drain_by_sigterm_is_stopping_at_once(notified):
    with run("--port", "0", "--drain-delay-ms", "60000", notified=notified) as script:
        notified.wait_for("READY=1")
        script.process.send_signal(signal.SIGTERM)
        notified.wait_for("STOPPING=1")
        with connect(script) as sock:
            echoes(sock)
        script.process.send_signal(signal.SIGTERM)
        script.process.wait(20)


def test_the_watchdog_goes_on_while_callbacks_wait_and_not_while_the_loop_stands(notified, folder):
    environment = {**folder, "WATCHDOG_USEC": "600000"}
    with run(
        *("app_of_test:Sleeps", "--port", "0", "--max-handler-threads", "1"),
        *("--shutdown-timeout-ms", "0"),
        notified=notified,
        environment=environment,
    ) as script:
        with connect(script) as sock:
            echoes(sock)
            told = len(notified.when("WATCHDOG=1"))
            notified.wait_for("WATCHDOG=1", told + 5)


def test_a_server_whose_poll_loop_stands_sends_no_watchdog(notified, folder):
    environment = {**folder, "WATCHDOG_USEC": "600000"}
    with run(
        *("app_of_test:Holds", "--port", "0"), notified=notified, environment=environment
    ) as script:
        notified.wait_for("WATCHDOG=1", 2)
        with connect(script) as sock:
            echoes(sock)
            assert notified.falls_silent("WATCHDOG=1", 1)
        script.process.kill()


def test_sigstop_stops_the_watchdog(notified):
    environment = {"WATCHDOG_USEC": "600000"}
    with run("--port", "0", notified=notified, environment=environment) as script:
        notified.wait_for("WATCHDOG=1", 2)
        script.process.send_signal(signal.SIGSTOP)
        assert notified.falls_silent("WATCHDOG=1", 1)
        script.process.send_signal(signal.SIGCONT)
        notified.wait_for("WATCHDOG=1", len(notified.when("WATCHDOG=1")) + 2)


def test_a_server_out_of_descriptors_still_says_that_it_is_alive(notified):
    environment = {"WATCHDOG_USEC": "600000"}
    limited = (
        "import resource, runpy; resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40));"
        "runpy.run_module('thousand_island_sync', run_name='__main__')"
    )
    with Script(
        *("-c", limited, "--port", "0"),
        announcement=SERVES,
        environment={**environment, "NOTIFY_SOCKET": notified.address},
    ) as script:
        socks = [connect(script) for _ in range(40)]
        script.wait_for("(accept_error)")
        told = len(notified.when("WATCHDOG=1"))
        notified.wait_for("WATCHDOG=1", told + 3)
        for sock in socks:
            sock.close()


# ---- systemd's sockets ---------------------------------------------------------------


def activated(*words, fdname=None, environment=None):
    """`systemd-socket-activate`, whose first client starts the command line."""
    activate = program("systemd-socket-activate")
    port = free_port()
    names = [] if fdname is None else [f"--fdname={fdname}"]
    process = subprocess.Popen(
        [activate, f"--listen=127.0.0.1:{port}", *names, sys.executable, *COMMAND, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
    )
    return process, port


@pytest.mark.parametrize(
    ("words", "fdname"),
    [
        (["--host", "systemd"], None),
        (["--host", "systemd:web"], "web"),
        (["--sockets", "systemd"], None),
    ],
)
def test_it_serves_what_systemd_passed(words, fdname):
    process, port = activated(*words, fdname=fdname)
    with process:
        with first_client(port) as sock:
            echoes(sock)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out == f"127.0.0.1:{port}\n"


@pytest.mark.parametrize("host", ["systemd", "systemd:web"])
def test_where_nothing_was_passed_it_is_one_line_and_exit_code_2(host):
    done = subprocess.run(
        [sys.executable, *COMMAND, "--host", host], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "none was passed to this process" in done.stderr


def test_a_name_that_was_not_passed_is_one_line_and_exit_code_2():
    process, port = activated("--host", "systemd:wep", fdname="web")
    with process:
        first_client(port).close()
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (2, "")
    assert "none of the name 'wep'; it passed 'web'" in err


def test_a_wrapper_that_stands_between_is_one_line_and_exit_code_2():
    process, port = activated("--host", "systemd")
    process.kill()
    process.communicate()
    activate = program("systemd-socket-activate")
    command = f"{sys.executable} -m thousand_island_sync --host systemd; exit $?"
    with subprocess.Popen(
        [activate, f"--listen=127.0.0.1:{port}", "sh", "-c", command],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        first_client(port).close()
        _, err = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "a wrapper stands between; use exec" in err


# ---- --admin, ctl and top --------------------------------------------------------------


def test_ctl_asks_the_server_and_ends_it(notified, tmp_path):
    path = tmp_path / "a.sock"
    with run("--port", "0", "--admin", str(path), notified=notified) as script:
        with connect(script) as sock:
            echoes(sock)
            code, answer = ctl(path, "info")
            assert (code, answer["info"]["active_connections"]) == (0, 1)
            code, answer = ctl(path, "workers")
            assert answer["workers"][0]["pid"] == script.process.pid
            code, answer = ctl(path, "connections")
            assert ctl(path, "close", answer["connections"][0]["id"]) == (0, {"ok": True})
            assert sock.recv(1) == b""
        assert ctl(path, "close", "x")[0] == 1
        assert ctl(path, "log-level", "debug") == (0, {"ok": True})
        with connect(script) as sock:
            echoes(sock)
        script.wait_for("(handler.start)")
        assert ctl(path, "stop") == (0, {"ok": True})
        assert script.process.wait(20) == 0
    assert not path.exists()
    code, error = ctl(path, "info")
    assert code == 2
    assert error.startswith("thousand-island: cannot reach")
    notified.wait_for("STOPPING=1")


def test_ctl_reload_waits_and_tells_what_was_refused(notified, tmp_path):
    path, config = tmp_path / "a.sock", tmp_path / "a.toml"
    config.write_text("")
    with run(
        *("--port", "0", "--admin", str(path), "--config", str(config)), notified=notified
    ) as script:
        notified.wait_for("READY=1")
        assert ctl(path, "reload", "--wait") == (0, {"ok": True})
        notified.wait_for("READY=1", 2)
        config.write_text("nonsense = 1")
        code, answer = ctl(path, "reload", "--wait")
        assert code == 1
        assert "nonsense" in answer["error"]
        notified.wait_for("READY=1", 3)
        assert ctl(path, "reload", "--certificates") == (0, {"ok": True})
        notified.wait_for("READY=1", 4)
        with connect(script) as sock:
            echoes(sock)
    assert sum("RELOADING=1" in lines for lines in notified.said) == 3


def test_ctl_drain_takes_the_delay_of_the_command_line(tmp_path, notified):
    path = tmp_path / "a.sock"
    with run(
        *("--port", "0", "--admin", str(path), "--drain-delay-ms", "60000"), notified=notified
    ) as script:
        assert ctl(path, "drain") == (0, {"ok": True})
        notified.wait_for("STOPPING=1")
        _, answer = ctl(path, "info")
        assert answer["info"]["status"] == "draining"
        with connect(script) as sock:
            echoes(sock)
        assert ctl(path, "stop") == (0, {"ok": True})
        assert script.process.wait(20) == 0


def test_dump_and_top_show_who_holds_the_threads(tmp_path, folder):
    path = tmp_path / "a.sock"
    with run(
        *("app_of_test:Sleeps", "--port", "0", "--admin", str(path)),
        *("--max-handler-threads", "2", "--shutdown-timeout-ms", "0"),
        environment=folder,
    ) as script:
        with connect(script) as one, connect(script) as other:
            echoes(one)
            echoes(other)
            code, answer = ctl(path, "dump")
            assert code == 0
            holders = [each for each in answer["stacks"] if "callback" in each]
            assert {each["peer"] for each in holders} == {
                "{}:{}".format(*sock.getsockname()) for sock in (one, other)
            }
            assert {each["callback"] for each in holders} == {"handle_data"}
            assert all("app_of_test.py:" in each["stack"][-1] for each in holders)
            done = subprocess.run(
                [sys.executable, *COMMAND, "top", str(path), "--once", "--json"],
                capture_output=True,
                text=True,
                cwd=ROOT,
            )
            page = json.loads(done.stdout)
            assert done.returncode == 0
            assert [each["callback"] for each in page["callbacks"]] == ["handle_data"] * 2


def test_a_factory_s_servers_are_one_to_admin_and_to_systemd(tmp_path, folder, notified):
    path = tmp_path / "a.sock"
    with run(
        *("app_of_test:several", "--admin", str(path)),
        environment=folder,
        notified=notified,
        announcement=r"(127\.0\.0\.1:\d+) 127\.0\.0\.1:\d+\n",
    ):
        notified.wait_for("READY=1")
        _, answer = ctl(path, "info")
        assert [one["name"] for one in answer["info"]["servers"]] == ["a", "b"]
    assert notified.lines().count("STOPPING=1") == 1


@pytest.mark.parametrize("wrong", ["@a", "", "/nowhere/a.sock"])
def test_a_wrong_admin_path_is_one_line_and_exit_code_2_before_anything_is_bound(wrong):
    done = subprocess.run(
        [sys.executable, *COMMAND, "--port", "0", "--admin", wrong],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
