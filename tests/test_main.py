"""The command line."""

import signal
import socket
import ssl
import subprocess
import sys

import pytest

from tests.programs import ROOT, Script
from tests.support import eventually, receive
from thousand_island_sync.__main__ import main

SERVING = r"(?m)^(\S+:\d+)$"


def serving(*arguments):
    return Script("-m", "thousand_island_sync", *arguments, announcement=SERVING)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_echo_logs_connections_and_stops_gracefully(number):
    with serving("--port", "0", "--log-level", "debug") as script:
        assert script.address.startswith("127.0.0.1:")
        with socket.create_connection(("127.0.0.1", int(script.port)), timeout=10) as sock:
            sock.sendall(b"hello")
            assert receive(sock, 5) == b"hello"
        script.wait_for(r"(handler\.start) .*remote_address='127.0.0.1'")
        script.wait_for(r"(handler\.shutdown) ")
        assert script.stop(number) == 0
    assert "listener.shutdown" in "".join(script.errors)


def test_its_default_port_is_4000_of_127_0_0_1():
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 4000))
        except OSError:
            pytest.skip("port 4000 is in use on this machine")
    with serving() as script:
        assert script.address == "127.0.0.1:4000"
        assert script.stop() == 0


def test_c11_a_second_signal_cuts_at_once_and_the_exit_code_says_so():
    handler = "tests.handlers:Stuck"
    with serving(handler, "--port", "0") as script:
        with socket.create_connection(("127.0.0.1", int(script.port)), timeout=10) as sock:
            sock.sendall(b"x")
            assert receive(sock, 4) == b"busy"
            script.process.send_signal(signal.SIGTERM)
            script.wait_for(r"(listener\.shutdown)")
            assert script.stop(signal.SIGTERM) == 1


def test_it_serves_a_handler_over_tls(tmp_path, authority):
    (tmp_path / "cert.pem").write_bytes(authority.chain)
    (tmp_path / "key.pem").write_bytes(authority.key)
    arguments = ["--certfile", str(tmp_path / "cert.pem"), "--keyfile", str(tmp_path / "key.pem")]
    with serving("tests.handlers:Upper", "--port", "0", "--log-level", "error", *arguments) as it:
        context = authority.client_context()
        with (
            socket.create_connection(("127.0.0.1", int(it.port)), timeout=10) as sock,
            context.wrap_socket(sock, server_hostname="localhost") as tls,
        ):
            tls.sendall(b"shout")
            assert receive(tls, 5) == b"SHOUT"
        assert it.stop() == 0


def write_certificate(folder, authority):
    issued = authority.ca.issue_cert("localhost")
    (folder / "cert.pem").write_bytes(issued.cert_chain_pems[0].bytes())
    (folder / "key.pem").write_bytes(issued.private_key_pem.bytes())
    return ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())


def certificate_of(script, authority):
    context = authority.client_context()
    with (
        socket.create_connection(("127.0.0.1", int(script.port)), timeout=10) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as tls,
    ):
        return tls.getpeercert(binary_form=True)


