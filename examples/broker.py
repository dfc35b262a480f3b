"""A broker: who has subscribed to a topic gets what anybody publishes in it.

`SUB topic`, `UNSUB topic`, and `PUB topic text`, one a line. A subscriber that does not keep up
is sent away, and holds up nobody.

    python examples/broker.py --port 4070
    nc 127.0.0.1 4070
"""

import argparse
import threading
from collections import defaultdict
from typing import Any

from thousand_island_sync import Connection, Handler, Lines, Socket, SocketError, ThousandIsland


class Topics:
    """Who gets what. Callbacks of several connections use it at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscribers: defaultdict[str, set[Connection]] = defaultdict(set)

    def subscribe(self, topic: str, connection: Connection) -> None:
        with self._lock:
            self._subscribers[topic].add(connection)

    def unsubscribe(self, topic: str, connection: Connection) -> None:
        with self._lock:
            self._subscribers[topic].discard(connection)

    def publish(self, topic: str, message: bytes) -> int:
        with self._lock:
            subscribers = list(self._subscribers[topic])
        for subscriber in subscribers:
            try:
                subscriber.send(message)
            except SocketError:  # it does not keep up, or it has gone
                subscriber.close(abort=True)
        return len(subscribers)


class Client(Handler):
    framing = Lines(limit=16_384)

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.topics: Topics = options
        self.mine: set[str] = set()

    def handle_data(self, line: bytes, socket: Socket) -> None:
        match line.decode("utf-8", "replace").split(maxsplit=2):
            case ["SUB", topic]:
                self.mine.add(topic)
                self.topics.subscribe(topic, socket.connection)
                socket.send(b"OK\n")
            case ["UNSUB", topic]:
                self.mine.discard(topic)
                self.topics.unsubscribe(topic, socket.connection)
                socket.send(b"OK\n")
            case ["PUB", topic, text]:
                count = self.topics.publish(topic, f"{topic}: {text}\n".encode())
                socket.send(b"SENT %d\n" % count)
            case _:
                socket.send(b"ERR takes SUB topic, UNSUB topic, PUB topic text\n")

    def handle_end(self, socket: Socket) -> None:
        for topic in self.mine:
            self.topics.unsubscribe(topic, socket.connection)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4070)
    given = parser.parse_args(arguments)
    server = ThousandIsland(
        handler_cls=Client,
        handler_options=Topics(),
        host="127.0.0.1",
        port=given.port,
        read_timeout_ms=None,  # a subscriber need not say anything
    ).start()
    print("listening on", server.local_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
