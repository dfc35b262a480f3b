"""The locks of the package: their names, their order, and what may be done under one.

The facts. A thread that waits for a lock while it holds another can wait for ever, unless all
locks are always taken in one order. And Python runs user code without a call: a `__del__` or a
weakref callback wherever the collector runs, which is wherever an object is made, and a signal
handler between any two bytecodes of the main thread. That code may call every method that is free
for any thread (`post`, `close`, `info`, ...), while the code that it interrupts holds a lock.

What others do. `queue.SimpleQueue` was written in C so that its `put` can be called from there
(bpo-14976); `logging` has re-entrant locks, and asks that handlers be quick.

Our decision. Every lock has a name in `ORDER`, and a thread that holds one waits only for later
ones. The names in `TURNS` are not locks but turns: a turn is held over waits, and a thread waits
for it as for a peer, within the time of its call. A lock is held for a moment: never over a system
call that waits. Neither a lock nor a turn is held while user code runs.

So the methods that interrupting code may call read facts without locks, and take locks by `if_free`
and `if_possible`: if the lock is not free, and this thread holds any other, they do not wait for
it. A message is put in without the lock; everything else is left for the listener's thread
(`Scheduler.soon`). Or nothing is called under the lock, so that no code can interrupt its holder.

With `THOUSAND_ISLAND_DEBUG=1` when the package is imported, all of this is checked for each lock
and each call of user code, and reported as `_server.checked` does. Without it the locks are plain
`_native.RLock` or `threading.RLock` objects.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from operator import methodcaller
from typing import Any, TypeVar

from . import fork, reports
from .compiled import native

#: All of them, in the order in which they are taken.
ORDER = (
    "logger",
    "systemd",
    "server.reload",
    "server.status",
    "acceptors.turn",
    "poller.turn",
    "listener",
    "acceptor",
    "inline.accept",
    "shortage.spare",
    "traffic.walk",
    "connection.limit",
    "socket.receiving",
    "socket.sending",
    "socket.guard",
    "tls",
    "socket.unsent",
    "outflow",
    "reserve",
    "scheduler",
    "events",
    "events.failures",
    "mailbox",
    "connection",
    "logger.limit",
    "lines",
    "wake_up.holders",
)
#: Those that are turns: held over waits.
TURNS = frozenset({"acceptors.turn", "poller.turn", "socket.receiving", "socket.sending"})
_RANKS = {name: number for number, name in enumerate(ORDER, 1)}

#: Whether all of it is checked.
watched = reports.enabled()
#: What is told of a lock, before it is waited for, when it was taken, before it is given back.
WANTS, TOOK, GIVES, _USERS_CODE = range(4)

# Both know their owner. Without the C a turn is re-entrant, too: who may have it asks first.
_holds_any: Callable[[], bool] | None = getattr(native, "holds_any", None)
_holds_none: Callable[[], None] | None = getattr(native, "holds_none", None)
_Lock: Any = threading.RLock if _holds_any is None else native.Lock  # type: ignore[union-attr]
_RLock: Any = threading.RLock if _holds_any is None else native.RLock  # type: ignore[union-attr]
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


class Watched:
    """A lock that tells of itself, as those in C do by themselves."""

    __slots__ = ("__weakref__", "_lock", "rank")

    def __init__(self, lock: Any, rank: int) -> None:
        self._lock = lock
        self.rank = rank

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if blocking:
            _watch(self, self.rank, WANTS)
        got: bool = self._lock.acquire(blocking, timeout)
        if got:
            _watch(self, self.rank, TOOK)
        return got

    def release(self) -> None:
        _watch(self, self.rank, GIVES)
        self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc: object) -> None:
        self.release()

    def locked(self) -> bool:
        """`threading.Condition` wants it, from Python 3.14 on, where `RLock` has it."""
        return bool(self._lock.locked())

    def _is_owned(self) -> bool:
        return bool(self._lock._is_owned())

    def _at_fork_reinit(self) -> None:
        self._lock._at_fork_reinit()


def _made(kind: Any, name: str) -> Any:
    rank = _RANKS[name]
    if not watched:
        return kind()
    if kind is threading.RLock:
        return Watched(kind(), rank)
    return kind(rank)


# ---- making them --------------------------------------------------------------

#: What `lock` and `of_thread` have made, held weakly.
_known: dict[weakref.ref[Any], None] = {}
#: Those of the process, which modules hold for good, by name.
of_process: dict[str, Any] = {}
#: Names of those that no thread may take again that has one.
_not_again: set[int] = set()


def lock(name: str) -> Any:
    """A reentrant lock of a server. Thread: any."""
    return _note(_made(_RLock, name))


def process_lock(name: str) -> Any:
    """A lock of a module: as `lock`, and held over a fork."""
    made = of_process[name] = lock(name)
    return made


def _note(made: Any) -> Any:
    _known[weakref.ref(made, _forget)] = None
    return made


def _forget(gone: weakref.ref[Any]) -> None:
    _known.pop(gone, None)


def maker(name: str) -> Callable[[], Any]:
    """Makes the lock, or turn, of this name that each connection has; no thread may take one
    again that it has."""
    _not_again.add(_RANKS[name])
    if name in TURNS:
        return (lambda: _made(_Lock, name)) if watched else _Lock
    if _holds_any is None:
        return lambda: lock(name)  # or nobody knew that a thread has it
    return (lambda: _made(_RLock, name)) if watched else _RLock


def of_thread() -> Any:
    """A lock that one thread takes, again if it likes, and that only who forks waits for."""
    return _note(_RLock())


def turn(name: str) -> Any:
    """The only one, or one of few, that `maker` would make."""
    return maker(name)()


def every() -> list[Any]:
    """What `lock`, `process_lock` and `of_thread` have made and is still there. Thread: any."""
    return [made for ref in list(_known) if (made := ref()) is not None]


# ---- over a fork ----------------------------------------------------------------

_over_a_fork: list[Any] = []


def hold_those_of_process() -> None:
    """Before a fork: nobody else has one over it. Thread: the one that forks, which gives them
    back with `release_those_of_process`, or is in the child and calls `renew_every`."""
    for name in ORDER:
        if name in of_process:
            of_process[name].acquire()
            _over_a_fork.append(of_process[name])


def release_those_of_process() -> None:
    """After a fork, in the parent: those that were taken, for an import may have made another."""
    while _over_a_fork:
        _over_a_fork.pop().release()


def renew_every() -> None:
    """In a forked child: releases all, whichever thread held them. Thread: its only one."""
    _over_a_fork.clear()
    for made in every():
        renew(made)
    hold_none()


def hold_none() -> None:
    """Resets the count of the calling thread's locks to 0. Thread: the only one of a child."""
    if _holds_none is not None:
        _holds_none()
    _here.held = []


