"""One TLS connection, with pyOpenSSL.

The facts. One SSL object bears one thread at a time. Decrypted bytes can wait in it while
the poller is silent. `sendall` loses its place when it would have to wait. How bytes come
to OpenSSL and from it is in `_tls.wire`.

What others do. The standard library holds a lock for each SSL object and waits outside
of it; Twisted feeds memory buffers from its loop.

Our decision. A lock is held around each step, never around a wait; what is waited for
(readable, writable) is left in `recv_wants` or `send_wants`, and the caller waits. Before a
connection is parked, `drained` says whether anything is left in OpenSSL or the kernel.

`close_notify` is said once and not waited for (RFC 8446, 6.1). An end of the stream
without the peer's is reported as `truncated`, and the session is over both ways.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from typing import Any

from OpenSSL import SSL

from ...errors import NotSupported
from ..base import READ, WRITE, Sink
from .handshake import Handshake
from .reasons import reasons
from .records import RECORD, PrivateRecords
from .wire import LARGE, in_front

_HARMLESS_FLAGS = 0
for _name in ("MSG_DONTWAIT", "MSG_PEEK", "MSG_WAITALL", "MSG_NOSIGNAL"):
    _HARMLESS_FLAGS |= int(getattr(socket, _name, 0))
#: Errors after which a peer's stream goes on.
_PASSING = {errno.ENOBUFS, errno.ENOMEM}


class TLSChannel(Handshake):
    """See the module's essay."""

    __slots__ = ("_cut", "_said_goodbye", "truncated")

    secure = True

    def __init__(self, sock: socket.socket, context: SSL.Context) -> None:
        super().__init__(sock, context)
        self._said_goodbye = False
        self._cut = False  # the peer's stream has ended, and its session had not
        self.truncated = False

    # ---- bytes ------------------------------------------------------------------

    def recv(self, length: int, flags: int = 0) -> bytes | None:
        with self._lock:
            if self._reads_ended or not self._established:
                return None  # the owner shakes hands, and may be in the user's `sni`
            if self._owed and not self._flush():
                self.recv_wants = WRITE
                return None
            try:
                return self._read(length, None)
            except OSError as error:
                self._broke_off(error)
                raise
            except MemoryError:  # a part of a record is lost
                self._cut_short()
                raise

    def _read(self, length: int, count: int | None) -> bytes | None:
        """`count`: what SSL_read(3) gave, if what was fetched was tried already, and failed. (Not
        the error: its traceback leads to who keeps it, a circle that holds the session.)"""
        while True:
            try:
                if count is not None:
                    assert isinstance(self._records, PrivateRecords)
                    raise self._records._failure(count)
                if self._inside:
                    # The kernel was not looked at in this run, so it may hold more.
                    self._kernel_drained = False
                    data = self._records.read(length)
                else:
                    fetched = self._fetch()
                    if not fetched:
                        return None if fetched is None else self._cut_short()
                    data = self._records.read(length, fetched)
            except SSL.WantReadError:
                count = None
                self._inside = self._aligned = False
                if not self._answer():
                    self.recv_wants = WRITE
                    return None
                continue
            except SSL.ZeroReturnError:
                self.truncated = self._cut
                return b""
            except SSL.Error as error:
                self._last_words()
                raise _protocol_error(error) from error
            if self._aligned and len(data) < length:
                self._inside = False
            return data

    def _cut_short(self) -> bytes | None:
        """The stream has ended, and the session has not: it is over both ways. `None`: it was
        this side that ended it."""
        if self._reads_ended:
            return None
        self.truncated = self._cut = self._said_goodbye = True
        self._connection.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)
        return b""

    def _broke_off(self, error: OSError) -> None:
        """A call has met the end of the stream. Whether the peer had said that it ends is known if
        that was read; a read to come may still find it."""
        ours = self._said_goodbye and error.errno == errno.EPIPE
        if not ours and error.errno not in _PASSING:
            said = self._connection.get_shutdown() & SSL.RECEIVED_SHUTDOWN
            self.truncated = self.truncated or not said

    def flush(self) -> bool:
        with self._lock:
            try:
                return self._flush()
            except OSError as error:
                self._broke_off(error)
                raise

    def send(self, data: Any, flags: int = 0) -> int:
        sent = _Sink(self).send(data, flags)
        return sent if sent >= 0 else ~sent

    def send_gathered(self, buffers: Sequence[memoryview], flags: int = 0) -> int:
        return self.send(in_front(buffers), flags)

    def sink(self) -> Sink:
        return _Sink(self)

    def _write_failed(self, error: SSL.Error) -> OSError:
        if isinstance(error, SSL.ZeroReturnError):
            return OSError(errno.EPIPE, "the peer has ended the TLS session")
        if self._said_goodbye:  # by another thread, a moment ago
            return OSError(errno.EPIPE, "this side has ended the TLS session")
        return _protocol_error(error)

    # ---- the end ----------------------------------------------------------------

    def shutdown(self, how: int) -> None:
        if how != socket.SHUT_RD:
            self.say_goodbye()
        self._sock.shutdown(how)

    def end_reads(self) -> None:
        # In this order: an end that we made is not the peer's. And without the lock: whoever
        # calls it may have interrupted a read.
        self._reads_ended = True
        self._sock.shutdown(socket.SHUT_RD)

    def is_inside(self) -> bool:
        return bool(self._lock._is_owned())

    def say_goodbye(self) -> None:
        with self._lock:
            if self._said_goodbye or not self._established or self._held is not None:
                return
            self._said_goodbye = True
            try:
                self._connection.shutdown()
            except SSL.Error:
                return  # it broke off before
            self._last_words()

    def check_flags(self, flags: int) -> None:
        if flags & ~_HARMLESS_FLAGS:
            raise NotSupported(f"flags={flags:#x}: TLS cannot honour them")


