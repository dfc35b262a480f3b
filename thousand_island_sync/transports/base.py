"""The interface of transports: how to listen, and what carries one connection's bytes.

A `Transport` is a checked set of options. It makes the listening sockets, and for
every accepted socket a `Channel`. A channel never waits: it says what it would have
to wait for, and the caller decides on which thread, and for how long. All the
waiting of the library is in two places, the scheduler and `Socket`.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from .._base import descriptors
from .._base.options import Option, checked
from ..errors import ConfigError, HandshakeError, NotSupported

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from ._tls_info import TLSInfo

#: What a channel may have to wait for.
READ, WRITE = 1, 4


class EndedInSilence(HandshakeError):
    """The peer disconnected before its first byte, as a load balancer's probe does."""


class Source(Protocol):
    """A socket, as far as receiving goes."""

    def recv(self, length: int, flags: int, /) -> bytes | None: ...


class Sink(Protocol):
    """A socket, as far as sending goes."""

    def send(self, data: bytes, flags: int, /) -> int: ...


class Agreed(Protocol):
    """What was negotiated for an encrypted connection, under the names of `ssl`."""

    def version(self) -> str | None:
        """The protocol's version."""

    def cipher(self) -> tuple[str, str, int] | None:
        """The cipher's name, the oldest protocol version that has it, and its secret bits."""

    def getpeercert(self, binary_form: bool) -> Any:
        """As `ssl.SSLSocket.getpeercert`."""

    def pending(self) -> int:
        """How many bytes the next `recv` gives without asking the descriptor. Thread: any."""


class Channel(ABC):
    """One connection's bytes, without waiting.

    Errors are the system's (`OSError`); `Socket` turns each into a `SocketError`. One thread
    at a time may receive, while another one sends.

    Attributes:
        secure: whether the bytes are encrypted.
        truncated: whether the peer's stream ended without TLS's close_notify.
        agreed: what a handshake has negotiated; `None` if the channel is not encrypted.
        handshaking: whether the owner is in a handshake: others can neither receive nor send then.
        heard: whether bytes of a handshake have come, which no receive returns.
        kernel_waits: whether the descriptor is a blocking one, so that `wait_recv` works.
        peeks: whether `recv` with MSG_PEEK leaves the bytes where they are.
        exposed: whether user code may have the descriptor: `expose` and `unlimit` were called.
        unfinished: whether bytes that count as sent wait for the next `flush`.
        recv_wants: `READ` or `WRITE`: what a receive, or the handshake, has to wait for.
        send_wants: what a send or a flush has to wait for.
    """

    __slots__ = ()

    secure: bool = False
    truncated: bool = False
    agreed: Agreed | None = None
    handshaking: bool = False
    heard: bool = False
    kernel_waits: bool = False
    peeks: bool = False
    exposed: bool = False
    unfinished: bool = False
    recv_wants: int = READ
    send_wants: int = WRITE

    @abstractmethod
    def handshake(self) -> bool:
        """Goes as far as it can; `True` when done.

        Raises:
            HandshakeError: it failed.
            EndedInSilence: the peer disconnected before its first byte; a `HandshakeError`, too.
        """

    def begin_with(self, data: bytes) -> bytes:
        """Takes bytes of the peer that were received before this channel, and come first. Called
        before the first `handshake`. Returns those that are not part of a handshake."""
        return data

    @abstractmethod
    def recv(self, length: int, flags: int = 0) -> bytes | None:
        """At most `length` bytes; `b""` at the end of the stream, `None`: nothing yet."""

    @abstractmethod
    def send(self, data: Any, flags: int = 0) -> int:
        """How many bytes of a bytes-like were taken; 0: there is no room yet."""

    def expose(self) -> None:
        """User code gets the descriptor, and may poll it: from now on no bytes are received ahead
        of a `recv`, and no wait sets a time limit on the descriptor. Waits that have begun keep
        theirs. Thread: any."""

    def unlimit(self) -> None:
        """Takes the time limit of waits off the descriptor, after `expose`, and after the waits
        that had begun. (A waiting thread does this itself as soon as it can, in `heed`.)
        Thread: any; the descriptor must not be closed meanwhile.

        Raises:
            OSError: as setsockopt(2).
        """

    def heed(self) -> None:
        """Before each wait of a receive: `unlimit`, after `expose`. Thread: the receiving one."""

    def took_in(self) -> bool:
        """Whether, since the last call, a send had to receive bytes first: the poller will not
        report those to the connection's owner."""
        return False

    def when_handshake_done(self, call: Callable[[], None]) -> bool:
        """Has `call` called once the handshake is done. `False`: it is done already.

        Thread: any.
        """
        return False

    def source(self) -> Source:
        """The object whose `recv` is called for each message, with `MSG_DONTWAIT`: the channel, or
        a quicker one, which may also raise `BlockingIOError` if nothing has come."""
        return self

    def sink(self) -> Sink:
        """The object whose `send` a plain `Socket.send` calls, with `MSG_DONTWAIT` and
        `MSG_NOSIGNAL`: the channel, or a quicker one. It may also raise `BlockingIOError` if
        there is no room. It returns `~count` if a part of `count` bytes waits for `flush`."""
        return self

    def send_gathered(self, buffers: Sequence[memoryview], flags: int = 0) -> int:
        """How many bytes of several buffers were taken."""
        return self.send(buffers[0], flags)

    def left_behind(self) -> int:
        """How many bytes, encrypted if need be, wait for `flush`."""
        return 0

    def flush(self) -> bool:
        """Sends what an earlier `send` has left; `True` when nothing is left."""
        return True

    def wait_recv(self, length: int, timeout: float) -> bytes | None:
        """Receives, waiting in recv(2); only if `kernel_waits`."""
        raise NotSupported("this transport cannot wait in the kernel")

    def sendfile(self, file: int, offset: int, count: int) -> int | None:
        """Sends from a file's descriptor without copying; `None`: there is no room yet.

        Raises:
            NotSupported: it cannot do that; the caller reads and sends.
        """
        raise NotSupported("this transport has no sendfile")

    def drained(self) -> bool:
        """Whether nothing is left to receive; if more arrives later, the descriptor gives
        an event. Not called if `kernel_waits`: a short read proves it then."""
        return False

    @abstractmethod
    def shutdown(self, how: int) -> None:
        """`SHUT_RD`, `SHUT_WR` or `SHUT_RDWR`."""

    def end_reads(self) -> None:
        """Ends receives that wait, and later ones; sends go on.

        Thread: any.
        """
        self.shutdown(socket.SHUT_RD)

    def renew(self) -> None:
        """In a forked child whose callback goes on with this channel: makes its locks anew."""

    def is_inside(self) -> bool:
        """Whether the calling thread was interrupted in the middle of a call here, and holds what
        `send_close_notify` takes."""
        return False

    def send_close_notify(self) -> None:
        """Tells the peer, without waiting, that the stream ends here. Any thread may call it,
        more than once: the peer is told once."""

    def check_flags(self, flags: int) -> None:
        """Raises NotSupported: a flag that cannot be honoured."""
        if flags:
            raise NotSupported(f"flags={flags:#x}: this transport takes none")

    def negotiated_protocol(self) -> str | None:
        return None

    def peer_certificate(self) -> Certificate | None:
        return None

    def tls_info(self) -> TLSInfo:
        raise NotSupported("tls_info() needs TLS; this connection is not encrypted")


