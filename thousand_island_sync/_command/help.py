"""`--help` and `--version`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from .._base import compiled
from .._base.options import MISSING
from .._base.version import VERSION
from .output import show
from .settings import HOST
from .subcommands import SUBCOMMANDS
from .table import SHORT, WITH_FLAGS, Home, Setting, flag

_INDENT = " " * 26


def answer(asked: str) -> None:
    """Prints what was asked for."""
    show([version()] if asked == "version" else _help())


def version() -> str:
    return f"thousand-island {VERSION} (C accelerator: {'yes' if compiled.native else 'no'})"


def _help() -> Iterator[str]:
    yield "usage: thousand-island [package.module:Handler] [options]"
    yield "       thousand-island check [package.module:Handler] [options]"
    for name, subcommand in SUBCOMMANDS.items():
        yield f"       thousand-island {name} {subcommand.usage}"
    yield "       thousand-island --version"
    yield ""
    yield from textwrap.wrap(
        "Serves a handler over TCP, TLS or a Unix socket; echo unless one is named. In its place a"
        " function without arguments may be named that returns a ThousandIsland, or a list of"
        " them. Both are found from the working folder, too. Options come from the command line,"
        " from THOUSAND_ISLAND_<OPTION> in the environment, and from a file, in this order; the"
        " file may be named by THOUSAND_ISLAND_CONFIG, too. In each of them `none` is None.",
        width=96,
    )
    yield ""
    yield from _entry("check", "prints the options as --config takes them; opens nothing")
    for name, subcommand in SUBCOMMANDS.items():
        yield from _entry(name, subcommand.means)
    yield ""
    for home in Home:
        yield f"{home.value}:"
        if home is Home.COMMAND:
            yield from _entry("--config FILE", "options in TOML: their names, and [transport]")
        for setting in WITH_FLAGS.values():
            if setting.home is home:
                yield from _entry(_flags(setting), setting.option.means + _default(setting))
        yield ""


def _flags(setting: Setting) -> str:
    names = [flag(setting.name), *([SHORT[setting.name]] if setting.name in SHORT else [])]
    if setting.is_switch:
        return ", ".join([*names, flag("no_" + setting.name)])
    if setting.bare is not MISSING:
        return f"{names[0]}[={setting.metavar}]"
    return ", ".join(f"{name} {setting.metavar}" for name in names)


def _default(setting: Setting) -> str:
    default = HOST if setting.name == "host" else setting.option.default
    return "" if default is MISSING or default is None or default == () else f" ({default})"


def _entry(name: str, means: str) -> Iterator[str]:
    lines = textwrap.wrap(means.replace("`", ""), width=96 - len(_INDENT))
    if len(name) + 4 > len(_INDENT):
        yield f"  {name}"
    else:
        yield f"  {name}".ljust(len(_INDENT)) + lines.pop(0)
    for line in lines:
        yield _INDENT + line
