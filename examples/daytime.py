"""The time of day, to whoever connects (RFC 867).

python examples/daytime.py --port 4013
nc 127.0.0.1 4013
"""

import argparse
import time

from thousand_island_sync import Close, Handler, Socket, ThousandIsland


class Daytime(Handler):
    def handle_connection(self, socket: Socket) -> Close:
        socket.send(time.strftime("%A, %B %d, %Y %H:%M:%S-%Z\r\n").encode())
        return Close()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4013)
    given = parser.parse_args(arguments)
    server = ThousandIsland(handler_cls=Daytime, host="127.0.0.1", port=given.port).start()
    print("listening on", server.local_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
