"""The units in examples/systemd: systemd understands them, and what they start is started, reloaded
and stopped here as systemd would."""

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
from tests.operations_commands import PAGE, commands
from tests.pages import ran
from tests.programs import ROOT, Script, program
from tests.support import echoes, first_client, free_port

UNITS = ROOT / "examples" / "systemd"
SERVICES = {"systemd 253": UNITS / "app.service", "Debian 12": UNITS / "debian12" / "app.service"}
SERVICE = pytest.mark.parametrize("service", SERVICES.values(), ids=list(SERVICES))
#: What a unit starts, and what is started here in its place.
PROGRAM = "/srv/app/venv/bin/thousand-island"
COMMAND = f"{sys.executable} -m thousand_island_sync"
APP = "from tests.support import Echo as Echo\n"


def values(path, name):
    """What a unit says of a name, in the order of its lines."""
    return re.findall(rf"^{name}=(.*)$", path.read_text(), re.MULTILINE)


def value(path, name):
    (only,) = values(path, name)
    return only


def knows_notify_reload():
    done = subprocess.run([program("systemd-analyze"), "--version"], capture_output=True, text=True)
    found = re.search(r"systemd (\d+)", done.stdout)
    return found is not None and int(found[1]) >= 253


@SERVICE
def test_systemd_understands_the_units(service, tmp_path):
    text = service.read_text().replace(PROGRAM, "/usr/bin/env")
    if not knows_notify_reload():
        text = text.replace("Type=notify-reload\n", "Type=notify\n")
    (tmp_path / "app.service").write_text(text)
    shutil.copy(UNITS / "app.socket", tmp_path)
    command = [program("systemd-analyze"), "verify", "./app.socket", "./app.service"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    ran(PAGE, " ".join(["systemd-analyze", *command[1:]]))
    (tmp_path / "app.service").write_text(text + "KillMode=nonsense\n")
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert "nonsense" in done.stderr or "Install" in done.stderr


@SERVICE
def test_they_say_what_the_contract_and_the_numbers_ask_for(service):
    assert value(service, "KillMode") == "mixed"
    assert value(service, "Type") == ("notify" if "debian12" in str(service) else "notify-reload")
    reload = [] if "debian12" not in str(service) else ["reload --wait"]
    assert [" ".join(one.split()[3:]) for one in values(service, "ExecReload")] == reload
    words = shlex.split(value(service, "ExecStart"))
    stop_ms = sum(
        int(words[words.index(name) + 1]) for name in ("--drain-delay-ms", "--shutdown-timeout-ms")
    )
    assert int(value(service, "TimeoutStopSec")) * 1000 > stop_ms + 500
    assert int(value(service, "WatchdogSec")) >= 10
    assert value(UNITS / "app.socket", "FileDescriptorName") in value(service, "ExecStart")


@SERVICE
def test_it_is_started_reloaded_and_stopped(service, tmp_path):
    """ExecStart= by `systemd-socket-activate`; a reload by ExecReload=, or by SIGHUP where systemd
    sends that; SIGTERM."""
    (tmp_path / "app.py").write_text(APP)
    port = free_port()

    def words(name):
        line = value(service, name).replace("/run/app", str(tmp_path))
        return shlex.split(line.replace(PROGRAM, COMMAND))

    name = value(UNITS / "app.socket", "FileDescriptorName")
    activate = program("systemd-socket-activate")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with NotifySocket(tmp_path / "notify") as notified:
        variables = {"NOTIFY_SOCKET": notified.address, "WATCHDOG_USEC": "3000000"}
        passes = [f"--setenv={name}" for name in ("PYTHONPATH", *variables)]
        listens = [activate, f"--listen=127.0.0.1:{port}", f"--fdname={name}", *passes]
        with subprocess.Popen(
            [*listens, *words("ExecStart")],
            cwd=tmp_path,
            env={**environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            with first_client(port) as sock:
                notified.wait_for("READY=1")
                notified.wait_for("WATCHDOG=1")
                if values(service, "ExecReload"):
                    done = subprocess.run(
                        words("ExecReload"), env=environment, capture_output=True, text=True
                    )
                    assert (done.returncode, json.loads(done.stdout)) == (0, {"ok": True})
                else:
                    process.send_signal(signal.SIGHUP)
                notified.wait_for("RELOADING=1")
                notified.wait_for("READY=1", 2)
                echoes(sock)
            process.send_signal(signal.SIGTERM)
            notified.wait_for("STOPPING=1")
            process.communicate(timeout=30)
        assert process.returncode == 0


def admin_commands():
    """The first serves; the others ask it, and the last two end it."""
    return [line for line in commands() if "/run/app/admin.sock" in line]


@pytest.mark.parametrize("left_out", ["stop", "drain"])
def test_the_page_s_commands_of_the_admin_socket_run(left_out, tmp_path):
    (tmp_path / "app.py").write_text(APP)
    serves, *others = admin_commands()
    assert [line.split()[-1] for line in others[-2:]] == ["drain", "stop"]
    others = [line for line in others if line.split()[-1] != left_out]

    def words(line):
        line = line.replace("/run/app", str(tmp_path)).replace("--port 4000", "--port 0")
        return ["-m", "thousand_island_sync", *shlex.split(line)[1:]]

    with Script(
        *words(serves),
        announcement=r"(127\.0\.0\.1:\d+)\n",
        environment={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    ) as script:
        for line in others:
            done = subprocess.run(
                [sys.executable, *words(line)], capture_output=True, text=True, cwd=ROOT
            )
            assert done.returncode == 0, done.stderr
            assert done.stdout.count("\n") == 1
            json.loads(done.stdout)
            ran(PAGE, line)
        assert script.process.wait(20) == 0
    ran(PAGE, serves)
