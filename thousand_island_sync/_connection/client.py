"""The peer, and other facts of a connection, during its life and afterwards."""

from __future__ import annotations

import itertools
import os
import socket as stdlib_socket
from typing import Any

from .._base import addresses
from .._base.compiled import in_c
from .._base.types import Address
from .._base.waits import condition, hung_up
from .._stream.turns import guard
from .environment import Environment

#: Seconds that a silent new connection gets at a stop, counted from its accept.
_YOUNG_S = 0.2
#: Numbers connections.
next_serial = itertools.count(1).__next__
#: Not Unix: such a socket hangs up when its peer has closed, even if bytes are still unread here.
_TCP = (stdlib_socket.AF_INET, stdlib_socket.AF_INET6)


@in_c
class PythonClient:
    """The fields of a `Client`; `_native.Client` is its equal in C."""

    __slots__ = (
        *("_host", "_id", "_port", "_serial", "_sockname", "accepted_at", "acceptor_id"),
        *("closed", "env", "sock"),
    )

    def __init__(
        self,
        env: Environment,
        sock: stdlib_socket.socket,
        host: Any,
        port: int,
        accepted_at: float,
        serial: int,
        /,
    ) -> None:
        self.env = env
        self.sock = sock
        self._host, self._port = host, port
        self.accepted_at = accepted_at
        self._serial = serial
        self._id: str | None = None  # made when first used
        self._sockname: Any = None  # set when first used
        self.closed = False
        self.acceptor_id = 0


class Client(PythonClient):
    """The facts of one connection. Thread: any.

    Args:
        env: what the connections of its run share.
        sock: its descriptor.
        host, port: the peer's address, as `addresses.apart` has it.
        accepted_at: when, in real time.
        serial: its number.

    Attributes:
        acceptor_id: the acceptor that accepted it.
        closed: whether the connection has ended.
    """

    __slots__ = ()

    @property
    def id(self) -> str:
        known = self._id
        return self.known_to(os.getpid()) if known is None else known

    def known_to(self, pid: int) -> str:
        """Its id in a process: a forked child keeps its parent's id for it."""
        known = self._id
        if known is None:
            known = self._id = f"{pid:x}-{self._serial:x}"
        return known

    @property
    def server(self) -> Any:
        return self.env.server

    @property
    def accepted_at_ns(self) -> int:
        return int(self.accepted_at * 1e9)

    @property
    def young_until(self) -> float:
        """Until when a stop waits for its first bytes."""
        return self.accepted_at + _YOUNG_S

    @property
    def is_young(self) -> bool:
        return self.env.times.real() < self.young_until

    @property
    def peer_address(self) -> Any:
        """As `accept` gave it."""
        return addresses.together(self._host, self._port)

    @property
    def peername(self) -> Address:
        return addresses.pair(self.peer_address)

    @property
    def sockname(self) -> Address | None:
        self.note_sockname()
        return None if self._sockname is None else addresses.pair(self._sockname)

    def note_sockname(self) -> None:
        """Asks for it while there is a descriptor: it is needed after the close, too."""
        if self._sockname is None:
            try:
                with guard:
                    address = self.sock.getsockname()
            except OSError:
                return  # it has ended
            self._sockname = addresses.sharing_host(address)

    def has_left(self) -> bool:
        """Whether the peer has reset the connection, or closed a Unix socket."""
        try:
            error = self.sock.getsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_ERROR)
            return error != 0 or hung_up(self.sock.fileno())
        except OSError:
            return True

    def was_reset(self, shut: bool) -> bool:
        """Whether the peer has reset a connection that is not read; a later receive still gets the
        error. `shut`: this side has shut its direction down."""
        try:
            failed, hung = condition(self.sock.fileno())
        except OSError:
            return True
        # The kernel reports the error only once, perhaps to another thread. But TCP also hangs up
        # when both directions have ended; if this side's was not shut, that was a reset.
        return failed or (hung and not shut and self.sock.family in _TCP)

    def peer_shown(self) -> str:
        return addresses.show(self.peer_address)

    def remote(self) -> dict[str, Any]:
        """The peer's address, as events have it."""
        host, port = addresses.remote(self.peer_address)
        return {"remote_address": host, "remote_port": port}
