"""Sends back what it gets.

python examples/echo.py --port 4000
nc 127.0.0.1 4000
"""

import argparse

from thousand_island_sync import Handler, Socket, ThousandIsland


class Echo(Handler):
    def handle_data(self, data: bytes, socket: Socket) -> None:
        socket.send(data)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4000)
    given = parser.parse_args(arguments)
    server = ThousandIsland(handler_cls=Echo, host="127.0.0.1", port=given.port).start()
    print("listening on", server.local_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
