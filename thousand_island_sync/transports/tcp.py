"""TCP and Unix sockets.

The descriptor of a plain connection stays blocking. A receive with `MSG_DONTWAIT` does
not wait; a plain `recv` waits in one system call, limited by SO_RCVTIMEO (socket(7)) and
woken by `shutdown`: so a handler that loops over `recv` costs as little as a plain thread.
Sends never wait in the kernel: SO_SNDTIMEO would start again with each wait.

SO_RCVTIMEO, and whether the descriptor blocks, belong to the open file, which all copies of
the descriptor share: those of a child, or of a library. Once user code has the descriptor
(`expose`), this side sets neither, and depends on neither: it waits in poll(2), and receives
without waiting.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from .._base import addresses, descriptors, sigpipe, waits
from .._base.clock import FOREVER, timeval
from .._base.compiled import in_c, send_file
from .._base.listen_errors import OptionRefused, set_option
from .._base.options import Option, at_home
from .._base.sigpipe import DONTWAIT, QUIETLY
from ..errors import ConfigError, NotSupported
from ._tcp_options import INHERITED, LISTENING, Own, own_settings, set_inherited, try_out
from .base import Channel, ListenSocket, Sink, Source, Transport


def _kernel() -> tuple[int, ...]:
    """The first two numbers of the kernel's version."""
    return tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])


# int: the standard library has it as an IntFlag, whose `|` costs two microseconds.
_UNIX = getattr(socket, "AF_UNIX", None)
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
#: In the place of SO_RCVTIMEO's value: it must not be set any more; and it must not, and is not set
#: by this side either. No time is equal to these.
_NOT_OURS, _FREE = -1.0, -2.0


@in_c
class PythonTCPChannel:
    """The fields of a `TCPChannel`, and its wait; `_native.TCPChannel` is its equal in C."""

    __slots__ = ("_exposed", "_limited", "_receive_timeout", "_sock")

    def __init__(self, sock: socket.socket, /) -> None:
        self._sock = sock
        self._receive_timeout = FOREVER  # what SO_RCVTIMEO is set to
        self._limited = False  # whether this side has set it
        self._exposed = False

    def wait_recv(self, length: int, timeout: float, /) -> bytes | None:
        if timeout != self._receive_timeout:
            return self.wait_anew(length, timeout)
        try:
            return self._sock.recv(length)
        except BlockingIOError:
            return None

    def wait_anew(self, length: int, timeout: float) -> bytes | None:
        """As `wait_recv`, with another time limit than the descriptor has."""
        raise NotImplementedError


