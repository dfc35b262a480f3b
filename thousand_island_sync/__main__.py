"""The command line: `thousand-island`, or `python -m thousand_island_sync`; `--help` tells more."""

from __future__ import annotations

from ._server import hangup

if __name__ == "__main__":
    hangup.survive()  # from here on, whatever is imported meanwhile

import sys
from collections.abc import Sequence
from typing import NoReturn

from ._command.signals import EndedEarly, Signals


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: its words; `None`: those of the process.

    Returns:
        The exit code: 0 after a stop, 1 after one that had to cut connections, 2 for whatever the
        user got wrong.
    """
    with hangup.survived(), Signals() as signals:
        try:
            from ._command.command import run

            return run(sys.argv[1:] if arguments is None else arguments, signals)
        except (EndedEarly, KeyboardInterrupt):
            return 0


def run() -> NoReturn:
    """The process: `main`, and its end."""
    hangup.survive()
    try:
        code = main()
    finally:
        hangup.ignore()
    sys.exit(code)


if __name__ == "__main__":
    run()
