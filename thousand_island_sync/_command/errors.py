"""What the user got wrong."""

from __future__ import annotations

from collections.abc import Iterable

from .._base import printable
from .._base.nearest import did_you_mean
from .._base.options import other_name


class UsageError(Exception):
    """One line on standard error, and exit code 2. Its `__cause__` is shown where the level of the
    log is `debug`."""


def nearest(word: str, names: Iterable[str]) -> str:
    """What was meant by a name that there is none of, as the end of a message."""
    return did_you_mean(word, names)


def nearest_option(word: str, names: Iterable[str]) -> str:
    """The same for a flag or a key, which others may call otherwise, or which is cut short."""
    every = list(names)
    meant = other_name(_plain(word))
    for name in every:
        if _plain(name) == meant:
            return f"; did you mean {name}?"
    longer = [name for name in every if name.startswith(word) and len(_plain(word)) > 2]
    return nearest(word, every) or (f"; did you mean {longer[0]}?" if longer else "")


def _plain(name: str) -> str:
    return name.lstrip("-").replace("-", "_")


def one_line(error: BaseException) -> str:
    """What an exception says, on one line; what no terminal should get is escaped."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {text}"
    return printable.one_line(text)
