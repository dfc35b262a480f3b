"""TCP and Unix sockets: addresses, options, inherited sockets."""

import os
import socket
import stat
import sys
import threading

import pytest

from tests.support import Echo, eventually, receive
from thousand_island_sync import Handler, ListenError, ThousandIsland
from thousand_island_sync._base import addresses
from thousand_island_sync.transports.tcp import TCPChannel

# ---- addresses --------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "shown", "remote"),
    [
        (("1.2.3.4", 5), "1.2.3.4:5", ("1.2.3.4", 5)),
        (("::ffff:1.2.3.4", 5, 0, 0), "1.2.3.4:5", ("1.2.3.4", 5)),
        (("::1", 5, 0, 0), "[::1]:5", ("::1", 5)),
        ("", "a Unix peer", ("", None)),
        ("/path", "unix:/path", ("", None)),
        (b"\0name", "unix:@name", ("", None)),
    ],
)
def test_how_addresses_are_shown(given, shown, remote):
    assert addresses.show(given) == shown
    assert addresses.remote(given) == remote


@pytest.mark.parametrize("given", [("1.2.3.4", 5), ("::1", 5, 0, 0), "/a/path", b"\0name", ""])
def test_clients_of_one_host_share_its_name(given):
    other = ("".join([*given[0]]), *given[1:]) if isinstance(given, tuple) else given
    one, another = addresses.sharing_host(given), addresses.sharing_host(other)
    assert one == given
    assert another == given
    assert one[:1] == given[:1]
    if isinstance(given, tuple):
        assert one[0] is another[0]


@pytest.mark.parametrize(
    "given",
    [
        *(("1.2.3.4", 5), ("1.2.3.4", 0), ("1.2.3.4", 65_535), ("::1", 5, 0, 0)),
        *(("fe80::1%eth0", 5, 0, 2), "/a/path", "ab", b"\0name", b"ab", "", None),
        *((7, 5), ("peer", None), ("peer", "port"), ("peer", -1), ("peer", True)),
        ("peer", 1 << 70),  # who tests a handler may say that
    ],
)
def test_an_address_is_the_same_when_it_was_taken_apart(given):
    host, port = addresses.apart(given)
    assert type(port) is int
    assert -1 <= port <= 65_535
    assert addresses.together(host, port) == given
    assert type(addresses.together(host, port)) is type(given)
    if type(given) is tuple and type(given[0]) is str:
        other = ("".join([*given[0]]), *given[1:])
        assert addresses.together(*addresses.apart(other))[0] is sys.intern(given[0])


class Names(Handler):
    def handle_connection(self, socket):
        self.options.append((socket.getpeername(), socket.connection.peername))


def test_f6_every_interface_of_both_families(serve, record):
    recorder = record("handler.start")
    seen = []
    server = serve(Names, host="::", handler_options=seen)
    port = server.local_port
    with (
        socket.create_connection(("127.0.0.1", port), 5) as four,
        socket.create_connection(("::1", port), 5) as six,
    ):
        assert eventually(lambda: len(seen) == 2)
        by_host = {full[0]: (full, pair) for full, pair in seen}
        assert by_host["127.0.0.1"] == (four.getsockname(), four.getsockname())
        assert by_host["::1"][1] == six.getsockname()[:2]
    assert {one.metadata["remote_address"] for one in recorder.told} == {"127.0.0.1", "::1"}


def test_f6_ipv6_alone(serve):
    server = serve(Echo, host="::", transport_options={"dual_stack": False})
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.local_port), 5)
    socket.create_connection(("::1", server.local_port), 5).close()


def test_a_host_that_cannot_be_found():
    with pytest.raises(ListenError, match=r"no\.such\.host\.invalid"):
        ThousandIsland(handler_cls=Echo, host="no.such.host.invalid").start()


# ---- options ----------------------------------------------------------------


def test_f10_accepted_sockets_have_the_options(serve, client):
    wanted = {
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
        (socket.IPPROTO_TCP, socket.TCP_NODELAY): 1,
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): 30,
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): 10,
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): 4,
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT): 20_000,
        (socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT): 0,
        (socket.SOL_SOCKET, socket.SO_PRIORITY): 3,
    }
    seen = {}

    class Looks(Handler):
        def handle_connection(self, socket):
            seen.update({key: socket.getsockopt(*key) for key in wanted})
            seen["buffers"] = socket.getsockopt(1, 8), socket.getsockopt(1, 7)

    server = serve(
        Looks,
        transport_options={
            "keepalive_idle_s": 30,
            "keepalive_interval_s": 10,
            "keepalive_count": 4,
            "user_timeout_ms": 20_000,
            "recv_buffer": 20_000,
            "send_buffer": 20_000,
            "socket_options": [(socket.SOL_SOCKET, socket.SO_PRIORITY, 3)],
        },
    )
    client(server)
    assert eventually(lambda: "buffers" in seen)
    assert seen.pop("buffers") == (40_000, 40_000)
    assert seen == wanted


