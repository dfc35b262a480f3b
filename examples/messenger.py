"""A chat room: a line from one client goes to all the others.

Each connection is written to by its own handler alone: the others `post` to it.

    python examples/messenger.py --port 4050
    nc 127.0.0.1 4050
"""

import argparse

from thousand_island_sync import Handler, Lines, MailboxFull, Socket, SocketClosed, ThousandIsland


class Member(Handler):
    framing = Lines(keep_end=True)

    def handle_connection(self, socket: Socket) -> None:
        socket.send(b"welcome\n")

    def handle_data(self, line: bytes, socket: Socket) -> None:
        for other in socket.connection.server.connections():
            if other is not socket.connection:
                try:
                    other.post(line)
                except (SocketClosed, MailboxFull):
                    pass  # it has gone, or does not keep up

    def handle_info(self, message: bytes, socket: Socket) -> None:
        socket.send(message)


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
