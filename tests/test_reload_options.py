"""`reload_transport` and the options that accepted sockets inherit: new connections have the
new ones, whoever shares the listening socket, and open ones keep theirs."""

import socket

import pytest

from tests.support import running
from tests.test_tls import tls as serve_tls
from thousand_island_sync import TLS, ConfigError, Handler
from thousand_island_sync._listener.admission import Entrance
from thousand_island_sync.transports._tcp_options import Own

TCP_LEVEL, SOL_SOCKET = socket.IPPROTO_TCP, socket.SOL_SOCKET
NODELAY = TCP_LEVEL, socket.TCP_NODELAY

#: Option, its value before and after, what to ask of the kernel, and what it says then.
CHANGES = [
    ("nodelay", True, False, NODELAY, (1, 0)),
    ("keepalive", True, False, (SOL_SOCKET, socket.SO_KEEPALIVE), (1, 0)),
    ("keepalive_idle_s", 70, 80, (TCP_LEVEL, socket.TCP_KEEPIDLE), (70, 80)),
    ("keepalive_interval_s", 7, 8, (TCP_LEVEL, socket.TCP_KEEPINTVL), (7, 8)),
    ("keepalive_count", 3, 4, (TCP_LEVEL, socket.TCP_KEEPCNT), (3, 4)),
    ("user_timeout_ms", 5_000, 6_000, (TCP_LEVEL, socket.TCP_USER_TIMEOUT), (5_000, 6_000)),
    ("recv_buffer", 20_000, 30_000, (SOL_SOCKET, socket.SO_RCVBUF), (40_000, 60_000)),
    ("send_buffer", 20_000, 30_000, (SOL_SOCKET, socket.SO_SNDBUF), (40_000, 60_000)),
    ("user_timeout_ms", 5_000, None, (TCP_LEVEL, socket.TCP_USER_TIMEOUT), (5_000, 0)),
    ("keepalive_count", 3, None, (TCP_LEVEL, socket.TCP_KEEPCNT), (3, 9)),
    (
        "socket_options",
        [(SOL_SOCKET, socket.SO_PRIORITY, 3)],
        [(SOL_SOCKET, socket.SO_PRIORITY, 4)],
        (SOL_SOCKET, socket.SO_PRIORITY),
        (3, 4),
    ),
    (
        "socket_options",
        [(SOL_SOCKET, socket.SO_PRIORITY, 3)],
        [],
        (SOL_SOCKET, socket.SO_PRIORITY),
        (3, 0),
    ),
]


class Tells(Handler):
    """Answers "level number" with what the kernel says of its socket."""

    def handle_data(self, data, sock):
        level, number = map(int, data.split())
        sock.send(b"%d" % sock.getsockopt(level, number))


def asked(sock, option):
    sock.sendall(b"%d %d" % option)
    return int(sock.recv(100))


@pytest.mark.parametrize(("option", "before", "after", "call", "says"), CHANGES)
def test_new_connections_have_what_was_reloaded_and_open_ones_keep_theirs(
    option, before, after, call, says, serve, client
):
    server = serve(Tells, transport_options={option: before})
    old = client(server)
    assert asked(old, call) == says[0]
    server.reload_transport(**{option: after})
    assert asked(client(server), call) == says[1]
    assert asked(old, call) == says[0]
    server.reload_transport(**{option: before})
    assert asked(client(server), call) == says[0]
    server.reload_transport(**{option: after})
    server.suspend()
    server.resume()
    assert asked(client(server), call) == says[1]


def test_the_listening_socket_that_others_share_stays_as_it_is(serve, client):
    with socket.create_server(("127.0.0.1", 0)) as shared:
        server = serve(Tells, transport_options={"sockets": [shared]})
        server.reload_transport(nodelay=False, user_timeout_ms=7_000)
        sock = client(server)
        assert asked(sock, NODELAY) == 0
        assert asked(sock, (TCP_LEVEL, socket.TCP_USER_TIMEOUT)) == 7_000
        assert shared.getsockopt(*NODELAY) == 1
        assert shared.getsockopt(TCP_LEVEL, socket.TCP_USER_TIMEOUT) == 0


