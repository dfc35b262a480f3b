"""What the user got wrong."""

from __future__ import annotations

from collections.abc import Iterable

from .._base.nearest import did_you_mean


class UsageError(Exception):
    """One line on standard error, and exit code 2. Its `__cause__` is shown where the level of the
    log is `debug`."""


def nearest(word: str, names: Iterable[str]) -> str:
    """What was meant by a name that there is none of, as the end of a message."""
    return did_you_mean(word, names)


def one_line(error: BaseException) -> str:
    """What an exception says, on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {text}"
    return " ".join(text.split())