class TCPChannel(PythonTCPChannel, Channel):
    """Bytes straight from and to the socket."""

    __slots__ = ()

    kernel_waits = True
    peeks = True

    @property
    def exposed(self) -> bool:  # type: ignore[override]
        return self._receive_timeout == _FREE

    def expose(self) -> None:
        self._exposed = True
        if self._receive_timeout != _FREE:
            self._receive_timeout = _NOT_OURS

    def unlimit(self) -> None:
        if self._limited:
            _set_limit(self._sock, FOREVER)
            self._limited = False
        if self._exposed:
            self._receive_timeout = _FREE

    def heed(self) -> None:
        if self._receive_timeout == _NOT_OURS:
            self.unlimit()

    def handshake(self) -> bool:
        return True

    def recv(self, length: int, flags: int = 0) -> bytes | None:
        try:
            return self._sock.recv(length, flags | DONTWAIT)
        except BlockingIOError:
            return None

    def wait_anew(self, length: int, timeout: float) -> bytes | None:
        if not self._exposed:
            self._limited = True
            _set_limit(self._sock, timeout)
            self._receive_timeout = timeout  # now that the kernel has taken it
        if self._exposed:  # meanwhile, perhaps
            self.unlimit()
            waits.wait_for(self._sock.fileno(), write=False, timeout=timeout)
            return self.recv(length)
        try:
            return self._sock.recv(length)
        except BlockingIOError:
            return None

    def send(self, data: Any, flags: int = 0) -> int:
        try:
            return self._sock.send(data, flags | QUIETLY)
        except BlockingIOError:
            return 0

    def source(self) -> Source:
        return self._sock

    def sink(self) -> Sink:
        return self._sock

    def send_gathered(self, buffers: Sequence[memoryview], flags: int = 0) -> int:
        try:
            return self._sock.sendmsg(buffers[:_IOV_MAX], (), flags | QUIETLY)
        except BlockingIOError:
            return 0

    def sendfile(self, file: int, offset: int, count: int) -> int | None:
        if self._sock.family == _UNIX:
            if not _UNIX_TAKES_PAGES:
                raise NotSupported("sendfile over a Unix socket, before Linux 6.5")
            count = min(count, _UNIX_PIECE)
        # sendfile(2) has no MSG_DONTWAIT, so the descriptor is non-blocking for a moment. A
        # `recv` that begins meanwhile returns early; its caller waits again.
        fd, count = self._sock.fileno(), min(count, _SENDFILE_MOST)
        if self._exposed:
            return self._sendfile_shared(fd, file, offset, count)
        if send_file is not None:
            sent: int | None = send_file(fd, file, offset, count)
            return sent
        os.set_blocking(fd, False)
        try:
            return sigpipe.sendfile(fd, file, offset, count)
        except BlockingIOError:
            return None
        finally:
            os.set_blocking(fd, True)

    def _sendfile_shared(self, fd: int, file: int, offset: int, count: int) -> int | None:
        """Other code has the descriptor too, and relies on its mode: it must not be changed."""
        if os.get_blocking(fd):
            raise NotSupported("sendfile over a descriptor that somebody else has, too")
        try:
            return sigpipe.sendfile(fd, file, offset, count)
        except BlockingIOError:
            return None

    def shutdown(self, how: int) -> None:
        self._sock.shutdown(how)

    def check_flags(self, flags: int) -> None:
        pass  # the kernel checks them


def _set_limit(sock: socket.socket, timeout: float) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(*timeval(timeout)))


at_home(LISTENING, "belongs in transport_options")
at_home(INHERITED, "belongs in transport_options")


