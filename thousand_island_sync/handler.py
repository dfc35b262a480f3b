"""`Handler`, and the values that its callbacks may return."""

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
    """A callback returns it to keep the connection and wait for more.

    Args:
        timeout_ms: the read timeout in milliseconds until the next bytes; `None` means no limit.
            Not given: the connection's own.
        persistent: `timeout_ms` replaces the connection's read timeout from now on.
        deadline_ms: milliseconds from the return of this callback until `handle_timeout` runs,
            however many bytes arrive meanwhile. Callbacks that give no deadline keep it; `None`
            removes it.
        paused: the server reads nothing from this connection until `Connection.resume()`. A
            `resume()` while this callback still runs counts. In a pause neither `handle_data` nor
            `handle_eof` runs, and the read timeout stands still. `deadline_ms` runs, messages are
            delivered, and a reset ends the connection. Bytes that have arrived are delivered
            after the pause.

    Raises:
        ConfigError: a time is not a number of milliseconds, or a flag is not a `bool`.
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
    """A callback returns it to end the connection: `handle_close` runs, then it is closed."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Close()"


class Error:
    """A callback returns it to end the connection: `handle_error` runs, then it is closed.

    Args:
        reason: any object; `handle_error` and the event `handler.error` get it.
    """

    __slots__ = ("reason",)

    def __init__(self, reason: Any) -> None:
        self.reason: Final = reason

    def __repr__(self) -> str:
        return f"Error({self.reason!r})"


