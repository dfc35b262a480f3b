"""The reports of debug mode (`THOUSAND_ISLAND_DEBUG=1`): broken rules of the library.

A report may be made under any lock, so it is only kept; `tell` logs it once no lock is held.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections import deque

#: Everything that was found since the process began.
violations: list[str] = []
#: The same, with what every thread was doing, until it is logged.
_untold: deque[str] = deque()

_log = logging.getLogger("thousand_island_sync")


def enabled() -> bool:
    """Whether the mode is on."""
    return os.environ.get("THOUSAND_ISLAND_DEBUG") == "1"


def report(what: str) -> None:
    """Thread: any; a lock of the library may be held."""
    stacks = [
        f"thread {number}:\n{''.join(traceback.format_stack(frame))}"
        for number, frame in sys._current_frames().items()
    ]
    violations.append(what)
    _untold.append("\n".join([what, *stacks]))


def tell() -> None:
    """Logs what was reported. Thread: any, without a lock of the library."""
    while True:
        try:
            what = _untold.popleft()
        except IndexError:
            return
        _log.critical("THOUSAND_ISLAND_DEBUG: %s", what)
