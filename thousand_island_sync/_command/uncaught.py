"""What the interpreter itself would write to standard error, as lines of the log: there it would
wait for whoever reads, on the thread that just runs, which may be one of the pool's."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_log = logging.getLogger("thousand_island_sync")


def _of_a_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is SystemExit:
        return  # as the interpreter's own
    name = "" if args.thread is None else args.thread.name
    error = args.exc_value
    _log.error("an exception has ended the thread %s", name, exc_info=error)


def _of_nobody(args: UnraisableHookArgs) -> None:
    """Of a `__del__`, a weak reference's callback, or the collector."""
    what = args.err_msg or "an exception was raised where nobody can catch it"
    _log.error("%s: %r", what, args.object, exc_info=args.exc_value)


@contextmanager
def logged() -> Iterator[None]:
    """Within the block. Thread: the main one."""
    before = threading.excepthook, sys.unraisablehook
    threading.excepthook, sys.unraisablehook = _of_a_thread, _of_nobody
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        threading.excepthook, sys.unraisablehook = before
