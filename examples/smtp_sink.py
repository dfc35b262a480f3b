"""An SMTP server that takes every mail and keeps none, with STARTTLS (RFC 3207).

It shows an upgrade in mid-connection: what a client sends in plain text behind its
STARTTLS, in the hope of being taken for encrypted, is dropped by the library, and the
protocol starts over. Without --certfile it makes its own certificate (`pip install trustme`).

    python examples/smtp_sink.py --port 2525 --ca-out ca.pem
"""

import argparse
import re

from tls_echo import own_certificate

from thousand_island_sync import (
    TLS,
    Close,
    Handler,
    LimitExceeded,
    Lines,
    Socket,
    SwitchTransport,
    ThousandIsland,
)


class Sink(Handler):
    framing = Lines(b"\r\n")

    def handle_connection(self, socket: Socket) -> None:
        self.mail: list[bytes] | None = None
        socket.send(b"220 sink ready\r\n")

    def handle_upgrade(self, socket: Socket) -> None:
        self.mail = None  # the client begins again with EHLO

    def handle_data(self, line: bytes, socket: Socket) -> Close | SwitchTransport | None:
        if self.mail is not None:
            self.take(line, socket)
        elif re.match(rb"(?i)quit\b", line):
            socket.send(b"221 bye\r\n")
            return Close()
        elif re.match(rb"(?i)starttls\b", line) and not socket.secure:
            socket.send(b"220 go ahead\r\n")
            return SwitchTransport(TLS, self.options)
        else:
            self.answer(line.upper(), socket)
        return None

    def handle_error(self, reason: object, socket: Socket) -> None:
        if isinstance(reason, LimitExceeded):
            socket.send(b"500 line too long\r\n")

    def answer(self, line: bytes, socket: Socket) -> None:
        if line.startswith(b"EHLO"):
            socket.send(b"250-sink\r\n" + (b"" if socket.secure else b"250-STARTTLS\r\n"))
            socket.send(b"250 8BITMIME\r\n")
        elif line.startswith((b"HELO", b"MAIL", b"RCPT", b"RSET", b"NOOP")):
            socket.send(b"250 ok\r\n")
        elif line == b"DATA":
            self.mail = []
            socket.send(b"354 end with a dot\r\n")
        else:
            socket.send(b"502 not here\r\n")

    def take(self, line: bytes, socket: Socket) -> None:
        assert self.mail is not None
        if line != b".":
            self.mail.append(line)
            return
        print(f"{len(self.mail)} lines, {'TLS' if socket.secure else 'plain'}", flush=True)
        self.mail = None
        socket.send(b"250 taken\r\n")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=2525)
    parser.add_argument("--certfile")
    parser.add_argument("--ca-out")
    given = parser.parse_args(arguments)
    if given.certfile:
        prepared = TLS.prepare(certfile=given.certfile)  # checked once, not for each upgrade
    else:
        prepared = TLS.prepare(**own_certificate(given.ca_out))
    server = ThousandIsland(
        handler_cls=Sink, handler_options=prepared, host="127.0.0.1", port=given.port
    ).start()
    print("listening on", server.local_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
