# watchers.py
"""Who wants to hear of which key."""

import threading

from thousand_island_sync import Connection, SendBufferFull, SocketClosed


class Watchers:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watching: dict[str, set[Connection]] = {}

    def add(self, key: str, connection: Connection) -> None:
        with self._lock:
            self._watching.setdefault(key, set()).add(connection)

    def remove(self, keys: set[str], connection: Connection) -> None:
        with self._lock:
            for key in keys:
                self._watching[key].discard(connection)
                if not self._watching[key]:
                    del self._watching[key]

    def tell(self, key: str, message: bytes) -> None:
        with self._lock:
            connections = tuple(self._watching.get(key, ()))
        for connection in connections:
            try:
                connection.send(message)
            except SendBufferFull:
                connection.close(abort=True)  # it does not read; it may come again
            except SocketClosed:
                pass  # it has just left