fork.at_fork(before=hold_those_of_process, in_parent=release_those_of_process, in_child=renew_every)


# ---- taking one where own code may have been interrupted -------------------------------------

#: Whether the calling thread has a lock, or turn: `owns(one)`. The standard library gives its
#: locks no other name for it, and ours have the same.
owns: Callable[[Any], bool] = methodcaller("_is_owned")
#: In a forked child: releases it, whichever thread had it. `renew(one)`.
renew: Callable[[Any], None] = methodcaller("_at_fork_reinit")


def holds_any() -> bool:
    """Whether the calling thread has any lock (turns do not count): then the collector or a signal
    has interrupted it, and it must not wait."""
    if _holds_any is not None:
        return _holds_any()
    return any(owns(made) for made in every())


def release_all() -> None:
    """Releases all locks of the calling thread. Thread: one of the library that caught an
    exception at a point where it should hold none.

    On CPython 3.14 an asynchronous exception may come between the `__enter__` of a lock and the
    body of its `with`, and then nothing releases the lock (102 of 981 of them did there, none
    on 3.11, 3.13 and 3.15).
    """
    if not holds_any():
        return
    for one in every():
        while owns(one):
            one.release()
    hold_none()  # one of a connection's, which ends


def if_free(one: Any, call: Callable[[], object]) -> bool:
    """Makes the call with the lock, for methods that interrupting code may call. `False`: no call
    was made, as this thread has that lock, or has another and so must not wait for it."""
    if owns(one):
        return False
    acquired = False
    try:
        acquired = one.acquire(False) or (not holds_any() and one.acquire())
        if acquired:
            call()
        return acquired
    finally:
        # An exception may have come after the lock was acquired and before that was noted.
        if acquired or owns(one):
            one.release()