class _Sink:
    """What is sent for every message. Tells a send that is finished from one that only counts
    as sent."""

    __slots__ = ("_channel",)

    def __init__(self, channel: TLSChannel) -> None:
        self._channel = channel

    def send(self, data: Any, flags: int) -> int:
        channel = self._channel
        with channel._lock:
            try:
                if channel._held is not None and not channel._flush():
                    return 0
                size = len(data)
                if not size:
                    return 0  # SSL_write(3) takes one byte or more
                if not channel._established:
                    return 0  # as above
                if size > LARGE:
                    channel._large = True
                    if size > RECORD:
                        size = channel._surely_fits(size)
                        data = memoryview(data)[:size]
                try:
                    sealed = channel._records.seal(data)
                except SSL.Error as error:
                    return self._not_sealed(error)
                return size if channel._pass_on(sealed) else ~size
            except OSError as error:
                channel._broke_off(error)
                raise
            except MemoryError:
                channel._cut_short()
                raise

    def _not_sealed(self, error: SSL.Error) -> int:
        channel = self._channel
        if not isinstance(error, SSL.WantReadError):
            raise channel._write_failed(error) from error
        # Hands are being shaken anew, and the peer's part of that comes first.
        if not channel._answer():
            return 0
        fetched = channel._fetch()
        if fetched is None:
            channel.send_wants = READ
            return 0
        if not fetched:
            channel._cut_short()
            raise OSError(errno.EPIPE, "the peer has gone, in the middle of a handshake")
        channel._records.put(fetched)
        channel._took_in = True
        channel.send_wants = WRITE  # tried again as soon as the caller has waited
        return 0


def _protocol_error(error: SSL.Error) -> OSError:
    said = "; ".join(filter(None, reasons(error)))
    if not said:
        # A session that broke off before, or a system call whose errno pyOpenSSL has lost.
        return OSError(errno.ECONNRESET, "the TLS session has ended")
    return OSError(errno.EPROTO, f"TLS: {said}")