class ListenSocket:
    """A listening socket, and what goes with it when it closes."""

    __slots__ = ("_claim", "address", "inherited", "socket", "unlink")

    def __init__(
        self,
        sock: socket.socket,
        *,
        inherited: bool = False,
        unlink: Any = None,
        claim: Any = None,
    ) -> None:
        descriptors.listens(sock)
        self._claim: Any = claim
        self.socket: socket.socket = sock
        self.inherited: bool = inherited
        self.unlink: Any = unlink
        self.address: Any = sock.getsockname()

    def hide(self) -> None:
        """Removes the file: no client can connect from now on; those that have may still be
        accepted. A port cannot be hidden."""
        if self.unlink is not None:
            self.unlink.remove()
            self.unlink = None

    def close(self) -> None:
        """Removes the file, then closes the socket: a new server may bind the path at once."""
        self.hide()
        descriptors.close_listening(self.socket, shared=self.inherited)
        if self._claim is not None:
            self._claim.release()


class Transport(ABC):
    """A checked set of options. Subclass it (or `TCP`) for a transport of your own.

    Args:
        options: the user's `transport_options`.

    Raises:
        ConfigError: an option is unknown or has a wrong value.
    """

    #: The options that it takes.
    OPTIONS: ClassVar[Mapping[str, Option]] = {}
    #: Those that belong to the listening socket; `reload_transport` refuses them.
    LISTENING: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.given: dict[str, Any] = dict(options)
        self.options: dict[str, Any] = checked(self.given, self.OPTIONS, self.where())

    @classmethod
    def where(cls) -> str:
        """How error messages name an option of this transport."""
        return "transport_options: "

    @classmethod
    def of(cls, options: Any) -> Transport:
        """Makes one from the user's value: a mapping, or for TLS the result of `prepare`."""
        if not isinstance(options, Mapping):
            raise ConfigError(f"transport_options: got {type(options).__name__}, takes a mapping")
        return cls(options)

    def merged(self, options: Mapping[str, Any]) -> Transport:
        """A transport with these options over the present ones.

        Raises:
            ConfigError: they are bad, or belong to the listening socket.
        """
        for name in options:
            if name in self.LISTENING:
                raise ConfigError(
                    f"{name}: belongs to the listening socket and cannot be reloaded;"
                    " stop the server and start one with the new value"
                )
        return type(self)({**self._given_now(), **options})

    def _given_now(self) -> dict[str, Any]:
        """The given options, with changes since."""
        return self.given

    def with_host(self, host: str) -> Transport:
        """The same with another `host`, as the server's own option gives it."""
        return type(self)({**self.given, "host": host})

    def redacted(self) -> dict[str, Any]:
        """The given options without secrets, for errors and logs."""
        return {name: self._shown(name, value) for name, value in self.given.items()}

    def _shown(self, name: str, value: Any) -> Any:
        if isinstance(value, Mapping):  # the options of hosts, say: secrets of their own
            return {key: self._shown(key, item) for key, item in value.items()}
        option = self.OPTIONS.get(name)
        if (option is not None and option.secret) or isinstance(value, (bytes, bytearray)):
            return "<redacted>"
        return value

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.redacted()}>"

    @abstractmethod
    def listen(self, port: int, count: int) -> list[ListenSocket]:
        """`count` listening, non-blocking sockets on one address; none if one fails.

        Raises:
            OSError: the address is not available.
        """

    @abstractmethod
    def channel(self, sock: socket.socket) -> Channel:
        """Carries an accepted socket's bytes; must not wait.

        Thread: a handler thread.
        """

    @abstractmethod
    def upgrade(self, sock: socket.socket, old: Channel) -> Channel:
        """Takes a connection over from another transport (`SwitchTransport`).

        Raises:
            NotSupported: it cannot be done from that transport.
        """
