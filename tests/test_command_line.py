"""The command line: what is served, by whom it was asked for, and what is wrong, in one line."""

import contextlib
import os
import signal
import socket
import sys
import tomllib

import pytest

from tests.commands import Serving, run, write_app
from tests.programs import ROOT
from tests.support import eventually, receive, running
from tests.test_main import certificate_of, write_certificate
from thousand_island_sync import __version__
from thousand_island_sync.__main__ import main
from thousand_island_sync._base import compiled, whole_file
from thousand_island_sync._command.environment import from_environment, variable
from thousand_island_sync._command.file import from_file
from thousand_island_sync._command.line import parse
from thousand_island_sync._command.settings import collect
from thousand_island_sync._command.table import TABLE


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with an application, for this process and for others."""
    write_app(tmp_path)
    monkeypatch.chdir(tmp_path)
    path, modules = sys.path[:], set(sys.modules)
    for name in [name for name in os.environ if name.startswith("THOUSAND_ISLAND_")]:
        if name not in ("THOUSAND_ISLAND_DEBUG", "THOUSAND_ISLAND_PURE"):
            monkeypatch.delenv(name)
    yield tmp_path
    sys.path[:] = path
    for name in {"app", "broken", "untidy", "needy", "leaving"} & (set(sys.modules) - modules):
        del sys.modules[name]


@contextlib.contextmanager
def connected(port):
    with socket.create_connection(("127.0.0.1", int(port)), timeout=10) as sock:
        yield sock


def ask(port, data=b"x"):
    with connected(port) as sock:
        sock.sendall(data)
        return receive(sock, len(data))


def checked(folder, *arguments, **variables):
    """What `check` prints, read."""
    found = run(folder, "check", *arguments, **variables)
    assert (found.returncode, found.stderr) == (0, "")
    return tomllib.loads(found.stdout)


# ---- what is served ---------------------------------------------------------


def test_flags_may_stand_before_the_handler(folder):
    with Serving(folder, "--port", "0", "--no-nodelay", "app:Upper", "--name", "n") as it:
        assert ask(it.port) == b"X"
        assert it.stop() == 0
    # One line, and nothing else.
    assert it.output == [f"127.0.0.1:{it.port}\n"]


@pytest.mark.parametrize("word", ["app:make", "app:make_two"])
def test_a_function_makes_the_servers(word, folder):
    with Serving(folder, word, "--log-level", "error") as it:
        ports = [address.rpartition(":")[2] for address in it.output[0].split()]
        assert len(ports) == (2 if word == "app:make_two" else 1)
        assert ask(ports[0]) == b"X"
        for port in ports[1:]:
            with connected(port) as sock:
                assert receive(sock, 4) == b"None"
        assert it.stop() == 0
    assert len(it.output) == 1


def test_a_nested_name_is_found(folder):
    assert main(["check", "app:Outer.Inner"]) == 0


def test_a_unix_socket_and_ipv6_are_said_so(folder):
    with Serving(folder, "app:make", "--log-level", "error") as it:
        it.stop()
    found = run(folder, "check", "app:Upper", "--host", f"unix:{folder}/s")
    assert "port" not in tomllib.loads(found.stdout)


def test_handler_options_are_json(folder):
    words = ["app:Options", "--port", "0", "--handler-options", '{"a": [1, null]}']
    with Serving(folder, *words) as it, connected(it.port) as sock:
        assert receive(sock, 16) == b"{'a': [1, None]}"
        it.stop()


def test_setup_runs_once_before_it_serves(folder):
    told = folder / "told"
    with Serving(
        folder, "app:Upper", "--port", "0", "--setup", "app:set_up", SETUP_FILE=str(told)
    ) as it:
        assert told.read_text() == "set up\n"
        assert it.stop() == 0
    assert told.read_text() == "set up\n"


def test_check_imports_what_sets_up_and_does_not_run_it(folder):
    told = folder / "told"
    found = run(folder, "check", "app:Upper", "--setup", "app:set_up", SETUP_FILE=str(told))
    assert found.returncode == 0, found.stderr
    assert not told.exists()


def test_its_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    accelerated = "yes" if compiled.native else "no"
    expected = f"thousand-island {__version__} (C accelerator: {accelerated})\n"
    assert capsys.readouterr().out == expected


def test_the_version_is_the_one_that_is_installed():
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = metadata["tool"]["setuptools"]["dynamic"]["version"]
    assert named == {"attr": "thousand_island_sync._base.version.VERSION"}


# ---- where options come from ------------------------------------------------


def test_the_line_wins_over_the_environment_and_that_over_the_file(folder):
    file = folder / "a.toml"
    file.write_text(
        'port = 1\nname = "file"\nmax_connections = 7\nhost = "127.0.0.2"\n'
        "[transport]\nbacklog = 11\nnodelay = false\nkeepalive = false\n"
    )
    found = checked(
        folder,
        "--config",
        "a.toml",
        "--port",
        "3",
        "--nodelay",
        THOUSAND_ISLAND_PORT="2",
        THOUSAND_ISLAND_NAME="environment",
        THOUSAND_ISLAND_BACKLOG="12",
    )
    assert (found["port"], found["name"], found["max_connections"]) == (3, "environment", 7)
    assert found["host"] == "127.0.0.2"
    transport = found["transport"]
    assert (transport["backlog"], transport["nodelay"]) == (12, True)
    assert transport["keepalive"] is False


def test_the_environment_may_name_the_file(folder):
    (folder / "a.toml").write_text("port = 5\n")
    assert checked(folder, THOUSAND_ISLAND_CONFIG="a.toml")["port"] == 5


def test_the_default_host_is_this_machine_alone(folder):
    assert checked(folder)["host"] == "127.0.0.1"
    (folder / "a.toml").write_text('[transport]\nhost = "0.0.0.0"\n')
    assert checked(folder, "--config", "a.toml")["host"] == "0.0.0.0"


@pytest.mark.parametrize(
    ("toml", "name", "value"),
    [
        ('read_timeout_ms = "none"', "read_timeout_ms", None),
        ("read_timeout_ms = 1.5", "read_timeout_ms", 1.5),
        ('name = "none"', "name", "none"),
        ("handler_options = {a = [1, 2]}", "handler_options", {"a": [1, 2]}),
        ("[handler_options]\na = 1", "handler_options", {"a": 1}),
        ('handler_options = "none"', "handler_options", None),
        ('handler_options = "a text"', "handler_options", "a text"),
        ("handler_options = '{\"a\": null}'", "handler_options", {"a": None}),
        ("interrupt_reads = true", "interrupt_reads", True),
        ("watch_certificates = true", "watch_certificates", 60_000),
        ("watch_certificates = false", "watch_certificates", None),
        ("watch_certificates = 20", "watch_certificates", 20),
        ('log_level = "debug"', "log_level", "debug"),
        ('[transport]\nverify = "none"', "verify", "none"),
        ('[transport]\nalpn_protocols = ["h2"]', "alpn_protocols", ["h2"]),
        ('[transport]\nalpn_protocols = "h2, http/1.1"', "alpn_protocols", ["h2", "http/1.1"]),
        ("[transport]\nunix_mode = 0o600", "unix_mode", 0o600),
        ('[transport]\nunix_mode = "600"', "unix_mode", 0o600),
        ("[transport]\nsocket_options = [[1, 9, 1]]", "socket_options", [(1, 9, 1)]),
        ('[transport]\nsession_tickets = "none"', "session_tickets", None),
        ('[transport]\ncertfile = "none"', "certfile", None),
        ('[transport]\npassword = "p"', "password", "p"),
        ('[transport.sni."a.b"]\ncertfile = "c"', "sni", {"a.b": {"certfile": "c"}}),
    ],
)
def test_a_file_gives_what_a_line_gives(toml, name, value, folder):
    (folder / "a.toml").write_text(toml)
    settings = collect(parse(["--config", "a.toml"]), {})
    assert settings.value(name) == value
    assert type(settings.value(name)) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("port", "0", 0),
        ("read_timeout_ms", "none", None),
        ("verify", "none", "none"),
        ("name", "none", "none"),
        ("interrupt_reads", "yes", True),
        ("nodelay", "FALSE", False),
        ("session_tickets", "none", None),
        ("alpn_protocols", "h2,http/1.1", ["h2", "http/1.1"]),
        ("unix_mode", "600", 0o600),
        ("handler_options", '{"a": 1}', {"a": 1}),
        ("password", "p", "p"),
        ("log_level", "trace", "trace"),
        ("watch_certificates", "20", 20),
        ("watch_certificates", "true", 60_000),
    ],
)
def test_the_environment_gives_what_a_line_gives(name, text, value):
    given, unknown = from_environment({f"THOUSAND_ISLAND_{name.upper()}": text})
    assert given[name].value == value
    assert type(given[name].value) is type(value)
    assert unknown == []


def test_every_option_has_a_variable():
    assert from_environment({variable("port"): "1"})[0].keys() == {"port"}
    assert {variable(name) for name in TABLE} >= {"THOUSAND_ISLAND_PASSWORD"}


KUBERNETES = {
    "THOUSAND_ISLAND_SERVICE_HOST": "10.0.0.1",
    "THOUSAND_ISLAND_SERVICE_PORT": "4000",
    "THOUSAND_ISLAND_PORT": "tcp://10.0.0.1:4000",
    "THOUSAND_ISLAND_PORT_4000_TCP": "tcp://10.0.0.1:4000",
    "THOUSAND_ISLAND_PORT_53_UDP": "udp://10.0.0.1:53",
}


def test_what_kubernetes_says_of_a_service_is_left_alone(folder):
    with Serving(folder, "app:Upper", "--port", "0", **KUBERNETES) as it:
        assert ask(it.port) == b"X"
        assert it.stop() == 0
    warnings = [line for line in it.errors if " WARNING " in line]
    assert len(warnings) == 1
    assert "THOUSAND_ISLAND_SERVICE_HOST, THOUSAND_ISLAND_SERVICE_PORT" in warnings[0]
    assert "10.0.0.1" not in warnings[0]
    assert "did you mean" not in warnings[0]


def test_unknown_variables_are_one_warning_and_those_of_the_package_none(folder):
    variables = {"THOUSAND_ISLAND_PROT": "1", "THOUSAND_ISLAND_X": "secret"}
    with Serving(folder, "--port", "0", "--log-level", "error", **variables) as it:
        assert it.stop() == 0
    (line,) = it.errors
    assert "THOUSAND_ISLAND_PROT, THOUSAND_ISLAND_X" in line
    assert "; THOUSAND_ISLAND_PROT: did you mean THOUSAND_ISLAND_PORT?" in line
    assert "secret" not in line
    known = {"THOUSAND_ISLAND_DEBUG": "1", "THOUSAND_ISLAND_PURE": "1"}
    with Serving(folder, "--port", "0", "--log-level", "error", **known) as it:
        assert it.stop() == 0
    assert it.errors == []


# ---- what is wrong ----------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["chek"], "chek: there is no such subcommand; did you mean check?"),
        (["xyzzy"], "check"),
        (["app:Uper"], "did you mean Upper?"),
        (["app:upper"], "did you mean Upper?"),
        (["ap:Upper"], "did you mean app?"),
        (["app:Outer.Iner"], "did you mean Inner?"),
        (["needy:Handler"], "No module named 'no_such_library'"),
        (["untidy:f"], "importing it raised SyntaxError"),
        (["leaving:Handler"], "importing it raised SystemExit"),
        (["app:Upper", "more"], "more: a handler was given before (app:Upper)"),
        (["app:Upper", "app:Options"], "app:Options: a handler was given before (app:Upper)"),
        ([":Upper"], "package.module:HandlerClass"),
        (["app:"], "package.module:HandlerClass"),
        (["app:Raises"], "callbacks are plain"),
        (["app:SERVER"], "give the name of a function that returns it"),
        (["app:make_none"], "returned None, takes a ThousandIsland, or a list of them"),
        (["app:make_empty"], "returned an empty list"),
        (["app:make_twice"], "the same ThousandIsland twice"),
        (["app:make_badly"], "prot: there is no such option"),
        (
            ["app:make_with"],
            "cannot be called without arguments: missing a required argument: 'port'",
        ),
        (["app:make_later"], "is `async def`"),
        (["app:raises"], "raised LookupError: no database at all"),
        (["app:leaves"], "raised SystemExit: 3"),
        (["app:make", "--port", "0"], "--port: app:make makes its servers with options of its own"),
        (["app:make", "--no-nodelay"], "--no-nodelay: app:make"),
        (["app:make", "--watch-certificates"], "--watch-certificates: needs --certfile"),
        (["--setup", "app:no"], "app:no: module 'app' has no attribute 'no'"),
        (["--setup", "app:make_with"], "app:make_with: cannot be called without arguments"),
        (["--setup", "app:SERVER"], "app:SERVER: is not a function"),
        (["--setup", "setup"], "setup: takes package.module:"),
        (["--port"], "--port: needs a value, takes a port number"),
        (["--port", "--name", "n"], "--port: needs a value"),
        (["--port", "70000"], "--port: port: got 70000"),
        (["--no-nodelay=1"], "--no-nodelay: takes no value"),
        (["--nodelay=perhaps"], "--nodelay: got 'perhaps', takes True or False"),
        (["--log-level", "loud"], "error, info, debug, trace"),
        (["--log-format", "yaml"], "text, json"),
        (["--drain-delay-ms", "-1"], "drain_delay_ms: got -1"),
        (["--config"], "--config: needs a value"),
        (["--config", "none.toml"], "none.toml: No such file or directory"),
        (["--config", "."], "Is a directory"),
        (["--config", "app.py"], "app.py: is not valid TOML"),
        (["--workers", "2"], "--workers: there is no such argument"),
        (["--read-timeout"], "did you mean --read-timeout-ms?"),
        (["--ca", "a.pem"], "did you mean --ca-certs?"),
        (["--bind", "::"], "did you mean --host?"),
        (
            ["--password", "secret"],
            "--password: cannot be given as an argument",
        ),
        (["--password=secret"], "(THOUSAND_ISLAND_PASSWORD), or in the file of --config"),
        (["--socket"], "did you mean --sockets?"),
    ],
)
def test_a_line_that_is_wrong_is_one_line(words, says, folder, capsys):
    for arguments in (words, ["check", *words]):
        if words[0] in ("chek", "xyzzy") and arguments[0] == "check":
            continue  # there it is no first word
        assert main(arguments) == 2
        found = capsys.readouterr()
        assert says in found.err
        assert "secret" not in found.err
        assert (found.err.count("\n"), found.out) == (1, "")


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("prot = 1", "a.toml: prot: there is no such key; did you mean port?"),
        ("read-timeout-ms = 1", "did you mean read_timeout_ms?"),
        ('[transport]\nalpn = ["h2"]', "did you mean alpn_protocols?"),
        ("threads = 5", "did you mean max_handler_threads?"),
        ("port = 70000", "a.toml: port: got 70000, takes a port number"),
        ('port = "many"', "a.toml: port: got 'many'"),
        ("port = true", "a.toml: port: got True"),
        ("port = 1.5", "a.toml: port: got 1.5"),
        ('certfile = "a"', "a.toml: certfile: belongs under [transport]"),
        ('password = "secret"', "a.toml: password: belongs under [transport]"),
        ("[transport]\nport = 1", "a.toml: transport.port: belongs above the first table"),
        ('[transport]\ncertfil = "a"', "transport.certfil: there is no such key; did you mean cer"),
        ("[transport]\npassword = 5", "transport.password: got a value that is not shown"),
        ("transport = 1", "a.toml: transport: takes a table"),
        ('transport_cls = "TLS"', "it is TLS where there is a certfile"),
        ('handler_cls = "a:B"', "the first word of the command line"),
        ('host = "a"\n[transport]\nhost = "b"', "transport.host: given twice"),
        ('config = "b"', "a.toml: config: there is no such key"),
        ('[transport]\nverify = "required"', "transport.verify: needs certfile"),
        ('[transport]\npassword = "secret"', "transport.password: needs certfile"),
        (
            "handler_options = '{\"secret\"'",
            "handler_options: got a value that is not shown, takes JSON",
        ),
        ("[transport]\nunix_mode = 0o7777", "transport.unix_mode: got 4095"),
        ("[transport]\nsocket_options = [5]", "transport.socket_options: got [5]"),
        ("[transport]\nrecv_buffer = 0", "transport.recv_buffer: got 0"),
        ("port = 1\nport = 2", "is not valid TOML"),
        ("health = 0", "a.toml: health: got 0"),
        ("agent = []", "a.toml: agent: got []"),
        ("admin = 5", "a.toml: admin: got 5"),
        ("setup = 5", "a.toml: setup: got 5"),
        ('log_access = "perhaps"', "a.toml: log_access: got 'perhaps'"),
        ("num_listen_sockets = 2", "a.toml: num_listen_sockets: got 2; more"),
        ("health = 0", "a.toml: health: got 0, takes HOST:PORT or unix:PATH"),
        ("agent = []", "a.toml: agent: got [], takes HOST:PORT or unix:PATH"),
    ],
)
def test_a_file_that_is_wrong_is_one_line(toml, says, folder, capsys):
    (folder / "a.toml").write_text(toml)
    assert main(["--config", "a.toml"]) == 2
    found = capsys.readouterr()
    assert says in found.err
    assert "secret" not in found.err
    assert (found.err.count("\n"), found.out) == (1, "")


def test_a_file_that_is_no_text_is_one_line(folder, capsys):
    (folder / "a.toml").write_bytes(b"port = '\xff'\n")
    assert main(["--config", "a.toml"]) == 2
    assert "a.toml: is not valid TOML" in capsys.readouterr().err


def test_a_file_of_any_size_or_kind_is_one_line(folder, capsys, monkeypatch):
    (folder / "a.toml").write_bytes(b"a" * (1 << 20) + b"a")
    os.mkfifo(folder / "nobody")
    monkeypatch.setattr(whole_file, "WITHIN_S", 0.05)
    for path, says in (
        ("a.toml", "a.toml: larger than 1048576 bytes"),
        ("/dev/zero", "/dev/zero: larger than 1048576 bytes"),
        ("nobody", "nobody: a pipe that nobody has written to within 0.05 s"),
    ):
        assert main(["--config", path]) == 2
        assert capsys.readouterr().err == f"thousand-island: --config: {says}\n"


def test_a_file_may_be_a_pipe(folder):
    os.mkfifo(folder / "pipe")

    def write():
        with open(folder / "pipe", "w") as pipe:
            pipe.write("port = 17\r\n" + "# more\n" * 20_000)

    with running(write):
        assert from_file(str(folder / "pipe"))["port"].value == 17


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("PORT", "many", "THOUSAND_ISLAND_PORT: got 'many', takes a port number"),
        ("PORT", "70000", "THOUSAND_ISLAND_PORT: port: got 70000"),
        ("PORT", "", "THOUSAND_ISLAND_PORT: got ''"),
        ("NODELAY", "perhaps", "THOUSAND_ISLAND_NODELAY: got 'perhaps', takes True or False"),
        ("SNI", "{secret", "THOUSAND_ISLAND_SNI: got a value that is not shown"),
        ("PASSWORD", "secret", "THOUSAND_ISLAND_PASSWORD: needs certfile"),
    ],
)
def test_a_variable_that_is_wrong_is_one_line(name, text, says, folder, capsys, monkeypatch):
    monkeypatch.setenv(f"THOUSAND_ISLAND_{name}", text)
    assert main([]) == 2
    found = capsys.readouterr()
    assert says in found.err
    assert "secret" not in found.err
    assert (found.err.count("\n"), found.out) == (1, "")


@pytest.mark.parametrize("words", [["broken:Handler"], ["app:raises"]])
def test_the_traceback_of_an_import_is_shown_at_debug(words, folder):
    silent = run(folder, *words)
    assert (silent.returncode, silent.stderr.count("\n")) == (2, 1)
    loud = run(folder, *words, "--log-level", "debug")
    assert loud.returncode == 2
    assert "Traceback (most recent call last)" in loud.stderr
    assert loud.stderr.splitlines()[-1] == silent.stderr.strip()
    by_the_environment = run(folder, *words, THOUSAND_ISLAND_LOG_LEVEL="debug")
    assert "Traceback" in by_the_environment.stderr


def test_nothing_is_bound_before_all_of_it_was_looked_at(folder, tmp_path):
    path = tmp_path / "socket"
    found = run(folder, "app:Upper", "--host", f"unix:{path}", "--setup", "app:no")
    assert found.returncode == 2
    assert not path.exists()


def test_an_address_that_cannot_be_had_is_one_line(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        alone = run(folder, "app:Upper", "--port", port)
        second = run(folder, "app:make_where_another_is", TAKEN=port)  # the first one had started
    for found in (alone, second):
        assert found.returncode == 2
        assert (found.stderr.count("\n"), found.stdout) == (1, "")
        assert port in found.stderr


def test_a_slip_in_a_handlers_callback_is_a_line_of_the_log(folder):
    with Serving(folder, "app:Nearly", "--port", "0") as it:
        assert it.stop() == 0
    assert any(" WARNING " in line and "handle_dta" in line for line in it.errors)


# ---- signals ----------------------------------------------------------------


@pytest.mark.parametrize(("number", "drains"), [(signal.SIGTERM, True), (signal.SIGINT, False)])
def test_sigterm_drains_for_a_while_and_sigint_does_not(number, drains, folder):
    with Serving(folder, "app:Upper", "--port", "0", "--drain-delay-ms", "600000") as it:
        eventually(lambda: it._catches(number), 10)
        it.process.send_signal(number)
        if drains:
            it.wait_for("(listener.drain) ")
            assert ask(it.port) == b"X"  # it goes on accepting
            it.process.send_signal(number)  # a second one ends the delay
        assert it.process.wait(20) == 0
    assert ("listener.drain" in "".join(it.errors)) is drains


def test_the_exit_code_is_1_when_a_connection_had_to_be_cut(folder):
    with (
        Serving(folder, "app:Stuck", "--port", "0", "--shutdown-timeout-ms", "50") as it,
        connected(it.port) as sock,
    ):
        sock.sendall(b"x")
        assert receive(sock, 4) == b"busy"
        assert it.stop() == 1


def test_other_signals_never_end_it(folder):
    with Serving(folder, "app:Upper", "--port", "0") as it:
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            it.process.send_signal(number)
        for number in (signal.SIGTTIN, signal.SIGTTOU):
            it.process.send_signal(number)
            it.wait_for(rf"( WARNING {signal.Signals(number).name})")
        assert ask(it.port) == b"X"
        assert it.stop() == 0
    assert sum(" WARNING " in line for line in it.errors) == 2


SLOW = """
import os, signal, threading
from thousand_island_sync import Handler
open(os.environ["BEGUN"], "w").close()
threading.Event().wait(30)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_while_it_still_imports(number, folder):
    import subprocess

    from tests.commands import environment

    (folder / "slow.py").write_text(SLOW)
    begun = folder / "begun"
    process = subprocess.Popen(
        [sys.executable, "-m", "thousand_island_sync", "slow:Handler"],
        cwd=folder,
        env=environment(BEGUN=str(begun)),
        stderr=subprocess.PIPE,
    )
    try:
        assert eventually(begun.exists, 20)
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()  # which a timeout of `communicate` leaves open
    assert (process.returncode, errors) == (0, b"")