class TCP(Transport):
    """TCP, and Unix stream sockets for a host of `unix:/path` or `unix:@name`, for `transport_cls`.

    Args:
        options: what `transport_options` takes: see `TransportOptions`; not those of TLS.

    Raises:
        ConfigError: one of them is unknown, or has a wrong value.
    """

    OPTIONS: ClassVar[Mapping[str, Option]] = {**LISTENING, **INHERITED}
    LISTENING: ClassVar[frozenset[str]] = frozenset(LISTENING)
    #: Makes the channel for a socket whose options are set. TLS has another.
    carrier: Callable[[socket.socket], Channel] = TCPChannel

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        host = self.options["host"]
        if addresses.is_unix(host):
            host = self.options["host"] = self.given["host"] = self._unix_host(host)
        for name in ("unix_mode", "unix_unlink"):
            if name in self.given and not addresses.is_unix(host):
                raise ConfigError(f"{self.where()}{name}: needs a host of 'unix:/path'")
        self._listened = self.options  # those with which the listening sockets were opened
        self._own: tuple[TCP, Own | None] | None = None  # a transport, and what it must set
        self._inherits = False  # whether accepted sockets inherit all of them

    def _unix_host(self, host: str) -> str:
        if not hasattr(socket, "AF_UNIX"):
            raise ConfigError(f"host: got {host!r}, but this platform has no Unix sockets")
        try:
            return addresses.absolute(host)
        except OSError as error:
            raise ConfigError(
                f"host: got {host!r}, but the working folder is gone ({error.strerror}); give an"
                " absolute path"
            ) from error

    def merged(self, options: Mapping[str, Any]) -> Transport:
        merged = super().merged(options)
        assert isinstance(merged, TCP)
        try:
            try_out(self.options, merged.options)
        except OptionRefused as error:
            raise ConfigError(
                f"{error.option} was refused: {error.strerror}; leave it out, or give what this"
                " kernel takes (setsockopt(2))"
            ) from error
        except OSError:
            pass  # no socket can be opened now to try it
        merged._listened = self._listened
        return merged

    def _present(self) -> TCP:
        """The transport whose options hold for new connections."""
        return self

    def channel(self, sock: socket.socket) -> Channel:
        if not self._inherits:
            self._set_own(sock)
        return self.carrier(sock)

    def _set_own(self, sock: socket.socket) -> None:
        """Sets the options that an accepted socket has not inherited."""
        present, known = self._present(), self._own
        if known is None or known[0] is not present:
            own = own_settings(self._listened, present.options)
            self._own = known = present, own if own.internet or own.unix else None
            self._inherits = known[1] is None and present is self
        if known[1] is not None:
            known[1].set_on(sock)

    def upgrade(self, sock: socket.socket, old: Channel) -> Channel:
        if old.secure:
            raise NotSupported("SwitchTransport: going back from TLS to plain TCP is not possible")
        return TCPChannel(sock)

    def listen(self, port: int, count: int) -> list[ListenSocket]:
        made: list[ListenSocket] = []
        self._listened, self._own, self._inherits = self.options, None, False
        try:
            if isinstance(self.options["sockets"], str):
                return self._adopt_claimed(made, self.options["sockets"])
            if self.options["sockets"] is not None:
                for entry in self.options["sockets"]:
                    made.append(self._adopt(entry))
                return made
            for _ in range(count):
                made.append(self._listen_one(port))
                if port == 0 and count > 1:
                    port = made[0].address[1]  # the others share what the first was given
            return made
        except BaseException:
            for listener in made:
                listener.close()
            raise

    def _adopt_claimed(self, made: list[ListenSocket], asked: str) -> list[ListenSocket]:
        """Takes sockets that systemd has passed; each may belong to one server."""
        from .. import systemd

        claims = systemd.claim(asked)
        try:
            for claim in claims:
                made.append(self._adopt(claim.number, claim))
        except BaseException:
            for claim in claims:
                claim.release()
            raise
        return made

    def _adopt(self, entry: socket.socket | int, claim: Any = None) -> ListenSocket:
        """A copy of another program's socket: closing the copy leaves the original open."""
        number = entry if isinstance(entry, int) else entry.fileno()
        named = f"sockets: descriptor {number}"
        try:
            sock = descriptors.copy_to_listen(number)
        except OSError as error:
            raise OptionRefused(named, error) from error
        except OverflowError as error:  # no C int
            raise OptionRefused(named, OSError(errno.EBADF, str(error))) from error
        try:
            os.set_inheritable(sock.fileno(), False)
            if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise OptionRefused(named, OSError(errno.EINVAL, "is not a listening socket"))
            set_inherited(sock, self.options)
            sock.setblocking(False)
            return ListenSocket(sock, inherited=True, claim=claim)
        except BaseException:
            descriptors.close_listening(sock, shared=True)
            raise

    def _listen_one(self, port: int) -> ListenSocket:
        host, backlog = self.options["host"], self.options["backlog"]
        if addresses.is_unix(host):
            return self._listen_unix(addresses.unix_name(host), backlog)
        family, address = addresses.resolve(host, port)
        sock = descriptors.open_to_listen(family)
        try:
            if family == socket.AF_INET6:
                both = self.options["dual_stack"] and host == "::"
                v6only = socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not both)
                set_option(sock, f"dual_stack={both}", *v6only)
            if self.options["reuse_address"]:
                set_option(sock, "reuse_address=True", socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self.options["reuse_port"]:
                set_option(sock, "reuse_port=True", socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            set_inherited(sock, self.options)
            sock.bind(address)
            sock.listen(backlog)
            sock.setblocking(False)
            return ListenSocket(sock)
        except BaseException:
            descriptors.close_listening(sock, shared=False)
            raise

    def _listen_unix(self, name: str, backlog: int) -> ListenSocket:
        sock = descriptors.open_to_listen(socket.AF_UNIX)
        file = None
        try:
            set_inherited(sock, self.options)
            sock.setblocking(False)
            if name.startswith("\0"):
                sock.bind(name)
                sock.listen(backlog)
            else:
                file = addresses.bind_unix(
                    sock, name, self.options["unix_mode"], backlog, self.options["unix_unlink"]
                )
            return ListenSocket(sock, unlink=file)
        except BaseException:
            if file is not None:
                file.remove()
            descriptors.close_listening(sock, shared=False)
            raise
