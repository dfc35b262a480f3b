"""`thousand-island check`: everything but listening, and the options that come of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .._base import addresses
from .._base.option_kinds import read_json, read_permissions
from ..server import ThousandIsland
from ..transports.tcp import TCP
from . import toml
from .build import is_systemd, is_tls, servers
from .formats import FORMATS
from .line import Given, Line
from .named import Target, find, without_arguments
from .output import show
from .settings import Settings
from .table import TABLE, Home, Setting

#: What an entry of `sni` may have that is nobody's business.
_SECRET = "password"


def check(line: Line, settings: Settings) -> None:
    """Runs it; prints to standard output.

    Raises:
        UsageError, ConfigError: what is wrong.
    """
    target, made = prepare(line.handler, settings)
    show(lines(target, made, settings))


def prepare(handler: str | None, settings: Settings) -> tuple[Target, list[ThousandIsland]]:
    """Imports and builds.

    Raises:
        UsageError, ConfigError: what is wrong.
    """
    FORMATS[settings.value("log_format")]()  # it may need a package
    target = Target(handler)
    setup = settings.value("setup")
    if setup is not None:
        without_arguments(setup, find(setup))
    return target, servers(target, settings)


def lines(target: Target, made: Sequence[ThousandIsland], settings: Settings) -> Iterator[str]:
    """What is printed."""
    yield f"# {_commented(target.name)}"
    yield from _of(settings, Home.COMMAND)
    if target.handler_cls is None:
        yield f"# its servers: {_commented(', '.join(one.name for one in made))}"
        return
    yield ""
    yield f"# {Home.SERVER.value}"
    yield from _of(settings, Home.SERVER)
    yield ""
    yield "[transport]"
    yield from _of(settings, Home.TRANSPORT)


def _of(settings: Settings, home: Home) -> Iterator[str]:
    for name, setting in TABLE.items():
        if setting.home is home and _has(settings, name):
            yield written(setting, settings.value(name), settings.given.get(name))


def _has(settings: Settings, name: str) -> bool:
    """Whether it means something: what is of TLS does not where there is no certificate, and a
    Unix socket has no port, but a file. What means nothing the server would refuse."""
    host = settings.value("host")
    if name == "port":
        return not (addresses.is_unix(host) or is_systemd(host))
    if name.startswith("unix_") and not addresses.is_unix(host):
        return False
    return is_tls(settings) or TABLE[name].home is not Home.TRANSPORT or name in TCP.OPTIONS


def written(setting: Setting, value: Any, given: Given | None = None) -> str:
    """One option as a line of TOML; a secret, and what TOML has no word for, as a comment."""
    name = setting.name
    if name == _SECRET and value is not None:
        return f"# {name}: is left out, for it is a secret"
    note = ""
    if name == "sni" and isinstance(value, Mapping):
        value, note = _without_secrets(value)
    try:
        return f"{name} = {_value(setting, value)}{note}"
    except ValueError as error:
        return f"# {name}: is left out: {_commented(str(error))}"


def _without_secrets(sni: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    shown = {}
    hidden = False
    for host, entry in sni.items():
        kept = entry
        if isinstance(entry, Mapping) and entry.get(_SECRET) is not None:
            kept = {name: value for name, value in entry.items() if name != _SECRET}
            hidden = True
        shown[host] = kept
    return shown, "  # each password is left out, for it is a secret" if hidden else ""


def _value(setting: Setting, value: Any) -> str:
    if value is None and setting.takes_none:
        return '"none"'
    if setting.option.read is read_permissions:
        return f"0o{value:o}"
    if setting.option.read is read_json and _needs_json(value):
        return toml.json_text(value)
    return toml.value(value)


def _needs_json(value: Any) -> bool:
    """What a file's reader would take for something else, or TOML cannot say."""
    if isinstance(value, str):
        return True
    try:
        toml.value(value)
    except ValueError:
        return True
    return False


def _commented(text: str) -> str:
    """On one line, in ASCII."""
    return ascii(text)[1:-1]
