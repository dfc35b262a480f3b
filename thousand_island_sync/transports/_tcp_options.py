"""The options of `TCP`: which there are, and which calls of the kernel's they are.

Accepted sockets inherit what the listening one has (tcp(7)), so a connection costs no call
for it. Only what a reload has changed is set on each: the listening socket may be shared
with other processes, and clients may wait in its backlog already.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from .._base import addresses
from .._base.listen_errors import OptionRefused, set_option
from .._base.option_kinds import a_number, permissions, read_json, yes_no
from .._base.options import Check, Option, is_sequence, is_text, optional, whole

_LINUX = sys.platform.startswith("linux")
_UNIX = getattr(socket, "AF_UNIX", None)
_INTERNET = (socket.AF_INET, socket.AF_INET6)


class Setting(NamedTuple):
    """One call of `setsockopt`. `option`: which option asks for it, as a user wrote it."""

    option: str
    level: int
    number: int
    value: Any


def _is_host(value: Any) -> bool:
    return is_text(value) and value not in ("unix:", "unix:@")


def _are_socket_options(value: Any) -> bool:
    return is_sequence(value) and all(
        isinstance(entry, tuple)
        and len(entry) == 3
        and isinstance(entry[0], int)
        and isinstance(entry[1], int)
        and isinstance(entry[2], (int, bytes))
        for entry in value
    )


def _are_sockets(value: Any) -> bool:
    if isinstance(value, str):
        return value == "systemd" or (value.startswith("systemd:") and len(value) > 8)
    return (
        is_sequence(value)
        and len(value) > 0
        and all(isinstance(entry, (socket.socket, int)) for entry in value)
    )


def _number(least: int, most: int, what: str, means: str, default: int | None = None) -> Option:
    """A whole number that the kernel takes; `None`, the system's own, where that is the default."""
    check: Check = whole(least, most)
    takes = f"{what}, {least} to {most}, the kernel's limits"
    return a_number(default, check if default is not None else optional(check), takes, means)


def _read_socket_options(text: str) -> list[tuple[Any, ...]]:
    """As JSON: `[[6, 1, 1]]`."""
    return [tuple(entry) for entry in read_json(text)]


_INT_MAX = 2**31 - 1
_SECONDS = "a whole number of seconds"
_SIZE = "a whole number of bytes"
_SYSTEMS = "; `None`: the system's own"

