"""Options as data: a default, a check, what to say when it fails, what it means, and how it is
written in a line. The tables of them are what is checked, the flags of the command line and
`docs/reference/options.md`; the signatures that users see are compared with them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..errors import ConfigError
from .nearest import nearest


class Missing:
    """The type of `MISSING`: an option that was not given."""

    def __repr__(self) -> str:
        return "<not given>"


MISSING = Missing()

#: Characters of a refused value that its error quotes.
_MOST_SHOWN = 200

Check = Callable[[Any], bool]
#: From the text in a command line to a value; raises ValueError where it is none.
Read = Callable[[str], Any]


class Option:
    """One option.

    Attributes:
        default: its value when it is not given; `MISSING`: it has to be.
        check: whether a given value will do.
        takes: what it takes, in words that end the error message.
        means: what it is, its unit first; one sentence without its full stop.
        read: how it is written in a line; `None`: it cannot be.
        secret: whether its value must never be shown.
    """

    # Not a dataclass: those are made by the compiler, at each import.
    __slots__ = ("check", "default", "means", "read", "secret", "takes")

    def __init__(
        self,
        default: Any,
        check: Check,
        takes: str,
        means: str = "",
        read: Read | None = None,
        secret: bool = False,
    ) -> None:
        self.default = default
        self.check = check
        self.takes = takes
        self.means = means
        self.read = read
        self.secret = secret

    def refused(self, value: Any) -> str:
        """What to say of a value that the option does not take; never a secret.

        Args:
            value: what was given.
        """
        kind = type(value).__name__
        shown = f"a value of type {kind}, which is not shown" if self.secret else _shown(value)
        return f"got {shown}, takes {self.takes}"


def _shown(value: Any) -> str:
    """A value as its user wrote it, cut short; of what may hold a key or password, given in the
    wrong place, the type alone."""
    if isinstance(value, str) and "-----BEGIN" in value:
        return "the text of a PEM file, which is not shown"
    if isinstance(value, (list, tuple)):
        shown = ", ".join(map(_shown, value))
        text = f"({shown})" if isinstance(value, tuple) else f"[{shown}]"
    elif value is None or isinstance(value, (bool, int, float, str, os.PathLike, type)):
        text = repr(value)
    else:
        return f"a value of type {type(value).__name__}, which is not shown"
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."


def checked(
    given: Mapping[str, Any], table: Mapping[str, Option], where: str = ""
) -> dict[str, Any]:
    """The options of `table`, given or by default.

    Raises:
        ConfigError: an unknown name or a wrong value; says which and what would do.
    """
    for name in given:
        if name not in table:
            raise unknown(name, table, where)
    values = {}
    for name, option in table.items():
        value = given.get(name, MISSING)
        if value is MISSING:
            values[name] = option.default
            continue
        if not option.check(value):
            raise ConfigError(f"{where}{name}: {option.refused(value)}")
        values[name] = value
    return values


#: Tables of options, each with the words that say where they are given.
_homes: list[tuple[Iterable[str], str]] = []
#: What others call them, without underscores.
_OTHER_NAMES = {
    "ca": "ca_certs",
    "cacert": "ca_certs",
    "cafile": "ca_certs",
    "capath": "ca_certs",
    "cadata": "ca_certs",
    "cert": "certfile",
    "certificate": "certfile",
    "sslcert": "certfile",
    "key": "keyfile",
    "privatekey": "keyfile",
    "sslkey": "keyfile",
    "sslcontext": "context",
    "tlscontext": "context",
    "address": "host",
    "bind": "host",
    "timeout": "read_timeout_ms",
    "workers": "max_handler_threads",
    "maxworkers": "max_handler_threads",
    "threads": "max_handler_threads",
}


def at_home(table: Iterable[str], words: str) -> None:
    """From now on who gives one of these options elsewhere is told `words`."""
    _homes.append((table, words))


def unknown(name: object, names: Iterable[str], where: str = "") -> ConfigError:
    """The error for an option that does not exist here; it names the nearest one, and where
    that belongs."""
    own = list(names)
    return ConfigError(f"{where}{name}: there is no such option{_hint(str(name), own, where)}")


def _hint(name: str, own: list[str], where: str) -> str:
    if words := _words(name):
        return f" here; it {words}"
    near = _nearest(name, own)
    if near in own:
        return f"; did you mean {where}{near}? (there are: {', '.join(sorted(own))})"
    if near is not None:
        return f"; did you mean {near}? It {_words(near)}"
    return f" (there are: {', '.join(sorted(own))})"


def _words(name: str) -> str:
    """Where an option is given; `""`: there is none of that name."""
    return next((words for table, words in _homes if name in table), "")


def other_name(name: str) -> str | None:
    """Our name for an option that others call so."""
    return _OTHER_NAMES.get(name.lower().replace("_", ""))


def _nearest(name: str, own: list[str]) -> str | None:
    other = other_name(name)
    if other is not None:
        return other
    everywhere = [one for table, _ in _homes for one in table]
    return nearest(name, own) or nearest(name, everywhere)


def is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def whole(least: int, most: int | None = None) -> Check:
    def check(value: Any) -> bool:
        return (
            isinstance(value, int)
            and not isinstance(value, bool)
            and value >= least
            and (most is None or value <= most)
        )

    return check


def is_milliseconds(value: Any) -> bool:
    return is_number(value) and 0 <= value < float("inf")


def optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


def one_of(*choices: Any) -> Check:
    return lambda value: isinstance(value, type(choices[0])) and value in choices


def is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and "\0" not in value


def is_path(value: Any) -> bool:
    return isinstance(value, os.PathLike) or is_text(value)


def is_path_or_bytes(value: Any) -> bool:
    return is_path(value) or (isinstance(value, bytes) and bool(value))


def is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


MILLISECONDS = "a number of milliseconds, 0 or more"
MILLISECONDS_OR_NONE = MILLISECONDS + ", or None for no limit"
