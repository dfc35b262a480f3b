"""The handshake of a TLS connection.

Each step goes as far as it can without waiting, under the channel's lock, on the thread of the
connection's owner. No other code uses the session before the end: the channel is `handshaking`
until then, and code that needs the end of an upgrade's handshake leaves a call (`wait_for_end`).

Its `Phase` says how far it has come (`_tls.states`). What OpenSSL's callbacks found out is in the
session's `Notes` (`_tls.reasons`); decisions on the client's hello are in `_tls.hello`. When it is
done the channel drops this object.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from OpenSSL import SSL

from ...errors import HandshakeError
from ..base import EndedInSilence
from .hello import is_retry
from .reasons import of_callable
from .session import Session
from .states import ANSWERED, FINISHED, HEARD, SILENT, Phase
from .wire import Wire

_GONE = {errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.ENOTCONN}
_SILENT = "the TLS handshake failed: the client disconnected before its first byte"


class Handshake:
    """See the module's docstring. With the channel's lock held, except `tell`."""

    __slots__ = ("_phase", "_session", "_waiting", "_wire")

    def __init__(self, wire: Wire, session: Session) -> None:
        self._wire = wire
        self._session = session
        self._phase: Phase = SILENT
        self._waiting: tuple[Callable[[], None], ...] = ()

    @property
    def heard(self) -> bool:
        """Whether the client has sent anything."""
        return self._phase is not SILENT

    def wait_for_end(self, call: Callable[[], None]) -> None:
        """Has `call` called when the handshake is done."""
        self._waiting += (call,)

    def tell(self) -> None:
        """The handshake is done: makes the calls of `wait_for_end`."""
        waiting, self._waiting = self._waiting, ()
        for call in waiting:
            call()

    def step(self) -> bool:
        """Goes as far as it can; `True` when done.

        Raises:
            HandshakeError: it failed.
            EndedInSilence: the client disconnected before its first byte.
        """
        try:
            return self._exchange()
        except SSL.Error as error:
            raise self._failed(error) from (self._session.notes.error or error)
        except OSError as error:
            if self._phase is SILENT and error.errno in _GONE:
                raise EndedInSilence(_SILENT) from error
            failed = SSL.SysCallError(error.errno or -1, error.strerror)
            raise self._failed(failed) from error
        except HandshakeError:
            raise
        except Exception as error:
            raise self._refused(str(error)) from error

    def _exchange(self) -> bool:
        wire, session = self._wire, self._session
        # Send what OpenSSL has written before reading more: the client waits for it.
        while wire.flush_to_read():
            if self._phase is FINISHED:
                self._check()
                return True
            fetched = wire.fetch()  # before OpenSSL is called: the client begins
            if fetched is None:
                return False
            if not fetched:
                if wire.reads_ended:
                    return False
                if self._phase is SILENT:
                    raise EndedInSilence(_SILENT)
                raise SSL.SysCallError(-1, "Unexpected EOF")
            if self._phase is SILENT:
                self._phase = HEARD
            if self._phase is HEARD:
                session.notes.hello += fetched
            if session.take(fetched):
                self._phase = FINISHED
                # If the client has disconnected by now, the next receive finds that.
                wire.push_last(session.records.get())
            else:
                self._answer()
        return False

    def _answer(self) -> None:
        """Sends what OpenSSL has written, if anything."""
        session = self._session
        words = session.records.get()
        if not len(words):
            return
        if self._phase is HEARD:
            self._phase = ANSWERED
            policy = session.notes.policy
            if policy is not None and not policy.tickets and is_retry(bytes(words)):
                self._begin_again()
                return
        self._wire.push(words)

    def _begin_again(self) -> None:
        """A second hello will come, and needs a session that expects it. So a new session answers
        the first hello again, and the old answer is dropped (`_tls.hello`)."""
        session = self._session
        notes = session.notes
        assert notes.context is not None
        notes.hellos, notes.last_hello = 0, 2
        session.begin(notes.context)
        if not session.take(notes.hello):
            self._wire.push(session.records.get())

    def _check(self) -> None:
        notes = self._session.notes
        # `_refuse` sets a context without a certificate, which a resumed session does not need.
        if notes.error is not None or notes.reason is not None:
            raise self._refused("refused by the sni callable") from notes.error
        wrong = self._session.what_is_wrong()
        if wrong is not None:
            raise self._refused(wrong)

    def _failed(self, error: SSL.Error) -> HandshakeError:
        self._wire.push_last(self._session.records.get())
        return self._refused(self._session.why_refused(error))

    def _refused(self, why: str) -> HandshakeError:
        notes = self._session.notes
        if notes.error is not None:
            why = of_callable(notes.error)
        elif notes.reason is not None:
            why = notes.reason
        return HandshakeError(f"the TLS handshake failed: {why}")
