"""As much of HTTP/1.1 as a greeting needs; keeps connections alive.

A whole request head must be there within ten seconds, however the client dribbles:
`deadline_ms` holds no thread meanwhile. Half a head is put back with `unread`.

    python examples/http_hello.py --port 4080
    curl -v http://127.0.0.1:4080/
"""

import argparse

from thousand_island_sync import Close, Continue, Handler, Result, Socket, ThousandIsland

HEAD_MS = 10_000
IDLE_MS = 60_000
BODY = b"Hello, world!\n"


class Hello(Handler):
    def handle_connection(self, socket: Socket) -> Result:
        return Continue(timeout_ms=IDLE_MS, deadline_ms=HEAD_MS)

    def handle_data(self, data: bytes, socket: Socket) -> Result | None:
        while data:
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                if len(head) > 16_384:
                    return self.answer(socket, b"431 Request Header Fields Too Large", b"", True)
                socket.unread(head)
                return None  # the deadline goes on running
            lines = head.split(b"\r\n")
            words = lines[0].split()
            if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
                return self.answer(socket, b"400 Bad Request", b"", True)
            if words[0] not in (b"GET", b"HEAD"):
                return self.answer(socket, b"405 Method Not Allowed", b"", True)
            headers = {line.lower().replace(b" ", b"") for line in lines[1:]}
            keep = b"connection:keep-alive" in headers or (
                words[2] == b"HTTP/1.1" and b"connection:close" not in headers
            )
            closing = self.answer(socket, b"200 OK", BODY, not keep, words[0] == b"HEAD")
            if closing:
                return closing
        return Continue(deadline_ms=None)

    def answer(
        self, socket: Socket, status: bytes, body: bytes, close: bool, head_only: bool = False
    ) -> Close | None:
        connection = b"close" if close else b"keep-alive"
        head = b"HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n" % (
            status,
            len(body),
        )
        head += b"Connection: %s\r\n\r\n" % connection
        socket.send(head if head_only else head + body)
        return Close() if close else None


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4080)
    given = parser.parse_args(arguments)
    server = ThousandIsland(handler_cls=Hello, host="127.0.0.1", port=given.port).start()
    print("listening on", server.local_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
