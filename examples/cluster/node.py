"""One node of a chat whose rooms span all nodes, by way of Redis.

A room is a stream in Redis (XADD, XREAD): every message has a number there, and is kept. A client
that comes back says which number it saw last and gets what has come since, on whatever node. So a
node may be drained and replaced, and nobody misses a message.

    python examples/cluster/node.py --port 4081 --agent 4091 --redis redis://127.0.0.1:6379

Lines from the client:         answers, and what comes by itself:
    JOIN room [number]             JOINED room number, then what came after it
    SAY room token text            SAID token: it is kept; the same token again is not said twice
    QUIT                           BYE, and the end
                                   MSG room number text
                                   GOAWAY: connect anew, then QUIT here; this node will stop
                                   ERR why
"""

from __future__ import annotations

import argparse
import os
import re
import threading
from collections import defaultdict
from typing import Any

import redis

from thousand_island_sync import (
    Close,
    Connection,
    Handler,
    Lines,
    MailboxFull,
    Result,
    Socket,
    SocketClosed,
    ThousandIsland,
    attach_logger,
)
from thousand_island_sync.contrib.haproxy import Agent

#: Messages of a room that are kept, about.
KEPT = 10_000
#: Seconds for which a token is remembered.
REMEMBERED_S = 3_600
#: Milliseconds between two looks whether the node ends, and after Redis could not be reached.
LOOK_MS = 500
#: What Redis calls an entry: milliseconds, and a counter.
_NUMBER = re.compile(r"[0-9]{1,15}-[0-9]{1,10}")
Entry = tuple[bytes, dict[bytes, bytes]]

# Stored with its token in one step, or not at all: who says it again after a broken connection does
# not know whether it was.
_SAY = """
if redis.call('SET', KEYS[2], '1', 'NX', 'EX', ARGV[3]) then
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'text', ARGV[1])
end
"""


class Rooms:
    """The rooms, as this node sees them: which of its clients are in which.

    Args:
        url: of Redis.
    """

    def __init__(self, url: str) -> None:
        self._redis = redis.Redis.from_url(url)
        self._say = self._redis.register_script(_SAY)
        self._lock = threading.Lock()
        self._members: defaultdict[str, set[Connection]] = defaultdict(set)
        self._read: dict[str, bytes] = {}  # how far this node has read each room
        self._bell = f"cluster:bell:{os.getpid()}:{id(self)}"
        self._over = threading.Event()
        self._reader = threading.Thread(target=self._read_on, name="rooms", daemon=True)

    def __enter__(self) -> Rooms:
        self._redis.ping()
        self._reader.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._ring()
        self._reader.join(5)
        self._redis.delete(self._bell)
        self._redis.close()

    def say(self, room: str, token: str, text: bytes) -> None:
        """Keeps a message, for everybody who is in the room. Raises redis.RedisError."""
        self._say(keys=[_key(room), f"cluster:said:{token}"], args=[text, KEPT, REMEMBERED_S])

    def join(self, room: str, connection: Connection) -> bytes:
        """From now on the connection is posted what comes; the number of the last message.
        Raises redis.RedisError."""
        newest: list[Entry] = self._redis.xrevrange(_key(room), count=1)  # type: ignore[assignment]
        last = newest[0][0] if newest else b"0-0"
        with self._lock:
            self._members[room].add(connection)
            is_new = self._read.setdefault(room, last) == last
        if is_new:
            self._ring()  # the reader waits for the other rooms
        return last

    def since(self, room: str, number: bytes) -> list[Entry]:
        """What came after that. Raises redis.RedisError."""
        found: list[Entry] = self._redis.xrange(  # type: ignore[assignment]
            _key(room), min="(" + number.decode()
        )
        return found

    def leave(self, room: str, connection: Connection) -> None:
        with self._lock:
            self._members[room].discard(connection)
            if not self._members[room]:
                del self._members[room]
                self._read.pop(room, None)

    # ---- what comes from the other nodes, and from this one ---------------------------

    def _ring(self) -> None:
        self._redis.xadd(self._bell, {"ring": ""}, maxlen=1)

    def _read_on(self) -> None:
        heard = b"$"
        while not self._over.is_set():
            with self._lock:
                wanted: dict[Any, Any] = {_key(room): at for room, at in self._read.items()}
            wanted[self._bell] = heard
            try:
                found: Any = self._redis.xread(wanted, block=LOOK_MS)
            except redis.RedisError as error:
                print("rooms:", error, flush=True)
                self._over.wait(LOOK_MS / 1_000)
                continue
            for key, entries in found:
                if key.decode() == self._bell:
                    heard = entries[-1][0]
                else:
                    self._deliver(key.decode().removeprefix(_key("")), entries)

    def _deliver(self, room: str, entries: list[Entry]) -> None:
        with self._lock:
            members = list(self._members.get(room, ()))
            if room in self._read:
                self._read[room] = entries[-1][0]
        for one in members:
            try:
                for entry in entries:
                    one.post((room, entry))
            except MailboxFull:
                one.close(abort=True)  # it does not keep up; it may come back and say from where on
            except SocketClosed:
                pass


