"""Moves bytes between OpenSSL's memory and the socket.

The facts. If OpenSSL has a descriptor, it reads and writes by itself. A message then takes two
reads, one of them for the five bytes of its record's header, and a third call to ask whether
more is there. After an `SSL_write` that could not finish, OpenSSL wants the very same bytes
again; given others, it sends the old ones and reports the new ones as sent. Used once more after
the descriptor was closed, it writes a record to the next owner of the number. And if this side
ends the reads of a socket, OpenSSL answers that end with a fatal alert.

What others do. The standard library gives OpenSSL the descriptor, and has memory buffers
for asyncio, which feeds them from its loop; so does Twisted.

Our decision. OpenSSL reads from memory and writes to memory, and the socket belongs to this
class: one `recv` fetches all that has come, one `send` takes all that OpenSSL has written.
Encrypted bytes that find no room are kept (`held`: one record, and answers of OpenSSL's own).
They count as sent, as bytes in the kernel's buffer do, and go out before anything else. While
such an answer waits (it is `owed`), nothing more is read. Otherwise a peer that causes answers
and reads none would fill the memory.

Some libraries ask the kernel before each `recv` whether there is something to read (select(2),
with `fileno()`). They would wait for bytes that are in OpenSSL's memory already. So the wire
fetches no byte beyond the present record in two cases: during the handshake (the first request
may follow at once), and after a call of `fileno()`. That takes two receives for each record.

`kernel_drained` says that the kernel has nothing more. It is believed only in a run that has asked
the kernel: a run that read from memory alone may have used up the poller's event for later bytes.

It saves two system calls of four for a message, and a fifth of its CPU (30 us to 24).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..._base.clock import now
from ..._base.compiled import native
from ..._base.sigpipe import DONTWAIT, QUIETLY
from ..base import READ, WRITE, Source
from .records import BATCH, LARGEST, RECORD

# linux/socket.h's number on most machines, and <linux/sock_diag.h>'s places in what it gives.
_MEMINFO = 55
_SENDING, _ROOM, _QUEUED = 2, 3, 5
_numbers = struct.Struct("9I")
#: Of a record: its kind, its version, and how much follows, in the last two bytes.
HEADER = 5
#: Of several buffers so many bytes are copied into one.
_JOINED = 4 * RECORD
#: Seconds for which one record at a time is encrypted, on every connection, when more than one had
#: to be held.
_SCARCE_S = 2
#: Until then kernels' buffers take less than they say: memory is short (tcp_mem).
_scarce_until = 0.0


class RecordSource:
    """Receives from a socket, and never beyond the end of a record (RFC 8446, 5.1).

    Attributes:
        before: bytes that come before those of the socket, and were not asked for yet.
    """

    __slots__ = ("_header", "_left", "_sock", "before")

    def __init__(self, sock: socket.socket, before: bytes = b"") -> None:
        self._sock = sock
        self.before = before
        self._header = b""
        self._left = 0  # of the record under way

    def recv(self, length: int, flags: int) -> bytes:
        """As `socket.recv`; `length` is not less than a header's."""
        header = b""
        if not self._left:
            header = self._recv(HEADER - len(self._header), flags)
            self._header += header
            if len(self._header) < HEADER:
                return header
            self._left = self._header[3] << 8 | self._header[4]
            self._header = b""
        try:
            data = self._recv(min(self._left, length - len(header)), flags)
        except BlockingIOError:
            if header:
                return header
            raise
        self._left -= len(data)
        return header + data

    def _recv(self, length: int, flags: int) -> bytes:
        if not self.before:
            return self._sock.recv(length, flags)
        data, self.before = self.before[:length], self.before[length:]
        return data


class PythonWire:
    """The fields of a `Wire`, and how it fetches; `_native.TLSWire` is its equal in C.

    Attributes:
        sock: of an accepted connection.
        source: what is received from: the socket, or a `RecordSource` of it.
        held: what was encrypted, counts as sent, and found no room; `None`: nothing.
        owed: what is held is an answer of OpenSSL's own, before which nothing is read.
        kernel_drained: the last fetch has taken all that the kernel had.
        reads_ended: this side has ended them. Any thread says so, at any moment, so it is no
            state among others: it is said once, and never taken back.
        exposed: the descriptor may be shown (`Channel.exposed`).
        recv_wants: what a receive, or the handshake, has to wait for.
        send_wants: what a send has to wait for.
    """

    __slots__ = (
        *("exposed", "held", "kernel_drained", "owed", "reads_ended", "recv_wants"),
        *("send_wants", "sock", "source"),
    )

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.source: Source = sock
        self.held: bytes | None = None
        self.exposed = self.kernel_drained = self.owed = self.reads_ended = False
        self.recv_wants = READ
        self.send_wants = WRITE

    def fetch(self) -> bytes | None:
        """What has come, for OpenSSL; `b""`: the stream has ended, `None`: nothing has.

        Raises:
            OSError: as recv(2).
        """
        try:
            data = self.source.recv(LARGEST, DONTWAIT)
        except BlockingIOError:
            data = None
        if data is None:
            self.kernel_drained = True
            self.recv_wants = READ
        else:
            self.kernel_drained = len(data) < LARGEST and self.source is self.sock
        return data


