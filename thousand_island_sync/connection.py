"""`Connection`: the handle of a connection. Any thread may use it, and keep it after the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._base.types import Address, Buffer
    from .server import ThousandIsland


class Facts(Protocol):
    """The facts of a connection, during its life and afterwards."""

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
    """Takes bytes, messages, calls, and the request to end, for a connection."""

    def send(self, data: Any) -> int: ...
    def unsent(self) -> int: ...

    def post(self, message: Any, delay_ms: float) -> None: ...
    def call(self, message: Any, timeout_ms: float | None) -> Any: ...
    def pending(self) -> int: ...
    def resume(self) -> None: ...
    def close(self, abort: bool) -> None: ...


class Connection:
    """The handle of one connection: any thread may use it, during callbacks and after them.

    Each connection has one handle, so handles hash and compare by identity.

    Thread: any, for every method and property.
    """

    __slots__ = ("__weakref__", "_facts", "_inbox")

    def __init__(self, inbox: Leaves, facts: Facts) -> None:
        self._inbox = inbox
        self._facts = facts

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<Connection {self.id} {self._facts.peer_shown()} {state}>"

    def __reduce_ex__(self, protocol: Any, /) -> NoReturn:
        raise TypeError("a Connection cannot be copied or pickled: its id names it elsewhere")

    @property
    def id(self) -> str:
        """The `connection_id` of the events, a `str`; unique among all servers of the process."""
        return self._facts.id

    @property
    def server(self) -> ThousandIsland:
        """The `ThousandIsland` that serves this connection."""
        return self._facts.server

    @property
    def peername(self) -> Address:
        """The peer's address: `(host, port)`, or a Unix peer's path, which is `""` as a rule."""
        return self._facts.peername

    @property
    def sockname(self) -> Address | None:
        """This side's address: `(host, port)`, or the Unix socket's path.

        `None`: the connection had ended before the system was asked.
        """
        return self._facts.sockname

    @property
    def accepted_at_ns(self) -> int:
        """When it was accepted: nanoseconds, on the clock of `time.monotonic_ns`."""
        return self._facts.accepted_at_ns

    @property
    def closed(self) -> bool:
        """Whether the connection has ended, a `bool`."""
        return self._facts.closed

    @property
    def pending(self) -> int:
        """How many messages and calls wait for a callback, those with a delay included."""
        return self._inbox.pending()

    @property
    def unsent(self) -> int:
        """How many bytes wait in the send buffer; 0 once the connection has ended."""
        return self._inbox.unsent()

    def send(self, data: Buffer | Iterable[Buffer]) -> int:
        """Sends without waiting: bytes for which the kernel has no room go to the send buffer.

        The buffer is a copy. It goes out as the peer reads, in order with all other sends. During
        a handshake, or while another thread sends, all of `data` goes to the buffer. So one thread
        can push to many connections, and an exception tells it which of them are slow.

        Args:
            data: bytes-like, or an iterable of bytes-like.

        Returns:
            The number of bytes in `data`.

        Raises:
            SendBufferFull: `data` is longer than the room that is left in `max_unsent` or in
                `max_unsent_total`. Nothing of it was sent, and the connection goes on.
            SocketClosed: the connection has ended, its last callback has returned, or the peer has
                closed it.
            SocketError: any other failure.
            TypeError: `data` is a `str`, or not bytes-like.

        Thread: any.
        """
        return self._inbox.send(data)

    def post(self, message: Any, delay_ms: float = 0) -> None:
        """Queues a message, for which the connection runs `handle_info`.

        Args:
            message: any object.
            delay_ms: milliseconds until `handle_info` may run.

        Raises:
            SocketClosed: the connection has ended.
            MailboxFull: `max_pending_messages` messages wait already.
            ValueError: `delay_ms` is not a number of milliseconds.

        Thread: any.
        """
        self._inbox.post(message, delay_ms)

    def call(self, message: Any, timeout_ms: float | None = 5_000) -> Any:
        """Runs `handle_call` in the connection, and waits for its result.

        Args:
            message: any object.
            timeout_ms: milliseconds to wait; `None` means no limit.

        Returns:
            The result of `handle_call`.

        Raises:
            SocketTimeout: `handle_call` has not returned in time.
            SocketClosed: the connection has ended, or ends before `handle_call` runs.
            MailboxFull: `max_pending_messages` messages wait already.
            ThousandIslandError: the call is made in a callback of the same connection.
            ValueError: `timeout_ms` is not a number of milliseconds.
            BaseException: the exception that `handle_call` raised.

        Thread: any.
        """
        return self._inbox.call(message, timeout_ms)

    def resume(self) -> None:
        """Ends the pause that a callback began with `Continue(paused=True)`.

        The server reads from the connection again; bytes that have arrived already come first. A
        call while that callback still runs counts. Without a pause, `resume` does nothing.

        Thread: any.
        """
        self._inbox.resume()

    def close(self, abort: bool = False) -> None:
        """Ends the connection from outside; the handler gets `handle_shutdown`.

        A read that waits ends with `ServerStopping`. The send buffer goes out first, and the
        connection is open until then. A second call does nothing.

        Args:
            abort: drops the send buffer, also that of a connection which is ending already.

        Thread: any.
        """
        self._inbox.close(abort)
