"""Options as data: a name, a default, a check, and what to say when it fails."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import ConfigError


class Missing:
    """The type of `MISSING`: an option that was not given."""

    def __repr__(self) -> str:
        return "<not given>"


MISSING = Missing()

Check = Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Option:
    """One option.

    Attributes:
        default: its value when it is not given.
        check: whether a given value will do.
        takes: what it takes, in words that end the error message.
        secret: whether its value must never be shown.
    """

    default: Any
    check: Check
    takes: str
    secret: bool = False


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
            # Bytes may be a key that was given in the wrong place.
            hidden = option.secret or isinstance(value, (bytes, bytearray, memoryview))
            shown = "a value that is not shown" if hidden else repr(value)
            raise ConfigError(f"{where}{name}: got {shown}, takes {option.takes}")
        values[name] = value
    return values


def unknown(name: object, names: Iterable[str], where: str = "") -> ConfigError:
    """The error for an option that does not exist."""
    import difflib  # here: it is needed for a mistake only

    near = difflib.get_close_matches(str(name), list(names), n=1)
    hint = f"; did you mean {where}{near[0]}?" if near else ""
    return ConfigError(
        f"{where}{name}: there is no such option{hint} (there are: {', '.join(sorted(names))})"
    )


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