def test_a_default_timeout_of_the_process_does_not_reach_our_sockets(serve, client):
    socket.setdefaulttimeout(0.05)
    try:
        server = serve(Echo)
        sock = client(server)
        threading.Event().wait(0.1)
        sock.sendall(b"x")
        assert receive(sock, 1) == b"x"
    finally:
        socket.setdefaulttimeout(None)


def test_f5_several_listening_sockets_share_a_port(serve, client):
    server = serve(
        Echo, num_listen_sockets=3, num_acceptors=3, transport_options={"reuse_port": True}
    )
    socks = [client(server) for _ in range(30)]
    for sock in socks:
        sock.sendall(b"x")
        assert receive(sock, 1) == b"x"


def test_f4_an_inherited_socket_is_served_and_left_alone(serve, client):
    with socket.create_server(("127.0.0.1", 0)) as inherited:
        for _ in range(2):
            server = serve(Echo, transport_options={"sockets": [inherited]})
            assert server.local_port == inherited.getsockname()[1]
            sock = client(server)
            sock.sendall(b"x")
            assert receive(sock, 1) == b"x"
            server.suspend()
            server.resume()
            assert server.local_port == inherited.getsockname()[1]
            server.stop()
        # It still listens: somebody else may accept from it.
        with socket.create_connection(inherited.getsockname(), 5):
            inherited.setblocking(True)
            inherited.accept()[0].close()


def test_what_is_no_listening_socket_is_refused():
    with socket.socket() as sock, pytest.raises(ListenError, match="not a listening socket"):
        ThousandIsland(handler_cls=Echo, transport_options={"sockets": [sock]}).start()


# ---- Unix sockets -----------------------------------------------------------


def test_f8_a_unix_socket_has_its_mode_before_anyone_can_connect_and_goes_at_the_stop(
    serve, client, tmp_path
):
    path = tmp_path / "s"
    server = serve(Echo, host=f"unix:{path}", transport_options={"unix_mode": 0o600})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    sock = client(server)
    sock.sendall(b"x")
    assert receive(sock, 1) == b"x"
    server.suspend()
    assert not path.exists()
    server.resume()
    assert path.exists()
    server.stop()
    assert not path.exists()


def test_f9_an_abstract_socket(serve, client):
    server = serve(Echo, host=f"unix:@thousand-island-{os.getpid()}")
    assert server.local_address == f"@thousand-island-{os.getpid()}"
    sock = client(server)
    sock.sendall(b"x")
    assert receive(sock, 1) == b"x"


def test_f7_a_stale_file_is_replaced_and_a_live_server_is_not(serve, tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    server = serve(Echo, host=f"unix:{path}")
    with pytest.raises(ListenError, match="live server"):
        ThousandIsland(handler_cls=Echo, host=f"unix:{path}").start()
    assert path.exists()
    server.stop()


def test_f7_a_file_that_is_no_socket_is_left_alone(tmp_path):
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ListenError, match="not a socket"):
        ThousandIsland(handler_cls=Echo, host=f"unix:{path}").start()
    assert path.read_text() == "data"


def test_f7_somebody_elses_file_is_not_removed(serve, tmp_path):
    path = tmp_path / "s"
    server = serve(Echo, host=f"unix:{path}")
    path.unlink()
    path.write_text("another's")
    server.stop()
    assert path.read_text() == "another's"


def test_f7_of_several_starters_one_wins(tmp_path):
    servers, failures = [], []

    def start():
        server = ThousandIsland(handler_cls=Echo, host=f"unix:{tmp_path}/s", num_acceptors=1)
        try:
            servers.append(server.start())
        except ListenError as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(servers), len(failures)) == (1, 9)
    servers[0].stop()


def test_unix_unlink_off_leaves_the_file(serve, tmp_path):
    server = serve(Echo, host=f"unix:{tmp_path}/s", transport_options={"unix_unlink": False})
    server.stop()
    assert (tmp_path / "s").exists()


# ---- what carries the bytes ------------------------------------------------------------------


class Carrier:
    """What a user's channel may have in a socket's place."""

    def __init__(self, sock):
        self._carries = sock

    def __getattr__(self, name):
        return getattr(self._carries, name)


class Counts(socket.socket):
    """One with a `recv` of its own."""

    asked = 0

    def recv(self, *arguments):
        self.asked += 1
        return super().recv(*arguments)


class Three:
    """An integer of another library's."""

    def __index__(self):
        return 3


@pytest.mark.parametrize("length", [3, Three(), 1 << 20])
@pytest.mark.parametrize("kind", ["socket", "carrier", "own recv"])
def test_a_channel_waits_in_what_it_was_given_each_time(kind, length):
    ours, theirs = socket.socketpair()
    with theirs:
        if kind == "own recv":
            ours = Counts(fileno=ours.detach())
        channel = TCPChannel(Carrier(ours) if kind == "carrier" else ours)
        for timeout in (5.0, 5.0, 5):
            theirs.sendall(b"abc")
            assert channel.wait_recv(length, timeout) == b"abc"
        ours.close()
    assert getattr(ours, "asked", 3) == 3
