"""Facts and names that hold whatever happens later: a connection's address after its end, a
Unix path after `chdir`, a callback that was set on an instance."""

import errno
import os
import socket

import pytest

from tests.support import echoes, eventually, receive, receive_all
from thousand_island_sync import (
    TLS,
    Close,
    ConfigError,
    Continue,
    Handler,
    LimitExceeded,
    ThousandIsland,
)


class Keeps(Handler):
    """Keeps its connection."""

    kept = []

    def handle_connection(self, socket):
        self.kept.append(socket.connection)


class AsksLast(Handler):
    """Asks for the first time when all is over."""

    kept = []

    def handle_end(self, socket):
        self.kept.append(socket.connection.sockname)


@pytest.fixture(autouse=True)
def nothing_kept():
    Keeps.kept.clear()
    AsksLast.kept.clear()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1"])
def test_sockname_is_a_fact_that_outlives_the_connection(host, serve, client):
    server = serve(Keeps, host=host)
    sock = client(server)
    expected = sock.getpeername()[:2]
    assert eventually(lambda: Keeps.kept)
    (connection,) = Keeps.kept
    sock.close()
    assert eventually(lambda: connection.closed)
    assert connection.sockname == expected


def test_whoever_got_the_connection_from_the_server_knows_it_after_the_end(serve, client):
    server = serve(Handler)
    sock = client(server)
    assert eventually(server.connections)
    (connection,) = server.connections()
    expected = sock.getpeername()
    server.stop()
    assert connection.closed
    assert connection.sockname == expected


def test_handle_end_may_ask_for_it(serve, client):
    sock = client(serve(AsksLast))
    expected = sock.getpeername()
    sock.close()
    assert eventually(lambda: AsksLast.kept == [expected])


def test_of_a_unix_socket_too(serve, client, tmp_path):
    server = serve(Keeps, host=f"unix:{tmp_path}/a.sock")
    sock = client(server)
    assert eventually(lambda: Keeps.kept)
    sock.close()
    assert eventually(lambda: Keeps.kept[0].closed)
    assert Keeps.kept[0].sockname == f"{tmp_path}/a.sock"


# ---- a relative path ---------------------------------------------------------


class Echo(Handler):
    def handle_data(self, data, socket):
        socket.send(data)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two folders; the working one is the first."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "one")
    return tmp_path


@pytest.mark.parametrize("given", ["rel.sock", "./rel.sock", "sub/../rel.sock"])
def test_a_relative_unix_path_is_absolute_from_the_constructor_on(given, folders, client):
    (folders / "one" / "sub").mkdir()
    server = ThousandIsland(handler_cls=Echo, host=f"unix:{given}")
    os.chdir(folders / "other")
    with server:
        assert os.path.realpath(server.local_address) == f"{folders}/one/rel.sock"
        assert server.local_address.startswith("/")
        echoes(client(server))
        server.reload_transport(nodelay=False)
        server.suspend()
        assert not (folders / "one" / "rel.sock").exists()
        server.resume()
        echoes(client(server))
    assert list((folders / "other").iterdir()) == []
    assert not (folders / "one" / "rel.sock").exists()


def test_over_tls_and_with_prepared_options_too(folders, authority):
    prepared = TLS.prepare(certfile=authority.chain, keyfile=authority.key)
    server = ThousandIsland(
        handler_cls=Echo, host="unix:rel.sock", transport_cls=TLS, transport_options=prepared
    )
    os.chdir(folders / "other")
    server.reload_transport(nodelay=False)
    with server:
        assert server.local_address == f"{folders}/one/rel.sock"


def test_an_abstract_name_and_an_absolute_path_stay_as_they_are(folders):
    for host in ("unix:@name", "unix:/a/../b.sock"):
        server = ThousandIsland(handler_cls=Echo, host=host)
        assert server._transport.current.options["host"] == host


def test_without_a_working_folder_a_relative_path_is_a_config_error(folders):
    (folders / "one").rmdir()
    with pytest.raises(ConfigError, match=r"unix:rel\.sock.*working folder is gone.*absolute"):
        ThousandIsland(handler_cls=Echo, host="unix:rel.sock")


# ---- a callback that is set on the instance -----------------------------------


class Phases(Handler):
    """A header, then a body: each callback is looked up when it runs."""

    def handle_data(self, data, socket):
        socket.send(b"header ")
        self.handle_data = self.body
        self.handle_eof = self.body_eof
        self.handle_end = self.body_end

    def body(self, data, socket):
        socket.send(b"body ")
        if data == b"again":
            del self.handle_data

    def body_eof(self, socket):
        socket.send(b"eof ")
        return Close()

    def body_end(self, socket):
        type(self).ended = True


