"""The handshake of a TLS connection, and what it agreed on.

It goes as far as it can with each step, under the channel's lock, on the thread of the
connection's owner. Nobody else touches the session before it is over: `shaking` says so, and who
is to wait for the end of an upgrade leaves a call with `when_shaken`.

What callbacks of OpenSSL's found out is in the connection's `Notes` (`_tls.reasons`); what
follows from the client's first words is in `_tls.hello`.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from OpenSSL import SSL

from ...errors import HandshakeError
from ..base import READ, WRITE, EndedInSilence
from .hello import check, is_retry, policy_of, was_resumed
from .reasons import Notes, explain, of_callable
from .records import records_of
from .wire import Wire

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


class Handshake(Wire):
    """See the module's docstring."""

    __slots__ = (
        "_answered",
        "_established",
        "_reads_ended",
        "_shaken",
        "_wait_for_hands",
        "heard",
    )

    def __init__(self, sock: socket.socket, context: SSL.Context) -> None:
        super().__init__(sock, context)
        self._begin(Notes(self._lock, context, policy_of(context)))
        self._answered = False  # the client's first hello
        self._shaken = False
        self._established = False
        self._reads_ended = False  # by this side
        self._wait_for_hands: tuple[Callable[[], None], ...] = ()
        self.heard = False

    @property
    def shaking(self) -> bool:  # type: ignore[override]
        return not self._established

    def when_shaken(self, call: Callable[[], None]) -> bool:
        with self._lock:
            if not self._established:
                self._wait_for_hands += (call,)
            return not self._established

    def handshake(self) -> bool:
        if not self._go_on():
            return False
        waiting, self._wait_for_hands = self._wait_for_hands, ()
        for call in waiting:
            call()
        return True

    def _go_on(self) -> bool:
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
                self._check()
                self._established = True
                self._end_of_handshake()
                self.recv_wants = READ
                self._let_go()
                return True
            fetched = self._fetch()  # first: it is the client who begins
            if fetched is None:
                return False
            if not fetched:
                if self._reads_ended:
                    return False
                if not self.heard:
                    raise EndedInSilence(_SILENT)
                raise SSL.SysCallError(-1, "Unexpected EOF")
            self.heard = True
            if not self._answered:
                self._notes().hello += fetched
            self._records.put(fetched)
            try:
                self._connection.do_handshake()
                self._shaken = True
            except SSL.WantReadError:
                self._answer_hello()
            else:
                self._last_words()  # of a client that is gone by now, the next receive tells
        self.recv_wants = WRITE
        return False

    def _begin(self, notes: Notes) -> None:
        self._connection.set_app_data(notes)
        self._connection.set_accept_state()

    def _answer_hello(self) -> None:
        """Sends what the handshake has come to."""
        words = self._records.get()
        if not len(words):
            return
        if not self._answered:
            self._answered = True
            notes = self._notes()
            if notes.policy is not None and not notes.policy.tickets and is_retry(bytes(words)):
                self._ask_again(notes)
                return
        self._pass_on(words)

    def _ask_again(self, notes: Notes) -> None:
        """A second hello will come, and shall be answered by a session that expects it."""
        assert notes.context is not None
        self._connection = SSL.Connection(notes.context)
        self._records = records_of(self._connection)
        notes.hellos, notes.last_hello = 0, 2
        self._begin(notes)
        self._records.put(notes.hello)
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            self._send_on()

    def _check(self) -> None:
        notes = self._notes()
        # A resumed session needs no certificate: there a context without one refuses nothing.
        if notes.error is not None or notes.reason is not None:
            raise self._refused("refused by the sni callable") from notes.error
        wrong = check(self._connection, notes)
        if wrong is not None:
            raise self._refused(wrong)

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
            why = of_callable(notes.error)
        elif notes.reason is not None:
            why = notes.reason
        return HandshakeError(f"the TLS handshake failed: {why}")

    # ---- what it agreed on ----

    def negotiated_protocol(self) -> str | None:
        return self._connection.get_alpn_proto_negotiated().decode("latin-1") or None

    def peer_certificate(self) -> Any:
        return self._connection.get_peer_certificate(as_cryptography=True)

    def tls_info(self) -> TLSInfo:
        connection = self._connection
        known = self._notes().name
        name = connection.get_servername() if known is None else known[0]
        return TLSInfo(
            version=connection.get_protocol_version_name(),
            cipher=connection.get_cipher_name(),
            group=connection.get_group_name(),
            server_name=None if name is None else name.decode("latin-1"),
            resumed=self._established and bool(was_resumed(connection, self._notes())),
            alpn=self.negotiated_protocol(),
        )
