"""What is printed before the process ends: help, and options."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable


def show(lines: Iterable[str]) -> None:
    """Prints them. The reader may close the pipe early (`| head`): that is not an error."""
    try:
        print("\n".join(lines), flush=True)
    except BrokenPipeError:
        # What is left in Python's buffer would be written again at its exit.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