SWALLOWS = """
import os, signal
from thousand_island_sync import Handler
try:
    os.kill(os.getpid(), signal.SIGTERM)
except BaseException:
    pass

def serves():
    print("set up", flush=True)
"""


def test_a_signal_that_an_import_swallows_ends_it_all_the_same(folder):
    (folder / "swallows.py").write_text(SWALLOWS)
    found = run(folder, "swallows:Handler", "--port", "0")
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    found = run(folder, "app:Upper", "--port", "0", "--setup", "swallows:serves")
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_sighup_names_what_needs_a_restart_and_changes_the_level(folder):
    file = folder / "a.toml"
    file.write_text('port = 0\nlog_level = "info"\n')
    with Serving(folder, "app:Upper", "--config", "a.toml") as it:
        eventually(lambda: it._catches(signal.SIGHUP), 10)
        file.write_text('port = 5\nmax_connections = 7\nlog_level = "debug"\n')
        it.process.send_signal(signal.SIGHUP)
        it.wait_for("WARNING .*(port, max_connections)$")
        assert ask(it.port) == b"X"
        it.wait_for(r"(handler\.start) ")
        file.write_text("prot = 5\n")
        it.process.send_signal(signal.SIGHUP)
        it.wait_for("ERROR not reloaded, all stays as it is: (a.toml: prot: there is no such key)")
        assert ask(it.port) == b"X"
        assert it.stop() == 0


