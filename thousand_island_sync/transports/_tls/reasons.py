"""Why a handshake failed, in words for a person; and what OpenSSL's callbacks report.

pyOpenSSL keeps an exception of a callback in the *context*, and raises it in the next
connection that uses that; so callbacks of the library never raise. They leave what they
find in their connection's `Notes`.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from OpenSSL import SSL, crypto

from ..._base import fork
from ..._base.locks import outside
from ...errors import ConfigError


@dataclass(slots=True)
class Notes:
    """What OpenSSL's callbacks leave on their connection, as they must not raise; and what they
    read there.

    Attributes:
        lock: the channel's, which is held while callbacks run.
        context: the one with which the connection began, until the handshake is done.
        policy: that of this context, if it has one.
        error: what the `sni` callable raised.
        reason: why the handshake is refused.
        sent_certificate: whether a certificate was sent.
        hello: what the client sent before the first answer.
        hellos: how many ClientHellos have come: two after a HelloRetryRequest.
        last_hello: the number of the hello that is expected to be the last.
        choice: the server name, and what was chosen for it.
        name: the server name of a resumed session's client, in a tuple.
    """

    lock: Any
    context: SSL.Context | None = None
    policy: Any = None
    error: BaseException | None = None
    reason: str | None = None
    sent_certificate: bool = False
    hello: bytes = b""
    hellos: int = 0
    last_hello: int = 1
    choice: tuple[bytes | None, Any] | None = None
    name: tuple[bytes | None] | None = None

    def outside(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Calls user code, without the lock."""
        forks = fork.forks
        self.lock.release()
        try:
            result = _users(call, *arguments)
            fork.came_back(forks, "the sni callable")
            return result
        except BaseException as error:
            fork.came_back(forks, "the sni callable", error)
            raise
        finally:
            self.lock.acquire()


@outside("an sni callable")
def _users(call: Callable[..., Any], *arguments: Any) -> Any:
    return call(*arguments)


_REASONS = {
    "http request": "the client spoke plain HTTP to a TLS port",
    "https proxy request": "the client spoke HTTP CONNECT to a TLS port",
    "wrong version number": "the client did not speak TLS",
    "packet length too long": "the client did not speak TLS",
    "bad record type": "the client did not speak TLS",
    "unsupported protocol": "no shared protocol version (see min_version)",
    "no shared cipher": "no shared cipher (see ciphers, and the certificate's key type)",
    "peer did not return a certificate": "the client showed no certificate (verify='required')",
    "no suitable signature algorithm": "no shared signature algorithm with our certificate",
    "no suitable key share": "no shared key exchange group",
}
_ALERTS = ("tlsv1 alert ", "tlsv13 alert ", "sslv3 alert ", "ssl/tls alert ", "tls alert ")

# X509_V_ERR_* of OpenSSL's x509_vfy.h.
_NOT_YET_VALID, _EXPIRED, _REVOKED = 9, 10, 23
_FAULTS = {
    2: "was issued by a CA that is not in ca_certs",
    3: "cannot be checked: crl has no list of its issuer",
    12: "cannot be checked: the list in crl has expired",
    18: "is self-signed, and not in ca_certs",
    19: "ends in a CA that is not in ca_certs",
    20: "was issued by a CA that is not in ca_certs",
    21: "was issued by a CA that is not in ca_certs",
    24: "was issued by a certificate that is no CA",
    26: "is not meant for clients (its extended key usage)",
    66: "has too weak a key",
    67: "was issued by a CA with too weak a key",
    68: "has too weak a signature",
}


def of_callable(error: BaseException) -> str:
    """How an `sni` callable failed, and where. The text of its exception is not shown, as it may
    quote a secret; errors of the library do not."""
    if isinstance(error, ConfigError):
        return f"the sni callable failed: {error}"
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f" ({place.tb_frame.f_code.co_filename}, line {place.tb_lineno})" if place else ""
    return f"the sni callable raised {type(error).__name__}{where}"


def reasons(error: SSL.Error | crypto.Error) -> list[str]:
    """OpenSSL's own words, of which pyOpenSSL gives (library, function, reason)."""
    queue = error.args[0] if error.args else ()
    if isinstance(queue, (list, tuple)):
        return [str(entry[-1]) for entry in queue if entry]
    return [str(queue)]


def explain(error: SSL.Error, ours: x509.Certificate | None) -> str:
    """Why a handshake failed, for a person.

    Args:
        error: what OpenSSL raised.
        ours: the certificate that the server sent.
    """
    if isinstance(error, SSL.SysCallError):
        if error.args[0] == -1:
            return "the client disconnected during the handshake"
        return f"the connection failed: {os.strerror(error.args[0])}"
    if isinstance(error, SSL.ZeroReturnError):
        return "the client closed the session during the handshake"
    found = reasons(error)
    for reason in found:
        if reason in _REASONS:
            return _REASONS[reason]
        for prefix in _ALERTS:
            if reason.startswith(prefix):
                return "the client refused: " + _alert(reason.removeprefix(prefix), ours)
    return "; ".join(found) or "no reason given"


def _alert(said: str, ours: x509.Certificate | None) -> str:
    if said == "certificate expired" and ours is not None:
        age = _age(ours.not_valid_after_utc)
        return f"our certificate expired {age} ago" if age else "our certificate as expired"
    if said == "unknown ca":
        return "it does not know the CA of our certificate"
    return said


def _age(when: datetime.datetime) -> str:
    """How long ago that was; empty if it is in the future."""
    passed = datetime.datetime.now(datetime.timezone.utc) - when
    seconds = passed.total_seconds()
    if seconds < 0:
        return ""
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "less than a minute"


def note_fault(
    connection: SSL.Connection, certificate: crypto.X509, fault: int, depth: int, fine: int
) -> bool:
    """The verify callback: notes what is wrong with the client's certificate."""
    if not fine:
        notes = connection.get_app_data()
        if isinstance(notes, Notes):
            notes.reason = _fault(certificate, fault, depth)
    return bool(fine)


def _fault(certificate: crypto.X509, fault: int, depth: int) -> str:
    whose = "the client's certificate" if not depth else "a CA certificate of the client's chain"
    try:
        known = certificate.to_cryptography()
        if fault == _EXPIRED:
            return f"{whose} expired {_age(known.not_valid_after_utc)} ago"
        if fault == _NOT_YET_VALID:
            return f"{whose} is not valid before {known.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
    except Exception:
        pass  # it cannot be read; a callback must not raise, so OpenSSL's words are used
    if fault == _REVOKED:
        return f"{whose} was revoked (see crl)"
    return f"{whose} {_FAULTS.get(fault, f'was not accepted (X509_V_ERR {fault})')}"