if TYPE_CHECKING:
    WireCore = PythonWire
else:
    WireCore = getattr(native, "TLSWire", PythonWire)


class Wire(WireCore):
    """A TLS connection's socket, with what could not be sent yet. It knows records, and nothing of
    OpenSSL. All with the channel's lock held, except `expose`, `end_reads` and `shutdown`.
    """

    __slots__ = ()

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.source = RecordSource(sock)

    # ---- what comes -----------------------------------------------------------

    def fetch_to_send(self) -> bytes | None:
        """As `fetch`, for a send that OpenSSL does not do before it has read; the sender tries
        again as soon as he has waited for what `send_wants` is then."""
        data = self.fetch()
        self.send_wants = READ if data is None else WRITE
        return data

    def begin_with(self, data: bytes) -> None:
        """These bytes come before all others."""
        self.source = RecordSource(self.sock, data)

    def pass_handshake(self) -> bytes:
        """The handshake is over: from now on all that has come is fetched at once. What was there
        of the peer's beforehand (`begin_with`), and was no part of it."""
        assert isinstance(self.source, RecordSource)
        before = self.source.before
        self.recv_wants = READ
        self.source = self.sock
        if self.exposed:  # asked for last, as another thread may say so
            self.source = RecordSource(self.sock)
        return before

    def expose(self) -> None:
        """From now on nothing is fetched beyond the record under way. Thread: any."""
        # Without the lock, under which an `sni` callable may run. A record that is under way
        # makes no difference: what is fetched goes to OpenSSL whole, in whatever pieces.
        self.exposed = True
        if self.source is self.sock:
            self.source = RecordSource(self.sock)

    # ---- what goes ------------------------------------------------------------

    def push(self, data: Any) -> bool:
        """Sends what OpenSSL has made, which is something; `False` if some of it is held back.

        Raises:
            OSError: as send(2).
        """
        sent = 0
        if self.held is None:
            try:
                sent = self.sock.send(data, QUIETLY)
            except BlockingIOError:
                pass
            if sent == len(data):
                return True
        self.hold(data[sent:])
        return False

    def answer(self, data: Any) -> bool:
        """As `push`, of what reading has led to, if anything: an alert, a key update."""
        done = not len(data) or self.push(data)
        if not done:
            self.owed = True
            self.recv_wants = WRITE
        return done

    def push_last(self, data: Any) -> None:
        """As `push`, of something that the peer need not get, if anything."""
        try:
            if len(data):
                self.push(data)
        except OSError:
            pass  # there is nobody to say it to

    def hold(self, rest: Any) -> None:
        """Keeps what was encrypted for the next `flush`."""
        global _scarce_until
        if len(rest) > LARGEST:
            _scarce_until = now() + _SCARCE_S
        self.held = (self.held or b"") + bytes(rest)
        self.send_wants = WRITE

    def flush(self) -> bool:
        """Sends what is held; `True` when nothing is left.

        Raises:
            OSError: as send(2).
        """
        held = self.held
        if held is not None:
            try:
                sent = self.sock.send(held, QUIETLY)
            except BlockingIOError:
                sent = 0
            if sent < len(held):
                self.held = held[sent:]
                self.send_wants = WRITE
                return False
            self.held, self.owed = None, False
        return True

    def flush_to_read(self) -> bool:
        """As `flush`, for who reads next: it is for room that he has to wait."""
        done = self.flush()
        if not done:
            self.recv_wants = WRITE
        return done

    def room_for(self, size: int) -> int:
        """How many of `size` bytes may be encrypted now. What finds no room then must be held,
        and counts as sent: that shall be no more than one record. So several are taken only
        where the kernel has twice the room for them (SO_MEMINFO, Linux), and where it has not
        taken less than that elsewhere, a moment ago."""
        if now() < _scarce_until:
            return RECORD
        try:
            found = _numbers.unpack(
                self.sock.getsockopt(socket.SOL_SOCKET, _MEMINFO, _numbers.size)
            )
        except (OSError, struct.error):
            return RECORD
        room: int = found[_ROOM] - max(found[_SENDING], found[_QUEUED])
        return min(size, max(1, min(BATCH, room // (2 * RECORD))) * RECORD)

    # ---- the end --------------------------------------------------------------

    def shutdown(self, how: int) -> None:
        self.sock.shutdown(how)

    def end_reads(self) -> None:
        """Thread: any; it may have interrupted a read."""
        # In this order: an end that we made is not the peer's.
        self.reads_ended = True
        self.sock.shutdown(socket.SHUT_RD)


def in_front(buffers: Sequence[memoryview]) -> Any:
    """The first bytes of several buffers, in one: a record for each small one would cost a system
    call and some thirty bytes of the network's."""
    pieces, left = [], _JOINED
    for buffer in buffers:
        pieces.append(buffer[:left])
        left -= len(pieces[-1])
        if not left:
            break
    return b"".join(pieces) if len(pieces) > 1 else pieces[0]
