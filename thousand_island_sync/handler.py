"""`Handler`, and what its callbacks may return."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ._base import waits
from ._base.options import MISSING, Missing, is_bool, is_milliseconds
from .errors import ConfigError, NotSupported

if TYPE_CHECKING:
    from ._base.types import Buffer
    from .framing import Framing
    from .socket import Socket
    from .transports import Prepared, Transport, TransportOptions


class Continue:
    """Wait for more.

    Args:
        timeout_ms: the read timeout in milliseconds until the next bytes; `None` is no
            limit. Not given: the connection's own.
        persistent: `timeout_ms` replaces the connection's read timeout from now on.
        deadline_ms: `handle_timeout` that many milliseconds after this callback
            returned, however many bytes come meanwhile; kept over callbacks that give
            none, removed by `None`.
        paused: nothing is read from this connection until `Connection.resume()`; one made while
            the callback that returns this still runs counts. No `handle_data`, no `handle_eof`,
            and no read timeout: it goes on with what was left of it. `deadline_ms` runs, messages
            are delivered, and a reset ends the connection. What has come is delivered afterwards.

    Raises:
        ConfigError: a value is no number of milliseconds, or no bool.
    """

    __slots__ = ("deadline_ms", "paused", "persistent", "timeout_ms")

    def __init__(
        self,
        timeout_ms: float | Missing | None = MISSING,
        persistent: bool = False,
        deadline_ms: float | Missing | None = MISSING,
        paused: bool = False,
    ) -> None:
        _check_time("Continue", "timeout_ms", timeout_ms)
        _check_time("Continue", "deadline_ms", deadline_ms)
        for name, value in (("persistent", persistent), ("paused", paused)):
            if not is_bool(value):
                raise ConfigError(f"Continue: {name}: got {value!r}, takes True or False")
        if persistent and timeout_ms is MISSING:
            raise ConfigError("Continue: persistent=True needs a timeout_ms")
        self.timeout_ms: Final = timeout_ms
        self.persistent: Final = persistent
        self.deadline_ms: Final = deadline_ms
        self.paused: Final = paused

    def __repr__(self) -> str:
        return (
            f"Continue(timeout_ms={self.timeout_ms!r}, persistent={self.persistent!r},"
            f" deadline_ms={self.deadline_ms!r}, paused={self.paused!r})"
        )


class Close:
    """`handle_close`, then close."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Close()"


class Error:
    """`handle_error(reason)`, then close.

    Args:
        reason: anything; what `handle_error` and the event `handler.error` get.
    """

    __slots__ = ("reason",)

    def __init__(self, reason: Any) -> None:
        self.reason: Final = reason

    def __repr__(self) -> str:
        return f"Error({self.reason!r})"


class SwitchTransport:
    """Upgrade this connection in place (STARTTLS), then go on.

    What was read before, unread bytes included, is dropped: plaintext is never taken for
    encrypted (RFC 3207, 5). A handshake that fails says how many bytes that were. What the
    kernel still holds belongs to the handshake.

    Args:
        transport_cls: the transport to go on with, as a rule `TLS`.
        transport_options: its options (`TransportOptions`), or what its `prepare` made.
        timeout_ms: the read timeout afterwards, until the next bytes, in milliseconds; `None` is
            no limit. Not given: the connection's own.
        initial: bytes that the handshake begins with, before those of the kernel: for TLS and
            plaintext on one port, where `handle_data` has looked at the first byte.

    Raises:
        ConfigError: `timeout_ms` is no number of milliseconds.
        TypeError: `initial` is not bytes-like.
    """

    __slots__ = ("initial", "timeout_ms", "transport_cls", "transport_options")

    def __init__(
        self,
        transport_cls: type[Transport],
        transport_options: TransportOptions | Prepared | Missing = MISSING,
        timeout_ms: float | Missing | None = MISSING,
        initial: Buffer = b"",
    ) -> None:
        _check_time("SwitchTransport", "timeout_ms", timeout_ms)
        if isinstance(initial, str):
            raise TypeError("SwitchTransport: initial: got str, takes bytes")
        self.initial: Final = bytes(memoryview(initial))
        self.transport_cls: Final = transport_cls
        given = {} if transport_options is MISSING else transport_options
        self.transport_options: Final[Any] = given
        self.timeout_ms: Final = timeout_ms

    def __repr__(self) -> str:  # the options may hold a key
        return f"SwitchTransport({getattr(self.transport_cls, '__name__', '?')}, ...)"


