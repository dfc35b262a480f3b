"""Why nothing could listen: what was refused, and what to do about it.

People go by this one line when a server does not come up. So it names the option where an
option was refused, and the advice fits the errno (bind(2), ip(7), unix(7), getaddrinfo(3)).
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from ..errors import ListenError, ThousandIslandError
from . import addresses

_UNPRIVILEGED = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
_LONGEST_UNIX_PATH = 107


class OptionRefused(OSError):
    """The kernel does not take an option. Its text says which.

    Args:
        option: the option, as a user wrote it.
        error: what the kernel said.
    """

    def __init__(self, option: str, error: OSError) -> None:
        super().__init__(error.errno, error.strerror or str(error))
        self.option = option


def no_thread(what: str, error: RuntimeError) -> ThousandIslandError:
    """The error of a `start` or `resume` for which there is no thread (pthread_create(3): EAGAIN).
    A `ListenError` is every `resume` that fails, and each `start` that finds no address."""
    advice = "lower the number of threads, or raise the limit (`ulimit -u`)"
    said = f"{what}: no thread can be started: {error}; {advice}"
    return ListenError(errno.EAGAIN, said) if what == "resume" else ThousandIslandError(said)


def listen_error(error: OSError, host: str, port: int) -> ListenError:
    """The error of a `start` or `resume`, from what the system said."""
    unix = addresses.is_unix(host)
    where = host if unix else f"{host} port {port}"
    said = error.strerror or str(error)
    number = error.errno or 0
    if isinstance(error, OptionRefused):
        return ListenError(
            number, f"cannot listen: {error.option} was refused: {said}; {_about_option(error)}"
        )
    if unix:
        number, advice = _about_path(number, said, addresses.unix_name(host))
    elif isinstance(error, socket.gaierror):
        advice = _about_name(number, host)
    else:
        advice = _about_address(number, host, port)
    return ListenError(number, f"cannot listen on {where}: {said}; {advice}")


def _about_option(error: OptionRefused) -> str:
    if error.option.startswith("sockets"):
        return "give open sockets on which listen() was called"
    if error.errno in (errno.EPERM, errno.EACCES):
        return "it needs a privilege; grant it, or leave the option out"
    return "leave it out, or give what this kernel takes for such a socket (setsockopt(2))"


def _about_name(number: int, host: str) -> str:
    if "%" in host:
        return "check that an interface of that name exists (`ip link`)"
    _, is_url, behind = host.partition("://")
    if is_url:
        return f"give the host name alone: {_as_options(behind.partition('/')[0])}"
    if "/" in host:
        return f'a Unix socket is "unix:" and its path: host={"unix:" + host!r}'
    named = _as_options(host)
    if ", port=" in named:
        return f"the port is an option of its own: {named}"
    if host.startswith("["):
        return f"leave the brackets out: {named}"
    if number == socket.EAI_AGAIN:
        return "the name server does not answer; try again, or give an address"
    return "the name does not resolve; check its spelling, or give an address"


def _as_options(place: str) -> str:
    """`name:port` and `[address]:port`, as URLs have them, as options."""
    name, _, port = place.rpartition(":")
    if not (name and port.isdigit() and (":" not in name or name.endswith("]"))):
        name, port = place, ""
    bare = name.removeprefix("[").removesuffix("]")
    return f"host={bare!r}" + (f", port={port}" if port else "")


def _about_address(number: int, host: str, port: int) -> str:
    if number == errno.EADDRNOTAVAIL:
        return (
            "no interface of this machine has that address; give one that it has (`ip address`),"
            ' "0.0.0.0" or "::" for all of them'
        )
    if number in (errno.EACCES, errno.EPERM) and 0 < port < _first_unprivileged():
        return (
            f"ports below {_first_unprivileged()} need root or CAP_NET_BIND_SERVICE; choose a"
            " higher one, or grant it"
        )
    if number == errno.EINVAL and host.lower().startswith("fe80:") and "%" not in host:
        return f"a link-local address needs its interface: {host}%eth0, say"
    if number == errno.EAFNOSUPPORT:
        return "this machine does not support that kind of address (no IPv6?); give another"
    return _elsewhere(number, "address or port")


def _about_path(number: int, said: str, path: str) -> tuple[int, str]:
    folder = os.path.dirname(path) or "."
    if not number and "too long" in said:  # Python's own, without a number
        number = errno.ENAMETOOLONG
    if number == errno.ENAMETOOLONG:
        length = len(os.fsencode(path))
        return number, f"it has {length} bytes, takes at most {_LONGEST_UNIX_PATH}; shorten it"
    if number == errno.ENOENT and os.path.isdir(folder):  # /proc, say
        return number, f"the folder {folder} does not take sockets; choose another path"
    advice = {
        errno.ENOENT: f"the folder {folder} does not exist; make it first",
        errno.ENOTDIR: f"{folder} is not a folder; choose another path",
        errno.EACCES: f"no permission to make a socket in {folder}; grant it, or choose another"
        " folder",
        errno.EROFS: f"{folder} is read-only; choose another folder",
        errno.EEXIST: "remove it, or choose another path",
    }.get(number)
    return number, advice or _elsewhere(number, "path")


def _elsewhere(number: int, what: str) -> str:
    """The advice for errors that every kind of address may have."""
    if number == errno.EADDRINUSE:
        return f"choose another {what}, or stop the program that has it"
    if number in (errno.EMFILE, errno.ENFILE):
        return "no descriptor is free; close some, or raise the limit (`ulimit -n`)"
    if number in (errno.ENOMEM, errno.ENOBUFS):
        return "the system is out of memory for sockets; free some"
    return f"choose another {what}"


def _first_unprivileged() -> int:
    """The first port that anybody may have (ip(7))."""
    try:
        with open(_UNPRIVILEGED) as file:
            return int(file.read())
    except (OSError, ValueError):
        return 1024


def set_option(sock: socket.socket, option: str, level: int, number: int, value: Any) -> None:
    """`setsockopt`, whose error says which option it was.

    Raises:
        OptionRefused: the kernel does not take it.
    """
    try:
        sock.setsockopt(level, number, value)
    except OSError as error:
        raise OptionRefused(option, error) from error
    except (OverflowError, TypeError) as error:
        unfit = OSError(errno.EINVAL, "a number that does not fit a C int")
        raise OptionRefused(option, unfit) from error
