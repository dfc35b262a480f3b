"""A line protocol in the manner of socketserver: the handler loops, and blocks.

`SET key value` and `GET key`, one a line, each a query of a SQLite database. A thread that
waits here, for a line or for the database, holds up nobody else.

    python examples/line_protocol.py --port 4060 --database /tmp/lines.db
    printf 'SET color green\nGET color\n' | nc -N 127.0.0.1 4060
"""

import argparse
import contextlib
import sqlite3

from thousand_island_sync import Close, Handler, LimitExceeded, Socket, SocketClosed, ThousandIsland


class Lines(Handler):
    def handle_connection(self, socket: Socket) -> Close:
        with contextlib.closing(sqlite3.connect(self.options, timeout=10)) as database, database:
            database.execute("CREATE TABLE IF NOT EXISTS lines (key TEXT PRIMARY KEY, value TEXT)")
        try:
            while True:
                line = socket.recv_until(b"\n", limit=4096)
                socket.send(self.answer(line.decode("utf-8", "replace").split(maxsplit=2)))
        except LimitExceeded:
            socket.send(b"ERR line too long\n")
        except SocketClosed:
            pass  # the end of their lines
        return Close()

    def answer(self, words: list[str]) -> bytes:
        with contextlib.closing(sqlite3.connect(self.options, timeout=10)) as database, database:
            match words:
                case ["SET", key, value]:
                    setting = (key, value.strip())
                    database.execute("INSERT OR REPLACE INTO lines VALUES (?, ?)", setting)
                    return b"OK\n"
                case ["GET", key]:
                    found = database.execute("SELECT value FROM lines WHERE key = ?", (key,))
                    row = found.fetchone()
                    return b"NONE\n" if row is None else f"{row[0]}\n".encode()
        return b"ERR takes SET key value, or GET key\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4060)
    parser.add_argument("--database", default="/tmp/lines.db")
    given = parser.parse_args(arguments)
    server = ThousandIsland(
        handler_cls=Lines, handler_options=given.database, host="127.0.0.1", port=given.port
    ).start()
    print("listening on", server.local_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
