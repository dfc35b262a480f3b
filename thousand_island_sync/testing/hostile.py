"""Clients that misbehave, each in one way, each on a socket of its own.

None of them raises because of what the server does, none takes longer than its time, and all close
what they have opened. They return what happened:

>>> hostile.half_close(server.local_address, b"hello").ended
'eof'
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .._base.clock import FOREVER
from .._base.types import SocketAddress
from ._serve import connected

__all__ = [
    "Outcome",
    "dribble",
    "half_close",
    "half_handshake",
    "half_proxy_header",
    "never_read",
    "reset_after",
]

#: How it ended for the client: the server ended the stream, or reset it; or it did neither in time;
#: or the client could not connect.
Ended = Literal["eof", "reset", "timeout", "refused"]

_PIECE = 65_536
#: An l_onoff of 1 and an l_linger of 0: close(2) sends a reset (socket(7)).
_RESETS = struct.pack("ii", 1, 0)
#: Bytes of the receive buffer of a client that never reads: small.
_SMALL = 4_096
_HANGUP = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened to the client.

    Attributes:
        sent: the bytes that the client could send.
        received: the bytes that it has read.
        ended: `"eof"`, `"reset"`, `"timeout"` or `"refused"`.
    """

    sent: bytes
    received: bytes
    ended: Ended


class _Client:
    """A client, until its time is over."""

    def __init__(self, sock: socket.socket, until: float) -> None:
        self._sock = sock
        self._until = until
        self._sent = bytearray()
        self._received = bytearray()
        sock.setblocking(False)

    def outcome(self, ended: Ended) -> Outcome:
        return Outcome(bytes(self._sent), bytes(self._received), ended)

    def left(self, most: float = FOREVER) -> float:
        """Seconds of its time, or `most`."""
        return max(0.0, min(self._until - time.monotonic(), most))

    def send(self, data: bytes) -> bool:
        """Sends all of it, and reads what comes meanwhile. `False`: its time was over before."""
        rest = memoryview(data)
        while rest:
            count = self.send_some(rest)
            rest = rest[count:]
            if rest and not count and not self.wait(self.left(), write=True):
                return False
        return True

    def send_some(self, data: memoryview) -> int:
        """Sends as much as there is room for. How many bytes."""
        try:
            count = self._sock.send(data[:_PIECE])
        except BlockingIOError:
            return 0
        self._sent += data[:count]
        return count

    def wait(self, timeout: float, *, write: bool = False, read: bool = True) -> int:
        """Waits for bytes, room, or the end. Returns the bits of poll(2)."""
        poller = select.poll()
        wanted = (select.POLLIN if read else 0) | (select.POLLOUT if write else 0)
        poller.register(self._sock, wanted | _HANGUP)
        found = poller.poll(None if timeout == FOREVER else timeout * 1000)
        bits = found[0][1] if found else 0
        if read and bits & ~select.POLLOUT and not self._read():
            raise _Over("eof")
        return bits

    def _read(self) -> bool:
        """Reads what is there. `False`: the end of the stream."""
        try:
            data = self._sock.recv(_PIECE)
        except BlockingIOError:
            return True
        self._received += data
        return bool(data)

    def read_on(self) -> Ended:
        """Reads until the end."""
        while self.left() > 0:
            self.wait(self.left())
        return "timeout"

    def pause(self, duration: float) -> None:
        """Waits so many seconds, and reads what comes meanwhile."""
        until = time.monotonic() + duration
        while (left := self.left(until - time.monotonic())) > 0:
            self.wait(left)

    def reset(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESETS)
        self._sock.close()

    def end_sending(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)

    def take_little(self) -> None:
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL)


