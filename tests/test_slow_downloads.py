"""`sendfile` buffers nothing, so a slow download holds a thread: of half the pool at most."""

import socket as stdlib_socket
import threading

import pytest

from tests.support import echoes, eventually
from thousand_island_sync import Handler, SocketTimeout


class Downloads(Handler):
    """Sends a file to who asks for it, and anything else back."""

    def __init__(self, options):
        super().__init__(options)
        self.file, self.ended = options

    def handle_data(self, data, socket):
        if data == b"get":
            socket.sendfile(self.file)
        else:
            socket.send(data)

    def handle_error(self, reason, socket):
        self.ended.append(reason)


@pytest.fixture
def large(tmp_path):
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(64 << 20)
    return str(path)


def test_those_who_take_nothing_of_a_file_leave_half_of_the_pool(wire, large):
    ended = []
    server = wire.serve(Downloads, handler_options=(large, ended), max_handler_threads=8)
    good = wire.connect(server)
    echoes(good)
    slow = [wire.connect(server) for _ in range(12)]
    for sock in slow:
        sock.sendall(b"get")
    good.settimeout(20)
    echoes(good)  # not after `send_timeout_ms`, which is 30 s
    assert eventually(lambda: server.info().busy_threads <= 4, 10)
    assert eventually(lambda: len(ended) >= 8, 10), (len(ended), server.info())
    assert {type(one) for one in ended} == {SocketTimeout}
    echoes(good)


def test_a_download_that_goes_on_slowly_is_let(serve, client, large):
    """Four of eight threads: none of them need end."""
    ended = []
    server = serve(Downloads, handler_options=(large, ended), max_handler_threads=8)
    slow = [client(server) for _ in range(4)]
    for sock in slow:
        sock.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_RCVBUF, 4_096)
        sock.sendall(b"get")
    assert eventually(lambda: server.info().busy_threads == 4)
    threading.Event().wait(1.5)  # longer than a peer may take nothing where others need its place
    echoes(client(server))
    assert ended == []
    assert server.info().active_connections >= 5
