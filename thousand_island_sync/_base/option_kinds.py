"""The kinds of options: for each its check, its words, and how it is written in a line."""

from __future__ import annotations

from typing import Any

from .options import (
    MILLISECONDS_OR_NONE,
    Check,
    Option,
    is_bool,
    is_milliseconds,
    is_path,
    is_path_or_bytes,
    is_text,
    optional,
    whole,
)

#: What a command line has a pair of flags for, `--x` and `--no-x`.
YES_NO = "True or False"
PEM = "a path to a PEM file, or its bytes"


def read_number(text: str) -> float:
    """A whole number where it is one."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def read_permissions(text: str) -> int:
    """Octal digits, as chmod(1) takes them; `0o600`, too."""
    return int(text, 8)


def read_list(text: str) -> list[str]:
    """Words with commas between them."""
    return [word.strip() for word in text.split(",") if word.strip()]


def read_json(text: str) -> Any:
    import json  # here: only a command line needs it

    return json.loads(text)


def a_number(default: int | None, check: Check, takes: str, means: str) -> Option:
    return Option(default, check, takes, means, int)


def milliseconds(default: float | None, means: str) -> Option:
    return Option(default, optional(is_milliseconds), MILLISECONDS_OR_NONE, means, read_number)


def yes_no(default: bool | None, means: str) -> Option:
    check = is_bool if default is not None else optional(is_bool)
    return Option(default, check, YES_NO, means)


def permissions(means: str) -> Option:
    check = optional(whole(0, 0o777))
    return Option(None, check, "permissions such as 0o600", means, read_permissions)


def a_text(default: str, means: str) -> Option:
    return Option(default, is_text, "a text", means, str)


def a_path(means: str) -> Option:
    return Option(None, optional(is_path), "a path", means, str)


def pem(means: str, secret: bool = False, takes: str = PEM) -> Option:
    return Option(None, optional(is_path_or_bytes), takes, means, str, secret)