@pytest.mark.parametrize("how", ["SIGHUP", "watching"])
def test_d8_renewed_certificates_are_served_without_a_restart(how, tmp_path, authority):
    old = write_certificate(tmp_path, authority)
    files = ["--certfile", str(tmp_path / "cert.pem"), "--keyfile", str(tmp_path / "key.pem")]
    watch = ["--watch-certificates", "20"] if how == "watching" else []
    with serving("--port", "0", "--log-level", "info", *files, *watch) as script:
        eventually(lambda: script._catches(signal.SIGHUP), 10)
        assert certificate_of(script, authority) == old

        def renew():
            if how == "SIGHUP":
                script.process.send_signal(signal.SIGHUP)

        (tmp_path / "cert.pem").write_bytes(b"half a certif")
        renew()
        script.wait_for(r"(no PEM certificate in .*cert\.pem)")
        assert certificate_of(script, authority) == old
        new = write_certificate(tmp_path, authority)
        renew()
        assert eventually(lambda: certificate_of(script, authority) == new, 10)
        assert script.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["no_such_module:Handler"], "no_such_module"),
        (["tests.handlers:Missing"], "Missing"),
        (["tests.handlers"], "package.module:HandlerClass"),
        (["tests.broken:Handler"], "ZeroDivisionError"),
        (["tests.handlers:NOT_A_HANDLER"], "neither a subclass"),
        (["socketserver:BaseRequestHandler"], "socketserver_handler(BaseRequestHandler)"),
        (["--port", "many"], "--port"),
        (["--port", "70000"], "port: got 70000"),
        (["--host", "192.0.2.1"], "192.0.2.1"),
        (["--certfile", "/no/such/file"], "/no/such/file"),
        (["--keyfile", "/no/such/file"], "--certfile"),
        (["--watch-certificates"], "--certfile"),
        (["--certfile", "x", "--watch-certificates", "0"], "more than 0"),
        (["--log-level", "loud"], "--log-level"),
        (["--bogus"], "--bogus"),
        (["--max-connections", "0"], "max_connections"),
    ],
)
def test_what_the_user_got_wrong_is_one_line_and_exit_code_2(arguments, says, capsys):
    if "--certfile" in arguments:
        pytest.importorskip("OpenSSL")
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_its_level_is_info_it_says_what_the_server_does_and_not_what_each_client_does():
    with serving("--port", "0") as script:
        with socket.create_connection(("127.0.0.1", int(script.port)), timeout=10) as sock:
            sock.sendall(b"x")
            assert receive(sock, 1) == b"x"
        assert script.stop() == 0
    logged = "".join(script.errors)
    assert "INFO listener.start" in logged
    assert "INFO listener.shutdown" in logged
    assert len(script.errors) == 2


def test_the_word_behind_watch_certificates_may_be_the_handler(tmp_path, authority):
    (tmp_path / "both.pem").write_bytes(authority.key + authority.chain)
    files = ["--certfile", str(tmp_path / "both.pem")]
    with serving("--port", "0", *files, "--watch-certificates", "tests.handlers:Upper") as script:
        context = authority.client_context()
        with (
            socket.create_connection(("127.0.0.1", int(script.port)), timeout=10) as sock,
            context.wrap_socket(sock, server_hostname="localhost") as tls,
        ):
            tls.sendall(b"x")
            assert receive(tls, 1) == b"X"
        assert script.stop() == 0


def test_a_port_in_use_is_told_once():
    from tests.programs import ROOT

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = subprocess.run(
            [sys.executable, "-m", "thousand_island_sync", "--port", port],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert result.returncode == 2
    assert result.stderr.count("\n") == result.stderr.count(port) == 1, result.stderr


def test_importing_the_package_is_cheap_and_does_not_import_openssl():
    code = (
        "import sys, thousand_island_sync\n"
        "print('OpenSSL' in sys.modules, 'asyncio' in sys.modules)\n"
        "print([name for name in sys.modules if name.startswith('thousand_island_sync._command')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.stdout.split() == ["False", "False", "[]"], result.stderr


def test_an_interpreter_that_exits_without_a_stop_exits_cleanly():
    code = (
        "import socket\n"
        "from thousand_island_sync import Handler, ThousandIsland\n"
        "server = ThousandIsland(handler_cls=Handler, host='127.0.0.1', port=0).start()\n"
        "socks = [socket.create_connection(server.local_address) for _ in range(5)]\n"
        "socks[0].sendall(b'x')\n"
    )
    for _ in range(3):
        result = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=20
        )
        assert (result.returncode, result.stderr) == (0, "")


def test_serve_forever_serves_several_until_one_stops_and_restores_the_signal_handlers():
    code = (
        "import signal, threading, time\n"
        "from thousand_island_sync import Handler, ThousandIsland\n"
        "make = lambda: ThousandIsland(handler_cls=Handler, host='127.0.0.1', port=0)\n"
        "one, two = make(), make()\n"
        "before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)\n"
        "def stop():\n"
        "    while two.status != 'running':\n"
        "        time.sleep(0.01)\n"
        "    two.stop()\n"
        "threading.Thread(target=stop).start()\n"
        "one.serve_forever(two)\n"
        "after = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)\n"
        "print(one.status, two.status, before == after)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=20
    )
    assert result.stdout == "stopped stopped True\n", result.stderr
