"""A request handler of `socketserver`, as it was, served here; and what it becomes.

`Upper` is the standard library's, without a change. `UpperWithoutWaiting` holds no thread while
its client is silent. `docs/howto/socketserver.md` has the story.

    python examples/migrated.py --port 4090
    python examples/migrated.py --port 4090 --rewritten
    printf 'hello\n' | nc -N 127.0.0.1 4090
"""

import argparse
import socketserver

from thousand_island_sync import Handler, Lines, Socket, ThousandIsland, socketserver_handler


class Upper(socketserver.StreamRequestHandler):
    timeout = 60

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line.upper())


class UpperWithoutWaiting(Handler):
    framing = Lines(keep_end=True)

    def handle_data(self, line: bytes, socket: Socket) -> None:
        socket.send(line.upper())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4090)
    parser.add_argument("--rewritten", action="store_true")
    given = parser.parse_args(arguments)
    server = ThousandIsland(
        handler_cls=UpperWithoutWaiting if given.rewritten else socketserver_handler(Upper),
        host="127.0.0.1",
        port=given.port,
        interrupt_reads=True,  # a stop need not wait for clients that say nothing
    ).start()
    print("listening on", server.local_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
