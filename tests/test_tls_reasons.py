"""Why a handshake failed, in words; and certificates that were revoked."""

import datetime
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from OpenSSL import SSL

from tests.support import journal
from tests.test_tls import Tells, tls, told
from thousand_island_sync.transports._tls.reasons import Notes, _age, explain, note_fault

NOW = datetime.datetime.now(datetime.timezone.utc)


def error(*reasons):
    """As pyOpenSSL raises them: (library, function, reason)."""
    return SSL.Error([("SSL routines", "", reason) for reason in reasons])


@pytest.mark.parametrize(
    ("raised", "says"),
    [
        (error("http request"), "the client spoke plain HTTP to a TLS port"),
        (error("https proxy request"), "HTTP CONNECT"),
        (error("wrong version number"), "did not speak TLS"),
        (error("unsupported protocol"), "no shared protocol version (see min_version)"),
        (error("no shared cipher"), "no shared cipher"),
        (error("tlsv1 alert unknown ca"), "does not know the CA of our certificate"),
        (error("ssl/tls alert bad certificate"), "the client refused: bad certificate"),
        (error("tlsv13 alert certificate required"), "the client refused: certificate required"),
        (error("something new", "and more"), "something new; and more"),
        (error(), "no reason given"),
        (SSL.Error("a text"), "a text"),
        (SSL.SysCallError(-1, "Unexpected EOF"), "disconnected during the handshake"),
        (SSL.SysCallError(104, "ECONNRESET"), "Connection reset"),
        (SSL.ZeroReturnError(), "the client closed the session during"),
    ],
)
def test_what_openssl_says_in_words_for_a_person(raised, says):
    assert says in explain(raised, None)


def test_an_alert_about_our_certificate_that_has_not_expired(authority):
    ours = x509.load_pem_x509_certificate(authority.chain)
    said = explain(error("ssl/tls alert certificate expired"), ours)
    assert said == "the client refused: our certificate as expired"


@pytest.mark.parametrize(
    ("passed", "says"),
    [
        ({"days": 3.5}, "3 days"),
        ({"days": 1}, "1 day"),
        ({"hours": 5}, "5 hours"),
        ({"minutes": 1}, "1 minute"),
        ({"seconds": 5}, "less than a minute"),
        ({"days": -1}, ""),
    ],
)
def test_how_long_ago(passed, says):
    now = datetime.datetime.now(datetime.timezone.utc)
    assert _age(now - datetime.timedelta(**passed)) == says


class Connection:
    def __init__(self, data):
        self._data = data

    def get_app_data(self):
        return self._data


class Unreadable:
    def to_cryptography(self):
        raise ValueError("not a certificate that can be read")


@pytest.mark.parametrize(
    ("fault", "depth", "says"),
    [
        (18, 0, "the client's certificate is self-signed, and not in ca_certs"),
        (20, 1, "a CA certificate of the client's chain was issued by a CA that is not"),
        (23, 0, "was revoked (see crl)"),
        (10, 0, "was not accepted (X509_V_ERR 10)"),
        (9_999, 0, "X509_V_ERR 9999"),
    ],
)
def test_the_verify_callback_leaves_word_and_never_raises(fault, depth, says):
    notes = Notes(None)
    assert note_fault(Connection(notes), Unreadable(), fault, depth, 0) is False
    assert says in notes.reason
    assert note_fault(Connection(None), Unreadable(), fault, depth, 0) is False


def test_it_has_nothing_to_say_of_what_is_fine():
    notes = Notes(None)
    assert note_fault(Connection(notes), Unreadable(), 0, 0, 1) is True
    assert notes.reason is None


# ---- revocation -------------------------------------------------------------


def revocations(authority, *serials, next_update=1):
    day = datetime.timedelta(days=1)
    builder = x509.CertificateRevocationListBuilder(
        issuer_name=x509.load_pem_x509_certificate(authority.ca_pem).subject,
        last_update=NOW - 9 * day,
        next_update=NOW + next_update * day,
        revoked_certificates=[
            x509.RevokedCertificateBuilder(serial, NOW - day).build() for serial in serials
        ],
    )
    key = serialization.load_pem_private_key(authority.ca.private_key_pem.bytes(), None)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_a_revoked_certificate_is_refused_and_others_are_not(serve, authority, secure):
    revoked = authority.ca.issue_cert("gone@example.org")
    serial = x509.load_pem_x509_certificate(revoked.cert_chain_pems[0].bytes()).serial_number
    handler = journal(Tells)
    more = {"ca_certs": authority.ca_pem, "verify": "required"}
    server = tls(serve, authority, handler, {**more, "crl": revocations(authority, serial)})
    fine = authority.client_context(ssl.TLSVersion.TLSv1_2, with_certificate=True)
    assert told(secure(server, fine))[4] is not None
    context = authority.client_context(ssl.TLSVersion.TLSv1_2)
    revoked.configure_cert(context)
    with pytest.raises(OSError):
        secure(server, context)
    assert handler.ended()
    assert "was revoked" in str(handler.lines[0][1])


def test_a_list_that_has_expired_is_told(serve, authority, secure):
    handler = journal(Tells)
    more = {"ca_certs": authority.ca_pem, "verify": "required"}
    crl = revocations(authority, next_update=-1)
    server = tls(serve, authority, handler, {**more, "crl": crl})
    context = authority.client_context(ssl.TLSVersion.TLSv1_2, with_certificate=True)
    with pytest.raises(OSError):
        secure(server, context)
    assert handler.ended()
    assert "the list in crl has expired" in str(handler.lines[0][1])
