"""What the first word may be that is no handler, beside `check`.

To add one: a row, with a function that gets the words around it and returns the exit code. It
writes to standard output and standard error itself; a `UsageError` that it raises is one line and
exit code 2. Import what it needs inside the function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple


class Subcommand(NamedTuple):
    """One of them.

    Attributes:
        run: gets all other words of the line.
        usage: what stands behind the name.
        means: what it does.
    """

    run: Callable[[Sequence[str]], int]
    usage: str
    means: str


def _ctl(words: Sequence[str]) -> int:
    from .._admin.client import ctl

    return ctl(words)


def _top(words: Sequence[str]) -> int:
    from .._admin.top import top

    return top(words)


SUBCOMMANDS: dict[str, Subcommand] = {
    "ctl": Subcommand(
        _ctl,
        "PATH info|workers|connections|close ID|suspend|resume|drain|reload [--wait]"
        " [--certificates]|stop|dump|log-level LEVEL",
        "ask a server that runs, or change it, over its admin socket (--admin)",
    ),
    "top": Subcommand(_top, "PATH [--once] [--json]", "what a server does, second by second"),
}
