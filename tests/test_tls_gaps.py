"""What OpenSSL has and pyOpenSSL has no public call for, and what does where it is not reached."""

import ssl

import pytest
from OpenSSL import SSL

from tests.support import go_by
from tests.test_tls import Tells, resumptions, tls
from thousand_island_sync import TLS
from thousand_island_sync.transports._tls import gaps

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


def test_a_group_that_openssl_does_not_know_leaves_its_own_list_and_no_error_behind(monkeypatch):
    go_by(monkeypatch, "quick")
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    assert gaps.set_groups(context, b"X25519")
    assert not gaps.set_groups(context, b"no-such-group")
    context.set_cipher_list(b"ECDHE+AESGCM")  # would raise an error that was left


def test_without_private_names_there_is_no_answer(monkeypatch):
    go_by(monkeypatch, "public")
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    assert gaps.set_groups(context, b"X25519") is False
    assert gaps.resumed(SSL.Connection(context)) is None


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("way", ["quick", "public"])
@pytest.mark.parametrize("tickets", [True, False])
def test_resumed_is_told_either_way(tickets, way, version, serve, authority, client, monkeypatch):
    go_by(monkeypatch, way)
    server = tls(serve, authority, Tells, {"session_tickets": tickets})
    context = authority.client_context(version)
    assert resumptions(server, context, client) == [False, tickets, tickets]


@pytest.mark.parametrize("version", VERSIONS)
def test_of_a_context_of_the_users_own_it_is_not_known(
    version, serve, authority, client, monkeypatch
):
    go_by(monkeypatch, "public")
    context = authority.server_context()
    context.set_session_id(b"own")
    server = serve(
        Tells,
        transport_cls=TLS,
        transport_options={"context": context},
    )
    found = resumptions(server, authority.client_context(version), client)
    assert found == [False, False, False]
