"""The command line's flags for options: made from the tables that check them."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .._base.option_kinds import YES_NO, read_list, read_number, read_permissions
from .._base.options import MISSING, Option
from ..transports.tls import TLS_OPTIONS
from .config import OPTIONS

#: What has no flag although it could be written: everybody sees a process's arguments.
_SECRETS = {"password"}
#: Another flag for the same.
_SHORT = {"alpn_protocols": "--alpn"}

_METAVARS: dict[object, str] = {
    int: "N",
    str: "TEXT",
    read_number: "MS",
    read_list: "A,B",
    read_permissions: "OCTAL",
}


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _with_flags() -> dict[str, Option]:
    # What both have is `host`, which means the same.
    both = {**TLS_OPTIONS, **OPTIONS}
    both["host"] = TLS_OPTIONS["host"]
    return {
        name: option
        for name, option in both.items()
        if name not in _SECRETS and (option.read is not None or option.takes == YES_NO)
    }


#: Every option that has a flag.
WITH_FLAGS: Mapping[str, Option] = _with_flags()


def add_flags(parser: argparse.ArgumentParser, host: str) -> None:
    """One for each option that can be written in a line, `--x` and `--no-x` for one of two; what
    is not given is not in the result of the parser, but for `host`."""
    parser.set_defaults(host=host)
    for title, table in (
        ("options of the server", OPTIONS),
        ("options of the transport: of TLS, where there is a certfile", TLS_OPTIONS),
    ):
        group = parser.add_argument_group(title)
        for name in table:
            if name in WITH_FLAGS and not (name == "host" and table is OPTIONS):
                _add(group, name, WITH_FLAGS[name], host if name == "host" else None)


def _add(group: argparse._ArgumentGroup, name: str, option: Option, default: str | None) -> None:
    names = [flag(name), *([_SHORT[name]] if name in _SHORT else [])]
    shown = _shown(option.default if default is None else default)
    help_ = f"{option.means}{shown}".replace("`", "").replace("%", "%%")
    if option.takes == YES_NO:
        action = argparse.BooleanOptionalAction
        group.add_argument(*names, action=action, default=argparse.SUPPRESS, help=help_)
    else:
        group.add_argument(
            *names,
            type=_reader(option),
            default=argparse.SUPPRESS,
            metavar=_METAVARS.get(option.read, "JSON"),
            help=help_,
        )


def _shown(default: object) -> str:
    return "" if default is MISSING or default is None or default == () else f" ({default})"


def _reader(option: Option) -> Callable[[str], Any]:
    read = option.read
    assert read is not None

    def reader(text: str) -> Any:
        if text == "none" and option.check(None):
            return None
        try:
            return read(text)
        except (ValueError, TypeError):
            shown = "a value that is not shown" if option.secret else repr(text)
            raise argparse.ArgumentTypeError(f"got {shown}, takes {option.takes}") from None

    return reader


def given_options(parsed: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was given of the server's own options, and of the transport's."""
    given = {name: value for name, value in vars(parsed).items() if name in WITH_FLAGS}
    own = {name: value for name, value in given.items() if name in OPTIONS}
    return own, {name: value for name, value in given.items() if name not in OPTIONS}


def nearest(word: str, flags: Iterable[str]) -> str:
    """What was meant by a flag that there is none of, as the end of a message."""
    found = difflib.get_close_matches(word.partition("=")[0], flags, n=1)
    return f"; did you mean {found[0]}?" if found else ""
