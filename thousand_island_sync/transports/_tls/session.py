"""OpenSSL's connection: its part of the handshake, what it negotiated, and how it ends.

`close_notify` is sent once, and the peer's is not waited for (RFC 8446, 6.1). An end of the stream
without the peer's `close_notify` is reported as truncated, and ends both directions
(`_tls.states`). All of it with the channel's lock held.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from OpenSSL import SSL

from .._tls_info import TLSInfo
from .hello import check, was_resumed
from .reasons import Notes, explain, reasons
from .records import Records, records_of
from .states import AFTER, CLOSE_SENT, TRUNCATED, Ends, Event

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

#: Errors after which the stream goes on.
_PASSING = {errno.ENOBUFS, errno.ENOMEM}


class Session:
    """See the module's docstring.

    Args:
        context: for the connection.
        notes: what OpenSSL's callbacks read and leave there.

    Attributes:
        records: reads and writes through OpenSSL.
    """

    __slots__ = ("_connection", "_ends", "notes", "records")

    records: Records

    def __init__(self, context: SSL.Context, notes: Notes) -> None:
        self.notes = notes
        self._ends = Ends.OPEN
        self.begin(context)

    def begin(self, context: SSL.Context) -> None:
        """Begins with a new connection, from the client's first hello on."""
        connection = SSL.Connection(context)
        connection.set_app_data(self.notes)
        connection.set_accept_state()
        self._connection = connection
        self.records = records_of(connection)

    # ---- the handshake --------------------------------------------------------

    def take(self, data: bytes) -> bool:
        """The next bytes of the handshake; whether OpenSSL is done with it.

        Raises:
            SSL.Error: it failed.
        """
        self.records.put(data)
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return False
        return True

    def what_is_wrong(self) -> str | None:
        """Why a handshake that OpenSSL accepts is refused, if it is."""
        return check(self._connection, self.notes)

    def why_refused(self, error: SSL.Error) -> str:
        """Why a handshake failed, for a person."""
        return explain(error, self._connection.get_certificate(as_cryptography=True))

    def negotiated_protocol(self) -> str | None:
        return self._connection.get_alpn_proto_negotiated().decode("latin-1") or None

    def peer_certificate(self) -> Certificate | None:
        return self._connection.get_peer_certificate(as_cryptography=True)

    def tls_info(self, handshake_done: bool) -> TLSInfo:
        connection = self._connection
        known = self.notes.name
        name = connection.get_servername() if known is None else known[0]
        return TLSInfo(
            version=connection.get_protocol_version_name(),
            cipher=connection.get_cipher_name(),
            group=connection.get_group_name(),
            server_name=None if name is None else name.decode("latin-1"),
            resumed=handshake_done and bool(was_resumed(connection, self.notes)),
            alpn=self.negotiated_protocol(),
        )

    def cipher(self) -> tuple[str, str, int] | None:
        """The cipher's name, the oldest protocol version that has it, and its secret bits."""
        connection = self._connection
        name, version = connection.get_cipher_name(), connection.get_cipher_version()
        bits = connection.get_cipher_bits()
        return None if name is None or version is None else (name, version, bits or 0)

    def pending(self) -> int:
        """How many bytes the next read gives, of those that OpenSSL holds.

        Raises:
            SSL.Error: as a read.
        """
        self._connection.recv(1, socket.MSG_PEEK)  # decrypts the next record
        return self._connection.pending()

    # ---- the end --------------------------------------------------------------

    @property
    def truncated(self) -> bool:
        """Whether the peer's stream ended without its close_notify."""
        return self._ends in TRUNCATED

    def send_close_notify(self) -> bool:
        """Has OpenSSL write the close_notify, once. Whether there is one to send now."""
        if self._ends in CLOSE_SENT:
            return False
        self._happens(Event.SEND_CLOSE_NOTIFY)
        try:
            self._connection.shutdown()
        except SSL.Error:
            return False  # the session has failed before
        return True

    def close_notify_read(self) -> None:
        """The peer has ended the session, as it should."""
        self._happens(Event.READ_CLOSE_NOTIFY)

    def cut(self) -> None:
        """The stream has ended without a close_notify, or a part of a record is lost: both
        directions are over."""
        self._happens(Event.CUT)
        self._connection.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)

    def call_failed(self, error: OSError) -> None:
        """A call has failed at the end of the stream. The peer's close_notify counts if it was
        read; a later read may still find it."""
        ours = self._ends in CLOSE_SENT and error.errno == errno.EPIPE
        if ours or error.errno in _PASSING:
            return
        if not self._connection.get_shutdown() & SSL.RECEIVED_SHUTDOWN:
            self._happens(Event.BREAK)

    def why_not_written(self, error: SSL.Error) -> OSError:
        """The error of a send that OpenSSL has refused."""
        if isinstance(error, SSL.ZeroReturnError):
            return OSError(errno.EPIPE, "the peer has ended the TLS session")
        if self._ends in CLOSE_SENT:  # by another thread, a moment ago
            return OSError(errno.EPIPE, "this side has ended the TLS session")
        return protocol_error(error)

    def _happens(self, event: Event) -> None:
        self._ends = AFTER[self._ends, event]


def protocol_error(error: SSL.Error) -> OSError:
    """OpenSSL's error after the handshake, as an OSError."""
    said = "; ".join(filter(None, reasons(error)))
    if not said:
        # The session has failed before, or pyOpenSSL has lost the errno of a system call.
        return OSError(errno.ECONNRESET, "the TLS session has ended")
    return OSError(errno.EPROTO, f"TLS: {said}")
