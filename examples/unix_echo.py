"""Echo over a Unix socket that only its owner may use; says who is there.

python examples/unix_echo.py --path /tmp/echo.sock
socat - UNIX-CONNECT:/tmp/echo.sock
"""

import argparse

from thousand_island_sync import Handler, NotSupported, Socket, ThousandIsland


class Echo(Handler):
    def handle_connection(self, socket: Socket) -> None:
        try:
            _, uid, _ = socket.peer_credentials()
        except NotSupported:
            return
        print("user", uid, "connected", flush=True)

    def handle_data(self, data: bytes, socket: Socket) -> None:
        socket.send(data)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--path", default="/tmp/echo.sock")
    given = parser.parse_args(arguments)
    server = ThousandIsland(
        handler_cls=Echo, host=f"unix:{given.path}", transport_options={"unix_mode": 0o600}
    ).start()
    print("listening on", server.local_address, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
