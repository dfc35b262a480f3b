"""`Connection`: the handle of a connection, for every thread and for as long as wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._base.types import Address, Buffer
    from .server import ThousandIsland


class Facts(Protocol):
    """What is known of a connection, during its life and afterwards."""

    @property
    def id(self) -> str: ...
    @property
    def server(self) -> ThousandIsland: ...
    @property
    def peername(self) -> Address: ...
    @property
    def sockname(self) -> Address | None: ...
    @property
    def accepted_at_ns(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    def peer_shown(self) -> str: ...


class Leaves(Protocol):
    """Where bytes, messages, calls and the wish for an end are left for a connection."""

    def send(self, data: Any) -> int: ...
    def unsent(self) -> int: ...

    def post(self, message: Any, delay_ms: float) -> None: ...
    def call(self, message: Any, timeout_ms: float | None) -> Any: ...
    def pending(self) -> int: ...
    def resume(self) -> None: ...
    def close(self, abort: bool) -> None: ...


class Connection:
    """A handle that outlives the callback and may be used from any thread.

    Handles hash and compare by identity; a connection has one.
    """

    __slots__ = ("__weakref__", "_facts", "_inbox")

    def __init__(self, inbox: Leaves, facts: Facts) -> None:
        self._inbox = inbox
        self._facts = facts

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<Connection {self.id} {self._facts.peer_shown()} {state}>"

    @property
    def id(self) -> str:
        """What the events call it; unique among all servers of the process."""
        return self._facts.id

    @property
    def server(self) -> ThousandIsland:
        """The `ThousandIsland`."""
        return self._facts.server

    @property
    def peername(self) -> Address:
        """`(host, port)` of the peer; a Unix peer's path, as a rule `""`."""
        return self._facts.peername

    @property
    def sockname(self) -> Address | None:
        """`(host, port)` on this side, or the Unix socket's path; `None` where the system did not
        tell it any more."""
        return self._facts.sockname

    @property
    def accepted_at_ns(self) -> int:
        """When it was accepted, on the clock of `time.monotonic_ns`."""
        return self._facts.accepted_at_ns

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return self._facts.closed

    @property
    def pending(self) -> int:
        """How many messages and calls wait, those with a delay included."""
        return self._inbox.pending()

    @property
    def unsent(self) -> int:
        """How many bytes wait in its send buffer; 0 once it has ended."""
        return self._inbox.unsent()

    def send(self, data: Buffer | Iterable[Buffer]) -> int:
        """Sends, and never waits: what the kernel does not take is kept (a copy), and goes out as
        the peer makes room, in order with everything else that is sent. Behind a send of another
        thread that is under way, and during a handshake, it is kept. So one thread may push to
        many connections, and learns from the exception which of them are slow.

        Args:
            data: bytes-like, or an iterable of bytes-like.

        Returns:
            How many bytes that is.

        Raises:
            SendBufferFull: it is longer than the room that is left in `max_unsent` and in
                `max_unsent_total`; nothing of it is sent, and the connection goes on.
            SocketClosed: the connection has ended, or its last callback has returned, or its peer
                has gone.
            SocketError: any other failure.
            TypeError: `str`, or nothing bytes-like.

        Thread: any.
        """
        return self._inbox.send(data)

    def post(self, message: Any, delay_ms: float = 0) -> None:
        """Queues a message for `handle_info`.

        Args:
            message: anything.
            delay_ms: milliseconds from now.

        Raises:
            SocketClosed: the connection has ended.
            MailboxFull: `max_pending_messages` wait already.
            ValueError: `delay_ms` is no number of milliseconds.

        Thread: any.
        """
        self._inbox.post(message, delay_ms)

    def call(self, message: Any, timeout_ms: float | None = 5_000) -> Any:
        """Runs `handle_call` in the connection and returns what it returns.

        Args:
            message: anything.
            timeout_ms: milliseconds to wait; `None`: no limit.

        Raises:
            SocketTimeout: no answer in time.
            SocketClosed: the connection has ended, or ends before it comes to it.
            MailboxFull: `max_pending_messages` wait already.
            ThousandIslandError: called from a callback of the same connection.
            BaseException: whatever `handle_call` raised.

        Thread: any.
        """
        return self._inbox.call(message, timeout_ms)

    def resume(self) -> None:
        """Ends the pause that a callback began with `Continue(paused=True)`: the connection is
        read from again, beginning with what is here already. Made while that callback still runs,
        it counts. Does nothing where there is no pause.

        Thread: any.
        """
        self._inbox.resume()

    def close(self, abort: bool = False) -> None:
        """Ends the connection; its handler sees it as `handle_shutdown`. A read that
        waits is ended with `ServerStopping`. What waits in the send buffer goes out first, and
        the connection is open until then. Idempotent.

        Args:
            abort: what waits to go out is dropped, also where the connection is ending already.

        Thread: any.
        """
        self._inbox.close(abort)
