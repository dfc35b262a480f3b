"""What the container serves: each line comes back in upper case.

thousand-island app:Shout --port 4000 --health 127.0.0.1:8081
printf 'hello\n' | nc -N 127.0.0.1 4000
"""

import logging

from thousand_island_sync import Close, Handler, Lines, Socket

log = logging.getLogger("shout")


class Shout(Handler):
    framing = Lines(limit=4096)

    def handle_data(self, data: bytes, socket: Socket) -> Close | None:
        if data == b"quit":
            socket.send(b"goodbye\n")
            return Close()
        socket.send(data.upper() + b"\n")
        return None

    def handle_drain(self, socket: Socket) -> None:
        """The server will end: a client that heeds this line comes back, to another server."""
        log.info("says to %s that it is time to go", socket.connection.peername)
        socket.send(b"* going away\n")
