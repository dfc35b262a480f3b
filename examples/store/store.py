# store.py
"""A key-value store: what a client may say, and what it is answered."""

import dataclasses

from thousand_island_sync import Close, Continue, Handler, LimitExceeded, Lines, Result, Socket

from database import Database
from users import Attempts, is_password
from watchers import Watchers

LOGIN_MS = 5_000


@dataclasses.dataclass
class Shared:
    """What all connections use."""

    database: Database
    attempts: Attempts = dataclasses.field(default_factory=Attempts)
    watchers: Watchers = dataclasses.field(default_factory=Watchers)


class Store(Handler):
    framing = Lines(limit=4_096)

    def __init__(self, options: Shared) -> None:
        super().__init__(options)
        self.shared = options
        self.user = ""
        self.wrong = 0
        self.watched: set[str] = set()

    def handle_connection(self, socket: Socket) -> Result:
        return Continue(deadline_ms=LOGIN_MS)

    def handle_data(self, line: bytes, socket: Socket) -> Result | None:
        words = line.decode("utf-8", "replace").split(maxsplit=2)
        match words:
            case ["QUIT"]:
                socket.send(b"BYE\n")
                return Close()
            case ["LOGIN", name, password]:
                return self.log_in(name, password, socket)
            case _ if not self.user:
                answer = "ERR log in first: LOGIN name password"
            case ["SET", key, value]:
                answer = self.set(key, value)
            case ["GET", key]:
                answer = self.get(key)
            case ["WATCH", key]:
                self.watched.add(key)
                self.shared.watchers.add(key, socket.connection)
                answer = "OK"
            case _:
                answer = "ERR takes SET key value, GET key, WATCH key, or QUIT"
        socket.send(answer.encode() + b"\n")
        return None

    def log_in(self, name: str, password: str, socket: Socket) -> Result:
        if not self.shared.attempts.allow(socket.getpeername()[0]):
            socket.send(b"ERR too many attempts, wait a minute\n")
            return Close()
        if is_password(self.shared.database, name, password):
            self.user = name
            socket.send(b"OK\n")
            return Continue(deadline_ms=None)
        self.wrong += 1
        socket.send(b"ERR wrong name or password\n")
        return Close() if self.wrong == 3 else Continue()

    def set(self, key: str, value: str) -> str:
        with self.shared.database.lend() as connection:
            connection.execute("INSERT OR REPLACE INTO entries VALUES (?, ?)", (key, value))
        self.shared.watchers.tell(key, f"CHANGED {key} {value}\n".encode())
        return "OK"

    def get(self, key: str) -> str:
        with self.shared.database.lend() as connection:
            query = "SELECT value FROM entries WHERE key = ?"
            found = connection.execute(query, (key,)).fetchone()
        return f"VALUE {found[0]}" if found else "NONE"

    def handle_timeout(self, socket: Socket) -> None:
        socket.send(b"ERR too slow\n")

    def handle_error(self, reason: object, socket: Socket) -> None:
        if isinstance(reason, LimitExceeded):
            socket.send(b"ERR line too long\n")

    def handle_end(self, socket: Socket) -> None:
        self.shared.watchers.remove(self.watched, socket.connection)
