"""The options of `ThousandIsland`, checked before anything is opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .._base import addresses
from .._base.clock import REAL, Times, seconds
from .._base.option_kinds import a_number, a_text, milliseconds, read_json, yes_no
from .._base.options import MISSING, Option, at_home, checked, is_text, optional, whole
from .._connection.environment import Limits
from .._connection.handler_check import check_handler
from ..errors import ConfigError
from ..handler import Handler
from ..transports.base import Transport
from ..transports.tcp import TCP

if TYPE_CHECKING:
    from ..transports._option_types import TransportOptions


def _is_transport(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Transport)


def _is_anything(value: Any) -> bool:
    return True


_COUNT = "a whole number, 1 or more"
_THREADS = "a whole number, 1 to 10000"

#: What a mapping is that nothing was put into; a default, so it must not change.
NO_OPTIONS: TransportOptions = {}

#: In the order of the signature.
OPTIONS: Mapping[str, Option] = {
    "handler_cls": Option(
        MISSING,
        _is_anything,
        "a subclass of Handler",
        "the subclass of `Handler` that serves; one instance for each connection",
    ),
    "handler_options": Option(
        None,
        _is_anything,
        "anything",
        "given to each handler: `handler_cls(handler_options)`",
        read_json,
    ),
    "port": a_number(
        4000,
        whole(0, 65_535),
        "a port number, 0 to 65535",
        "TCP port; 0 takes a free one, which `local_port` tells; a Unix socket has none",
    ),
    "host": Option(
        None,
        optional(is_text),
        'an address, a host name, or "unix:/path"',
        'the same as `transport_options["host"]`; `None`: not given here',
        str,
    ),
    "transport_cls": Option(
        TCP,
        _is_transport,
        "TCP, TLS, or a subclass of Transport",
        "`TCP`, `TLS`, or a `Transport` of your own",
    ),
    "transport_options": Option(
        NO_OPTIONS,
        _is_anything,
        "a mapping",
        "what the transport takes: see `TransportOptions`; or what `TLS.prepare` made",
    ),
    "num_acceptors": a_number(10, whole(1, 10_000), _THREADS, "threads that accept"),
    "num_listen_sockets": a_number(
        1,
        whole(1, 10_000),
        _THREADS,
        "listening sockets, shared out over the acceptors; more than one needs `reuse_port`",
    ),
    "max_connections": a_number(16_384, whole(1), _COUNT, "connections that are open at once"),
    "max_connections_wait_ms": milliseconds(
        5_000,
        "milliseconds that clients wait in the kernel's backlog at that limit, before they are"
        " refused",
    ),
    "max_handler_threads": a_number(
        128, whole(1), _COUNT, "threads that run callbacks; they are started on demand"
    ),
    "read_timeout_ms": milliseconds(
        60_000, "milliseconds without a byte of the peer's, after which `handle_timeout` runs"
    ),
    "handshake_timeout_ms": milliseconds(5_000, "milliseconds for a whole handshake"),
    "send_timeout_ms": milliseconds(
        30_000, "milliseconds that one `send` or `sendfile` may wait in all"
    ),
    "shutdown_timeout_ms": milliseconds(
        15_000, "milliseconds that `stop()`, and leaving `with`, may take"
    ),
    "interrupt_reads": yes_no(
        False, "whether a stop wakes a callback that waits for the next request"
    ),
    "max_pending_messages": a_number(
        1_000,
        optional(whole(1)),
        _COUNT + ", or None for no limit",
        "messages that may wait for one connection; `None`: no limit",
    ),
    "max_unread": a_number(
        1_048_576,
        whole(0),
        "a whole number of bytes, 0 or more",
        "bytes that `unread` may leave waiting, of one connection",
    ),
    "max_unsent": a_number(
        262_144,
        whole(0),
        "a whole number of bytes, 0 or more",
        "bytes of one connection that may wait for its peer, holding no thread; 0: `send` waits",
    ),
    "max_unsent_total": a_number(
        67_108_864,
        whole(0),
        "a whole number of bytes, 0 or more",
        "the same for all connections together",
    ),
    "name": a_text("thousand-island", "prefix of the threads' names; seen in logs and events"),
}

at_home(OPTIONS, "belongs to ThousandIsland itself")


class Config:
    """Checked options; times in seconds. `transport` is the one the server starts with."""

    # Not a dataclass: those are made by the compiler, at each import.
    __slots__ = (
        "handler_cls",
        "handler_options",
        "handshake_timeout",
        "interrupt_reads",
        "max_connections",
        "max_connections_wait",
        "max_handler_threads",
        "max_pending_messages",
        "max_unread",
        "max_unsent",
        "max_unsent_total",
        "name",
        "num_acceptors",
        "num_listen_sockets",
        "port",
        "read_timeout",
        "send_timeout",
        "shutdown_timeout_ms",
        "times",
        "transport",
    )

    def __init__(
        self, values: Mapping[str, Any], transport: Transport, port: int, times: Times
    ) -> None:
        self.handler_cls: type[Handler] = values["handler_cls"]
        self.handler_options: Any = values["handler_options"]
        self.port = port
        self.transport = transport
        self.num_acceptors: int = values["num_acceptors"]
        self.num_listen_sockets: int = values["num_listen_sockets"]
        self.max_connections: int = values["max_connections"]
        self.max_connections_wait = seconds(values["max_connections_wait_ms"])
        self.max_handler_threads: int = values["max_handler_threads"]
        self.read_timeout = seconds(values["read_timeout_ms"])
        self.handshake_timeout = seconds(values["handshake_timeout_ms"])
        self.send_timeout = seconds(values["send_timeout_ms"])
        self.shutdown_timeout_ms: float | None = values["shutdown_timeout_ms"]
        self.interrupt_reads: bool = values["interrupt_reads"]
        self.max_pending_messages: int | None = values["max_pending_messages"]
        self.max_unread: int = values["max_unread"]
        self.max_unsent: int = values["max_unsent"]
        self.max_unsent_total: int = values["max_unsent_total"]
        self.name: str = values["name"]
        self.times = times  # no option of users'

    def limits(self) -> Limits:
        """What a connection may take."""
        return Limits(
            self.read_timeout,
            self.send_timeout,
            self.handshake_timeout,
            self.max_pending_messages,
            self.max_unread,
            self.max_unsent,
            self.max_unsent_total,
            self.max_handler_threads // 2,
        )


def config(positional: tuple[Any, ...], options: Mapping[str, Any], times: Times = REAL) -> Config:
    """Checks the arguments of `ThousandIsland`; `times`: what its connections go by.

    Raises:
        ConfigError: says which option, what it got, and what it takes.
    """
    if positional:
        raise ConfigError(_without_name(positional[0]))
    values = checked(options, OPTIONS)
    if values["handler_cls"] is MISSING:
        raise ConfigError("handler_cls: is required; takes a subclass of Handler")
    check_handler(values["handler_cls"], stacklevel=3)
    transport = _transport(values)
    listening = transport.options
    if values["num_listen_sockets"] > 1 and not listening.get("reuse_port"):
        raise ConfigError(
            f"num_listen_sockets: got {values['num_listen_sockets']}; more than one needs"
            " transport_options={'reuse_port': True}"
        )
    adopted = listening.get("sockets") or ()
    if isinstance(adopted, str):  # systemd's: how many is known when it starts
        adopted = ()
    for name, count in (
        ("num_listen_sockets", values["num_listen_sockets"]),
        ("sockets", len(adopted)),
    ):
        if count > values["num_acceptors"]:
            raise ConfigError(
                f"{name}: got {count}, takes at most num_acceptors"
                f" ({values['num_acceptors']}): each listening socket needs an acceptor"
            )
    port = _port(values, str(listening.get("host", "")), "port" in options)
    return Config(values, transport, port, times)


def _without_name(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        named = f"port={value}"
    elif isinstance(value, type):
        named = f"handler_cls={value.__name__}"
    else:
        named = "handler_cls=..., port=..."
    return (
        f"ThousandIsland: got {type(value).__name__} without a name; every option is given by"
        f" its name: ThousandIsland({named})"
    )


def _transport(values: Mapping[str, Any]) -> Transport:
    transport_cls, given, host = (
        values["transport_cls"],
        values["transport_options"],
        values["host"],
    )
    if host is None:
        return transport_cls.of(given)  # type: ignore[no-any-return]
    named = given if isinstance(given, Mapping) else getattr(given, "given", {})
    if "host" in named:
        raise ConfigError("host: given twice, here and in transport_options; leave one out")
    if isinstance(given, Mapping):
        return transport_cls.of({**given, "host": host})  # type: ignore[no-any-return]
    return transport_cls.of(given).with_host(host)  # type: ignore[no-any-return]


def _port(values: Mapping[str, Any], host: str, given: bool) -> int:
    port = int(values["port"])
    if addresses.is_unix(host):
        if given and port != 0:
            raise ConfigError(
                f"port: got {port}, but the Unix socket {host!r} has no port; leave it out"
            )
        if values["num_listen_sockets"] > 1:
            raise ConfigError(
                f"num_listen_sockets: got {values['num_listen_sockets']}, but a Unix socket"
                " (host) has one listening socket; leave it out"
            )
        return 0
    return port
