"""Tests of `line_protocol.py` with the testing kit: first in memory, then on a real server.

python -m pytest examples/test_line_protocol.py
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from line_protocol import KeyValue, add_user

from thousand_island_sync.testing import EOF, RESET, Transcript, advance, call, serve

Talk = Callable[..., Transcript]


@pytest.fixture
def database(tmp_path: Path) -> str:
    path = str(tmp_path / "lines.db")
    add_user(path, "ada", "secret")
    return path


@pytest.fixture
def talk(database: str) -> Talk:
    return lambda *steps: call(KeyValue, *steps, options=database)


def test_values_are_kept(talk: Talk) -> None:
    said = talk(b"LOGIN ada secret\nSET color dark green\n", b"GET color\nGET taste\n", EOF)
    assert said.sent == b"OK\nOK\ndark green\nNONE\n"
    assert said.ended == "peer_closed"


def test_a_line_may_come_in_pieces(talk: Talk) -> None:
    assert talk(b"LOGIN a", b"da sec", b"ret", b"\n").sent == b"OK\n"


def test_nothing_is_told_to_strangers(talk: Talk) -> None:
    assert talk(b"GET color\n").sent.startswith(b"ERR log in first")


def test_three_wrong_passwords_are_the_end(talk: Talk) -> None:
    said = talk(b"LOGIN ada wrong\n" * 5)
    assert said.sent.count(b"ERR no such user") == 3
    assert said.ended == "local_closed"


def test_a_long_line_is_told_so(talk: Talk) -> None:
    said = talk(b"x" * 5_000)
    assert said.sent == b"ERR line too long\n"
    assert said.ended == "error"


def test_silence_ends_the_connection(talk: Talk) -> None:
    assert talk(advance(60_000)).ended == "timeout"


def test_a_reset_is_no_error(talk: Talk) -> None:
    assert talk(b"LOGIN ada secret\n", RESET).error is None


def test_several_clients_at_once(database: str) -> None:
    with serve(KeyValue, handler_options=database) as server:
        clients = [server.connect() for _ in range(5)]
        for number, client in enumerate(clients):
            client.sendall(b"LOGIN ada secret\nSET %d value %d\n" % (number, number))
        for client in clients:
            assert client.makefile("rb").read(6) == b"OK\nOK\n"
        clients[0].sendall(b"GET 4\n")
        assert clients[0].recv(100) == b"value 4\n"
