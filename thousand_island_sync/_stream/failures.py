"""The errors of a `Socket`, in words. Each refers to its connection: a callback may also fail on
another connection's socket."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, TypeVar

from .. import events
from .._base import addresses
from ..errors import (
    LimitExceeded,
    SendBufferFull,
    ServerStopping,
    SocketClosed,
    SocketError,
    SocketTimeout,
)
from .states import CLOSED, CLOSED_HERE, CUT, State

if TYPE_CHECKING:
    from .duplex import Owner

E = TypeVar("E", bound=SocketError)

_PEER_HAS_GONE = {
    errno.ECONNRESET,
    errno.EPIPE,
    errno.ECONNABORTED,
    errno.ESHUTDOWN,
    errno.ENOTCONN,
    errno.EPROTOTYPE,  # macOS: of a send while the socket is being torn down
}


class _WouldBlock(SocketTimeout, BlockingIOError):
    """A call that must not wait would have to; libraries look for BlockingIOError."""


def _of(owner: Owner, error: E) -> E:
    error._origin = owner
    return error


def who(owner: Owner) -> str:
    return addresses.show(owner.peer_address)


def closed(owner: Owner, state: State, doing: str) -> SocketClosed:
    how = "closed locally" if state is CLOSED else "detached"
    return _of(owner, SocketClosed(errno.EBADF, f"{doing}: this socket ({who(owner)}) was {how}"))


def amid_another(owner: Owner, doing: str) -> SocketError:
    why = "a __del__ method or signal handler has interrupted another call; use post() there"
    return _of(owner, SocketError(errno.EDEADLK, f"{doing} {who(owner)}: {why}"))


def stopping(owner: Owner, doing: str) -> ServerStopping:
    why = "the server is stopping" if owner.stopping else "Connection.close() was called"
    return _of(owner, ServerStopping(errno.ESHUTDOWN, f"{doing} {who(owner)}: interrupted: {why}"))


def gone(
    owner: Owner, state: State, doing: str, what: str, number: int = errno.ECONNRESET
) -> SocketClosed:
    if state in CLOSED_HERE:
        what = "closed by another thread"
    elif state is CUT:
        what = "closed because the server's stop ran out of time"
    return _of(owner, SocketClosed(number, f"{doing} {who(owner)}: {what}"))


def of_system(owner: Owner, state: State, doing: str, cause: OSError) -> SocketError:
    """The library's error for a system's."""
    number = cause.errno or errno.EIO
    error: SocketError
    if number in _PEER_HAS_GONE:
        error = gone(owner, state, doing, "connection closed by the peer", number)
    else:
        what = cause.strerror or cause
        error = _of(owner, SocketError(number, f"{doing} {who(owner)}: {what}"))
    error.__cause__ = cause
    return error


def timed_out(owner: Owner, doing: str, timeout: float, what: str, hint: str) -> SocketTimeout:
    if timeout == 0:
        return _of(
            owner,
            _WouldBlock(errno.EAGAIN, f"{doing} {who(owner)}: would block; {what}"),
        )
    limit = f"{timeout * 1000:g} ms"
    return _of(
        owner,
        SocketTimeout(
            errno.ETIMEDOUT,
            f"{doing} {who(owner)}: timed out after {limit}; {what} (see {hint})",
        ),
    )


def nothing_came(owner: Owner, doing: str, timeout: float) -> SocketTimeout:
    hint = "read_timeout_ms, settimeout, or timeout_ms of the call"
    return timed_out(owner, doing, timeout, "no data received", hint)


def no_room(owner: Owner, doing: str, timeout: float) -> SocketTimeout:
    hint = "send_timeout_ms, settimeout, or timeout_ms of the call"
    return _of_send(timed_out(owner, doing, timeout, "the peer does not read", hint))


def _of_send(error: SocketTimeout) -> SocketTimeout:
    error._sending = True
    return error


def stuck(owner: Owner, idle: float) -> SocketTimeout:
    """For a connection whose peer takes nothing while bytes wait for it."""
    what = f"the peer has read nothing for {idle * 1000:.0f} ms"
    hint = "see send_timeout_ms; earlier where max_unsent_total or max_handler_threads is reached"
    error = SocketTimeout(errno.ETIMEDOUT, f"send {who(owner)}: {what} ({hint})")
    return _of(owner, _of_send(error))


def full(owner: Owner, size: int, unsent: int, most: int) -> SendBufferFull:
    """For a `Connection.send` without room."""
    what = f"no room for {size} bytes: {unsent} of {most} (max_unsent) wait already"
    hint = "the peer does not read, or max_unsent_total is reached; nothing was sent"
    return _of(owner, SendBufferFull(errno.ENOBUFS, f"send {who(owner)}: {what}; {hint}"))


def cut(owner: Owner) -> SocketClosed:
    return gone(owner, CUT, "send", "")


def aborted(owner: Owner) -> SocketClosed:
    what = "Connection.close(abort=True) was called"
    return _of(owner, SocketClosed(errno.ECONNABORTED, f"send {who(owner)}: {what}"))


def amid_handshake(owner: Owner, doing: str) -> SocketClosed:
    what = "the connection ended during the handshake"
    return _of(owner, SocketClosed(errno.ECONNABORTED, f"{doing} {who(owner)}: {what}"))


def ending(owner: Owner, doing: str) -> SocketClosed:
    what = "the connection is closing; it takes no new data"
    return _of(owner, SocketClosed(errno.EPIPE, f"{doing} {who(owner)}: {what}"))


def after(owner: Owner, doing: str, before: SocketError | None) -> SocketClosed:
    """For a send after the end of all sends; `before`: the failure that ended them, if any."""
    if before is None:
        return ending(owner, doing)
    why = before.strerror or before
    return _of(
        owner, SocketClosed(errno.EPIPE, f"{doing} {who(owner)}: an earlier send has failed: {why}")
    )


def tell(owner: Owner, error: SocketError) -> None:
    """Sends the event of a receive that failed."""
    if events.socket_recv_error.receivers:
        events.emit(
            events.socket_recv_error,
            owner.server,
            {"error": error},
            events.About(owner),
        )


def limit_exceeded(owner: Owner, doing: str, what: str) -> LimitExceeded:
    return _of(owner, LimitExceeded(errno.EMSGSIZE, f"{doing} {who(owner)}: {what}"))