def test_handle_data_set_on_the_instance_is_run_from_then_on(wire):
    Phases.ended = False
    sock = wire.connect(wire.serve(Phases))
    for data, answer in ((b"1", b"header "), (b"2", b"body "), (b"again", b"body ")):
        sock.sendall(data)
        assert receive(sock, len(answer)) == answer
    sock.sendall(b"3")
    assert receive(sock, 7) == b"header "
    if wire.name in ("tcp", "unix"):
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock) == b"eof "
        assert eventually(lambda: Phases.ended)


class SetsFirst(Handler):
    """Before the first bytes, by other callbacks."""

    def __init__(self, options):
        super().__init__(options)
        self.handle_connection = self.connection

    def connection(self, socket):
        self.handle_data = self.first
        socket.send(b"go ")

    def first(self, data, socket):
        socket.send(b"first ")
        socket.connection.post(self.second)

    def handle_info(self, message, socket):
        self.handle_data = message
        socket.send(b"set ")

    def second(self, data, socket):
        socket.send(b"second ")


def test_other_callbacks_set_it_too(serve, client):
    sock = client(serve(SetsFirst))
    assert receive(sock, 3) == b"go "
    sock.sendall(b"x")
    assert receive(sock, 10) == b"first set "
    sock.sendall(b"x")
    assert receive(sock, 7) == b"second "


class Stays(Handler):
    """Blocks, so that its thread stays with it, and changes over and over."""

    def handle_data(self, data, socket):
        self.handle_data = self.odd
        socket.send(b"even")

    def odd(self, data, socket):
        del self.handle_data
        socket.send(b"odd.")


def test_it_is_looked_up_for_each_message_of_a_thread_that_stays(serve, client):
    sock = client(serve(Stays))
    for number in range(1_000):
        sock.sendall(b"x")
        assert receive(sock, 4) == (b"odd." if number % 2 else b"even")


class Forgets(Handler):
    """What it sets is no function, or cannot be looked up."""

    ended = []

    def handle_data(self, data, socket):
        self.handle_data = 5
        socket.send(b"set")

    def handle_error(self, reason, socket):
        self.ended.append(type(reason))


def test_what_cannot_be_called_is_the_handlers_error(serve, client, caplog):
    sock = client(serve(Forgets))
    sock.sendall(b"1")
    assert receive(sock, 3) == b"set"
    sock.sendall(b"2")
    assert receive_all(sock) == b""
    assert eventually(lambda: Forgets.ended == [TypeError])
    assert "handle_data" in caplog.text


# ---- max_unread ------------------------------------------------------------------


class Unreads(Handler):
    """Puts back what it got."""

    ended = []

    def handle_connection(self, socket):
        socket.send(b"go")

    def handle_data(self, data, socket):
        socket.unread(data)
        return Continue()

    def handle_error(self, reason, socket):
        self.ended.append(reason)


def test_max_unread_is_what_unread_may_leave(serve, client):
    Unreads.ended.clear()
    sock = client(serve(Unreads, max_unread=10))
    assert receive(sock, 2) == b"go"
    sock.sendall(b"0123456789")
    assert not eventually(lambda: Unreads.ended, 0.1)
    sock.sendall(b"x")
    assert receive_all(sock) == b""
    (error,) = Unreads.ended
    assert isinstance(error, LimitExceeded)
    assert error.errno == errno.EMSGSIZE
    assert "11 bytes, takes at most 10 (max_unread)" in str(error)


# ---- sendfile ----------------------------------------------------------------------


class SendsFile(Handler):
    """Sends the file that it is told to, and what it raises."""

    def handle_data(self, data, sock):
        try:
            sock.sendfile(data.decode(), -1 if data == b"negative" else 0)
        except (OSError, ValueError) as error:
            sock.send(type(error).__name__.encode())


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("missing", FileNotFoundError),
        (".", IsADirectoryError),
        ("negative", ValueError),
        ("secret", PermissionError),
    ],
)
def test_every_sendfile_that_fails_is_told(name, error, serve, client, record, tmp_path):
    recorder = record("socket.sendfile_error", "socket.sendfile")
    if name == "secret" and os.geteuid() == 0:
        name, error = "missing/too", FileNotFoundError  # root may read everything
    path = name if name == "negative" else str(tmp_path / name)
    sock = client(serve(SendsFile))
    sock.sendall(path.encode())
    assert sock.recv(100).decode() == error.__name__
    (told,) = recorder.told
    assert told.name == "socket.sendfile_error"
    assert type(told.measurements["error"]) is error
    assert told.measurements["file"] == path
    assert told.measurements["bytes_sent"] == 0