class Member(Handler):
    """A client. Its callbacks run one at a time, so what it has seen needs no lock."""

    framing = Lines(limit=16_384)

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.rooms: Rooms = options
        self.seen: dict[str, bytes] = {}

    def handle_data(self, line: bytes, socket: Socket) -> Result | None:
        try:
            return self.asked(line, socket)
        except redis.RedisError as error:
            socket.send(b"ERR %s\n" % " ".join(str(error).split()).encode())
            return Close()  # it comes back, says from where on, and says again what was not SAID

    def asked(self, line: bytes, socket: Socket) -> Result | None:
        match line.decode("utf-8", "replace").split(" ", 3):
            case ["JOIN", room, *since] if room and _is_number(since):
                self.seen.setdefault(room, b"0-0")  # so that `handle_end` leaves it, whatever fails
                last = self.rooms.join(room, socket.connection)
                self.seen[room] = since[0].encode() if since else last
                socket.send(f"JOINED {room} {self.seen[room].decode()}\n".encode())
                for entry in self.rooms.since(room, self.seen[room]):
                    self.show(room, entry, socket)
            case ["SAY", room, token, text] if room and token:
                self.rooms.say(room, token, text.encode())
                socket.send(f"SAID {token}\n".encode())
            case ["QUIT"]:
                socket.send(b"BYE\n")
                return Close()
            case _:
                socket.send(b"ERR takes JOIN room [number], SAY room token text, QUIT\n")
        return None

    def handle_info(self, message: tuple[str, Entry], socket: Socket) -> None:
        self.show(*message, socket)

    def show(self, room: str, entry: Entry, socket: Socket) -> None:
        number, fields = entry
        if _order(number) > _order(self.seen[room]):  # else JOIN has shown it already
            self.seen[room] = number
            socket.send(b"MSG %s %s %s\n" % (room.encode(), number, fields[b"text"]))

    def handle_drain(self, socket: Socket) -> None:
        socket.send(b"GOAWAY\n")

    def handle_end(self, socket: Socket) -> None:
        for room in self.seen:
            self.rooms.leave(room, socket.connection)


def _key(room: str) -> str:
    return f"cluster:room:{room}"


def _is_number(given: list[str]) -> bool:
    """Or nothing."""
    return len(given) < 2 and all(map(_NUMBER.fullmatch, given))


def _order(number: bytes) -> tuple[int, int]:
    """Numbers are times with a counter, and are compared as such."""
    milliseconds, _, counter = number.partition(b"-")
    return int(milliseconds), int(counter)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=4081)
    parser.add_argument("--agent", type=int, default=4091, help="where HAProxy asks for the state")
    parser.add_argument("--redis", default="redis://127.0.0.1:6379")
    parser.add_argument("--drain-delay-ms", type=float, default=5_000)
    given = parser.parse_args(arguments)
    attach_logger("info")
    with Rooms(given.redis) as rooms:
        server = ThousandIsland(
            handler_cls=Member,
            handler_options=rooms,
            host="127.0.0.1",
            port=given.port,
            read_timeout_ms=None,  # who listens need not say anything
        ).start()
        with Agent(server, port=given.agent) as agent:
            print("agent on", agent.local_address[1], flush=True)
            print("listening on", server.local_port, flush=True)
            server.serve_forever(drain_delay_ms=given.drain_delay_ms)


if __name__ == "__main__":
    main()