class _Over(Exception):
    """The server has ended the connection."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(ended)
        self.ended: Ended = ended


def _run(
    address: SocketAddress, timeout_ms: float | None, behave: Callable[[_Client], Ended]
) -> Outcome:
    """Runs a client with this behaviour."""
    timeout = None if timeout_ms is None else timeout_ms / 1000
    until = FOREVER if timeout is None else time.monotonic() + timeout
    try:
        sock = connected(address, timeout)
    except TimeoutError:
        return Outcome(b"", b"", "timeout")
    except ConnectionResetError:  # accepted, and reset at once
        return Outcome(b"", b"", "reset")
    except OSError:
        return Outcome(b"", b"", "refused")
    with sock:
        client = _Client(sock, until)
        try:
            return client.outcome(behave(client))
        except _Over as over:
            return client.outcome(over.ended)
        except OSError:
            return client.outcome("reset")


def dribble(
    address: SocketAddress, data: bytes, every_ms: float, timeout_ms: float | None = 5_000
) -> Outcome:
    """Sends a byte at a time, with pauses, and then waits for the end.

    Args:
        address: as of `local_address`.
        data: what it sends.
        every_ms: milliseconds between two bytes.
        timeout_ms: milliseconds in all; `None`: no limit.

    Thread: any.
    """

    def behave(client: _Client) -> Ended:
        for place in range(len(data)):
            if place:
                client.pause(every_ms / 1000)
            if client.left() <= 0 or not client.send(data[place : place + 1]):
                return "timeout"
        return client.read_on()

    return _run(address, timeout_ms, behave)


def reset_after(
    address: SocketAddress, data: bytes, n: int, timeout_ms: float | None = 5_000
) -> Outcome:
    """Sends the first `n` bytes of `data`, and resets the connection in the middle of it.

    Args:
        address: as of `local_address`.
        data: what it would send.
        n: how many bytes of that it does send.
        timeout_ms: milliseconds in all; `None`: no limit.

    Thread: any.
    """

    def behave(client: _Client) -> Ended:
        if not client.send(data[:n]):
            return "timeout"
        client.reset()
        return "reset"

    return _run(address, timeout_ms, behave)


def never_read(address: SocketAddress, data: bytes, timeout_ms: float | None = 5_000) -> Outcome:
    """Sends `data`, reads nothing, and waits until the server ends the connection.

    Args:
        address: as of `local_address`.
        data: what it sends, as far as the server takes it.
        timeout_ms: milliseconds in all; `None`: no limit.

    Thread: any.
    """

    def behave(client: _Client) -> Ended:
        client.take_little()
        rest = memoryview(data)
        while client.left() > 0:
            bits = client.wait(client.left(), write=bool(rest), read=False)
            if bits & select.POLLERR:
                return "reset"
            if bits & _HANGUP:
                return "eof"
            if bits & select.POLLOUT:
                rest = rest[client.send_some(rest) :]
        return "timeout"

    return _run(address, timeout_ms, behave)


def half_close(address: SocketAddress, data: bytes, timeout_ms: float | None = 5_000) -> Outcome:
    """Sends `data`, ends its sending side, and reads until the end.

    Args:
        address: as of `local_address`.
        data: what it sends.
        timeout_ms: milliseconds in all; `None`: no limit.

    Thread: any.
    """

    def behave(client: _Client) -> Ended:
        if not client.send(data):
            return "timeout"
        client.end_sending()
        return client.read_on()

    return _run(address, timeout_ms, behave)


def half_handshake(address: SocketAddress, timeout_ms: float | None = 5_000) -> Outcome:
    """Sends half a TLS ClientHello, and waits for the end.

    Args:
        address: as of `local_address`.
        timeout_ms: milliseconds in all; `None`: no limit.

    Thread: any.
    """
    hello = _client_hello()
    return _begin_only(address, hello[: len(hello) // 2], timeout_ms)


def half_proxy_header(address: SocketAddress, timeout_ms: float | None = 5_000) -> Outcome:
    """Sends half a header of the PROXY protocol, version 1, and waits for the end.

    Args:
        address: as of `local_address`.
        timeout_ms: milliseconds in all; `None`: no limit.

    Thread: any.
    """
    return _begin_only(address, b"PROXY TCP4 192.0.2.1 192.", timeout_ms)


def _begin_only(address: SocketAddress, data: bytes, timeout_ms: float | None) -> Outcome:
    def behave(client: _Client) -> Ended:
        return client.read_on() if client.send(data) else "timeout"

    return _run(address, timeout_ms, behave)


def _client_hello() -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    shaking = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        shaking.do_handshake()
    return outgoing.read()
