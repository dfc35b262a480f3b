"""All descriptors of the library, so that a forked child can close its copies.

While a child has a copy of a client's connection, that client does not see its end; a copy
of a listening socket keeps the port in use. So the list is correct at every moment at which
the process may be copied: a descriptor is opened and noted, or closed and forgotten, within
`thread.no_fork`, and a fork waits for threads in there, which wait for nothing.

The child closes everything in the list at once. The Python objects give their numbers up
first: else the collector would close the numbers again, when other files have them.

The parent remembers which descriptors a child may have copies of. It calls shutdown(2) on
those before it closes them. It does not for a listening socket that other code has opened,
which may be shared on purpose.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from . import fork
from .locks import hold_none, of_thread, owns

#: What a fork waits at most for those who open or close something, in seconds. It takes
#: microseconds; this is for a close(2) that lingers, say.
_FORK_WAITS_S = 1.0

_detach = socket.SocketType.detach
_fileno = socket.SocketType.fileno
_NO_GUARD: AbstractContextManager[Any] = nullcontext()


class Holder(Protocol):
    """An object that has descriptors of its own. Held weakly."""

    def abandon(self) -> None:
        """In a child: closes its copies. Takes no lock, and never closes those numbers again."""


class _Thread(threading.local):
    """`with thread.no_fork:` is for moments; while a thread is in there, no other forks.

    It is a lock of the thread's own, which nobody waits for but who forks.
    """

    no_fork: Any

    # No `__init__`: the collector may run a `__del__` within it, which would find nothing.
    def __getattr__(self, name: str) -> Any:
        if name != "no_fork":
            raise AttributeError(name)
        # Without `with`: from CPython 3.14 on an exception that another thread raises here may come
        # after `__enter__` and before the body, and a gate left shut keeps every new thread out.
        forks = owns(_gate)
        try:
            if not forks:
                _gate.acquire()
            # Re-entrant, as the collector may run anything in there, and a signal's handler fork.
            made = of_thread()
            _threads.add(made)
            return self.__dict__.setdefault(name, made)
        finally:
            if not forks and owns(_gate):
                _gate.release()


#: Held over a fork: a thread begins its first stretch before or after one.
_gate = threading.RLock()
_threads: weakref.WeakSet[Any] = weakref.WeakSet()
thread = _Thread()

_holders: weakref.WeakSet[Holder] = weakref.WeakSet()
#: Weakly: a user's transport may have put something else in a listening socket's place.
_listening: weakref.WeakSet[socket.socket] = weakref.WeakSet()
#: By their numbers: a set takes 52 bytes for each of 10,000, and only a fork asks who is there.
_accepted: list[socket.socket | None] = []
#: Those of them that were open at a fork: a child may have a copy.
_copied: set[socket.socket] = set()
_copied_listening: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def hold(holder: Holder) -> None:
    """Notes a holder of descriptors, within the `no_fork` in which it opened them."""
    _holders.add(holder)


def let_go(holder: Holder) -> None:
    """Forgets a holder whose numbers may be other files': no child closes them."""
    _holders.discard(holder)


def open_to_listen(family: int) -> socket.socket:
    """A new stream socket.

    Raises:
        OSError: as socket(2).
    """
    with thread.no_fork:
        sock = socket.socket(family, socket.SOCK_STREAM)
        _listening.add(sock)
    return sock


def copy_to_listen(number: int) -> socket.socket:
    """A listening socket of the library, from a descriptor that other code has opened.

    Raises:
        OSError: as dup(2); it is no socket.
    """
    with thread.no_fork:
        fd = os.dup(number)
        try:
            sock = socket.socket(fileno=fd)
        except OSError:
            os.close(fd)
            raise
        _listening.add(sock)
    return sock


def listens(sock: socket.socket) -> None:
    """Notes a listening socket that other code has opened."""
    with thread.no_fork:
        _listening.add(sock)


def accepting(
    accept: Callable[[], tuple[int, Any]], kind: tuple[int, int, int]
) -> Callable[[list[socket.socket]], tuple[socket.socket, Any]]:
    """What accepts a client and notes its socket, in the list that it is given, too; to be called
    within `no_fork`.

    Args:
        accept: gives a descriptor and an address, without waiting.
        kind: family, type and protocol of the sockets.
    """

    family, type_, proto = kind

    def accept_one(coming: list[socket.socket]) -> tuple[socket.socket, Any]:
        fd, address = accept()
        sock = socket.socket(family, type_, proto, fd)
        coming.append(sock)
        if fd < len(_accepted):  # as `_note`
            _accepted[fd] = sock
        else:
            _note(sock, fd)
        return sock, address

    return accept_one


def _note(sock: socket.socket, fd: int) -> None:
    while len(_accepted) <= fd:
        _accepted.append(None)
    _accepted[fd] = sock


