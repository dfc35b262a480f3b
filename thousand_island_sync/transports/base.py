"""What a transport is: how to listen, and what carries one connection's bytes.

A `Transport` is a checked set of options. It makes the listening sockets, and for
every accepted socket a `Channel`. A channel never waits: it says what it would have
to wait for, and whoever called decides on which thread, and for how long. All the
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
    """The peer has gone before its first byte: a load balancer's probe, say."""


class Source(Protocol):
    """A socket, as far as receiving goes."""

    def recv(self, length: int, flags: int, /) -> bytes | None: ...


class Sink(Protocol):
    """A socket, as far as sending goes."""

    def send(self, data: bytes, flags: int, /) -> int: ...


class Agreed(Protocol):
    """What an encrypted connection knows, in the words of the standard library's `ssl`."""

    def version(self) -> str | None:
        """The protocol's."""

    def cipher(self) -> tuple[str, str, int] | None:
        """Its name, the oldest version of the protocol that has it, and its secret bits."""

    def getpeercert(self, binary_form: bool) -> Any:
        """As `ssl.SSLSocket.getpeercert`."""

    def pending(self) -> int:
        """How many bytes the next `recv` gives without asking the descriptor. Thread: any."""


class Channel(ABC):
    """One connection's bytes, without waiting.

    Errors are `OSError`s as the system gives them; `Socket` makes ours of them. One
    thread may receive while another sends; each of the two is one thread at a time.

    Attributes:
        secure: whether the bytes are encrypted.
        truncated: whether the peer's stream ended without saying that it does.
        agreed: what a handshake has agreed on; `None` where nothing is encrypted.
        handshaking: whether the owner is in a handshake: others can neither receive nor send then.
        heard: whether bytes came that no receive gives: those of a handshake.
        kernel_waits: whether the descriptor is a blocking one, so that `wait_recv` works.
        peeks: whether `recv` with MSG_PEEK leaves the bytes where they are.
        exposed: whether the descriptor may be shown: `expose` and `unlimit` were called.
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
            EndedInSilence: it never began; a `HandshakeError` as well.
        """

    def begin_with(self, data: bytes) -> bytes:
        """Bytes of the peer's that were read before this channel took over, and come first.
        Before the first `handshake`. Those are returned that are no part of one."""
        return data

    @abstractmethod
    def recv(self, length: int, flags: int = 0) -> bytes | None:
        """At most `length` bytes; `b""` at the end of the stream, `None`: nothing yet."""

    @abstractmethod
    def send(self, data: Any, flags: int = 0) -> int:
        """How many bytes of a bytes-like were taken; 0: none yet."""

    def expose(self) -> None:
        """Somebody gets the descriptor, and may ask the kernel whether something has come: from
        now on nothing is fetched ahead of what is asked for, and no wait sets a time limit on
        the descriptor. Waits that have begun still have theirs. Thread: any."""

    def unlimit(self) -> None:
        """Takes the time limit of waits off the descriptor, after `expose`, and after waits that
        had begun are over. (Who waits does it himself as soon as he sees that, in `heed`.)
        Thread: any; the descriptor must not be closed meanwhile.

        Raises:
            OSError: as setsockopt(2).
        """

    def heed(self) -> None:
        """Before each wait of a receive: if it was exposed, `unlimit`. Thread: who receives."""

    def took_in(self) -> bool:
        """Whether since it was asked last a send has read, for its own sake, what came: the
        poller will not tell the connection's owner of it."""
        return False

    def when_handshake_done(self, call: Callable[[], None]) -> bool:
        """Calls it once the handshake is done. `False`: it is done, and nothing is called.

        Thread: any.
        """
        return False

    def source(self) -> Source:
        """What is received from for each message, with `MSG_DONTWAIT`: the channel, or
        something quicker, which may also raise `BlockingIOError` for nothing yet."""
        return self

    def sink(self) -> Sink:
        """What a plain `Socket.send` sends to, with `MSG_DONTWAIT` and `MSG_NOSIGNAL`: the
        channel, or something quicker; it may also raise `BlockingIOError` for none taken, and
        gives `~count` where a rest of what counts as sent waits for `flush`."""
        return self

    def send_gathered(self, buffers: Sequence[memoryview], flags: int = 0) -> int:
        """How many bytes of several buffers were taken."""
        return self.send(buffers[0], flags)

    def left_behind(self) -> int:
        """How many bytes, as they go to the kernel, wait for `flush`."""
        return 0

    def flush(self) -> bool:
        """Finishes what an earlier `send` had to leave; `True` when nothing is left."""
        return True

    def wait_recv(self, length: int, timeout: float) -> bytes | None:
        """Receives, waiting in the kernel; only where `kernel_waits`."""
        raise NotSupported("this transport cannot wait in the kernel")

    def sendfile(self, file: int, offset: int, count: int) -> int | None:
        """Sends from a file's descriptor without copying; `None`: not yet.

        Raises:
            NotSupported: it cannot; the caller reads and sends.
        """
        raise NotSupported("this transport has no sendfile")

    def drained(self) -> bool:
        """Whether nothing is left to receive; if more arrives later, the descriptor gives
        an event. Not asked where `kernel_waits`: a short read proves it there."""
        return False

    @abstractmethod
    def shutdown(self, how: int) -> None:
        """`SHUT_RD`, `SHUT_WR` or `SHUT_RDWR`."""

    def end_reads(self) -> None:
        """Ends receives that wait, and those to come; what is sent still goes out.

        Thread: any.
        """
        self.shutdown(socket.SHUT_RD)

    def renew(self) -> None:
        """In a forked child whose callback goes on with this one: no lock of it is held."""

    def is_inside(self) -> bool:
        """Whether the calling thread was interrupted in the middle of a call here, and holds what
        `send_close_notify` takes."""
        return False

    def send_close_notify(self) -> None:
        """Tells the peer, without waiting, that the stream ends here. May be called again,
        and by any thread: it is to be told once."""

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
        """Takes the file away: nobody can connect from now on, and those who have may still
        be accepted. A port cannot be hidden."""
        if self.unlink is not None:
            self.unlink.remove()
            self.unlink = None

    def close(self) -> None:
        """The file first: a new server may bind the path as soon as this one is gone."""
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

    #: Its options.
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
        """From what a user gave: a mapping, or for some transports something prepared."""
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
        """The given options, as they hold now."""
        return self.given

    def with_host(self, host: str) -> Transport:
        """The same with another `host`, as the server's own option gives it."""
        return type(self)({**self.given, "host": host})

    def redacted(self) -> dict[str, Any]:
        """The given options, fit to be shown."""
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
            OSError: the address cannot be had.
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
            NotSupported: from there it cannot be done.
        """