def if_possible(one: Any, call: Callable[[], R]) -> R:
    """Makes the call with the lock as `if_free` does; without it if `if_free` would not call."""
    results: list[R] = []
    if if_free(one, lambda: results.append(call())):
        return results[0]
    return call()


# ---- watching ---------------------------------------------------------------------


class _Here(threading.local):
    held: list[tuple[Any, int]]

    # No `__init__`: the collector may run a `__del__` within it, which would find nothing.
    def __getattr__(self, name: str) -> Any:
        if name != "held":
            raise AttributeError(name)
        return self.__dict__.setdefault(name, [])


_here = _Here()


def disturb(one: Any, what: int) -> None:
    """Called whenever a lock was taken (`TOOK`), and before it is given back (`GIVES`), on the
    thread that has it; tests run what interrupting code could call."""


def held_here() -> list[str]:
    """Names of what the calling thread holds, as far as it is watched."""
    return [ORDER[rank - 1] for _, rank in _here.held if rank]


def _watch(one: Any, rank: int, what: int) -> None:
    held = _here.held
    if what == WANTS:
        for other, before in held:
            if other is not one and before >= rank:
                reports.report(f"the lock {_name(rank)} is waited for under {_name(before)}")
            elif other is one and rank in _not_again:
                reports.report(f"a thread waits for the lock {_name(rank)}, which it has")
    elif what == TOOK:
        held.append((one, rank))
        disturb(one, what)
    elif what == GIVES:
        disturb(one, what)
        for index in reversed(range(len(held))):
            if held[index][0] is one:
                del held[index]
                return
        reports.report(f"the lock {_name(rank)} is given back by a thread that does not have it")
    else:
        nothing_held("a callback")


def _name(rank: int) -> str:
    return ORDER[rank - 1] if rank else "without a name"


def nothing_held(what: str) -> None:
    """Reports if the calling thread, about to run user code (`what`), holds a lock or turn."""
    held = held_here()
    if held:
        reports.report(f"{what} is run under {', '.join(held)}")


def no_lock_held(what: str) -> None:
    """Reports if the calling thread, about to wait, holds more than turns."""
    held = [name for name in held_here() if name not in TURNS]
    if held:
        reports.report(f"{what} under {', '.join(held)}")


def outside(what: str) -> Callable[[F], F]:
    """Decorates functions that run user code: debug mode checks that no lock is held."""

    def decorate(function: F) -> F:
        if not watched:
            return function

        def checked(*arguments: Any, **options: Any) -> Any:
            nothing_held(what)
            return function(*arguments, **options)

        return checked  # type: ignore[return-value]

    return decorate


def waits(function: F) -> F:
    """Decorates what waits in the kernel: it is watched that no lock is held."""
    if not watched:
        return function

    def checked(*arguments: Any, **options: Any) -> Any:
        no_lock_held("a thread waits")
        return function(*arguments, **options)

    return checked  # type: ignore[return-value]


class _Filter(logging.Filter):
    """Each log record of the library is a call of the user's log handlers."""

    def filter(self, record: logging.LogRecord) -> bool:
        nothing_held("a log handler")
        return True


if watched:
    logging.getLogger("thousand_island_sync").addFilter(_Filter())
    if native is not None and hasattr(native, "watch_locks"):
        native.watch_locks(_watch)
