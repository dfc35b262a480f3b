"""What goes between OpenSSL and the socket: memory of OpenSSL's on one side, calls of ours on
the other.

The facts. Given a descriptor, OpenSSL reads and writes it by itself: a message takes two
reads, one for the five bytes of its record's header, and a third call has to ask whether
more is there. After an `SSL_write` that could not finish it wants the very same bytes again,
and given others it reports the new ones as sent and sends the old. Used once more after the
descriptor was closed, it writes a record into whatever got the number next. And where we
end the reads of a socket ourselves, it answers that end with a fatal alert.

What others do. The standard library gives OpenSSL the descriptor, and has memory buffers
for asyncio, which feeds them from its loop; so does Twisted.

Our decision. OpenSSL gets memory to read from and to write to, and the socket is ours: one
`recv` for all that has come, one `send` for what OpenSSL made of it. What was encrypted and
found no room is kept (`_held`, one record and what OpenSSL had to say besides), counts as
sent as bytes in the kernel's buffer do, and goes out before anything else. While an answer
of OpenSSL's own waits like that, nothing more is read: or a peer that asks for answers and
takes none would fill our memory.

Who asks the kernel himself whether there is something to read (select(2), with `fileno()`), as
some libraries do before each `recv`, would wait for what is in OpenSSL's memory already. So not a
byte is fetched beyond the record that is under way while hands are shaken (the first request may
come right behind), nor after `fileno()` was asked for: two receives for each record.

Whether anything is left to read is known without asking where what came is one whole
record, and was read whole; else OpenSSL and its memory are asked. That the kernel has nothing
more is believed only of a run that has asked it: what read from memory alone has perhaps used
up the poller's word of what came since. Memory that a large record took is let go of before a
connection is parked.

It saves two system calls of four for a message, and a fifth of its CPU (30 us to 24).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Any

from OpenSSL import SSL

from ..._base.locks import maker
from ..._base.sigpipe import DONTWAIT, QUIETLY
from ..base import READ, WRITE, Channel
from .records import BATCH, LARGEST, RECORD, records_of

# linux/socket.h's number on most machines, and <linux/sock_diag.h>'s places in what it gives.
_MEMINFO = 55
_SENDING, _ROOM, _QUEUED = 2, 3, 5
_numbers = struct.Struct("9I")
#: Records from this size on leave memory behind that is worth letting go of, in bytes.
LARGE = 4_096
#: Of a record: its kind, its version, and how much follows, in the last two bytes.
_HEADER = 5
#: Of several buffers so many bytes are copied into one.
_JOINED = 4 * RECORD
_lock_of_session = maker("tls")


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
            header = self._next(_HEADER - len(self._header), flags)
            self._header += header
            if len(self._header) < _HEADER:
                return header
            self._left = self._header[3] << 8 | self._header[4]
            self._header = b""
        try:
            data = self._next(min(self._left, length - len(header)), flags)
        except BlockingIOError:
            if header:
                return header
            raise
        self._left -= len(data)
        return header + data

    def _next(self, length: int, flags: int) -> bytes:
        if not self.before:
            return self._sock.recv(length, flags)
        data, self.before = self.before[:length], self.before[length:]
        return data


class Wire(Channel):
    """The half of a TLS channel that touches the socket. All but `drained` with `_lock` held.

    Args:
        sock: of an accepted connection.
        context: for the session.
    """

    __slots__ = (
        "_aligned",
        "_connection",
        "_exposed",
        "_held",
        "_inside",
        "_kernel_drained",
        "_large",
        "_lock",
        "_owed",
        "_records",
        "_sock",
        "_source",
        "_took_in",
        "recv_wants",
        "send_wants",
    )

    def __init__(self, sock: socket.socket, context: SSL.Context) -> None:
        self._sock = sock
        self._source: socket.socket | RecordSource = RecordSource(sock)
        self._lock = _lock_of_session()
        self._connection = SSL.Connection(context)
        self._records = records_of(self._connection)
        self._exposed = False
        self._held: bytes | None = None
        self._owed = False  # what is held is an answer of OpenSSL's own
        self._inside = False  # there may be something that was fetched and not read
        self._aligned = False  # OpenSSL holds no part of a record
        self._kernel_drained = False
        self._large = True  # memory is worth letting go of: the handshake's, at first
        self.recv_wants = READ
        self.send_wants = WRITE
        self._took_in = False

    @property
    def unfinished(self) -> bool:  # type: ignore[override]
        return self._held is not None

    def renew(self) -> None:
        self._lock._at_fork_reinit()

    def _fetch(self) -> bytes | None:
        """What has come, for OpenSSL; `b""`: the stream has ended, `None`: nothing has.

        Raises:
            OSError: as recv(2).
        """
        try:
            data = self._source.recv(LARGEST, DONTWAIT)
        except BlockingIOError:
            self._kernel_drained = True
            self.recv_wants = READ
            return None
        size = len(data)
        if size > LARGE:
            self._large = True
        self._kernel_drained = size < LARGEST and self._source is self._sock
        # One whole record, and nothing before it: then one read takes all there is.
        self._aligned = self._aligned and size > 5 and size == (data[3] << 8 | data[4]) + 5
        self._inside = size > 0
        return data

    def _send_on(self) -> bool:
        """Sends what OpenSSL has made; `False` if some of it is held back.

        Raises:
            OSError: as send(2).
        """
        data = self._records.get()
        return not len(data) or self._pass_on(data)

    def _pass_on(self, data: Any) -> bool:
        """As `_send_on`, what OpenSSL has given already."""
        sent = 0
        if self._held is None:
            try:
                sent = self._sock.send(data, QUIETLY)
            except BlockingIOError:
                pass
            if sent == len(data):
                return True
        self._hold_back(data[sent:])
        return False

    def _hold_back(self, rest: Any) -> None:
        self._held = (self._held or b"") + bytes(rest)
        self.send_wants = WRITE

    def _surely_fits(self, size: int) -> int:
        """How many of `size` bytes may be encrypted now. What finds no room then must be held,
        and counts as sent: that shall be no more than one record. So several are taken only
        where the kernel has twice the room for them (SO_MEMINFO, Linux)."""
        try:
            found = _numbers.unpack(
                self._sock.getsockopt(socket.SOL_SOCKET, _MEMINFO, _numbers.size)
            )
        except (OSError, struct.error):
            return RECORD
        room: int = found[_ROOM] - max(found[_SENDING], found[_QUEUED])
        return min(size, max(1, min(BATCH, room // (2 * RECORD))) * RECORD)

    def _answer(self) -> bool:
        """Sends what reading has led to: an alert, a key update. As `_send_on`."""
        done = self._send_on()
        if not done:
            self._owed = True
        return done

    def _last_words(self) -> None:
        """As `_send_on`, of something that the peer need not get."""
        try:
            self._send_on()
        except OSError:
            pass  # there is nobody to say it to

    def _flush(self) -> bool:
        held = self._held
        if held is not None:
            try:
                sent = self._sock.send(held, QUIETLY)
            except BlockingIOError:
                sent = 0
            if sent < len(held):
                self._held = held[sent:]
                self.send_wants = WRITE
                return False
            self._held, self._owed = None, False
        return True

    @property
    def exposed(self) -> bool:  # type: ignore[override]
        return self._exposed

    def expose(self) -> None:
        # Without the lock, under which an `sni` callable may run. A record that is under way
        # makes no difference: what is fetched goes to OpenSSL whole, in whatever pieces.
        self._exposed = True
        if self._source is self._sock:
            self._source = RecordSource(self._sock)

    def begin_with(self, data: bytes) -> bytes:
        self._source = RecordSource(self._sock, data)
        return b""

    def _end_of_handshake(self) -> None:
        """What is there of the peer's, and was no part of it, waits in OpenSSL's memory."""
        assert isinstance(self._source, RecordSource)
        if self._source.before:
            self._records.put(self._source.before)
            self._inside = True
        self._source = self._sock
        if self._exposed:
            self._source = RecordSource(self._sock)

    def left_behind(self) -> int:
        held = self._held
        return 0 if held is None else len(held)

    def took_in(self) -> bool:
        took_in, self._took_in = self._took_in, False
        return took_in

    def drained(self) -> bool:
        if not self._inside and not self._large:  # no other thread sets the first
            return self._kernel_drained
        with self._lock:
            if self._inside:
                try:
                    if not self._records.empty() or not self._answer():
                        return False
                except OSError:
                    return False  # the next receive tells
                self._inside, self._aligned = False, True
            if self._large:
                self._let_go()
            return self._kernel_drained

    def _let_go(self) -> None:
        """Of memory that is not needed any more, if nothing is in it."""
        if self._inside and not self._records.empty():
            return
        self._records.shrink()
        self._large = False


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
