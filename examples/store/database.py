# database.py
"""A few SQLite connections, lent to whoever needs one."""

import contextlib
import queue
import sqlite3
from collections.abc import Generator

TABLES = """
    CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS users (name TEXT PRIMARY KEY, salt BLOB, hash BLOB);
"""


class Database:
    def __init__(self, path: str, connections: int = 4) -> None:
        self._connections = [
            sqlite3.connect(path, timeout=10, check_same_thread=False) for _ in range(connections)
        ]
        self._free: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue()
        self._connections[0].execute("PRAGMA journal_mode = WAL")
        self._connections[0].executescript(TABLES)
        for connection in self._connections:
            self._free.put(connection)

    @contextlib.contextmanager
    def lend(self) -> Generator[sqlite3.Connection]:
        """Waits for a free connection. At the end it commits, or rolls back after an exception."""
        connection = self._free.get()
        try:
            with connection:
                yield connection
        finally:
            self._free.put(connection)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
