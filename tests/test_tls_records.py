"""By pyOpenSSL's public calls everything is as by OpenSSL's functions underneath, which the
other tests of TLS go through."""

import pytest
from OpenSSL import SSL

from tests.support import Echo, exchange, go_by, journal, reset
from tests.test_tls import (  # noqa: F401 - they are run here as well
    test_d2_a_send_that_timed_out_leaves_the_stream_exact,
    test_d3_an_end_without_close_notify_is_truncated,
    test_d9_our_end_is_clean_and_does_not_wait,
    tls,
)
from thousand_island_sync.transports._tls import records as _tls_records


@pytest.fixture(autouse=True)
def by_public_calls(monkeypatch):
    go_by(monkeypatch, "public")


@pytest.fixture(params=["quick", "public"])
def way(request, monkeypatch):
    go_by(monkeypatch, request.param)
    return request.param


def test_bytes_of_every_kind_arrive(way, serve, authority, secure):
    server = tls(serve, authority, Echo)
    sock = secure(server, authority.client_context())
    data = bytes(range(256)) * 4_000
    assert exchange(sock, data, len(data)) == data


def test_a_reset_is_one(way, serve, authority, client):
    """Not an end that was cut off: OpenSSL is not asked a second time."""
    Base = journal()

    class Waits(Base):
        def handle_connection(self, socket):
            socket.recv()

    server = tls(serve, authority, Waits)
    plain = client(server)
    context = authority.client_context()
    sock = context.wrap_socket(plain, server_hostname="localhost", do_handshake_on_connect=True)
    reset(sock)
    assert Waits.ended()
    assert Waits.names() == ["close", "end"]


def test_what_gives_neither_bytes_nor_a_reason_is_an_error():
    connection = SSL.Connection(SSL.Context(SSL.TLS_SERVER_METHOD))
    records = _tls_records.PrivateRecords(connection)
    connection._raise_ssl_error = lambda ssl, result: None
    assert isinstance(records.failure(0), SSL.Error)


def test_a_send_that_would_have_to_read_in_its_middle_is_an_error(way, monkeypatch):
    """The caller would send again what is encrypted already."""
    counts = iter([16_384, -1])
    connection = SSL.Connection(SSL.Context(SSL.TLS_SERVER_METHOD))

    def send(data):
        count = next(counts)
        if count < 0:
            raise SSL.WantReadError
        return count

    def wants_to_read(ssl, result):
        raise SSL.WantReadError

    connection.send, connection._raise_ssl_error = send, wants_to_read
    monkeypatch.setattr(_tls_records, "_ssl_write", lambda *arguments: next(counts))
    records = _tls_records.records_of(connection)
    with pytest.raises(SSL.Error, match="in the middle of a send"):
        records.seal(bytes(40_000))


def test_a_send_that_has_to_read_first_may_be_done_again(way):
    connection = SSL.Connection(SSL.Context(SSL.TLS_SERVER_METHOD))
    connection.set_accept_state()
    records = _tls_records.records_of(connection)
    for size in (1, 40_000):
        with pytest.raises(SSL.WantReadError):
            records.seal(bytes(size))
