"""`Handler`, and what its callbacks may return."""

from __future__ import annotations

import inspect
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
            raise ConfigError("Continue: persistent=True needs a timeout_ms that shall persist")
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
        self.transport_options: Final = {} if transport_options is MISSING else transport_options
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


class _FramingOfSelf:
    """`framing`, where the class does not set it. It notes that it was set: nobody looks for it
    else, or each message of every handler would pay for the look."""

    def __get__(self, handler: Handler | None, owner: type | None = None) -> Framing | None:
        return None if handler is None else vars(handler).get("framing")

    def __set__(self, handler: Handler, framing: Framing | None) -> None:
        vars(handler)["framing"] = framing
        handler._frames = True
        waits.look_again()


class Handler:
    """One connection. Subclass it; there is one instance for each, so state is `self`.

    Callbacks of one connection never run at the same time; they may run on different
    threads of the pool, and each may block. They are called with positional arguments.

    Args:
        options: the server's `handler_options`.

    Attributes:
        framing: `Lines(...)`, `LengthPrefix(...)`, or a `Framing` of your own: `handle_data` gets
            one frame each time, as often as there are frames. `None`: the bytes as they come. Set
            it on the class, or on `self` in a callback; it is looked up before each frame. (Where
            you do both, type checkers want `framing: Framing | None = Lines()` on the class.)
    """

    options: Any
    if TYPE_CHECKING:
        framing: Framing | None = None
    else:
        framing = _FramingOfSelf()
    # Whether `framing` was set on this one, and its class does not.
    _frames = False

    def __init__(self, options: Any, /) -> None:
        self.options = options

    def handle_connection(self, socket: Socket, /) -> Result | None:
        """The handshake is done. Returns a `Result`, or `None` to wait for bytes."""
        return None

    def handle_data(self, data: bytes, socket: Socket, /) -> Result | None:
        """Bytes came while no callback ran; with `framing`, one whole frame, perhaps empty. Returns
        a `Result`, or `None` to wait for more."""
        return None

    def handle_eof(self, socket: Socket, /) -> Result | None:
        """The peer has ended its sending side. `Continue()` keeps the connection, to go
        on sending; the default, `Close()`, ends it as closed by the peer."""
        return Close()

    def handle_upgrade(self, socket: Socket, /) -> Result | None:
        """A `SwitchTransport` has succeeded; `socket` is the same, and now secure."""
        return None

    def handle_info(self, message: Any, socket: Socket, /) -> Result | None:
        """A message of `Connection.post`."""
        return None

    def handle_call(self, message: Any, socket: Socket, /) -> Any:
        """A message of `Connection.call`; what it returns or raises goes to the caller."""
        raise NotSupported(f"{type(self).__name__} has no handle_call")

    def handle_close(self, socket: Socket, /) -> None:
        """Last callback: the peer closed, or a callback returned `Close()`."""

    def handle_error(self, reason: Any, socket: Socket, /) -> None:
        """Last callback: `reason` is the exception, or what `Error` held."""

    def handle_timeout(self, socket: Socket, /) -> None:
        """Last callback: no bytes for the read timeout, or the deadline passed."""

    def handle_shutdown(self, socket: Socket, /) -> None:
        """Last callback: the server stops, or `Connection.close()` was called."""

    def handle_end(self, socket: Socket, /) -> None:
        """Always, once, after everything else, with the socket closed: clean up here."""


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
        Handler.handle_close,
        Handler.handle_error,
        Handler.handle_timeout,
        Handler.handle_shutdown,
        Handler.handle_end,
    }
)
