"""`thousand-island check`: what it prints is what `--config` takes, and it opens nothing."""

import json
import math
import tomllib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.commands import run, write_app
from tests.markdown import blocks_in
from tests.pages import ran
from thousand_island_sync import TCP
from thousand_island_sync._base.option_kinds import read_json, read_number
from thousand_island_sync._command import toml
from thousand_island_sync._command.build import is_systemd
from thousand_island_sync._command.check import lines
from thousand_island_sync._command.file import from_file
from thousand_island_sync._command.line import Given
from thousand_island_sync._command.named import Target
from thousand_island_sync._command.settings import Settings
from thousand_island_sync._command.table import TABLE, Home

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
#: How the values of each kind come about; what the option does not take is left out.
KINDS = {
    int: st.integers(0, 2**40),
    read_number: st.integers(0, 2**40) | st.floats(0, 1e12),
    str: st.text(max_size=20) | st.sampled_from(["none", "true", "1.2", "#", '"', "\\", "\x7f"]),
}
ODD = {
    "alpn_protocols": st.lists(st.sampled_from(["h2", "http/1.1", "a,b", '"']), max_size=3),
    "unix_mode": st.integers(0, 0o777),
    "handler_options": JSON | st.sampled_from(["none", "{", "[1]", '"x"']),
    "sni": st.dictionaries(st.text(), st.dictionaries(st.sampled_from(["certfile"]), st.text())),
    "socket_options": st.lists(st.tuples(st.integers(), st.integers(), st.integers()), max_size=2),
    "log_level": st.sampled_from(["error", "info", "debug", "trace"]),
    "verify": st.sampled_from(["none", "optional", "required"]),
    "min_version": st.sampled_from(["1.2", "1.3"]),
}


def values(name):
    setting = TABLE[name]
    found = ODD.get(name)
    if found is None:
        found = st.booleans() if setting.is_switch else KINDS[setting.option.read]
    if setting.takes_none:
        found = found | st.none()
    return found.filter(lambda value: setting.option.check(value) and not is_none(name, value))


def is_none(name, value):
    """Whether it is the text for `None`, which no line, variable or file can give otherwise."""
    return value == "none" and TABLE[name].takes_none and name != "handler_options"


SETTINGS = st.fixed_dictionaries(
    {}, optional={name: values(name) for name in TABLE if name != "password"}
)


def printed(options):
    settings = Settings({name: Given(value, "test") for name, value in options.items()})
    return "\n".join(lines(Target(None), [], settings)) + "\n", settings


def same(one, other):
    """Equal, and NaN is NaN."""
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


@given(SETTINGS)
@example({"handler_options": {"a": None}, "name": "none"})
@example({"handler_options": "none"})
@example({"certfile": "c", "sni": {"a": {"certfile": "\n"}}, "session_tickets": None})
def test_what_it_prints_gives_the_same_options(tmp_path_factory, options):
    text, settings = printed(options)
    file = tmp_path_factory.getbasetemp() / "printed.toml"
    file.write_text(text)
    found = Settings(from_file(str(file)))
    tls = settings.value("certfile") is not None
    unix = settings.value("host").startswith("unix:") or is_systemd(settings.value("host"))
    for name, setting in TABLE.items():
        if name == "password" or (name == "port" and unix):
            continue
        if name.startswith("unix_") and not settings.value("host").startswith("unix:"):
            assert name not in found.given
            continue
        if setting.home is Home.TRANSPORT and name not in TCP.OPTIONS and not tls:
            assert name not in found.given  # it means nothing there
            continue
        assert same(_as_read(found.value(name)), _as_read(settings.value(name))), name
    # And what that prints is the same again.
    assert printed({name: one.value for name, one in found.given.items()})[0] == text


def _as_read(value):
    """An empty list is one, whatever it is made of."""
    return list(value) if isinstance(value, tuple) else value


@given(JSON)
def test_what_json_says_is_written_as_it_is_or_not_at_all(value):
    try:
        text = toml.value(value)
    except ValueError:
        assert "null" in json.dumps(value) or "\\ud" in json.dumps(value)
    else:
        assert same(tomllib.loads(f"a = {text}")["a"], value)


