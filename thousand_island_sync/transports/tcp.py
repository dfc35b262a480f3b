"""TCP and Unix sockets.

The descriptor of a plain connection stays blocking. `MSG_DONTWAIT` asks without
waiting, and a plain `recv` then waits in one system call, bounded by SO_RCVTIMEO
(socket(7)) and woken by `shutdown`: a handler that loops over `recv` pays what a raw
thread would. Sends never wait in the kernel: SO_SNDTIMEO starts anew with each wait.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from .. import _addresses
from .._clock import FOREVER, timeval
from .._compiled import send_file
from .._options import (
    Option,
    is_bool,
    is_sequence,
    is_text,
    optional,
    whole,
)
from ..errors import ConfigError, NotSupported
from ._base import Channel, ListenSocket, Sink, Source, Transport


def _kernel() -> tuple[int, ...]:
    """The first two numbers of the kernel's version."""
    return tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])


# int: the standard library has it as an IntFlag, whose `|` costs two microseconds.
_UNIX = getattr(socket, "AF_UNIX", None)
_DONTWAIT = int(getattr(socket, "MSG_DONTWAIT", 0))
_LINUX = sys.platform.startswith("linux")
_IOV_MAX = 512
_SENDFILE_MOST = 1 << 30
#: Bytes of a file at a time over a Unix socket, and whether it takes pages of a file as they are:
#: since Linux 6.5 (MSG_SPLICE_PAGES); before, each page was a message of its own. MiB a second
#: and ms of CPU for a GiB, files of 64 MiB: read and sent 2,080, 475; all at once 2,400, 249; by
#: 32 KiB 2,880, 350; by 64 KiB 4,640, 193; by 128 KiB 2,560, 256 (benchmarks.files).
_UNIX_PIECE = 64 * 1024
_UNIX_TAKES_PAGES = _LINUX and _kernel() >= (6, 5)
_timeval = struct.Struct("ll").pack


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
    return (
        is_sequence(value)
        and len(value) > 0
        and all(isinstance(entry, (socket.socket, int)) for entry in value)
    )


_YES_NO = "True or False"
_SECONDS = "a whole number of seconds, 1 or more"
_SIZE = "a whole number of bytes, 1 or more"

_LISTENING: dict[str, Option] = {
    "host": Option(
        "0.0.0.0",
        _is_host,
        'an address or a host name, "unix:/path", or "unix:@name"',
    ),
    "backlog": Option(1024, whole(1, 2**31 - 1), "a whole number, 1 or more"),
    "reuse_address": Option(True, is_bool, _YES_NO),
    "reuse_port": Option(False, is_bool, _YES_NO),
    "dual_stack": Option(True, is_bool, _YES_NO),
    "unix_mode": Option(None, optional(whole(0, 0o7777)), "a file mode such as 0o600"),
    "unix_unlink": Option(True, is_bool, _YES_NO),
    "sockets": Option(None, optional(_are_sockets), "a list of listening sockets"),
}
# Accepted sockets inherit these from the listening one: no call for each connection.
_INHERITED: dict[str, Option] = {
    "nodelay": Option(True, is_bool, _YES_NO),
    "keepalive": Option(True, is_bool, _YES_NO),
    "keepalive_idle_s": Option(None, optional(whole(1, 32767)), _SECONDS),
    "keepalive_interval_s": Option(None, optional(whole(1, 32767)), _SECONDS),
    "keepalive_count": Option(None, optional(whole(1, 127)), "a whole number, 1 to 127"),
    "recv_buffer": Option(None, optional(whole(1, 2**31 - 1)), _SIZE),
    "send_buffer": Option(None, optional(whole(1, 2**31 - 1)), _SIZE),
    "user_timeout_ms": Option(
        None, optional(whole(0, 2**31 - 1)), "a whole number of milliseconds, 0 or more"
    ),
    "socket_options": Option(
        (), _are_socket_options, "a list of (level, name, value) for setsockopt"
    ),
}


class TCPChannel(Channel):
    """Bytes straight from and to the socket."""

    __slots__ = ("_receive_timeout", "_sock")

    kernel_waits = True

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._receive_timeout = FOREVER  # what SO_RCVTIMEO is set to

    def handshake(self) -> bool:
        return True

    def recv(self, length: int, flags: int = 0) -> bytes | None:
        try:
            return self._sock.recv(length, flags | _DONTWAIT)
        except BlockingIOError:
            return None

    def wait_recv(self, length: int, timeout: float) -> bytes | None:
        if timeout != self._receive_timeout:
            packed = _timeval(*timeval(timeout))
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, packed)
            self._receive_timeout = timeout  # now that the kernel has taken it
        try:
            return self._sock.recv(length)
        except BlockingIOError:
            return None

    def send(self, data: Any, flags: int = 0) -> int:
        try:
            return self._sock.send(data, flags | _DONTWAIT)
        except BlockingIOError:
            return 0

    def source(self) -> Source:
        return self._sock

    def sink(self) -> Sink:
        return self._sock

    def send_gathered(self, buffers: Sequence[memoryview], flags: int = 0) -> int:
        try:
            return self._sock.sendmsg(buffers[:_IOV_MAX], (), flags | _DONTWAIT)
        except BlockingIOError:
            return 0

    def sendfile(self, file: int, offset: int, count: int) -> int | None:
        if self._sock.family == _UNIX:
            if not _UNIX_TAKES_PAGES:
                raise NotSupported("sendfile over a Unix socket, before Linux 6.5")
            count = min(count, _UNIX_PIECE)
        # sendfile(2) knows no MSG_DONTWAIT. A thread that begins to wait in `recv`
        # meanwhile comes back early, which its caller bears.
        fd, count = self._sock.fileno(), min(count, _SENDFILE_MOST)
        if send_file is not None:
            sent: int | None = send_file(fd, file, offset, count)
            return sent
        os.set_blocking(fd, False)
        try:
            return os.sendfile(fd, file, offset, count)
        except BlockingIOError:
            return None
        finally:
            os.set_blocking(fd, True)

    def shutdown(self, how: int) -> None:
        self._sock.shutdown(how)

    def check_flags(self, flags: int) -> None:
        pass  # the kernel's to judge


