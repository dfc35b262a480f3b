# test_store.py
"""Tests of the store: python -m pytest test_store.py"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from thousand_island_sync.testing import EOF, advance, call, serve

from database import Database
from store import LOGIN_MS, Shared, Store
from users import Attempts, add_user

LOGIN = b"LOGIN ada secret\n"


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Shared]:
    with contextlib.closing(Database(str(tmp_path / "store.db"))) as database:
        add_user(database, "ada", "secret")
        yield Shared(database)


def test_it_keeps_values(shared: Shared) -> None:
    said = call(Store, LOGIN, b"SET color dark green\nGET color\nGET taste\n", EOF, options=shared)
    assert said.sends == [b"OK\n", b"OK\n", b"VALUE dark green\n", b"NONE\n"]
    assert said.ended == "peer_closed"


def test_a_line_may_come_in_pieces(shared: Shared) -> None:
    assert call(Store, b"LOGIN a", b"da secr", b"et\n", options=shared).sent == b"OK\n"


def test_strangers_are_told_nothing(shared: Shared) -> None:
    assert call(Store, b"GET color\n", options=shared).sent.startswith(b"ERR log in first")


def test_three_wrong_passwords_end_the_connection(shared: Shared) -> None:
    said = call(Store, b"LOGIN ada wrong\n" * 5, options=shared)
    assert said.sent == b"ERR wrong name or password\n" * 3
    assert said.ended == "local_closed"


def test_an_address_has_so_many_attempts_a_minute(shared: Shared) -> None:
    shared.attempts = Attempts(limit=2)
    ends = [call(Store, LOGIN, options=shared).sent for _ in range(3)]
    assert ends == [b"OK\n", b"OK\n", b"ERR too many attempts, wait a minute\n"]


def test_who_does_not_log_in_has_to_go(shared: Shared) -> None:
    said = call(Store, advance(LOGIN_MS), options=shared)
    assert said.sent == b"ERR too slow\n"
    assert said.ended == "timeout"


def test_who_has_logged_in_may_stay(shared: Shared) -> None:
    assert call(Store, LOGIN, advance(LOGIN_MS), options=shared).ended is None


def test_a_long_line_is_refused(shared: Shared) -> None:
    assert call(Store, b"x" * 5_000, options=shared).sent == b"ERR line too long\n"


def test_watchers_hear_of_changes(shared: Shared) -> None:
    with serve(Store, handler_options=shared) as server:
        watcher, writer = server.connect(), server.connect()
        watcher.sendall(LOGIN + b"WATCH color\n")
        with watcher.makefile("rb") as heard:
            assert [heard.readline(), heard.readline()] == [b"OK\n", b"OK\n"]
            writer.sendall(LOGIN + b"SET color blue\n")
            assert heard.readline() == b"CHANGED color blue\n"
