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
closed before.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from . import _descriptors, _waits
from ._clock import now
from ._socket_core import _guard
from .errors import SocketError

if TYPE_CHECKING:
    from ._sendfile import SendingFiles


def hand_over(socket: SendingFiles) -> int:
    """See `Socket.detach`. Thread: any."""
    socket._open("detach")
    connection = socket._connection
    error = _send_first(socket)
    connection.alert = True
    connection.let_step_end()
    with contextlib.ExitStack() as held:
        _hold(socket._reading(), held)
        _hold(socket._sending, held)
        connection.give_up()
        lost = socket._channel.left_behind()
        socket._buffer = None
        descriptor = _take_descriptor(socket)
    if error is not None and lost:
        socket._send_failed("detach", error, 0, lost)
    connection.end_soon()
    return descriptor


def _send_first(socket: SendingFiles) -> SocketError | None:
    """Sends what counts as sent, after all who send now, and closes the socket for all who come;
    why not all went out."""
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
            socket._detached = socket._closed = True
    return failure


def _take_descriptor(socket: SendingFiles) -> int:
    """The number, which nothing here knows from now on."""
    with _descriptors.thread.no_fork, _guard:
        socket._unlimit()
        socket._set_blocking()
        return _descriptors.give_up(socket._sock)


def share(socket: SendingFiles) -> None:
    """Somebody will see the descriptor: from now on no time limit of ours is on it. Thread: any."""
    channel = socket._channel
    if channel.exposed or socket._closed:
        return
    channel.expose()
    socket._waiter = 0
    connection = socket._connection
    with contextlib.ExitStack() as held:
        if _waits.current_task() is not connection:
            # The owner may have begun to wait with the limit, and must not wait without one.
            connection.let_step_end()
            _hold(socket._reading(), held)
        with _guard:
            if not socket._closed:
                socket._unlimit()


def _hold(lock: Any, held: contextlib.ExitStack) -> None:
    if lock._is_owned():
        return  # by a call of this thread's, amid which this one is made; it gets no further
    if not lock.acquire(False):
        _waits.give_way()
        lock.acquire()
    held.callback(lock.release)