class SwitchTransport:
    """A callback returns it to upgrade the connection in place (STARTTLS), and go on.

    Bytes that were read before, unread ones included, are dropped: plaintext is never taken for
    encrypted (RFC 3207, 5). If the handshake fails, its error says how many bytes were dropped.
    Bytes that the kernel still holds belong to the handshake.

    Args:
        transport_cls: the new transport, `TLS` as a rule.
        transport_options: its options (`TransportOptions`), or the result of its `prepare`.
        timeout_ms: the read timeout in milliseconds after the upgrade, until the next bytes;
            `None` means no limit. Not given: the connection's own.
        initial: bytes with which the handshake begins, before those of the kernel. It serves TLS
            and plaintext on one port, where `handle_data` has looked at the first byte.

    Raises:
        ConfigError: `timeout_ms` is not a number of milliseconds.
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
    """Has `tell` called with each handler on which `framing` is set, by the setting thread."""
    _framing_set.append(tell)


# It notes that `framing` was set: else each message of every handler would pay for a check.
class _FramingOfSelf:
    """The `Framing` that cuts incoming bytes into frames, or `None`: see `Handler`."""

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
    """The code that serves one connection. Subclass it and define callbacks.

    There is one instance for each connection, so `self` holds its state. Callbacks of one
    connection never run at the same time, and each may block. They get positional arguments, whose
    names are yours. The server looks a callback up on the instance each time, so
    `self.handle_data = self.handle_body` switches. The first six callbacks may return a `Result`;
    `None` means `Continue()`, except from `handle_eof`.

    An exception of a callback ends its connection, and no thread. These errors of the connection's
    own `Socket` are not logged: a `SocketTimeout` of a receive leads to `handle_timeout`, a
    `SocketClosed` by the peer to `handle_close`, `ServerStopping` to `handle_shutdown`, and any
    other `SocketError` to `handle_error`. Every other exception leads to `handle_error`, and
    `logging.getLogger("thousand_island_sync")` logs it with its traceback.

    Exactly one of the four last callbacks runs: `handle_close`, `handle_error`, `handle_timeout` or
    `handle_shutdown`. None of them runs after the handler itself has called `socket.close()`.
    `handle_end` follows in every case.

    Thread: any thread of the pool for each callback, in the connection's own
    `contextvars.Context`.

    Args:
        options: the server's `handler_options`.

    Attributes:
        framing: `Lines(...)`, `LengthPrefix(...)`, or a `Framing` of your own: `handle_data` gets
            one whole frame each time. `None`: it gets the bytes as they arrive. Set it on the
            class, or on `self` at any time; it is looked up before each frame. (If you do both,
            type checkers need `framing: Framing | None = Lines()` on the class. If you set it
            outside a callback, it takes effect when more bytes arrive.)
    """

    options: Any
    if TYPE_CHECKING:
        framing: Framing | None = None
    else:
        framing = _FramingOfSelf()
    # Whether `framing` was set on this instance, and not on its class.
    _sets_framing = False

    def __init__(self, options: Any, /) -> None:
        self.options = options

    def handle_connection(self, socket: Socket, /) -> Result | None:
        """The first callback of a connection: the handshake is done (on TCP there is none).

        Returns:
            A `Result`, or `None` to wait for bytes. The read timeout starts at the return.
        """
        return None

    def handle_data(self, data: bytes, socket: Socket, /) -> Result | None:
        """Bytes arrived while no callback ran; with `framing`, one whole frame arrived.

        Args:
            data: one byte or more, as they arrived, behind those that `unread` has put back. A
                frame comes without its delimiter or prefix, and may be empty.
            socket: to answer, or to receive more.

        Returns:
            A `Result`, or `None` to wait for more. The read timeout starts again at the return.
        """
        return None

    def handle_eof(self, socket: Socket, /) -> Result | None:
        """The peer has ended its sending side. Runs once, also after a `recv` has returned `b""`.

        Returns:
            `Close()`, the default, or `None`: the connection ends as closed by the peer.
            `Continue()` keeps the connection, so that you can go on sending: the read timeout
            stands still, `deadline_ms` does not.
        """
        return Close()

    def handle_upgrade(self, socket: Socket, /) -> Result | None:
        """A `SwitchTransport` has succeeded: `socket` is the same object, and now secure.

        Returns:
            A `Result`, or `None` to wait for bytes.
        """
        return None

    def handle_info(self, message: Any, socket: Socket, /) -> Result | None:
        """A message of `Connection.post` is due. Runs once for each, in the order of their times.

        Args:
            message: the object that was posted.
            socket: to send, for example.

        Returns:
            A `Result`, or `None` to go on waiting. The read timeout goes on, too, unless
            `Continue(timeout_ms=...)` starts it again.
        """
        return None

    def handle_drain(self, socket: Socket, /) -> Result | None:
        """The server drains or stops. Tell the peer here to go elsewhere (HTTP/2: GOAWAY).

        It runs at most once for each connection, also for one that is accepted during the drain.
        It runs between callbacks, after the bytes that have arrived and before `handle_shutdown`,
        but neither after a last callback nor after a cut. It waits while more than half of
        `max_unsent` is in the send buffer. (The server finds it on the class or in the attributes
        of `self`, but not through `__getattr__`.)

        Args:
            socket: to send, for example.

        Returns:
            The same as `handle_info`. `Continue(paused=True)` delays a stop, within its time.
        """
        return None

    def handle_call(self, message: Any, socket: Socket, /) -> Any:
        """Answers a `Connection.call`.

        Args:
            message: the argument of `Connection.call`.
            socket: to send, for example.

        Returns:
            The result of `Connection.call`, for its caller.

        Raises:
            NotSupported: the default. Every exception goes to the caller and is not logged, and
                the connection goes on.
        """
        raise NotSupported(
            f"{type(self).__name__} has no handle_call; define it to answer Connection.call()"
        )

    def handle_close(self, socket: Socket, /) -> None:
        """Last callback: the peer closed, or a callback returned `Close()`.

        Args:
            socket: open until this returns; the peer may be gone.
        """

    def handle_error(self, reason: Any, socket: Socket, /) -> None:
        """Last callback: something failed, such as a handshake (`HandshakeError`).

        Args:
            reason: the exception, or the `reason` of `Error(reason)`.
            socket: open until this returns; sends may fail.
        """

    def handle_timeout(self, socket: Socket, /) -> None:
        """Last callback: no bytes arrived within the read timeout, or `deadline_ms` is over.

        Args:
            socket: open until this returns.
        """

    def handle_shutdown(self, socket: Socket, /) -> None:
        """Last callback: the server stops, or `Connection.close()` was called.

        Args:
            socket: open until this returns; `socket.stopping` says which of the two it is.
        """

    def handle_end(self, socket: Socket, /) -> None:
        """The end: clean up here. Always runs, once, after everything else.

        The connection no longer counts towards `max_connections` by then, but a stop waits for
        this callback. Its exceptions are logged.

        Args:
            socket: closed.
        """


def has_framing(handler_cls: type[Handler]) -> bool:
    """Whether the class sets `framing`, to any value; an instance notes it itself."""
    return inspect.getattr_static(handler_cls, "framing") is not vars(Handler)["framing"]


#: Callbacks that do nothing unless a subclass defines them. They are not called: that saves each
#: short connection four calls, each with a change of context.
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
