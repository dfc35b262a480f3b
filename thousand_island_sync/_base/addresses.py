"""Addresses: host strings, dual stack, Unix paths, and how a peer's is shown."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .printable import printable
from .types import Address, SocketAddress

UNIX_PREFIX = "unix:"


def is_unix(host: str) -> bool:
    return host.startswith(UNIX_PREFIX)


def unix_name(host: str) -> str:
    """What `bind` takes for `unix:/path` or `unix:@abstract`."""
    name = host[len(UNIX_PREFIX) :]
    return "\0" + name[1:] if name.startswith("@") else name


def absolute(host: str) -> str:
    """A Unix host whose path holds whatever the working folder is later.

    Raises:
        OSError: there is no working folder any more.
    """
    name = host[len(UNIX_PREFIX) :]
    if name.startswith(("/", "@")):
        return host
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return UNIX_PREFIX + os.path.join(os.getcwd(), name)


def show_unix(name: str | bytes) -> str:
    """The reverse: a path, or `@name` for an abstract one."""
    text = os.fsdecode(name)
    return "@" + text[1:] if text.startswith("\0") else text


def plain(address: Any) -> SocketAddress:
    """A socket address as users see it: an IPv4 client of a dual-stack socket is IPv4."""
    if isinstance(address, tuple):
        if not isinstance(address[0], str):
            return address  # of vsock(7): two numbers
        if address[0].startswith("::ffff:") and "." in address[0]:
            return (address[0][7:], address[1])
        return scoped(address)
    return show_unix(address)


def scoped(address: Any) -> tuple[str, int] | tuple[str, int, int, int]:
    """An internet address whose host is complete: of an IPv6 link-local one the interface is a
    part (RFC 4007, 11), which the system gives beside it, as a number."""
    if len(address) < 4 or not address[3] or "%" in address[0]:
        return address  # type: ignore[no-any-return]
    try:
        interface = socket.if_indextoname(address[3])
    except OSError:  # it has disconnected
        interface = str(address[3])
    return (f"{address[0]}%{interface}", *address[1:])


def sharing_host(address: Any) -> Any:
    """The same address. Its host is one string for all clients who come from there, as they
    do from a proxy: 58 bytes each."""
    if type(address) is not tuple:
        return address
    if len(address) == 2:  # IPv4
        host, port = address
        try:
            return sys.intern(host), port
        except TypeError:  # of vsock(7)
            return address
    host, *rest = scoped(address)
    return (sys.intern(host), *rest)


#: In the place of a port: the address is no pair of a host and a port.
_NO_PAIR = -1
_LAST_PORT = 65_535


def apart(address: Any) -> tuple[Any, int]:
    """What `together` makes the same address of; its host is shared. A pair takes 64 bytes more."""
    if type(address) is tuple and len(address) == 2:
        host, port = address
        if type(port) is int and type(host) is str and 0 <= port <= _LAST_PORT:
            return sys.intern(host), port
    return sharing_host(address), _NO_PAIR


def together(host: Any, port: int) -> Any:
    """The address that was taken `apart`."""
    return host if port == _NO_PAIR else (host, port)


def pair(address: Any) -> Address:
    """`(host, port)` of an internet address; a Unix one as its path."""
    shown = plain(address)
    return (shown[0], shown[1]) if isinstance(shown, tuple) else shown


def remote(address: Any) -> tuple[str, int | None]:
    """`remote_address` and `remote_port` of the events: `""` and `None` for a Unix peer."""
    address = plain(address)
    return (address[0], address[1]) if isinstance(address, tuple) else ("", None)


def show(address: Any) -> str:
    """An address for a message. The path of a Unix peer is whatever he says it is."""
    address = pair(address)
    if not isinstance(address, tuple):
        return f"unix:{printable(address)}" if address else "a Unix peer"
    host, port = address
    if not isinstance(host, str):
        return f"vsock:{host}:{port}"  # as systemd writes it
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def resolve(host: str, port: int) -> tuple[int, Any]:
    """(family, socket address) to bind for a host that is not a Unix one.

    Raises:
        OSError: the name is unknown.
    """
    if host == "::":
        return socket.AF_INET6, ("::", port)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError as error:  # a label of the name is empty, or too long
        raise socket.gaierror(socket.EAI_NONAME, f"not a valid host name: {error}") from error
    family, _, _, _, address = found[0]
    return family, address


class SocketFile:
    """A Unix socket's file that is ours: removed only while it still is.

    Args:
        path: where it is.
        found: what lstat(2) said of it.
    """

    __slots__ = ("_identity", "path")

    def __init__(self, path: str, found: os.stat_result) -> None:
        self.path = path
        self._identity = (found.st_dev, found.st_ino)

    def remove(self) -> None:
        try:
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == self._identity:
                os.unlink(self.path)
        except OSError:
            pass  # other code has removed it


@contextmanager
def _one_starter_at_a_time(path: str) -> Iterator[None]:
    """Looking for a live server, removing a stale file and binding are one step: the
    directory is locked meanwhile, so of several starters exactly one wins."""
    try:
        import fcntl
    except ImportError:  # pragma: no cover - platforms without flock have no such race tests
        yield
        return
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        try:
            fcntl.flock(directory, fcntl.LOCK_UN)  # a child may have a copy, and so the lock
        finally:
            os.close(directory)


def _remove_stale(path: str) -> None:
    """Raises OSError: a live server answers there, or it is not a socket."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(errno.EEXIST, "a file that is not a socket exists there")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # a full backlog is a live server's: EAGAIN
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except BlockingIOError:
            raise OSError(errno.EADDRINUSE, "a live server's backlog is full there") from None
        else:
            raise OSError(errno.EADDRINUSE, "a live server answers there")


def bind_unix(
    sock: socket.socket, path: str, mode: int | None, backlog: int, unlink: bool
) -> SocketFile | None:
    """Binds and listens on a path, replacing a stale file.

    The mode is set between `bind` and `listen`: before `listen` nobody can connect.

    Raises:
        OSError: see `_remove_stale`, bind(2).
    """
    with _one_starter_at_a_time(path):
        _remove_stale(path)
        sock.bind(path)
        try:
            found = os.lstat(path)
            ours = SocketFile(os.path.abspath(path), found)
        except BaseException:
            os.unlink(path)  # nobody else binds here meanwhile
            raise
        try:
            if mode is not None:
                os.chmod(path, mode)
            sock.listen(backlog)
        except BaseException:
            ours.remove()
            raise
    return ours if unlink else None
