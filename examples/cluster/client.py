"""A client of the cluster that misses nothing, whichever node it talks to.

It keeps the number of the last message that it saw of each room, and what it has said and nobody
has confirmed. On GOAWAY, or when the connection breaks, it connects anew, to whatever node the
balancer gives it, joins its rooms from there on, and says again what was not confirmed.

    python examples/cluster/client.py --port 4080 kitchen
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable

#: Seconds between two attempts to connect.
PAUSE_S = 0.1
#: Seconds after which an attempt has failed.
CONNECT_S = 5.0

#: Gets the room and the text of each message.
Listener = Callable[[str, str], object]


class Chat:
    """Stays in its rooms until it is closed. Thread: any may say something; messages are shown on
    a thread of its own.

    Args:
        address: of the balancer.
        rooms: where it is, from now on.
        listener: is called with each message, in the order of its room.

    Attributes:
        connects: how often it has connected.
        told_to_go: how often a node has said GOAWAY.
    """

    def __init__(self, address: tuple[str, int], rooms: list[str], listener: Listener) -> None:
        self._address = address
        self._seen: dict[str, str | None] = dict.fromkeys(rooms)
        self._listener = listener
        self._lock = threading.Lock()
        self._unsaid: dict[str, tuple[str, str]] = {}  # token -> room and text
        self._sock: socket.socket | None = None
        self._joined = threading.Event()
        self._all_said = threading.Condition(self._lock)
        self._over = False
        self.connects = self.told_to_go = 0
        self._thread = threading.Thread(target=self._stay, daemon=True)
        self._thread.start()

    def say(self, room: str, text: str) -> None:
        """Sooner or later everybody in the room gets it, once. Returns at once."""
        token = uuid.uuid4().hex
        with self._lock:
            self._unsaid[token] = room, text
            self._send(f"SAY {room} {token} {text}\n")

    def wait_until_joined(self, timeout: float) -> bool:
        """Whether it is in all of its rooms within so many seconds."""
        return self._joined.wait(timeout)

    def wait_until_said(self, timeout: float) -> bool:
        """Whether everything that it has said is kept, within so many seconds."""
        with self._all_said:
            return self._all_said.wait_for(lambda: not self._unsaid, timeout)

    def close(self) -> None:
        with self._lock:
            self._over = True
            self._send("QUIT\n")
        self._thread.join(10)

    def _send(self, line: str) -> None:
        """With the lock. What does not get there is said again on the next connection."""
        if self._sock is not None:
            with contextlib.suppress(OSError):
                self._sock.sendall(line.encode())

    # ---- on its own thread ---------------------------------------------------------------

    def _stay(self) -> None:
        while not self._over:
            try:
                sock = socket.create_connection(self._address, timeout=CONNECT_S)
            except OSError:
                time.sleep(PAUSE_S)
                continue
            sock.settimeout(None)
            with sock, contextlib.suppress(OSError):
                self._talk(sock)
            time.sleep(PAUSE_S)

    def _talk(self, sock: socket.socket) -> None:
        with self._lock:
            self.connects += 1
            self._sock = sock
            for room, number in self._seen.items():
                self._send(f"JOIN {room} {number}\n" if number else f"JOIN {room}\n")
            for token, (room, text) in self._unsaid.items():
                self._send(f"SAY {room} {token} {text}\n")
            if self._over:
                self._send("QUIT\n")
        try:
            with sock.makefile("r", encoding="utf-8", newline="\n") as lines:
                for line in lines:
                    self._understand(line.rstrip("\n"))
        finally:
            with self._lock:
                self._sock = None

    def _understand(self, line: str) -> None:
        what, _, rest = line.partition(" ")
        if what == "MSG":
            room, number, text = rest.split(" ", 2)
            self._seen[room] = number
            self._listener(room, text)
        elif what == "SAID":
            with self._all_said:
                self._unsaid.pop(rest, None)
                self._all_said.notify_all()
        elif what == "JOINED":
            room, number = rest.split(" ")
            self._seen[room] = self._seen[room] or number
            if all(self._seen.values()):
                self._joined.set()
        elif what == "GOAWAY":
            with self._lock:
                self.told_to_go += 1
                self._send("QUIT\n")  # answered once all that was said before is
                self._sock = None  # and nothing is said here after it


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=4080)
    parser.add_argument("room")
    given = parser.parse_args(arguments)

    def show(room: str, text: str) -> None:
        print(f"{room}: {text}", flush=True)

    chat = Chat((given.host, given.port), [given.room], show)
    try:
        for line in sys.stdin:
            chat.say(given.room, line.rstrip("\n"))
        chat.wait_until_said(10)
    except KeyboardInterrupt:
        pass
    chat.close()


if __name__ == "__main__":
    main()
