"""The flags of the command line: one for each option that can be written in a line."""

import pytest

from thousand_island_sync import TLS, events
from thousand_island_sync.__main__ import main
from thousand_island_sync._command.extras import EXTRAS
from thousand_island_sync._command.line import parse
from thousand_island_sync._command.table import WITH_FLAGS, flag
from thousand_island_sync._server.config import OPTIONS

#: What no line can say, or should.
WITHOUT = {
    "handler_cls",  # its place is before the flags
    "transport_cls",  # TLS is what has a certificate
    "transport_options",
    "context",
    "password",
}
#: Option -> how it is written, and what that means.
WRITTEN = {
    "handler_options": ('{"a": [1, null]}', {"a": [1, None]}),
    "port": ("0", 0),
    "host": ("unix:/a", "unix:/a"),
    "num_acceptors": ("3", 3),
    "num_listen_sockets": ("2", 2),
    "max_connections": ("7", 7),
    "max_connections_wait_ms": ("none", None),
    "max_handler_threads": ("5", 5),
    "read_timeout_ms": ("1.5", 1.5),
    "handshake_timeout_ms": ("100", 100),
    "send_timeout_ms": ("0", 0),
    "max_unsent": ("0", 0),
    "max_unsent_total": ("1_000_000", 1_000_000),
    "shutdown_timeout_ms": ("none", None),
    "max_pending_messages": ("none", None),
    "max_unread": ("1_000", 1000),
    "name": ("n", "n"),
    "backlog": ("5", 5),
    "unix_mode": ("600", 0o600),
    "sockets": ("systemd:web", "systemd:web"),
    "keepalive_idle_s": ("30", 30),
    "keepalive_interval_s": ("none", None),
    "keepalive_count": ("4", 4),
    "recv_buffer": ("4096", 4096),
    "send_buffer": ("4096", 4096),
    "user_timeout_ms": ("5000", 5000),
    "socket_options": ("[[1, 9, 1]]", [(1, 9, 1)]),
    "certfile": ("a.pem", "a.pem"),
    "keyfile": ("a.key", "a.key"),
    "ca_certs": ("system", "system"),
    "verify": ("none", "none"),
    "alpn_protocols": ("h2, http/1.1", ["h2", "http/1.1"]),
    "sni": ('{"a.example": {"certfile": "b.pem"}}', {"a.example": {"certfile": "b.pem"}}),
    "min_version": ("1.3", "1.3"),
    "ciphers": ("ECDHE+AESGCM", "ECDHE+AESGCM"),
    "crl": ("none", None),
    "keylog_file": ("keys", "keys"),
    "log_level": ("debug", "debug"),
    "log_format": ("text", "text"),
    "admin": ("/run/a.sock", "/run/a.sock"),
    "agent": ("127.0.0.1:8082", "127.0.0.1:8082"),
    "health": ("[::1]:8081", "[::1]:8081"),
    "setup": ("app:function", "app:function"),
    "drain_delay_ms": ("2.5", 2.5),
    "watch_certificates": ("20", 20),
}
SWITCHES = [name for name, setting in WITH_FLAGS.items() if setting.is_switch]


def parsed(*words):
    return {name: given.value for name, given in parse(words).given.items()}


def test_every_option_has_a_flag_but_for_those_that_no_line_can_say():
    assert {*OPTIONS, *TLS.OPTIONS, *EXTRAS} - WITHOUT == WITH_FLAGS.keys()
    assert WITH_FLAGS.keys() == {*WRITTEN, *SWITCHES}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_becomes_a_value_that_the_table_takes(name):
    text, value = WRITTEN[name]
    found = parsed(flag(name), text)
    assert found == {name: value}
    assert parsed(f"{flag(name)}={text}") == found
    assert type(found[name]) is type(value)
    assert WITH_FLAGS[name].option.check(value)


@pytest.mark.parametrize("name", SWITCHES)
def test_what_is_true_or_false_has_two_flags(name):
    assert parsed(flag(name))[name] is True
    assert parsed(flag("no_" + name))[name] is False


def test_alpn_is_short():
    assert parsed("--alpn", "h2") == parsed("--alpn-protocols", "h2")


def test_the_help_says_of_each_what_the_table_says(capsys):
    assert main(["--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for name, setting in WITH_FLAGS.items():
        assert flag(name) in said
        assert setting.option.means.replace("`", "") in said
    assert '"unix:/path", "unix:@name" (127.0.0.1)' in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--max-conections", "5"], "--max-conections: there is no such argument; did you mean"),
        (["--max-conections=5"], "did you mean --max-connections?"),
        (["--log-levle", "info"], "did you mean --log-level?"),
        (["--xyzzy"], "--xyzzy: there is no such argument (--help shows them)"),
        (["--unix-mode", "rw"], "--unix-mode: got 'rw', takes permissions such as 0o600"),
        (["--read-timeout-ms", "soon"], "--read-timeout-ms: got 'soon', takes a number of millis"),
        (["--socket-options", "[5]"], "--socket-options: got '[5]', takes a list of (level, name"),
        (["--sni", "{secret"], "--sni: got a value that is not shown, takes a mapping"),
        (["--verify", "always"], 'verify: got \'always\', takes "none", "optional" or "required"'),
        (["--min-version", "1.3"], "--min-version: needs --certfile"),
        (["--password", "x"], "--password: cannot be given as an argument, as every user"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_it(arguments, says, capsys):
    if "always" in arguments:
        arguments = ["--certfile", "a.pem", *arguments]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_they_reach_the_server(tmp_path, capsys):
    """Of each table one: `listener.start` tells the transport's, a thread's name the server's."""
    told = []

    def tell(server, *, metadata, **_):
        told.append((metadata["transport_options"], server.name, metadata["local_address"]))
        server.stop()

    with events.listener_start.connected_to(tell):
        words = ["--host", f"unix:{tmp_path}/s", "--unix-mode", "600", "--name", "mine"]
        assert main([*words, "--no-keepalive", "--log-level", "error"]) == 0
    ((options, name, address),) = told
    assert options == {"host": f"unix:{tmp_path}/s", "unix_mode": 0o600, "keepalive": False}
    assert name == "mine"
    assert address == f"{tmp_path}/s"
