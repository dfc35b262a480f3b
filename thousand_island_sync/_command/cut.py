"""A stop that did not wait for the last callback: which they are.

Our decision: it is said once, at the very end, when the exit code is to be 1. Nothing is looked at
before, so who stops in time pays nothing.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from .._admin.commands import running
from .._admin.stacks import CallbackWatch, innermost
from ..server import ThousandIsland

_log = logging.getLogger("thousand_island_sync")
#: Callbacks that the line names.
_NAMED = 10


def tell(servers: Sequence[ThousandIsland]) -> None:
    """One WARNING: connections were cut, and which callbacks still run. Thread: any."""
    frames = sys._current_frames()
    watch = CallbackWatch(lambda: running(servers), "")
    found = [
        f"{one.name} of connection {one.connection.client.id} with"
        f" {one.connection.client.peer_shown()}, which is at {innermost(frames[ident])}"
        for ident, one in watch.look(frames).items()
    ]
    more = f", and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    _log.warning(
        "stopped before every connection had ended by itself, so the exit code is 1; callbacks"
        " that still run: %s%s",
        "; ".join(found[:_NAMED]) or "none",
        more,
    )
