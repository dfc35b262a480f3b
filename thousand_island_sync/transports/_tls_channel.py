"""One TLS connection, with pyOpenSSL.

The facts. One SSL object bears one thread at a time. Decrypted bytes can wait in it while
the poller is silent. `sendall` loses its place when it would have to wait. How bytes come
to OpenSSL and from it is in `_tls_wire`.

What others do. The standard library holds a lock for each SSL object and waits outside
of it; Twisted feeds memory buffers from its loop.

Our decision. A lock is held around each step, never around a wait; what is waited for
(readable, writable) is left in `recv_wants` or `send_wants`, and the caller waits. Before a
connection is parked, `drained` says whether anything is left in OpenSSL or the kernel.

`close_notify` is said once and not waited for (RFC 8446, 6.1). An end of the stream
without the peer's is reported as `truncated`, and the session is over both ways.

What a callback of OpenSSL's found out is in the connection's `Notes`; see `_tls_reasons`.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from OpenSSL import SSL

from ..errors import HandshakeError, NotSupported
from . import _tls_gaps
from ._base import READ, WRITE, EndedInSilence, Sink
from ._tls_reasons import Notes, explain, reasons
from ._tls_records import RECORD, PrivateRecords
from ._tls_wire import LARGE, Wire, in_front

_HARMLESS_FLAGS = 0
for _name in ("MSG_DONTWAIT", "MSG_PEEK", "MSG_WAITALL", "MSG_NOSIGNAL"):
    _HARMLESS_FLAGS |= int(getattr(socket, _name, 0))
#: Errors after which a peer's stream goes on.
_PASSING = {errno.ENOBUFS, errno.ENOMEM}
_GONE = {errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.ENOTCONN}
_SILENT = "the TLS handshake failed: the client went away before its first byte"


@dataclass(frozen=True, slots=True)
class TLSInfo:
    """What the handshake agreed on."""

    version: str
    cipher: str | None
    group: str | None
    server_name: str | None
    resumed: bool
    alpn: str | None


class TLSChannel(Wire):
    """See the module's essay."""

    __slots__ = (
        "_cut",
        "_established",
        "_reads_ended",
        "_said_goodbye",
        "_shaken",
        "heard",
        "truncated",
    )

    secure = True

    def __init__(self, sock: socket.socket, context: SSL.Context) -> None:
        super().__init__(sock, context)
        self._connection.set_app_data(Notes())
        self._connection.set_accept_state()
        self._shaken = False
        self._established = False
        self._said_goodbye = False
        self._reads_ended = False
        self._cut = False  # the peer's stream has ended, and its session had not
        self.truncated = False
        self.heard = False

    # ---- the handshake ----------------------------------------------------------

    def handshake(self) -> bool:
        with self._lock:
            try:
                return self._shake_hands()
            except SSL.Error as error:
                raise self._handshake_failed(error) from (self._notes().error or error)
            except OSError as error:
                if not self.heard and error.errno in _GONE:
                    raise EndedInSilence(_SILENT) from error
                failed = SSL.SysCallError(error.errno or -1, error.strerror)
                raise self._handshake_failed(failed) from error
            except HandshakeError:
                raise
            except Exception as error:
                raise self._refused(str(error)) from error

    def _shake_hands(self) -> bool:
        while self._flush():
            if self._shaken:
                if self._notes().error is not None:
                    raise self._refused("refused by the sni callable") from self._notes().error
                self._established = True
                self._source = self._sock
                self.recv_wants = READ
                self._let_go()
                return True
            fetched = self._fetch()  # first: it is the client who begins
            if fetched is None:
                return False
            if not fetched:
                if not self.heard:
                    raise EndedInSilence(_SILENT)
                raise SSL.SysCallError(-1, "Unexpected EOF")
            self.heard = True
            self._records.put(fetched)
            try:
                self._connection.do_handshake()
                self._shaken = True
            except SSL.WantReadError:
                self._send_on()
            else:
                self._last_words()  # of a client that is gone by now, the next receive tells
        self.recv_wants = WRITE
        return False

    def _handshake_failed(self, error: SSL.Error) -> HandshakeError:
        self._last_words()
        ours = self._connection.get_certificate(as_cryptography=True)
        return self._refused(explain(error, ours))

    def _notes(self) -> Notes:
        notes = self._connection.get_app_data()
        assert isinstance(notes, Notes)
        return notes

    def _refused(self, why: str) -> HandshakeError:
        notes = self._notes()
        if notes.error is not None:
            why = f"the sni callable raised {type(notes.error).__name__}"
        elif notes.reason is not None:
            why = notes.reason
        return HandshakeError(f"the TLS handshake failed: {why}")

    # ---- bytes ------------------------------------------------------------------

    def recv(self, length: int, flags: int = 0) -> bytes | None:
        with self._lock:
            if self._reads_ended:
                return None
            if self._owed and not self._flush():
                self.recv_wants = WRITE
                return None
            try:
                return self._read(length, None)
            except OSError as error:
                self._broke_off(error)
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

    def _cut_short(self) -> bytes:
        """The stream has ended, and the session has not: it is over both ways."""
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
        # An end that we made is not the peer's.
        with self._lock:
            self._reads_ended = True
            self._sock.shutdown(socket.SHUT_RD)

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

    def negotiated_protocol(self) -> str | None:
        return self._connection.get_alpn_proto_negotiated().decode("latin-1") or None

    def peer_certificate(self) -> Any:
        return self._connection.get_peer_certificate(as_cryptography=True)

    def tls_info(self) -> TLSInfo:
        connection = self._connection
        name = connection.get_servername()
        resumed = _tls_gaps.resumed(connection)
        if resumed is None:
            resumed = not self._notes().sent_certificate
        return TLSInfo(
            version=connection.get_protocol_version_name(),
            cipher=connection.get_cipher_name(),
            group=connection.get_group_name(),
            server_name=None if name is None else name.decode("latin-1"),
            resumed=self._established and resumed,
            alpn=self.negotiated_protocol(),
        )


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
