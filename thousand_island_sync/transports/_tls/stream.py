"""The bytes of a TLS connection after the handshake: the path of each message.

The facts. An SSL object may be used by one thread at a time. Decrypted bytes can wait in it while
the poller is silent. `sendall` loses its place when it would have to wait. A client may begin a
renegotiation (TLS 1.2, if the context allows it), or ask for new keys (TLS 1.3): then a read has
to send, and a send has to read.

Our decision. The lock is held around each step, never around a wait. The wire's `recv_wants` and
`send_wants` say what to wait for. If a read causes an answer, the answer goes out before the next
read. If OpenSSL refuses a send until it has read, the send fetches the bytes itself. The poller
will not report these bytes to the owner again, so the send notes that (`took_in`).

If exactly one whole record has come and was read whole, nothing is left to read
(`_tls.states.Unread`). Otherwise OpenSSL and its memory are asked. The memory of a large record is
released before a connection is parked.

`recv` and `send` have a short cut in C (`_native.TLSStream`, native/tls.c), for a single whole
record and for data that goes out in one send. It calls the same functions of OpenSSL as
`PrivateRecords`, by their addresses. Everything else goes to `receive`, `transmit`, and the
methods that they call.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from OpenSSL import SSL

from ..._base.compiled import native
from .records import RECORD, PrivateRecords, Records
from .session import Session, protocol_error
from .states import HANDSHAKE, NOTHING, PART, READABLE, SOME, WHOLE, Unread
from .wire import HEADER, Wire

#: After records of this size, in bytes, freeing OpenSSL's memory is worth its cost.
LARGE = 4_096


class PythonStream:
    """The fields of a `Stream`; `_native.TLSStream` is its equal in C, and has a short cut.

    Attributes:
        lock: the channel's.
        wire: the socket.
        unread: what OpenSSL holds of the fetched bytes.
        large: whether OpenSSL holds memory that is worth freeing.
    """

    __slots__ = ("large", "lock", "unread", "wire")

    def __init__(self, lock: Any, wire: Wire) -> None:
        self.lock = lock
        self.wire = wire
        self.unread: Unread = HANDSHAKE
        self.large = False

    def place(self, *places: Any) -> None:
        """Gives the short cut the result of `Records.places`; without arguments it is off."""


if TYPE_CHECKING:
    StreamCore = PythonStream
else:
    StreamCore = getattr(native, "TLSStream", PythonStream)


class Stream(StreamCore):
    """A connection's source and sink (`Channel.source`, `Channel.sink`).

    Args:
        lock: the channel's.
        wire: the socket.
        session: OpenSSL's connection, which the handshake may replace until `open`.
    """

    __slots__ = ("_met", "_records", "_session", "_took_in")

    _records: Records

    def __init__(self, lock: Any, wire: Wire, session: Session) -> None:
        super().__init__(lock, wire)
        self._session = session
        self.unread = HANDSHAKE
        self._took_in = False
        # The error that `pending` got, as OpenSSL reports it only once (arguments: see `go_on`).
        self._met: tuple[object, object] | None = None

    def open(self) -> None:
        """The handshake is done. With the lock held."""
        self._records = self._session.records
        before = self.wire.pass_handshake()
        if before:
            self._records.put(before)
        self.large = True  # the memory that the handshake took
        self.unread = SOME if before else PART
        self._free_memory()

    # ---- receiving ------------------------------------------------------------

    def receive(self, length: int, flags: int = 0) -> bytes | None:
        """The complete `Channel.recv`, without the short cut."""
        with self.lock:
            wire = self.wire
            if wire.reads_ended or self.unread is HANDSHAKE:
                return None  # the owner is in the handshake, perhaps in the user's `sni`
            if wire.owed and not wire.flush_to_read():
                return None
            try:
                return self._read(length, None)
            except (OSError, MemoryError) as error:
                self.failed(error)
                raise

    def go_on(self, length: int, fetched: bytes, count: int) -> bytes | None:
        """The rest of a receive, after a fetch; with the lock held.

        Args:
            length: bytes at most.
            fetched: `b""`: the stream has ended; else OpenSSL has it.
            count: what SSL_read(3) returned, which is an error. (Not the exception: its traceback
                refers to its frames, a cycle that would keep the session alive.)
        """
        return self._read(length, count) if fetched else self._cut_short()

    def _read(self, length: int, count: int | None) -> bytes | None:
        while True:
            try:
                if count is not None:
                    assert isinstance(self._records, PrivateRecords)
                    raise self._records.failure(count)
                if self.unread in READABLE:
                    # The kernel was not asked in this run, so it may hold more.
                    self.wire.kernel_drained = False
                    data = self._records.read(length)
                else:
                    fetched = self.wire.fetch()
                    if not fetched:
                        return None if fetched is None else self._cut_short()
                    self._note(fetched)
                    data = self._records.read(length, fetched)
            except SSL.WantReadError:
                if self._met is not None:
                    raise OSError(*self._met) from None
                # No bytes, but OpenSSL may have an answer to send: new keys (RFC 8446, 4.6.3), or
                # its part of a renegotiation. It is sent before the next fetch, so that a peer
                # which causes answers and reads none cannot go on.
                count = None
                self.unread = PART
                if not self._answer():
                    return None
                continue
            except SSL.ZeroReturnError:
                self._session.close_notify_read()
                return b""
            except SSL.Error as error:
                self.wire.push_last(self._records.get())
                raise protocol_error(error) from error
            if self.unread is WHOLE and len(data) < length:
                self.unread = NOTHING
            return data

    def _note(self, fetched: bytes) -> None:
        """Sets `unread` for bytes that OpenSSL is about to get: WHOLE if they are one whole record,
        with nothing before it, so that one read takes all; else SOME."""
        size = len(fetched)
        if size > LARGE:
            self.large = True
        # The last two bytes of a record's header are its length.
        alone = (
            self.unread is NOTHING
            and size > HEADER
            and size == (fetched[3] << 8 | fetched[4]) + HEADER
        )
        self.unread = WHOLE if alone else SOME

    def _answer(self) -> bool:
        """Sends OpenSSL's answer to what was read; `False` if some of it is held back."""
        return self.wire.answer(self._records.get())

    def _cut_short(self) -> bytes | None:
        """The stream has ended without a close_notify. `None`: this side has ended it."""
        if self.wire.reads_ended:
            return None
        self._session.cut()
        return b""

    def failed(self, error: OSError | MemoryError) -> None:
        """A call has raised this error. A MemoryError means that a part of a record is lost. With
        the lock held."""
        if isinstance(error, OSError):
            self._session.call_failed(error)
        else:
            self._cut_short()

    def pending(self) -> int:
        """How many bytes the next `receive` gives without a fetch. Thread: any."""
        with self.lock:
            if self.unread not in READABLE or self._met is not None:
                return 0
            self.wire.kernel_drained = False  # as for a read
            try:
                return self._session.pending()
            except SSL.WantReadError:
                self.unread = PART
                self.wire.push_last(self._records.get())
            except SSL.ZeroReturnError:
                pass  # the next receive reads it, too
            except SSL.Error as error:
                failure = protocol_error(error)
                self._met = (failure.errno, failure.strerror)
                self.wire.push_last(self._records.get())
            return 0

    def drained(self) -> bool:
        """As `Channel.drained`."""
        if self.unread not in READABLE and not self.large:  # only this thread makes it READABLE
            return self.wire.kernel_drained
        with self.lock:
            if self.unread in READABLE:
                try:
                    if not self._records.empty() or not self._answer():
                        return False
                except OSError:
                    return False  # the next receive gets the error
                # Empty, and answered: more comes only with an event of the poller.
                self.unread = NOTHING
            if self.large:
                self._free_memory()
            return self.wire.kernel_drained

    def _free_memory(self) -> None:
        """Frees OpenSSL's buffers, if nothing is in them."""
        if self.unread in READABLE and not self._records.empty():
            return
        self.place()  # the old addresses end here
        self._records.shrink()
        self.place(*self._records.places())
        self.large = False

    # ---- sending --------------------------------------------------------------

    def transmit(self, data: Any, flags: int = 0) -> int:
        """The complete `send` of `Channel.sink`, without the short cut."""
        with self.lock:
            wire = self.wire
            try:
                if wire.held is not None and not wire.flush():
                    return 0
                size = len(data)
                if not size:
                    return 0  # SSL_write(3) takes one byte or more
                if self.unread is HANDSHAKE:
                    return 0  # as in `receive`
                if size > LARGE:
                    self.large = True
                    if size > RECORD:
                        size = wire.room_for(size)
                        data = memoryview(data)[:size]
                try:
                    sealed = self._records.seal(data)
                except SSL.Error as error:
                    return self._not_sealed(error)
                return size if wire.push(sealed) else ~size
            except (OSError, MemoryError) as error:
                self.failed(error)
                raise

    def refused(self, count: int, done: int) -> int:
        """The rest of a send of which SSL_write(3) has taken `done` bytes, and then returned
        `count`. With the lock held."""
        assert isinstance(self._records, PrivateRecords)
        return self._not_sealed(self._records.failure(count, done))

    def _not_sealed(self, error: SSL.Error) -> int:
        if not isinstance(error, SSL.WantReadError):
            raise self._session.why_not_written(error) from error
        # A renegotiation: the peer's part of it must be read first.
        if not self._answer():
            return 0
        fetched = self.wire.fetch_to_send()
        if fetched is None:
            return 0
        if not fetched:
            self._cut_short()
            raise OSError(errno.EPIPE, "connection closed by the peer during the handshake")
        self._note(fetched)
        self._records.put(fetched)
        self._took_in = True
        return 0

    def keep(self, sealed: bytes) -> None:
        """The C could not send all: holds the rest, and what else OpenSSL has written. With the
        lock held."""
        self.wire.hold(sealed)
        self.wire.hold(self._records.get())

    def took_in(self) -> bool:
        """As `Channel.took_in`."""
        took_in, self._took_in = self._took_in, False
        return took_in

    if TYPE_CHECKING or StreamCore is PythonStream:  # no short cut
        recv = receive
        send = transmit
