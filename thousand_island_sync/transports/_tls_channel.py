"""One TLS connection over a non-blocking descriptor, with pyOpenSSL.

The facts. pyOpenSSL hands the descriptor's number to OpenSSL, which reads and writes
it by itself; so it must be non-blocking, and nothing here may be called once it is
closed, or a record ends up in whatever got the number next. A timeout on the socket
makes every call raise `WantReadError` at once. One SSL object bears one thread at a
time. Decrypted bytes can wait in it while the poller is silent. `sendall` loses its
place when it would have to wait. And after an `SSL_write` that could not finish,
OpenSSL still holds that record and wants the very same bytes again: giving it others
makes it report the new ones as sent and send the old.

What others do. The standard library holds a lock for each SSL object and waits outside
of it; Twisted feeds memory buffers from its loop.

Our decision. A lock around each single call into OpenSSL, never around a wait; what a
call wants (readable, writable) is left in `recv_wants` or `send_wants`, and the caller
waits. What was given to an unfinished write is kept (`_held`, one record at most),
counts as sent as bytes in the kernel's buffer do, and is finished before anything
else. Before a connection is parked, `drained` looks into the SSL object and the kernel.

`close_notify` is said once and not waited for (RFC 8446, 6.1). An end of the stream
without the peer's is reported as `truncated`.

What a callback of OpenSSL's found out is in the connection's `Notes`; see `_tls_reasons`.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from dataclasses import dataclass
from typing import Any

from OpenSSL import SSL

from .._unread import unread_bytes
from ..errors import HandshakeError, NotSupported
from . import _tls_gaps
from ._base import READ, WRITE, Channel, Sink
from ._tls_reasons import Notes, explain, reasons
from ._tls_records import RECORD, records_of

_HARMLESS_FLAGS = 0
for _name in ("MSG_DONTWAIT", "MSG_PEEK", "MSG_WAITALL", "MSG_NOSIGNAL"):
    _HARMLESS_FLAGS |= int(getattr(socket, _name, 0))


@dataclass(frozen=True, slots=True)
class TLSInfo:
    """What the handshake agreed on."""

    version: str
    cipher: str | None
    group: str | None
    server_name: str | None
    resumed: bool
    alpn: str | None


class TLSChannel(Channel):
    """See the module's essay. The descriptor is made non-blocking."""

    __slots__ = (
        "_connection",
        "_established",
        "_held",
        "_lock",
        "_reads_ended",
        "_records",
        "_said_goodbye",
        "_sock",
        "recv_wants",
        "send_wants",
        "truncated",
    )

    secure = True

    def __init__(self, sock: socket.socket, context: SSL.Context) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._lock = threading.Lock()
        self._connection = SSL.Connection(context, sock)
        self._connection.set_app_data(Notes())
        self._connection.set_accept_state()
        self._records = records_of(self._connection)
        self._held: bytes | None = None
        self._established = False
        self._said_goodbye = False
        self._reads_ended = False
        self.truncated = False
        self.recv_wants = READ
        self.send_wants = WRITE

    @property
    def unfinished(self) -> bool:  # type: ignore[override]
        return self._held is not None

    def handshake(self) -> bool:
        with self._lock:
            try:
                self._connection.do_handshake()
            except SSL.WantReadError:
                self.recv_wants = READ
                return False
            except SSL.WantWriteError:
                self.recv_wants = WRITE
                return False
            except SSL.Error as error:
                ours = self._connection.get_certificate(as_cryptography=True)
                raise self._refused(explain(error, ours)) from (self._notes().error or error)
            except Exception as error:
                raise self._refused(str(error)) from error
            if self._notes().error is not None:
                raise self._refused("refused by the sni callable") from self._notes().error
            self._established = True
            self.recv_wants = READ
            return True

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

    def recv(self, length: int, flags: int = 0) -> bytes | None:
        with self._lock:
            if self._reads_ended:
                return None
            try:
                return self._records.read(length)
            except SSL.WantReadError:
                self.recv_wants = READ
                return None
            except SSL.WantWriteError:
                self.recv_wants = WRITE
                return None
            except SSL.ZeroReturnError:
                return b""
            except SSL.SysCallError as error:
                if error.args[0] != -1:
                    raise _system_error(error) from error
                self.truncated = True
                return b""
            except SSL.Error as error:
                raise _protocol_error(error) from error

    def drained(self) -> bool:
        with self._lock:
            return not self._records.pending() and not unread_bytes(self._sock)

    def send(self, data: Any, flags: int = 0) -> int:
        with self._lock:
            if self._held is not None and not self._flush():
                return 0
            if not len(data):
                return 0  # SSL_write(3) takes one byte or more
            piece = data if len(data) <= RECORD else data[:RECORD]
            try:
                return self._records.write(piece)
            except (SSL.WantWriteError, SSL.WantReadError) as error:
                self.send_wants = READ if isinstance(error, SSL.WantReadError) else WRITE
                self._held = bytes(piece)
                return len(piece)
            except SSL.ZeroReturnError as error:
                raise OSError(errno.EPIPE, "the peer has ended the TLS session") from error
            except SSL.SysCallError as error:
                raise _system_error(error) from error
            except SSL.Error as error:
                if self._said_goodbye:  # by another thread, a moment ago
                    raise OSError(errno.EPIPE, "this side has ended the TLS session") from error
                raise _protocol_error(error) from error

    def sink(self) -> Sink:
        return _Sink(self)

    def flush(self) -> bool:
        with self._lock:
            return self._flush()

    def _flush(self) -> bool:
        held = self._held
        while held is not None:
            try:
                sent = self._records.write(held)
            except (SSL.WantWriteError, SSL.WantReadError) as error:
                self.send_wants = READ if isinstance(error, SSL.WantReadError) else WRITE
                return False
            except SSL.SysCallError as error:
                raise _system_error(error) from error
            except SSL.Error as error:
                raise _protocol_error(error) from error
            held = self._held = held[sent:] or None
        return True

    def shutdown(self, how: int) -> None:
        if how != socket.SHUT_RD:
            self.say_goodbye()
        self._sock.shutdown(how)

    def end_reads(self) -> None:
        # OpenSSL takes an end that we made for the peer's, answers it with a fatal alert,
        # and sends no more: so it must not see it.
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
                pass  # there is nobody to say it to, or no room to say it

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
    """Tells a send that is finished from one that only counts as sent."""

    __slots__ = ("_channel",)

    def __init__(self, channel: TLSChannel) -> None:
        self._channel = channel

    def send(self, data: bytes, flags: int) -> int:
        channel = self._channel
        sent = channel.send(data)
        return sent if channel._held is None else ~sent


def _system_error(error: SSL.SysCallError) -> OSError:
    number = error.args[0]
    if number == -1:
        number = errno.ECONNRESET
    return OSError(number, os.strerror(number))


def _protocol_error(error: SSL.Error) -> OSError:
    said = "; ".join(filter(None, reasons(error)))
    if not said:
        # A session that broke off before, or a system call whose errno pyOpenSSL has lost.
        return OSError(errno.ECONNRESET, "the TLS session has ended")
    return OSError(errno.EPROTO, f"TLS: {said}")