#: What a callback may return besides `None`.
Result = Continue | Close | Error | SwitchTransport


def _check_time(where: str, name: str, value: object) -> None:
    if value is not MISSING and value is not None and not is_milliseconds(value):
        raise ConfigError(
            f"{where}: {name}: got {value!r}, takes a number of milliseconds, 0 or more,"
            " or None for no limit"
        )


_framing_set: list[Callable[[Handler], object]] = []


def when_framing_is_set(tell: Callable[[Handler], object]) -> None:
    """`tell` is called with each handler on which `framing` is set. Thread: who sets it."""
    _framing_set.append(tell)


# It notes that it was set: else each message of every handler would pay for a look whether it was.
class _FramingOfSelf:
    """What cuts the bytes that arrive into frames, or `None`: see `Handler`."""

    def __get__(self, handler: Handler | None, owner: type | None = None) -> Framing | None:
        return None if handler is None else vars(handler).get("framing")

    def __set__(self, handler: Handler, framing: Framing | None) -> None:
        vars(handler)["framing"] = framing
        handler._sets_framing = True
        for tell in _framing_set:
            tell(handler)
        waits.look_again()

    def __delete__(self, handler: Handler) -> None:
        self.__set__(handler, None)


class Handler:
    """One connection. Subclass it; there is one instance for each, so state is `self`.

    Callbacks of one connection never run at the same time, and each may block. They are called
    with positional arguments, so name those as you like, and looked up on the instance when they
    run: `self.handle_data = self.handle_body` switches. The first six may return what `Result`
    has; `None` is `Continue()`, but for `handle_eof`.

    What a callback raises ends its connection and no thread. Of its own `Socket`'s errors, a
    `SocketTimeout` of a receive leads to `handle_timeout`, a peer that has gone to `handle_close`,
    `ServerStopping` to `handle_shutdown`, another `SocketError` to `handle_error`; nothing of that
    is logged. Anything else leads to `handle_error`, and is logged with its traceback by
    `logging.getLogger("thousand_island_sync")`.

    One of the four last callbacks runs, once: `handle_close`, `handle_error`, `handle_timeout` or
    `handle_shutdown`; none where the handler itself called `socket.close()`. `handle_end` follows
    in every case.

    Thread: any of the pool's for each callback, in the connection's own `contextvars.Context`.

    Args:
        options: the server's `handler_options`.

    Attributes:
        framing: `Lines(...)`, `LengthPrefix(...)`, or a `Framing` of your own: `handle_data` gets
            one frame each time, as often as there are frames. `None`: the bytes as they come. Set
            it on the class, or on `self` at any time; it is looked up before each frame. (Where
            you do both, type checkers want `framing: Framing | None = Lines()` on the class, and
            what a thread sets outside of its callbacks holds once more bytes have come.)
    """

    options: Any
    if TYPE_CHECKING:
        framing: Framing | None = None
    else:
        framing = _FramingOfSelf()
    # Whether `framing` was set on this one, and its class does not.
    _sets_framing = False

    def __init__(self, options: Any, /) -> None:
        self.options = options

    def handle_connection(self, socket: Socket, /) -> Result | None:
        """The handshake is done; on TCP there is none. The first callback of a connection.

        Returns:
            A `Result`, or `None` to wait for bytes. The read timeout begins then.
        """
        return None

    def handle_data(self, data: bytes, socket: Socket, /) -> Result | None:
        """Bytes came while no callback ran; with `framing`, one whole frame.

        Args:
            data: one byte or more, as they came, what `unread` had left in front; a frame is
                without its delimiter or prefix, and may be empty.
            socket: to answer, or to receive more.

        Returns:
            A `Result`, or `None` to wait for more. The read timeout begins anew then.
        """
        return None

    def handle_eof(self, socket: Socket, /) -> Result | None:
        """The peer has ended its sending side. Once, also where a `recv` in a callback saw it.

        Returns:
            `Close()`, the default, or `None`: it ends as closed by the peer. `Continue()` keeps the
            connection, to go on sending: the read timeout stands still, `deadline_ms` does not.
        """
        return Close()

    def handle_upgrade(self, socket: Socket, /) -> Result | None:
        """A `SwitchTransport` has succeeded; `socket` is the same, and now secure.

        Returns:
            A `Result`, or `None` to wait for bytes.
        """
        return None

    def handle_info(self, message: Any, socket: Socket, /) -> Result | None:
        """A message of `Connection.post`; one call for each, in the order in which they fall due.

        Args:
            message: what was posted.
            socket: to send, say.

        Returns:
            A `Result`, or `None` to go on waiting: the read timeout is not begun anew, unless
            `Continue(timeout_ms=...)` says so.
        """
        return None

    def handle_drain(self, socket: Socket, /) -> Result | None:
        """The server drains, or stops: once for each connection at most, those that are accepted in
        the drain included. The place to tell the peer to go elsewhere, as HTTP/2's GOAWAY does.

        It runs between callbacks, after what has arrived and before `handle_shutdown`; not where a
        last callback has run, nor after a cut. While more than half of `max_unsent` waits to go
        out, it waits. (A drain looks for it on the class: one that is set on `self` counts, too,
        but not one that `__getattr__` would find.)

        Args:
            socket: to send, say.

        Returns:
            As `handle_info`. `Continue(paused=True)` in a stop holds that up, within its time.
        """
        return None

    def handle_call(self, message: Any, socket: Socket, /) -> Any:
        """A message of `Connection.call`.

        Returns:
            What the caller gets.

        Raises:
            NotSupported: the default. Whatever it raises goes to the caller, is not logged, and
                the connection goes on.
        """
        raise NotSupported(
            f"{type(self).__name__} has no handle_call; define it to answer Connection.call()"
        )

    def handle_close(self, socket: Socket, /) -> None:
        """Last callback: the peer closed, or a callback returned `Close()`. The socket is open
        until it returns, but the peer may be gone."""

    def handle_error(self, reason: Any, socket: Socket, /) -> None:
        """Last callback: something failed; a handshake, too (`HandshakeError`). Sends may fail.

        Args:
            reason: the exception, or what `Error(...)` held.
            socket: open until this returns.
        """

    def handle_timeout(self, socket: Socket, /) -> None:
        """Last callback: no bytes for the read timeout, or `deadline_ms` has passed."""

    def handle_shutdown(self, socket: Socket, /) -> None:
        """Last callback: the server stops, or `Connection.close()` was called; `socket.stopping`
        tells which."""

    def handle_end(self, socket: Socket, /) -> None:
        """Always, once, after everything else, with the socket closed: clean up here.

        Its place under `max_connections` is free by then, and a stop waits for it. What it raises
        is logged.
        """


def has_framing(handler_cls: type[Handler]) -> bool:
    """Whether the class sets `framing`, whatever to; else an instance may, which is noted."""
    return inspect.getattr_static(handler_cls, "framing") is not vars(Handler)["framing"]


#: Callbacks that do nothing, unless the user has said what: four of them are left out for
#: each short connection, with a change of context for each.
IDLE = frozenset(
    {
        Handler.handle_connection,
        Handler.handle_data,
        Handler.handle_upgrade,
        Handler.handle_info,
        Handler.handle_drain,
        Handler.handle_close,
        Handler.handle_error,
        Handler.handle_timeout,
        Handler.handle_shutdown,
        Handler.handle_end,
    }
)