def _forget(sock: socket.socket) -> bool:
    """Before its number is given up. Whether it was known."""
    fd = _fileno(sock)
    known = 0 <= fd < len(_accepted) and _accepted[fd] is sock
    if known:
        _accepted[fd] = None
    return known


def _known() -> list[socket.socket]:
    return [sock for sock in _accepted if sock is not None]


def accept(
    listener: socket.socket, coming: list[socket.socket] | None = None
) -> tuple[socket.socket, Any]:
    """As `listener.accept`, of one that does not wait; to be called within `no_fork`."""
    sock, address = listener.accept()
    if coming is not None:
        coming.append(sock)
    _note(sock, sock.fileno())
    return sock, address


def replace(sock: socket.socket, guard: AbstractContextManager[Any]) -> socket.socket:
    """A new socket object takes over the descriptor, which the old one gives up. As `close`."""
    kind = (sock.family, sock.type, sock.proto)
    with thread.no_fork, guard:
        known = _forget(sock)
        other = socket.socket(*kind, fileno=_detach(sock))
        if known:
            _note(other, other.fileno())
        if sock in _copied:
            _copied.discard(sock)
            _copied.add(other)
    return other


def give_up(sock: socket.socket) -> int:
    """Gives up an accepted socket, and returns its number; -1: it was closed."""
    with thread.no_fork:
        _forget(sock)
        _copied.discard(sock)
        return _detach(sock)


def close(sock: socket.socket, guard: AbstractContextManager[Any] = _NO_GUARD) -> None:
    """Closes a socket of the library; the peer sees that even if a child has a copy. Never
    raises, and does nothing the second time.

    Args:
        sock: it.
        guard: held when the number is given up; all code that uses the number holds it, too.

    Thread: who owns it.
    """
    with thread.no_fork:
        if _copied and sock in _copied:
            _copied.discard(sock)
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the peer has gone
        fd = -1
        try:
            with guard:
                fd = _detach(sock)
        finally:
            # Without the guard, which is everybody's: the call takes its time, and drops the GIL.
            if fd >= 0:
                if fd < len(_accepted) and _accepted[fd] is sock:  # as `_forget`
                    _accepted[fd] = None
                try:
                    os.close(fd)
                except OSError:
                    pass  # it is closed all the same


def leave(sock: socket.socket) -> None:
    """Leaves an accepted socket that a thread may still use: it is closed when its last user drops
    it."""
    with thread.no_fork:
        _forget(sock)
        _copied.discard(sock)


def close_listening(sock: socket.socket, *, shared: bool) -> None:
    """Closes a listening socket.

    Args:
        sock: it.
        shared: others, who go on, may have it on purpose. Else its address is free at once,
            although a child has not come to closing its copy, or never will.
    """
    with thread.no_fork:
        _listening.discard(sock)
        if sock in _copied_listening and not shared:
            _copied_listening.discard(sock)
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it does not listen yet
        sock.close()


def close_copy(sock: socket.socket) -> None:
    """Closes a child's copy of a socket; the connection goes on in the parent."""
    _close_number(give_up(sock))


def _close_number(fd: int) -> None:
    if fd >= 0:
        try:
            os.close(fd)
        except OSError:
            pass  # it is closed all the same


def listening() -> list[int]:
    """The numbers of all that listen. Thread: any."""
    return [sock.fileno() for sock in list(_listening)]


def sockets() -> set[int]:
    """The numbers of all sockets of the library. Thread: any."""
    while True:
        try:
            return {sock.fileno() for sock in [*_known(), *_listening]}
        except RuntimeError:
            pass  # one has come or gone meanwhile


# ---- at a fork --------------------------------------------------------------


_kept_out: list[Any] = []


def _before() -> None:
    """Waits until no other thread opens or closes a descriptor, and blocks them."""
    _gate.acquire()
    deadline = time.monotonic() + _FORK_WAITS_S
    for held in list(_threads):
        if held.acquire(True, max(0.0, deadline - time.monotonic())):
            _kept_out.append(held)


def _in_parent() -> None:
    _copied.update(_known())
    _copied_listening.update(_listening)
    while _kept_out:
        _kept_out.pop().release()
    _gate.release()


def abandon_all(spared: socket.socket | None) -> None:
    """In the child, once: closes all of the parent's descriptors except this one."""
    global thread, _gate
    _gate = threading.RLock()
    _threads.clear()
    _kept_out.clear()
    thread = _Thread()
    hold_none()  # those just dropped were held by this thread, which had forked
    accepted = _known()
    _accepted.clear()
    for sock in [*_listening, *(one for one in accepted if one is not spared)]:
        _close_number(sock.detach())
    _listening.clear()
    if spared is not None and spared in accepted:
        _note(spared, spared.fileno())
    _copied.clear()
    _copied_listening.clear()
    for holder in list(_holders):
        holder.abandon()
    _holders.clear()


fork.at_fork(before=_before, in_parent=_in_parent)
