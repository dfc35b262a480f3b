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

# SO_MEMINFO of linux/socket.h on most machines, and indexes from <linux/sock_diag.h>.
_MEMINFO = 55
_SENDING, _ROOM, _QUEUED = 2, 3, 5
_numbers = struct.Struct("9I")
#: Bytes of a record's header: its type, its version, and its length in the last two.
HEADER = 5
#: At most so many bytes of several buffers are copied into one.
_JOINED = 4 * RECORD
#: Seconds for which every connection encrypts one record at a time, after more than one had to be
#: held.
_SCARCE_S = 2
#: Until then the kernel's buffers take less than they report: memory is short (tcp_mem).
_scarce_until = 0.0


class RecordSource:
    """Receives from a socket, and never beyond the end of a record (RFC 8446, 5.1).

    Attributes:
        before: bytes that come before those of the socket, and were not received yet.
    """

    __slots__ = ("_header", "_left", "_sock", "before")

    def __init__(self, sock: socket.socket, before: bytes = b"") -> None:
        self._sock = sock
        self.before = before
        self._header = b""
        self._left = 0  # bytes of the present record

    def recv(self, length: int, flags: int) -> bytes:
        """As `socket.recv`; `length` is at least that of a header."""
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
        source: where bytes are received from: the socket, or a `RecordSource` of it.
        held: encrypted bytes that count as sent, and found no room; `None`: none.
        owed: whether an answer of OpenSSL's own is held: then nothing more is read.
        kernel_drained: whether the last fetch has taken all that the kernel had.
        reads_ended: whether this side has ended the reads. Any thread may set it, at any
            moment, so it is not part of a state: it is set once, and never reset.
        exposed: whether user code may have the descriptor (`Channel.exposed`).
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
        """What has come, for OpenSSL; `b""`: the stream has ended; `None`: nothing has come.

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
        """As `fetch`, for a send that OpenSSL refuses until it has read. The sender then waits for
        `send_wants`, and tries again."""
        data = self.fetch()
        self.send_wants = READ if data is None else WRITE
        return data

    def begin_with(self, data: bytes) -> None:
        """These bytes come before all others."""
        self.source = RecordSource(self.sock, data)

    def pass_handshake(self) -> bytes:
        """The handshake is over: from now on all that has come is fetched at once. Returns the
        bytes of `begin_with` that were not part of the handshake."""
        assert isinstance(self.source, RecordSource)
        before = self.source.before
        self.recv_wants = READ
        self.source = self.sock
        if self.exposed:  # checked last, as another thread may set it
            self.source = RecordSource(self.sock)
        return before

    def expose(self) -> None:
        """From now on nothing is fetched beyond the present record. Thread: any."""
        # Without the lock, under which an `sni` callable may run. A fetch in the middle of a record
        # does no harm: OpenSSL gets all that is fetched, and joins the pieces.
        self.exposed = True
        if self.source is self.sock:
            self.source = RecordSource(self.sock)

    # ---- what goes ------------------------------------------------------------

    def push(self, data: Any) -> bool:
        """Sends what OpenSSL has written (not empty); `False` if some of it is held back.

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
        """As `push`, of OpenSSL's answer to what was read, if any: an alert, a key update."""
        done = not len(data) or self.push(data)
        if not done:
            self.owed = True
            self.recv_wants = WRITE
        return done

    def push_last(self, data: Any) -> None:
        """As `push`, of bytes that the peer need not get, if any."""
        try:
            if len(data):
                self.push(data)
        except OSError:
            pass  # the peer has disconnected

    def hold(self, rest: Any) -> None:
        """Keeps encrypted bytes for the next `flush`."""
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
        """As `flush`, before a read: if it is not done, the reader has to wait for room."""
        done = self.flush()
        if not done:
            self.recv_wants = WRITE
        return done

    def room_for(self, size: int) -> int:
        """How many of `size` bytes may be encrypted now. Bytes that find no room afterwards are
        held, and count as sent: that must not be more than one record. So several records are
        encrypted only if the kernel has twice the room for them (SO_MEMINFO, Linux), and has not
        just taken less than it reported on another connection."""
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
        # The flag first: else a read would take this side's end for the peer's.
        self.reads_ended = True
        self.sock.shutdown(socket.SHUT_RD)


def in_front(buffers: Sequence[memoryview]) -> Any:
    """The first bytes of several buffers, joined: a record for each small buffer would cost a
    system call and some thirty bytes on the network."""
    pieces, left = [], _JOINED
    for buffer in buffers:
        pieces.append(buffer[:left])
        left -= len(pieces[-1])
        if not left:
            break
    return b"".join(pieces) if len(pieces) > 1 else pieces[0]
