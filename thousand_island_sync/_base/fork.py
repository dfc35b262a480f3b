"""A fork of the process: the one place that knows of it.

The facts. The child of fork(2) has one thread, the one that forked, and a copy of
everything else: locks that others held, which nobody will release; descriptors, among
them an epoll instance that is *the parent's*, not a copy (epoll(7)); objects that will
close their numbers when they are collected, whatever has that number by then. And the
thread returns into the frames that it was in when it forked.

What others do. `socketserver` forks itself and ends the child with `os._exit` when the
handler returns. Event loops remember a process id and raise in the child.

Our decision. Modules that must know of a fork register here, in the order in which they
are imported, and no code compares process ids:

- locks of modules are replaced in the child (`at_fork`);
- no descriptor is opened or closed while the process is copied, and the child closes
  what it got (`_base.descriptors`);
- the parent's connections, schedulers and servers get other classes in the child: they
  raise, or end the process (`_server.orphans`);
- the previous signal handlers are restored (`_base.signal_handlers`).

A thread of the library that was in user code when the child was forked returns from that
code in the child, too. It must not go on: it ends the process, as `socketserver` does. So
code that calls user code compares `forks` afterwards, or cannot go on because its object
has become another (`_server.orphans`).
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import NoReturn

#: How many forks lie between the process that imported this and the present one.
forks = 0

_Hook = Callable[[], object]
_before: list[_Hook] = []
_in_parent: list[_Hook] = []
_in_child: list[_Hook] = []

_log = logging.getLogger("thousand_island_sync")


class _Threads(threading.local):
    ours = False


_threads = _Threads()


def at_fork(
    *,
    before: _Hook | None = None,
    in_parent: _Hook | None = None,
    in_child: _Hook | None = None,
) -> None:
    """Has functions called at each fork from now on, on the thread that forks: those for the
    time before it in reverse order, the others in order. What they raise is logged."""
    if before is not None:
        _before.insert(0, before)
    if in_parent is not None:
        _in_parent.append(in_parent)
    if in_child is not None:
        _in_child.append(in_child)


#: What hooks raised; it is logged when they are through, as they hold locks.
_failures: list[Exception] = []


def _call(hooks: list[_Hook]) -> None:
    for hook in hooks:
        try:
            hook()
        except Exception as error:
            _failures.append(error)


def _tell_failures() -> None:
    while _failures:
        error = _failures.pop(0)
        _log.error("a hook failed at a fork; this is a bug in thousand_island_sync", exc_info=error)


def _parent() -> None:
    _call(_in_parent)
    _tell_failures()


def _child() -> None:
    global forks
    forks += 1
    _call(_in_child)
    _tell_failures()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _call(_before), after_in_parent=_parent, after_in_child=_child
    )


def this_thread_is_ours(ours: bool = True) -> None:
    """Called by each thread of the library when it begins, for `came_back`."""
    _threads.ours = ours


def came_back(before: int, where: str, error: BaseException | None = None) -> None:
    """Called after user code has returned or raised: ends a child that was forked in that code.

    Args:
        before: what `forks` was when that code was called.
        where: what was called, for the log.
        error: what it raised.
    """
    if forks != before and _threads.ours:
        end_child(where, error)


def end_child(where: str, error: BaseException | None = None) -> NoReturn:
    """Ends the process, which was forked in user code: with status 0; or 1, and a line in the log,
    if that code raised. Never returns."""
    try:
        if error is not None:
            _log.error(
                "%s raised %s in a forked child (process %d), which ends",
                where,
                type(error).__name__,
                os.getpid(),
                exc_info=error,
            )
    finally:
        os._exit(0 if error is None else 1)
