"""The names of `Socket` that are hardly more than a question: those that `socket.socket` has, who
is at the other end, and what libraries ask of an `ssl.SSLSocket`.

The last kind is there while the connection is encrypted, and raises AttributeError else: who
serves both asks by `hasattr` (`wsgiref`-like servers, `Radicale`, `PyKMIP`).
"""

from __future__ import annotations

import functools
import io
import socket as stdlib_socket
from collections.abc import Callable
from types import MethodType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

from .._base import addresses
from . import descriptor

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from .._base.types import Buffer, SocketAddress
    from ..transports import TLSInfo
    from ..transports.base import Agreed
    from .duplex import Duplex

F = TypeVar("F", bound=Callable[..., Any])

#: Modes of `makefile`.
_Both = Literal["rwb", "rbw", "wrb", "wbr", "brw", "bwr"]
_Read = Literal["rb", "br", "b"]
_Write = Literal["wb", "bw"]
_Text = Literal["r", "w", "rw", "wr", ""]


class _WhileSecure:
    """A method that is there while the connection is encrypted."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self._method = method
        functools.update_wrapper(self, method)  # type: ignore[arg-type]

    def __get__(self, socket: Any, owner: type | None = None) -> Any:
        if socket is None:
            return self._method
        if not socket.secure:
            name = self._method.__name__
            raise AttributeError(
                f"{name}: only a TLS connection has it; this is {socket!r}", name=name, obj=socket
            )
        return MethodType(self._method, socket)


def _while_secure(method: F) -> F:
    return _WhileSecure(method)  # type: ignore[return-value]


class StandardNames:
    """See the module's docstring. `Socket` says whose they are."""

    __slots__ = ()

    def _duplex(self) -> Duplex:
        raise NotImplementedError

    # ---- as on socket.socket --------------------------------------------------

    def close(self) -> None:
        raise NotImplementedError

    def settimeout(self, value: float | None) -> None:
        raise NotImplementedError

    def gettimeout(self) -> float | None:
        """The time limit that `settimeout` has set, in **seconds**; `None`: it has set none."""
        return self._duplex().gettimeout()

    @property
    def timeout(self) -> float | None:
        """As `gettimeout()`: **seconds**."""
        return self.gettimeout()

    def setblocking(self, flag: bool) -> None:
        """`settimeout(None)` or `settimeout(0.0)`."""
        self.settimeout(None if flag else 0.0)

    def getblocking(self) -> bool:
        """Whether calls wait: `False` after `settimeout(0)`."""
        return self.gettimeout() != 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *why: object) -> None:
        """Closes it."""
        self.close()

    def _decref_socketios(self) -> None:
        """`socket.SocketIO` calls it as it closes, which cheroot and others make by themselves.
        Files never keep a `Socket` open here."""

    @property
    def family(self) -> int:
        """The address family: `socket.AF_INET`, `AF_INET6` or `AF_UNIX`."""
        return descriptor.named(stdlib_socket.AddressFamily, self._duplex().sock.family)

    @property
    def type(self) -> int:
        """`socket.SOCK_STREAM`."""
        return descriptor.named(stdlib_socket.SocketKind, self._duplex().sock.type)

    @property
    def proto(self) -> int:
        """The protocol's number, as `socket.socket` has it."""
        return self._duplex().sock.proto

    def getpeername(self) -> SocketAddress:
        """The peer's address, as `socket.socket.getpeername`.

        Raises:
            SocketClosed: the socket was closed locally.
        """
        stream = self._duplex()
        stream.check_open("getpeername")
        return addresses.plain(stream.connection.peer_address)

    def getsockname(self) -> SocketAddress:
        """This side's address, as `socket.socket.getsockname`.

        Raises:
            SocketClosed: the socket was closed locally.
            SocketError: the system's error, with its errno.
        """
        return addresses.plain(descriptor.ask(self._duplex(), "getsockname"))

    @overload
    def setsockopt(self, level: int, optname: int, value: int | Buffer, /) -> None: ...
    @overload
    def setsockopt(self, level: int, optname: int, value: None, optlen: int, /) -> None: ...
    def setsockopt(self, *args: Any) -> None:
        """As `socket.socket.setsockopt`: setsockopt(2).

        Raises:
            SocketClosed: the socket was closed here.
            SocketError: as the system says.

        Thread: any.
        """
        descriptor.ask(self._duplex(), "setsockopt", *args)

    @overload
    def getsockopt(self, level: int, optname: int, /) -> int: ...
    @overload
    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...
    def getsockopt(self, *args: Any) -> int | bytes:
        """As `socket.socket.getsockopt`: getsockopt(2).

        Returns:
            A number, or `buflen` bytes.

        Raises:
            SocketClosed: the socket was closed here.
            SocketError: as the system says.

        Thread: any.
        """
        return descriptor.ask(self._duplex(), "getsockopt", *args)  # type: ignore[no-any-return]

    @overload
    def makefile(  # type: ignore[overload-overlap]
        self,
        mode: _Both | _Read | _Write,
        buffering: Literal[0],
        *,
        encoding: str | None = ...,
        errors: str | None = ...,
        newline: str | None = ...,
    ) -> io.RawIOBase: ...
    @overload
    def makefile(
        self,
        mode: _Both = ...,
        buffering: int = ...,
        *,
        encoding: str | None = ...,
        errors: str | None = ...,
        newline: str | None = ...,
    ) -> io.BufferedRWPair: ...
    @overload
    def makefile(
        self,
        mode: _Read,
        buffering: int = ...,
        *,
        encoding: str | None = ...,
        errors: str | None = ...,
        newline: str | None = ...,
    ) -> io.BufferedReader: ...
    @overload
    def makefile(
        self,
        mode: _Write,
        buffering: int = ...,
        *,
        encoding: str | None = ...,
        errors: str | None = ...,
        newline: str | None = ...,
    ) -> io.BufferedWriter: ...
    @overload
    def makefile(
        self,
        mode: _Text,
        buffering: int = ...,
        *,
        encoding: str | None = ...,
        errors: str | None = ...,
        newline: str | None = ...,
    ) -> io.TextIOWrapper: ...
    @overload
    def makefile(
        self,
        mode: str,
        buffering: int = ...,
        *,
        encoding: str | None = ...,
        errors: str | None = ...,
        newline: str | None = ...,
    ) -> io.IOBase: ...
    def makefile(
        self,
        mode: str = "rwb",
        buffering: int = -1,
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        """A file object, as `socket.socket.makefile`'s. Closing it leaves the socket open.

        Bytes in its buffer are not available to other reads.

        Args:
            mode: `r`, `w`, `b` in any order; without `b` it is text.
            buffering: bytes of its buffer; 0: none (binary modes); -1: the standard library's.
            encoding: as for `open`, and so are `errors` and `newline`.

        Raises:
            ValueError: an unknown mode, or text without a buffer.
            SocketClosed: the socket was closed here.

        Thread: any; a file object is one thread's at a time.
        """
        self._duplex().check_open("makefile")
        from .raw_file import opened

        return opened(self, mode, buffering, encoding, errors, newline)

    # ---- who is at the other end ----------------------------------------------

    def negotiated_protocol(self) -> str | None:
        """The ALPN protocol that was agreed on, a `str`, or `None`."""
        return self._duplex().channel.negotiated_protocol()

    def peer_certificate(self) -> Certificate | None:
        """The client's certificate; `None`: it sent none, or the connection is not encrypted."""
        return self._duplex().channel.peer_certificate()

    def tls_info(self) -> TLSInfo:
        """The result of the TLS handshake, a `TLSInfo`.

        Raises:
            NotSupported: the connection is not encrypted.
        """
        return self._duplex().channel.tls_info()

    def peer_credentials(self) -> tuple[int, int, int]:
        """The process, user and group of a Unix peer: `(pid, uid, gid)` (SO_PEERCRED, unix(7)).

        Raises:
            NotSupported: it is not a Unix socket, or the platform does not tell.
        """
        return descriptor.peer_credentials(self._duplex())

    # ---- as on ssl.SSLSocket, over TLS only -----------------------------------

    @_while_secure
    def do_handshake(self) -> None:
        """Does nothing: the handshake is done before a callback runs.

        Raises:
            AttributeError: the connection is not encrypted; so do all names of `ssl.SSLSocket`.
            SocketClosed: the socket was closed here.
        """
        self._duplex().check_open("do_handshake")

    @_while_secure
    def pending(self) -> int:
        """How many bytes the next `recv` returns without a receive from the descriptor.

        Call it before select(2) on `fileno()`, as with an `ssl.SSLSocket`.

        Raises:
            SocketClosed: the socket was closed here.

        Thread: any.
        """
        stream = self._duplex()
        stream.check_open("pending")
        kept = stream.reader.buffer
        return self._agreed("pending").pending() if kept is None else len(kept)

    @_while_secure
    def version(self) -> str | None:
        """The version of TLS, such as `"TLSv1.3"`."""
        return self._agreed("version").version()

    @_while_secure
    def cipher(self) -> tuple[str, str, int] | None:
        """The cipher's name, the protocol's version that defines it, and its secret bits."""
        return self._agreed("cipher").cipher()

    @_while_secure
    def shared_ciphers(self) -> list[tuple[str, str, int]] | None:
        """The agreed one alone, as `cipher()` has it, in a list."""
        agreed = self._agreed("shared_ciphers").cipher()
        return None if agreed is None else [agreed]

    @_while_secure
    def selected_alpn_protocol(self) -> str | None:
        """As `negotiated_protocol()`."""
        return self._duplex().channel.negotiated_protocol()

    @overload
    def getpeercert(self, binary_form: Literal[False] = False) -> dict[str, Any] | None: ...
    @overload
    def getpeercert(self, binary_form: Literal[True]) -> bytes | None: ...
    @overload
    def getpeercert(self, binary_form: bool) -> dict[str, Any] | bytes | None: ...
    @_while_secure
    def getpeercert(self, binary_form: bool = False) -> dict[str, Any] | bytes | None:
        """The client's certificate, as `ssl.SSLSocket.getpeercert` gives it.

        Args:
            binary_form: as bytes (DER); else as a dictionary.

        Returns:
            `None`: the client showed none.
        """
        return self._agreed("getpeercert").getpeercert(binary_form)  # type: ignore[no-any-return]

    def _agreed(self, doing: str) -> Agreed:
        agreed = self._duplex().channel.agreed
        if agreed is None:
            raise AttributeError(f"{doing}: this transport does not provide it")
        return agreed
