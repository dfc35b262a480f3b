"""`transport_options` for type checkers: the names of the tables in `tcp` and `tls`, with types.

`tests/test_options.py` compares them with the tables.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypedDict

from .._base.types import PEM

if TYPE_CHECKING:
    from OpenSSL import SSL

    from .tls import Prepared


class HostOptions(TypedDict, total=False):
    """What one host of `sni` may have of its own. For `TLS` alone.

    Attributes:
        certfile: PEM path or bytes: the certificate chain, the server's own first.
        keyfile: PEM path or bytes: its private key, unless `certfile` has it.
        password: what the private key is encrypted with.
        ca_certs: PEM path or bytes: who may sign the clients' certificates; `"system"`: the
            machine's store.
        verify: whether clients show certificates: `"none"`, `"optional"`, `"required"`; the last
            two need `ca_certs`.
        alpn_protocols: application protocols, the preferred first, such as `["h2", "http/1.1"]`.
        min_version: the lowest version of TLS: `"1.2"` or `"1.3"`.
        ciphers: OpenSSL's names of ciphers, with `:` between them; `None`: a modern choice.
        session_tickets: whether clients get tickets to resume sessions; `None`: as OpenSSL does.
        crl: PEM path or bytes: a list of clients' certificates that were revoked.
        keylog_file: a path: the keys of all connections are written there, for Wireshark.
        context: a ready, unused `OpenSSL.SSL.Context`; excludes the others but `keylog_file`.
    """

    certfile: PEM | None
    keyfile: PEM | None
    password: str | bytes | None
    ca_certs: PEM | None
    verify: Literal["none", "optional", "required"]
    alpn_protocols: Sequence[str]
    min_version: Literal["1.2", "1.3"]
    ciphers: str | None
    session_tickets: bool | None
    crl: PEM | None
    keylog_file: str | os.PathLike[str] | None
    context: SSL.Context | None


class ReloadOptions(HostOptions, total=False):
    """What `reload_transport` takes: `HostOptions`, and these.

    Attributes:
        sni: certificates of further hosts: a mapping of host name to `HostOptions`, or a callable
            that is given the name.
        nodelay: whether small messages go out at once (TCP_NODELAY).
        keepalive: whether the kernel asks silent peers if they are there.
        keepalive_idle_s: seconds of silence before it asks; `None`: the system's own.
        keepalive_interval_s: seconds between two of its questions; `None`: the system's own.
        keepalive_count: questions without an answer that end a connection; `None`: the system's
            own.
        recv_buffer: bytes of the kernel's buffer to receive (SO_RCVBUF); `None`: the system's
            own.
        send_buffer: bytes of the kernel's buffer to send (SO_SNDBUF); `None`: the system's own.
        user_timeout_ms: milliseconds that sent bytes may stay without the peer's acknowledgement
            (TCP_USER_TIMEOUT); `None`: the system's own.
        socket_options: further options, as `(level, name, value)` of setsockopt(2).
    """

    sni: (
        Mapping[str, HostOptions | Prepared]
        | Callable[[str | None], Prepared | SSL.Context | None]
        | None
    )
    nodelay: bool
    keepalive: bool
    keepalive_idle_s: int | None
    keepalive_interval_s: int | None
    keepalive_count: int | None
    recv_buffer: int | None
    send_buffer: int | None
    user_timeout_ms: int | None
    socket_options: Sequence[tuple[int, int, int | bytes]]


class TransportOptions(ReloadOptions, total=False):
    """What `transport_options` takes: `HostOptions` and `ReloadOptions`, and these, of the
    listening socket.

    Attributes:
        host: where to listen: `"0.0.0.0"` is every IPv4 interface, `"::"` every interface,
            `"127.0.0.1"`, `"unix:/path"`, `"unix:@name"`.
        backlog: clients that may wait in the kernel to be accepted; it has a limit of its own.
        reuse_address: whether to listen although old connections linger here.
        reuse_port: whether others may listen on the same port beside this server.
        dual_stack: whether a host of `"::"` takes IPv4 clients, too.
        unix_mode: permissions of a Unix socket's file, such as `0o600`.
        unix_unlink: whether a Unix socket's file goes away with the server.
        sockets: listening sockets, or their descriptors, that were made elsewhere; never shut
            down; `"systemd"`: all that systemd has passed, `"systemd:NAME"`: those of a name.
    """

    host: str
    backlog: int
    reuse_address: bool
    reuse_port: bool
    dual_stack: bool
    unix_mode: int | None
    unix_unlink: bool
    sockets: Sequence[socket.socket | int] | str | None
