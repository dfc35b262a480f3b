"""Where pyOpenSSL's private names are gone, what is public must do."""

import ssl

import pytest
from OpenSSL import SSL

from tests.test_tls import Tells, resumptions, tls
from thousand_island_sync.transports import _tls_context, _tls_gaps

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


def test_all_of_it_is_there_with_this_pyopenssl():
    assert _tls_gaps.KNOWS_RESUMED
    assert _tls_gaps.set_groups(SSL.Context(SSL.TLS_SERVER_METHOD), b"X25519")


def test_a_group_that_openssl_does_not_know_leaves_its_own_list_and_no_error_behind():
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    assert not _tls_gaps.set_groups(context, b"no-such-group")
    context.set_cipher_list(b"ECDHE+AESGCM")  # would raise an error that was left


def test_without_private_names_there_is_no_answer():
    assert _tls_gaps.set_groups(object(), b"X25519") is False
    assert _tls_gaps.resumed(object()) is None


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("private", [True, False])
def test_resumed_is_told_either_way(private, version, serve, authority, client, monkeypatch):
    if not private:
        monkeypatch.setattr(_tls_context, "KNOWS_RESUMED", False)
        monkeypatch.setattr(_tls_gaps, "_session_reused", None)
    server = tls(serve, authority, Tells)
    context = authority.client_context(version)
    assert resumptions(server, context, client) == [False, True, True]
