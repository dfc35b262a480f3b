"""The descriptor in others' hands: `Socket.fileno` shows it, `Socket.detach` gives it away.

The facts. Who wants to go on with a socket in a manner of his own, as STARTTLS of the
standard library does, makes a second object of `fileno()` and then calls `detach()`
(`ssl.SSLSocket._create`). If that does nothing, or raises, one number has two owners. The
first who closes it gives it to the next client; what is sent to one arrives at another.

Others may be in the middle of it. A thread waits in a receive, another one is half through a
send, and the connection's owner, if this is another thread, may be about to receive, or to put
the descriptor into the poller. None of them can be woken by `shutdown`, for it would be
found done to what is handed over.

Our decision. Sends go first, one after the other as always, this one's as well: it takes its
turn, and flushes. Then the socket is closed for all who come (`_closed`), and whoever is in
the way leaves by itself: sends and receives look every `LOOK_S`, the owner's own steps end or
come to a callback, which none of them does without seeing `alert`. Then, with both locks, the
descriptor leaves the poller and the socket. Nothing on this way raises but that it was
closed before, and what interrupts it, as Ctrl-C may: then nobody got the descriptor, and it
is closed, by the connection's owner, or here where that has left it to whoever detaches.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from .._base import descriptors, waits
from .._base.clock import now
from ..errors import SocketError
from .core import _guard

if TYPE_CHECKING:
    from .sendfile import SendingFiles

#: Seconds between two looks whether a receive that is under way has seen something.
_A_MOMENT_S = 0.01


def hand_over(socket: SendingFiles) -> int:
    """See `Socket.detach`. Thread: any."""
    socket._open("detach")
    connection, number, mine = socket._connection, socket._sock.fileno(), [False]
    try:
        error = _send_first(socket, mine)
        connection.alert = True
        connection.let_step_end()
        with contextlib.ExitStack() as held:
            _hold_both(socket, held)
            connection.give_up()
            lost = socket._channel.left_behind()
            socket._buffer = None
            descriptor = _take_descriptor(socket)
        if error is not None and lost:
            socket._send_failed("detach", error, 0, lost)
    except BaseException:
        if mine[0]:
            _nobody_got_it(socket, number)
            connection.end_soon()
        raise
    connection.end_soon()
    return descriptor


def _nobody_got_it(socket: SendingFiles, number: int) -> None:
    """The descriptor is closed now, or by the owner, as after `close()`."""
    with _guard:
        left = socket._detached is not True  # by the owner, which relied on us
        if socket._sock.fileno() >= 0 and not left:
            socket._detached = False
    if socket._sock.fileno() < 0:
        os.close(number)
    elif not left:
        socket._shut_both()
    else:
        with contextlib.ExitStack() as held:
            _hold_both(socket, held)
            descriptors.close(socket._sock, _guard)


def _send_first(socket: SendingFiles, mine: list[bool]) -> SocketError | None:
    """Sends what counts as sent, after all who send now, and closes the socket for all who come;
    why not all went out. `mine`: from then on the descriptor is for this thread to hand over."""
    timeout = socket._connection.send_timeout
    deadline = now() + timeout
    failure: SocketError | None = None
    with contextlib.ExitStack() as held:
        try:
            socket._take_turn("detach", timeout, deadline)
            held.callback(socket._sending.release)
            if not socket._channel.shaking:  # what waits is the handshake's then
                socket._push([], 0, timeout, deadline, False, [0])
        except OSError as error:
            failure = socket._failed("detach", error)
        with _guard:
            socket._open("detach")
            mine[0] = socket._detached = socket._closed = True
            socket._waiter = 0
    return failure


def _take_descriptor(socket: SendingFiles) -> int:
    """The number, which nothing here knows from now on."""
    with descriptors.thread.no_fork, _guard:
        socket._unlimit()
        socket._set_blocking()
        return descriptors.give_up(socket._sock)


def share(socket: SendingFiles) -> None:
    """Somebody will see the descriptor: from now on no time limit of ours is on it. Thread: any."""
    channel = socket._channel
    if channel.exposed or socket._closed:
        return
    channel.expose()
    socket._waiter = 0
    connection = socket._connection
    with contextlib.ExitStack() as held:
        if waits.current_task() is not connection:
            # The owner may have begun to wait with the limit, and must not wait without one.
            connection.let_step_end()
            _until_unlimited(socket, held)
        with _guard:
            if not socket._closed:
                socket._unlimit()
            socket._waiter = 0


def _until_unlimited(socket: SendingFiles, held: contextlib.ExitStack) -> None:
    """Until who receives takes the limit off himself, which is when he has waited for `LOOK_S`, or
    has ended, and the turn is here."""
    lock = _reading(socket)
    if lock is None:
        return
    waits.give_way()
    while not socket._channel.exposed:
        socket._waiter = 0
        if lock.acquire(timeout=_A_MOMENT_S):
            held.callback(lock.release)
            return


def _hold_both(socket: SendingFiles, held: contextlib.ExitStack) -> None:
    reading = _reading(socket)
    if reading is not None:
        _hold(reading, held)
    _hold(socket._sending, held)


def _reading(socket: SendingFiles) -> Any:
    """The lock of receiving; `None`: it is this thread's, in a call amid which this one is made,
    and which gets no further."""
    lock = socket._receiving
    return None if lock is not None and lock._is_owned() else socket._reading()


def _hold(lock: Any, held: contextlib.ExitStack) -> None:
    if lock._is_owned():
        return  # by a call of this thread's, amid which this one is made; it gets no further
    if not lock.acquire(False):
        waits.give_way()
        lock.acquire()
    held.callback(lock.release)
