# users.py
"""Users and their passwords. To add one: python users.py store.db NAME"""

import collections
import getpass
import hashlib
import hmac
import secrets
import sys
import threading
import time

from database import Database

HASHING = threading.BoundedSemaphore(4)  # one hash takes 16 MiB and a processor for a while
NOBODY = (bytes(16), bytes(64))


def hash_of(password: str, salt: bytes) -> bytes:
    with HASHING:
        return hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)


def add_user(database: Database, name: str, password: str) -> None:
    salt = secrets.token_bytes(16)
    row = (name, salt, hash_of(password, salt))
    with database.lend() as connection:
        connection.execute("INSERT OR REPLACE INTO users VALUES (?, ?, ?)", row)


def is_password(database: Database, name: str, password: str) -> bool:
    with database.lend() as connection:
        query = "SELECT salt, hash FROM users WHERE name = ?"
        found = connection.execute(query, (name,)).fetchone()
    salt, expected = found or NOBODY
    return hmac.compare_digest(hash_of(password, salt), expected)


class Attempts:
    """Counts the logins of each address, right or wrong, and begins anew every minute."""

    def __init__(self, limit: int = 20) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._counted: collections.Counter[str] = collections.Counter()
        self._since = time.monotonic()

    def allow(self, address: str) -> bool:
        with self._lock:
            if time.monotonic() - self._since >= 60:
                self._counted.clear()
                self._since = time.monotonic()
            self._counted[address] += 1
            return self._counted[address] <= self.limit


if __name__ == "__main__":
    path, name = sys.argv[1:]
    asked = sys.stdin.isatty()
    password = getpass.getpass() if asked else sys.stdin.readline().rstrip("\n")
    add_user(Database(path), name, password)