@pytest.mark.parametrize("number", ["recv_buffer", "send_buffer"])
def test_on_a_unix_socket_nothing_is_inherited_and_both_sizes_are_set(
    number, serve, client, tmp_path
):
    call = SOL_SOCKET, socket.SO_RCVBUF if number == "recv_buffer" else socket.SO_SNDBUF
    server = serve(Tells, host=f"unix:{tmp_path}/a.sock", transport_options={number: 20_000})
    assert asked(client(server), call) == 40_000
    server.reload_transport(**{number: 30_000})
    assert asked(client(server), call) == 60_000


def test_where_nothing_was_reloaded_a_connection_costs_no_call(serve, client, monkeypatch):
    calls = []
    monkeypatch.setattr(Own, "set_on", lambda self, sock: calls.append(sock))
    server = serve(Tells, transport_options={"nodelay": False, "recv_buffer": 20_000})
    assert asked(client(server), NODELAY) == 0
    assert calls == []
    server.reload_transport(nodelay=True)
    asked(client(server), NODELAY)
    assert len(calls) == 1
    server.reload_transport(nodelay=False)
    asked(client(server), NODELAY)
    assert len(calls) == 1


def test_what_the_kernel_refuses_is_told_by_the_reload_and_the_old_ones_stay(serve, client):
    server = serve(Tells)
    with pytest.raises(ConfigError, match=r"socket_options: \(SOL_SOCKET, 9999, 1\) was refused"):
        server.reload_transport(socket_options=[(SOL_SOCKET, 9999, 1)])
    assert asked(client(server), NODELAY) == 1


def test_over_tls_what_was_prepared_reaches_new_connections_too(serve, authority, client):
    prepared = TLS.prepare(certfile=authority.chain, keyfile=authority.key)
    server = serve(Tells, transport_cls=TLS, transport_options=prepared)
    context = authority.client_context()

    def says():
        with context.wrap_socket(client(server), server_hostname="localhost") as tls:
            return asked(tls, NODELAY)

    assert says() == 1
    prepared.reload(nodelay=False)
    assert says() == 0
    server.reload_transport(keepalive=False)
    assert says() == 0
    server.reload_transport(nodelay=True)
    assert says() == 1


def test_a_reload_is_merged_over_what_was_prepared_as_it_holds_now(authority):
    from thousand_island_sync import ThousandIsland

    prepared = TLS.prepare(certfile=authority.chain, keyfile=authority.key)
    server = ThousandIsland(
        handler_cls=Tells, host="127.0.0.1", transport_cls=TLS, transport_options=prepared
    )
    prepared.reload(verify="required", ca_certs=authority.chain)
    server.reload_transport(nodelay=False)
    assert server._transport.current.options["verify"] == "required"
    assert server._transport.current.options["host"] == "127.0.0.1"


def test_it_holds_over_tls_without_prepare(serve, authority, client):
    server = serve_tls(serve, authority, Tells)
    server.reload_transport(nodelay=False)
    context = authority.client_context()
    with context.wrap_socket(client(server), server_hostname="localhost") as tls:
        assert asked(tls, NODELAY) == 0


def test_who_is_accepted_after_a_reload_has_its_options_whoever_was_about_to_accept(
    serve, client, monkeypatch
):
    """An acceptor that was woken before the reload, and comes to its accept after it."""
    server = serve(Tells, transport_options={"nodelay": False})
    take, reloaded = Entrance.take, []

    def take_late(self, *arguments):
        accepts = self._accept

        def accept(socks):
            if not reloaded:
                reloaded.append(True)
                with running(lambda: server.reload_transport(nodelay=True)):
                    pass
            return accepts(socks)

        self._accept = accept
        try:
            return take(self, *arguments)
        finally:
            self._accept = accepts

    monkeypatch.setattr(Entrance, "take", take_late)
    assert asked(client(server), NODELAY) == 1
