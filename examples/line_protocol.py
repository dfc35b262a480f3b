"""A line protocol with users and a SQLite database.

`LOGIN name password` first; then `SET key value` and `GET key`, one a line. A thread that waits
for the database, or computes the hash of a password, holds up nobody else. Its tests are in
`test_line_protocol.py`.

    python examples/line_protocol.py --port 4060 --database /tmp/lines.db --user ada:secret
    printf 'LOGIN ada secret\nSET color green\nGET color\n' | nc -N 127.0.0.1 4060
"""

import argparse
import contextlib
import hashlib
import hmac
import sqlite3
from typing import Any

from thousand_island_sync import Close, Handler, LimitExceeded, Lines, Socket, ThousandIsland

TABLES = """
    CREATE TABLE IF NOT EXISTS users (name TEXT PRIMARY KEY, hash BLOB);
    CREATE TABLE IF NOT EXISTS lines (key TEXT PRIMARY KEY, value TEXT);
"""
TRIES = 3


def hash_of(name: str, password: str) -> bytes:
    return hashlib.scrypt(password.encode(), salt=name.encode(), n=2**12, r=8, p=1)


def add_user(database: str, name: str, password: str) -> None:
    with contextlib.closing(sqlite3.connect(database)) as opened, opened:
        opened.executescript(TABLES)
        row = (name, hash_of(name, password))
        opened.execute("INSERT OR REPLACE INTO users VALUES (?, ?)", row)


class KeyValue(Handler):
    framing = Lines(limit=4096)

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.user = ""
        self.failures = 0

    def handle_data(self, line: bytes, socket: Socket) -> Close | None:
        words = line.decode("utf-8", "replace").split(maxsplit=2)
        with contextlib.closing(sqlite3.connect(self.options, timeout=10)) as database, database:
            answer = self.answer(database, words)
        socket.send(answer.encode() + b"\n")
        return Close() if self.failures == TRIES else None

    def answer(self, database: sqlite3.Connection, words: list[str]) -> str:
        match words:
            case ["LOGIN", name, password]:
                return self.log_in(database, name, password)
            case _ if not self.user:
                return "ERR log in first: LOGIN name password"
            case ["SET", key, value]:
                database.execute("INSERT OR REPLACE INTO lines VALUES (?, ?)", (key, value))
                return "OK"
            case ["GET", key]:
                found = database.execute("SELECT value FROM lines WHERE key = ?", (key,))
                return "".join(found.fetchone() or ["NONE"])
            case _:
                return "ERR takes SET key value, or GET key"

    def log_in(self, database: sqlite3.Connection, name: str, password: str) -> str:
        found = database.execute("SELECT hash FROM users WHERE name = ?", (name,)).fetchone()
        if hmac.compare_digest(hash_of(name, password), found[0] if found else b""):
            self.user = name
            return "OK"
        self.failures += 1
        return "ERR no such user, or another password"

    def handle_error(self, reason: object, socket: Socket) -> None:
        if isinstance(reason, LimitExceeded):
            socket.send(b"ERR line too long\n")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4060)
    parser.add_argument("--database", default="/tmp/lines.db")
    parser.add_argument("--user", default="ada:secret", help="NAME:PASSWORD, added at the start")
    given = parser.parse_args(arguments)
    add_user(given.database, *given.user.split(":", 1))
    server = ThousandIsland(
        handler_cls=KeyValue, handler_options=given.database, host="127.0.0.1", port=given.port
    ).start()
    print("listening on", server.local_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
