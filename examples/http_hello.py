"""As much of HTTP/1.1 as a greeting needs: `python examples/http_hello.py --port 4080`.

A whole request head must be there ten seconds after its first byte, however the client
dribbles: `deadline_ms` holds no thread meanwhile. Half a head is put back with `unread`."""

import argparse

from thousand_island_sync import Close, Continue, Handler, Result, Socket, ThousandIsland

HEAD_MS, LONGEST_HEAD, BODY = 10_000, 16_384, b"Hello, world!\n"
ANSWER = b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: %s\r\n\r\n"


class Hello(Handler):
    begun = True  # a head has; the first one with the connection

    def handle_connection(self, socket: Socket) -> Result:
        return Continue(deadline_ms=HEAD_MS)

    def handle_data(self, data: bytes, socket: Socket) -> Result | None:
        while data:
            head, end, data = data.partition(b"\r\n\r\n")
            if len(head) > LONGEST_HEAD:
                return self.refuse(socket, b"431 Request Header Fields Too Large")
            if not end:
                socket.unread(head)
                begun, self.begun = self.begun, True
                return None if begun else Continue(deadline_ms=HEAD_MS)
            if close := self.respond(socket, *head.split(b"\r\n")):
                return close
            self.begun = False
        return Continue(deadline_ms=None)

    def respond(self, socket: Socket, request: bytes, *headers: bytes) -> Close | None:
        method, _, version = (request.split(b" ") + [b"", b""])[:3]
        if not version.startswith(b"HTTP/1.") or method not in (b"GET", b"HEAD"):
            return self.refuse(socket, b"405 Method Not Allowed" if version else b"400 Bad Request")
        wants = {line.lower().replace(b" ", b"") for line in headers}
        default = version != b"HTTP/1.0" and b"connection:close" not in wants
        keep = default or b"connection:keep-alive" in wants
        head = ANSWER % (b"200 OK", len(BODY), b"keep-alive" if keep else b"close")
        socket.send(head if method == b"HEAD" else head + BODY)
        return None if keep else Close()

    def refuse(self, socket: Socket, status: bytes) -> Close:
        socket.send(ANSWER % (status, 0, b"close"))
        return Close()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4080)
    given = vars(parser.parse_args(arguments))
    with ThousandIsland(handler_cls=Hello, host="127.0.0.1", **given) as server:
        print("listening on", server.local_port, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
