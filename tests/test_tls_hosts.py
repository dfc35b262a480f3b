"""Several hosts on one port: what one demands cannot be walked around by way of another."""

import ssl

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL, crypto

from tests.support import Echo
from tests.test_tls import Tells, told
from thousand_island_sync import TLS, ConfigError

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class Site:
    """A host with a certificate, and clients' authority, of its own."""

    def __init__(self, name):
        self.ca = trustme.CA()
        issued = self.ca.issue_cert(name)
        self.options = {
            "certfile": b"".join(part.bytes() for part in issued.cert_chain_pems),
            "keyfile": issued.private_key_pem.bytes(),
        }
        self.strict = {
            **self.options,
            "ca_certs": self.ca.cert_pem.bytes(),
            "verify": "required",
        }


@pytest.fixture(scope="module")
def strict():
    return Site("strict.example")


def by_mapping(strict):
    return {"sni": {"strict.example": strict.strict}}


def by_prepared(strict):
    return {"sni": {"strict.example": TLS.prepare(**strict.strict)}}


def by_callable(strict):
    prepared = TLS.prepare(**strict.strict)
    return {"sni": lambda name: prepared if name == "strict.example" else None}


def by_context(strict):
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    key = serialization.load_pem_private_key(strict.options["keyfile"], None)
    context.use_privatekey(key)
    context.use_certificate(x509.load_pem_x509_certificate(strict.options["certfile"]))
    authority = x509.load_pem_x509_certificate(strict.strict["ca_certs"])
    context.get_cert_store().add_cert(crypto.X509.from_cryptography(authority))
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
    context.set_session_id(b"strict")
    return {"sni": {"strict.example": {"context": context}}}


WAYS = pytest.mark.parametrize("way", [by_mapping, by_prepared, by_callable, by_context])


def careless(version=None):
    """A client that trusts anybody."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


@pytest.fixture
def visit(client):
    """Connects as a client without certificate that trusts anybody, as an attacker would."""
    socks = []

    def connect(server, name, version=None, session=None, context=None):
        if context is None:
            context = careless(version)
        sock = context.wrap_socket(client(server), server_hostname=name, session=session)
        socks.append(sock)
        return sock

    yield connect
    for sock in socks:
        sock.close()


def refused(connect):
    try:
        return connect().recv(100) == b""
    except OSError:  # ssl.SSLError is one
        return True


@WAYS
@pytest.mark.parametrize("version", VERSIONS)
def test_d6_a_strict_host_is_not_reached_without_a_certificate(
    way, version, strict, serve, authority, visit
):
    options = {**authority.options, **way(strict)}
    server = serve(Tells, transport_cls=TLS, transport_options=options)
    assert told(visit(server, "lax.example", version))[2] == "lax.example"
    assert refused(lambda: visit(server, "strict.example", version))
    assert refused(lambda: visit(server, "STRICT.example", version))


@WAYS
@pytest.mark.parametrize("version", VERSIONS)
def test_d6_nor_with_a_session_of_a_lax_host(way, version, strict, serve, authority, visit):
    options = {**authority.options, **way(strict)}
    server = serve(Tells, transport_cls=TLS, transport_options=options)
    context = careless(version)
    lax = visit(server, "lax.example", context=context)
    assert told(lax)
    session = lax.session
    assert refused(lambda: visit(server, "strict.example", session=session, context=context))


def test_a_prepared_host_that_becomes_strict_by_a_reload_is_strict(strict, serve, authority, visit):
    prepared = TLS.prepare(**strict.options)
    options = {**authority.options, "sni": {"strict.example": prepared}}
    server = serve(Tells, transport_cls=TLS, transport_options=options)
    context = careless()
    before = visit(server, "strict.example", context=context)
    assert told(before)
    prepared.reload(**strict.strict)
    assert refused(lambda: visit(server, "strict.example", session=before.session, context=context))
    assert refused(lambda: visit(server, "strict.example"))


def test_each_host_has_its_own_alpn_and_its_own_lowest_version(strict, serve, authority, visit):
    entry = {**strict.options, "alpn_protocols": ["other"], "min_version": "1.3"}
    options = {**authority.options, "alpn_protocols": ["http/1.1"], "sni": {"b.example": entry}}
    server = serve(Tells, transport_cls=TLS, transport_options=options)
    context = careless()
    context.set_alpn_protocols(["other", "http/1.1"])
    assert told(visit(server, "a.example", context=context))[1] == "http/1.1"
    assert told(visit(server, "b.example", context=context))[1] == "other"
    assert told(visit(server, "a.example", ssl.TLSVersion.TLSv1_2))[0] == "TLSv1.2"
    assert refused(lambda: visit(server, "b.example", ssl.TLSVersion.TLSv1_2))


def test_sessions_are_not_kept_where_one_host_says_so(strict, serve, authority, visit):
    entry = {**strict.options, "session_tickets": False}
    options = {**authority.options, "sni": {"b.example": entry}}
    server = serve(Tells, transport_cls=TLS, transport_options=options)
    context = careless()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    first = visit(server, "b.example", context=context)
    assert told(first)
    again = visit(server, "b.example", context=context, session=first.session)
    assert told(again)[3] is False


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"certfile": "/no/such/file"}, "strict.example: .*/no/such/file"),
        ({}, "certfile: is required"),
        ({"host": "127.0.0.1"}, "host: belongs to the server"),
        ({"verify": "required"}, "certfile|ca_certs"),
        (5, "takes a mapping"),
    ],
)
def test_d16_a_wrong_host_is_found_by_the_constructor(entry, says, authority):
    from thousand_island_sync import ThousandIsland

    options = {**authority.options, "sni": {"strict.example": entry}}
    with pytest.raises(ConfigError, match=says):
        ThousandIsland(handler_cls=Echo, transport_cls=TLS, transport_options=options)
