"""A chat room: a line from one client goes to all the others.

`Connection.send` never waits, so one who does not read holds up nobody: what he has not read is
kept for him, up to `max_unsent`; then he has left the room.

    python examples/messenger.py --port 4050
    nc 127.0.0.1 4050
"""

import argparse

from thousand_island_sync import (
    Handler,
    Lines,
    SendBufferFull,
    Socket,
    SocketClosed,
    ThousandIsland,
)


class Member(Handler):
    framing = Lines(keep_end=True)

    def handle_connection(self, socket: Socket) -> None:
        socket.send(b"welcome\n")

    def handle_data(self, line: bytes, socket: Socket) -> None:
        for other in socket.connection.server.connections():
            if other is not socket.connection:
                try:
                    other.send(line)
                except SendBufferFull:
                    other.close(abort=True)  # it does not keep up
                except SocketClosed:
                    pass  # it has gone


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4050)
    given = parser.parse_args(arguments)
    server = ThousandIsland(
        handler_cls=Member, host="127.0.0.1", port=given.port, read_timeout_ms=None
    ).start()
    print("listening on", server.local_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
