"""SIGHUP in the command line: it asks for a reload, and never ends the process."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .._base import fork

_SIGHUP = getattr(signal, "SIGHUP", None)

_came = False
_before: Any = signal.SIG_DFL


def _note(*signal_and_frame: object) -> None:
    """The handler. It may be run amid itself."""
    global _came
    _came = True


def survive() -> None:
    """From now on SIGHUP ends nothing. A handler, not SIG_IGN: that one would be inherited by
    the programs that this one starts. In a forked child it is what it was before."""
    global _before
    if _SIGHUP is None or threading.current_thread() is not threading.main_thread():
        return
    found = signal.signal(_SIGHUP, _note)
    if found is not _note:
        _before = found


def _restore() -> None:
    if _SIGHUP is not None and signal.getsignal(_SIGHUP) is _note:
        signal.signal(_SIGHUP, signal.SIG_DFL if _before is None else _before)


fork.at_fork(in_child=_restore)


@contextmanager
def survived() -> Iterator[None]:
    """The same for the block, unless it holds for the process."""
    already = _SIGHUP is not None and signal.getsignal(_SIGHUP) is _note
    survive()
    try:
        yield
    finally:
        if not already and threading.current_thread() is threading.main_thread():
            _restore()


def repeat() -> None:
    """Whoever heeds it now gets what came before: what it is to load may have been read by
    then."""
    global _came
    if _came and _SIGHUP is not None:
        _came = False
        os.kill(os.getpid(), _SIGHUP)


def ignore() -> None:
    """The last word, for the rest of the process: at its exit the interpreter takes handlers
    out, and then a SIGHUP would be the exit code."""
    if _SIGHUP is not None and threading.current_thread() is threading.main_thread():
        signal.signal(_SIGHUP, signal.SIG_IGN)