def test_the_file_is_found_wherever_the_process_has_gone(folder):
    (folder / "goes.py").write_text("import os\n\ndef away():\n    os.chdir('/')\n")
    (folder / "a.toml").write_text("port = 0\n")
    with Serving(folder, "app:Upper", "--config", "a.toml", "--setup", "goes:away") as it:
        eventually(lambda: it._catches(signal.SIGHUP), 10)
        (folder / "a.toml").write_text("port = 1\n")
        it.process.send_signal(signal.SIGHUP)
        it.wait_for("WARNING .*: (port)$")
        assert it.stop() == 0


def test_sighup_with_nothing_to_reload_is_no_end_and_no_line(folder):
    with Serving(folder, "app:Upper", "--port", "0") as it:
        eventually(lambda: it._catches(signal.SIGHUP), 10)
        it.process.send_signal(signal.SIGHUP)
        it.process.send_signal(signal.SIGTTIN)  # the next turn of the loop
        it.wait_for("(SIGTTIN)")
        assert ask(it.port) == b"X"
        assert it.stop() == 0
    assert [line.split()[2] for line in it.errors] == ["INFO", "WARNING", "INFO"]


def test_sighup_takes_other_certificates_from_the_file(folder, authority):
    first = write_certificate(folder, authority)
    file = folder / "a.toml"
    text = 'port = 0\n[transport]\ncertfile = "{}.pem"\nkeyfile = "key.pem"\n'
    file.write_text(text.format("cert"))
    with Serving(folder, "app:Upper", "--config", "a.toml") as it:
        eventually(lambda: it._catches(signal.SIGHUP), 10)
        assert certificate_of(it, authority) == first
        (folder / "cert.pem").rename(folder / "old.pem")
        second = write_certificate(folder, authority)
        (folder / "cert.pem").rename(folder / "new.pem")
        file.write_text(text.format("new") + "nodelay = false\n")
        it.process.send_signal(signal.SIGHUP)
        assert eventually(lambda: certificate_of(it, authority) == second, 10)
        it.wait_for("WARNING .*: (nodelay)$")
        file.write_text(text.format("missing"))
        it.process.send_signal(signal.SIGHUP)
        it.wait_for("ERROR certificates not reloaded, the old ones stay in use: .*(missing.pem)")
        assert certificate_of(it, authority) == second
        assert it.stop() == 0


SECURE = """
from thousand_island_sync import Handler, TLS, ThousandIsland


def make():
    options = {"certfile": "cert.pem", "keyfile": "key.pem"}
    return [
        ThousandIsland(
            handler_cls=Handler, host="127.0.0.1", port=0, transport_cls=TLS,
            transport_options=options,
        ),
        ThousandIsland(handler_cls=Handler, host="127.0.0.1", port=0),
    ]
"""


@pytest.mark.parametrize("how", ["SIGHUP", "watching"])
def test_the_certificates_of_servers_that_a_function_made_are_renewed(how, folder, authority):
    (folder / "secure.py").write_text(SECURE)
    first = write_certificate(folder, authority)
    words = ["--watch-certificates=20"] if how == "watching" else []
    with Serving(folder, "secure:make", *words) as it:
        eventually(lambda: it._catches(signal.SIGHUP), 10)
        assert certificate_of(it, authority) == first
        second = write_certificate(folder, authority)
        if how == "SIGHUP":
            it.process.send_signal(signal.SIGHUP)
        assert eventually(lambda: certificate_of(it, authority) == second, 10)
        assert it.stop() == 0
    assert "WARNING" not in "".join(it.errors)