LISTENING: dict[str, Option] = {
    "host": Option(
        "0.0.0.0",
        _is_host,
        'an address or a host name, "unix:/path", or "unix:@name"',
        'where to listen: `"0.0.0.0"` is every IPv4 interface, `"::"` every interface,'
        ' `"127.0.0.1"`, `"unix:/path"`, `"unix:@name"`',
        str,
    ),
    "backlog": a_number(
        1024,
        whole(1, _INT_MAX),
        f"a whole number, 1 to {_INT_MAX}",
        "clients that may wait in the kernel to be accepted; it has a limit of its own",
    ),
    "reuse_address": yes_no(True, "whether to listen although old connections linger here"),
    "reuse_port": yes_no(False, "whether others may listen on the same port beside this server"),
    "dual_stack": yes_no(True, 'whether a host of `"::"` takes IPv4 clients, too'),
    "unix_mode": permissions("permissions of a Unix socket's file, such as `0o600`"),
    "unix_unlink": yes_no(True, "whether a Unix socket's file goes away with the server"),
    "sockets": Option(
        None,
        optional(_are_sockets),
        'a list of listening sockets, "systemd", or "systemd:NAME"',
        "listening sockets, or their descriptors, that were made elsewhere; never shut down;"
        ' `"systemd"`: all that systemd has passed, `"systemd:NAME"`: those of a name',
        str,
    ),
}
INHERITED: dict[str, Option] = {
    "nodelay": yes_no(True, "whether small messages go out at once (TCP_NODELAY)"),
    "keepalive": yes_no(True, "whether the kernel asks silent peers if they are there"),
    "keepalive_idle_s": _number(
        1, 32_767, _SECONDS, f"seconds of silence before it asks{_SYSTEMS}"
    ),
    "keepalive_interval_s": _number(
        1, 32_767, _SECONDS, f"seconds between two of its questions{_SYSTEMS}"
    ),
    "keepalive_count": _number(
        1, 127, "a whole number", f"questions without an answer that end a connection{_SYSTEMS}"
    ),
    "recv_buffer": _number(
        1, _INT_MAX, _SIZE, f"bytes of the kernel's buffer to receive (SO_RCVBUF){_SYSTEMS}"
    ),
    "send_buffer": _number(
        1, _INT_MAX, _SIZE, f"bytes of the kernel's buffer to send (SO_SNDBUF){_SYSTEMS}"
    ),
    "user_timeout_ms": _number(
        0,
        _INT_MAX,
        "a whole number of milliseconds",
        "milliseconds that sent bytes may stay without the peer's acknowledgement"
        f" (TCP_USER_TIMEOUT){_SYSTEMS}",
    ),
    "socket_options": Option(
        (),
        _are_socket_options,
        "a list of (level, name, value) for setsockopt",
        "further options, as `(level, name, value)` of setsockopt(2)",
        _read_socket_options,
    ),
}
#: Option -> level and the constant's name, or names: the first that the platform has.
_CALLS: dict[str, tuple[int, str]] = {
    "keepalive": (socket.SOL_SOCKET, "SO_KEEPALIVE"),
    "nodelay": (socket.IPPROTO_TCP, "TCP_NODELAY"),
    "keepalive_idle_s": (socket.IPPROTO_TCP, "TCP_KEEPIDLE" if _LINUX else "TCP_KEEPALIVE"),
    "keepalive_interval_s": (socket.IPPROTO_TCP, "TCP_KEEPINTVL"),
    "keepalive_count": (socket.IPPROTO_TCP, "TCP_KEEPCNT"),
    "user_timeout_ms": (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT"),
    "recv_buffer": (socket.SOL_SOCKET, "SO_RCVBUF"),
    "send_buffer": (socket.SOL_SOCKET, "SO_SNDBUF"),
}
#: What is no internet socket (a Unix one, vsock(7)) has these two alone.
_OF_UNIX = ("recv_buffer", "send_buffer")


def _setting(name: str, value: Any) -> Setting:
    level, constant = _CALLS[name]
    number = getattr(socket, constant, None)
    option = f"{name}={value!r}"
    if number is None:
        raise OptionRefused(option, OSError(92, f"this platform has no {constant}"))
    return Setting(option, level, number, int(value))


def _given_settings(options: Mapping[str, Any]) -> Iterator[Setting]:
    for level, number, value in options["socket_options"]:
        yield Setting("socket_options", level, number, value)


def set_inherited(sock: socket.socket, options: Mapping[str, Any]) -> None:
    """What a listening socket hands on to those it accepts.

    Raises:
        OptionRefused: the kernel does not take one.
    """
    for name in _CALLS if sock.family in _INTERNET else _OF_UNIX:
        if options[name] is not None:
            set_option(sock, *_setting(name, options[name]))
    for setting in _given_settings(options):
        _set_given(sock, setting)


def _set_given(sock: socket.socket, setting: Setting) -> None:
    if setting.option == "socket_options":
        setting = Setting(_shown(setting), *setting[1:])
    set_option(sock, *setting)


def _shown(setting: Setting) -> str:
    """An entry of `socket_options` as it was written, with the constants' names."""
    _, level, number, value = setting
    family = {
        socket.SOL_SOCKET: ("SOL_SOCKET", "SO_"),
        socket.IPPROTO_TCP: ("IPPROTO_TCP", "TCP_"),
        socket.IPPROTO_IP: ("IPPROTO_IP", "IP_"),
        socket.IPPROTO_IPV6: ("IPPROTO_IPV6", "IPV6_"),
    }.get(level)
    named = (level, number) if family is None else (family[0], _constant(family[1], number))
    # Bytes may be a key (TCP_MD5SIG).
    shown = "..." if isinstance(value, bytes) else repr(value)
    return f"socket_options: ({named[0]}, {named[1]}, {shown})"


def _constant(prefix: str, number: int) -> str:
    names = (name for name in dir(socket) if name.startswith(prefix))
    return next((name for name in names if getattr(socket, name) == number), str(number))


class Own:
    """What accepted sockets do not have from a listening one, by kind of socket."""

    __slots__ = ("internet", "unix")

    def __init__(self, internet: list[Setting], unix: list[Setting]) -> None:
        self.internet, self.unix = internet, unix

    def set_on(self, sock: socket.socket) -> None:
        """Not every option is one of an accepted socket: what only a listener has fails here,
        and has been told at the start, or at the reload."""
        for _, level, number, value in self.internet if sock.family in _INTERNET else self.unix:
            try:
                sock.setsockopt(level, number, value)
            except OSError:
                pass


def own_settings(listened: Mapping[str, Any], present: Mapping[str, Any]) -> Own:
    """What differs since the listening socket was opened, and `socket_options`, not all of
    which are inherited. A Unix socket inherits nothing."""
    given = list(_given_settings(present))
    changed, kept = [], {setting[1:3] for setting in given}
    for name in _CALLS:
        if listened[name] != present[name]:
            value = present[name]
            changed.append(_setting(name, _system_value(name) if value is None else value))
    for setting in _given_settings(listened):
        if setting[1:3] not in kept:
            changed += _undone(setting)
    sizes = [_setting(name, present[name]) for name in _OF_UNIX if present[name] is not None]
    unix = addresses.is_unix(present["host"])
    either = present["sockets"] is not None
    return Own(
        [*changed, *given] if either or not unix else [],
        [*sizes, *given] if either or unix else [],
    )


def _system_value(name: str) -> int:
    """What the kernel gives a new socket. Sizes it doubles as they are set (socket(7))."""
    level, constant = _CALLS[name]
    with socket.socket() as fresh:
        value = fresh.getsockopt(level, getattr(socket, constant))
    return value // 2 if name in _OF_UNIX and _LINUX else value


def _undone(setting: Setting) -> list[Setting]:
    """What gives an accepted socket the system's own value again, where that can be read."""
    size = len(setting.value) if isinstance(setting.value, bytes) else 0
    try:
        with socket.socket() as fresh:
            value: Any = fresh.getsockopt(setting.level, setting.number, *([size] if size else []))
    except OSError:
        return []
    return [Setting(*setting[:3], value)]


def try_out(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """What a reload changes, on a socket of the same kind, which is closed again.

    Raises:
        OptionRefused: the kernel does not take one.
    """
    known = list(_given_settings(before))
    host, own = after["host"], own_settings(before, after)
    unix = addresses.is_unix(host)
    settings = [one for one in (own.unix if unix else own.internet) if one not in known]
    if settings:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(_UNIX if unix and _UNIX else family) as fresh:
            for setting in settings:
                _set_given(fresh, setting)