class TCP(Transport):
    """TCP, and Unix stream sockets for a host of `unix:/path` or `unix:@name`."""

    OPTIONS: ClassVar[Mapping[str, Option]] = {**_LISTENING, **_INHERITED}
    LISTENING: ClassVar[frozenset[str]] = frozenset(_LISTENING)

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        host = self.options["host"]
        if _addresses.is_unix(host) and not hasattr(socket, "AF_UNIX"):
            raise ConfigError(f"host: got {host!r}, but this platform has no Unix sockets")
        for name in ("unix_mode", "unix_unlink"):
            if name in self.given and not _addresses.is_unix(host):
                raise ConfigError(f"{self.where()}{name}: needs a host of 'unix:/path'")

    def channel(self, sock: socket.socket) -> Channel:
        if self.options["socket_options"]:
            self._set_own(sock)
        return TCPChannel(sock)

    def _set_own(self, sock: socket.socket) -> None:
        """Not every option is inherited; those that only a listener has fail here."""
        for level, name, value in self.options["socket_options"]:
            try:
                sock.setsockopt(level, name, value)
            except OSError:
                pass  # the listening socket took it

    def upgrade(self, sock: socket.socket, old: Channel) -> Channel:
        if old.secure:
            raise NotSupported("SwitchTransport: going back from TLS to plain TCP is not possible")
        return TCPChannel(sock)

    def listen(self, port: int, count: int) -> list[ListenSocket]:
        made: list[ListenSocket] = []
        try:
            if self.options["sockets"] is not None:
                for entry in self.options["sockets"]:
                    made.append(self._adopt(entry))
                return made
            for _ in range(count):
                made.append(self._listen_one(port))
                if port == 0 and count > 1:
                    port = made[0].address[1]  # the others share what the first was given
        except BaseException:
            for listener in made:
                listener.close()
            raise
        return made

    def _adopt(self, entry: socket.socket | int) -> ListenSocket:
        """A copy of a socket made elsewhere: closing the copy leaves the original alone."""
        number = entry if isinstance(entry, int) else entry.fileno()
        sock = socket.socket(fileno=os.dup(number))
        try:
            os.set_inheritable(sock.fileno(), False)
            if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise OSError(22, f"sockets: descriptor {number} is not a listening socket")
            self._set_inherited(sock)
            sock.setblocking(False)
        except BaseException:
            sock.close()
            raise
        return ListenSocket(sock, inherited=True)

    def _listen_one(self, port: int) -> ListenSocket:
        host, backlog = self.options["host"], self.options["backlog"]
        if _addresses.is_unix(host):
            return self._listen_unix(_addresses.unix_name(host), backlog)
        family, address = _addresses.resolve(host, port)
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            if family == socket.AF_INET6:
                both = self.options["dual_stack"] and host == "::"
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if both else 1)
            if self.options["reuse_address"]:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self.options["reuse_port"]:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._set_inherited(sock)
            sock.bind(address)
            sock.listen(backlog)
            sock.setblocking(False)
        except BaseException:
            sock.close()
            raise
        return ListenSocket(sock)

    def _listen_unix(self, name: str, backlog: int) -> ListenSocket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._set_inherited(sock)
            file = None
            if name.startswith("\0"):
                sock.bind(name)
                sock.listen(backlog)
            else:
                file = _addresses.bind_unix(
                    sock, name, self.options["unix_mode"], backlog, self.options["unix_unlink"]
                )
            sock.setblocking(False)
        except BaseException:
            sock.close()
            raise
        return ListenSocket(sock, unlink=file)

    def _set_inherited(self, sock: socket.socket) -> None:
        options = self.options
        wanted: list[tuple[int, int, Any]] = []
        if sock.family != getattr(socket, "AF_UNIX", None):
            wanted.append((socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(options["keepalive"])))
            for name, constant in (
                ("nodelay", "TCP_NODELAY"),
                ("keepalive_idle_s", "TCP_KEEPIDLE" if _LINUX else "TCP_KEEPALIVE"),
                ("keepalive_interval_s", "TCP_KEEPINTVL"),
                ("keepalive_count", "TCP_KEEPCNT"),
                ("user_timeout_ms", "TCP_USER_TIMEOUT"),
            ):
                if options[name] is not None:
                    wanted.append(
                        (socket.IPPROTO_TCP, self._constant(constant), int(options[name]))
                    )
        if options["recv_buffer"] is not None:
            wanted.append((socket.SOL_SOCKET, socket.SO_RCVBUF, options["recv_buffer"]))
        if options["send_buffer"] is not None:
            wanted.append((socket.SOL_SOCKET, socket.SO_SNDBUF, options["send_buffer"]))
        wanted.extend(options["socket_options"])
        for level, name_, value in wanted:
            sock.setsockopt(level, name_, value)

    def _constant(self, name: str) -> int:
        found = getattr(socket, name, None)
        if found is None:
            raise OSError(92, f"{name} is not known on this platform")
        return int(found)