def test_the_only_options_of_json_are_those_that_are_read_so():
    assert {name for name, one in TABLE.items() if one.option.read is read_json} == {
        "handler_options",
        "sni",
    }


# ---- as a process -----------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    write_app(tmp_path)
    return tmp_path


def check(folder, *arguments, **variables):
    found = run(folder, "check", *arguments, **variables)
    assert (found.returncode, found.stderr) == (0, "")
    return found.stdout


def test_secrets_are_left_out_as_comments(folder, authority):
    (folder / "c.pem").write_bytes(authority.chain + authority.key)
    words = ["--certfile", "c.pem", "--sni", '{"a.b": {"certfile": "c.pem", "password": "hush"}}']
    text = check(folder, *words, THOUSAND_ISLAND_PASSWORD="hush-hush")
    assert "hush" not in text
    assert "# password: is left out" in text
    found = tomllib.loads(text)["transport"]
    assert found["certfile"] == "c.pem"
    assert found["sni"] == {"a.b": {"certfile": "c.pem"}}
    assert "password" not in found


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--port 0 --no-nodelay --read-timeout-ms none",
        "--host unix:s --unix-mode 600 --no-unix-unlink",
        "--host unix:@s",
        "--host :: --no-dual-stack --reuse-port --num-listen-sockets 2",
        "--certfile c.pem --alpn h2,http/1.1 --no-session-tickets",
        "--certfile c.pem --ca-certs c.pem --verify required --watch-certificates",
        "--host unix:s --certfile c.pem --keyfile c.pem --min-version 1.3",
        "--socket-options [[1,9,1]] --keepalive-idle-s 5 --user-timeout-ms 100",
    ],
)
def test_it_reads_what_it_has_printed(words, folder, authority):
    (folder / "c.pem").write_bytes(authority.chain + authority.key)
    words = words.split()
    first = check(folder, "app:Upper", *words, "--handler-options", '{"a": [null]}')
    (folder / "a.toml").write_text(first)
    assert check(folder, "app:Upper", "--config", "a.toml") == first


def test_it_opens_nothing(folder):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert tomllib.loads(check(folder, "--port", port))["port"] == int(port)


def test_of_a_function_that_makes_servers_it_prints_what_is_the_command_lines(folder):
    text = check(folder, "app:make_two", "--log-level", "debug", "--drain-delay-ms", "5")
    found = tomllib.loads(text)
    assert (found["log_level"], found["drain_delay_ms"]) == ("debug", 5)
    assert "port" not in found
    assert "made, two" in text
    (folder / "a.toml").write_text(text)
    assert check(folder, "app:make_two", "--config", "a.toml") == text


def test_certificates_are_read(folder):
    found = run(folder, "check", "--certfile", "none.pem")
    assert found.returncode == 2
    assert "none.pem" in found.stderr
    assert found.stderr.count("\n") == 1


def test_unknown_variables_are_one_line(folder):
    found = run(folder, "check", THOUSAND_ISLAND_PROT="1", THOUSAND_ISLAND_X="1")
    assert found.returncode == 0
    assert "THOUSAND_ISLAND_PROT, THOUSAND_ISLAND_X" in found.stderr
    assert found.stderr.count("\n") == 1


def test_who_stops_reading_what_it_prints_is_no_error_of_its(folder):
    import subprocess
    import sys

    from tests.commands import environment

    with subprocess.Popen(
        [sys.executable, "-m", "thousand_island_sync", "check"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdout.close()
        errors = process.stderr.read()
    assert (process.returncode, errors) == (0, "")


def test_the_pages_file_is_taken(folder, authority):
    (block,) = blocks_in("toml", "docs/howto/command-line.md")
    (folder / "production.toml").write_text(block)
    (folder / "chain.pem").write_bytes(authority.chain)
    (folder / "key.pem").write_bytes(authority.key)
    found = tomllib.loads(check(folder, "app:Upper", "--config", "production.toml"))
    assert found["read_timeout_ms"] == "none"
    assert found["transport"]["certfile"] == "chain.pem"
    ran("docs/howto/command-line.md", block)
