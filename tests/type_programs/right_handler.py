"""Handlers that name their parameters as they like, and return what they may."""

import io
from pathlib import Path
from typing import Any, assert_type

from cryptography import x509

from thousand_island_sync import (
    TLS,
    Address,
    Close,
    Connection,
    Continue,
    Error,
    Framing,
    Handler,
    LengthPrefix,
    Lines,
    Result,
    SendBufferFull,
    Socket,
    SocketAddress,
    Stats,
    SwitchTransport,
    ThousandIsland,
    TLSInfo,
)


class Named(Handler):
    def __init__(self, settings: dict[str, int]) -> None:
        super().__init__(settings)
        self.left = settings["left"]

    def handle_connection(self, sock: Socket) -> Continue:
        sock.send(b"hello\n", timeout_ms=5_000)
        return Continue(timeout_ms=None, deadline_ms=1_000, persistent=True)

    def handle_data(self, piece: bytes, client: Socket) -> Result | None:
        if piece == b"STARTTLS":
            return SwitchTransport(TLS, {"certfile": "a.pem"}, timeout_ms=1_000, initial=b"x")
        if piece == b"bad":
            return Error("bad")
        self.left -= 1
        return None if self.left else Close()

    def handle_eof(self, _: Socket) -> None: ...

    def handle_info(self, number: int, client: Socket) -> Close | None:
        return Close() if number else None

    def handle_drain(self, client: Socket) -> Continue | Close | None:
        return Continue(deadline_ms=5_000) if self.left else Close()

    def handle_call(self, question: str, _: Socket) -> list[str]:
        return question.split()

    def handle_error(self, why: Any, _: Socket) -> None:
        print(why)

    def handle_close(self, _: Socket) -> None: ...
    def handle_timeout(self, _: Socket) -> None: ...
    def handle_shutdown(self, _: Socket) -> None: ...
    def handle_end(self, _: Socket) -> None: ...
    def handle_upgrade(self, _: Socket) -> None: ...


class ByLine(Handler):
    framing = Lines()


class Records(Handler):
    framing: Framing | None = Lines(b"\n", limit=100)

    def handle_data(self, line: bytes, socket: Socket) -> Continue | None:
        if line == b"binary":
            self.framing = LengthPrefix(">I")
        elif line == b"raw":
            self.framing = None
        elif line == b"own":
            self.framing = ByNul()
        return Continue(paused=True) if line == b"pause" else None


class ByNul(Framing):
    limit = 10

    def find(self, buffer: bytearray, start: int) -> tuple[int, int, int] | None:
        end = buffer.find(b"\0", start)
        return None if end < 0 else (0, end, end + 1)


class Asks(Handler):
    def handle_connection(self, socket: Socket) -> None:
        assert_type(socket.recv(), bytes)
        assert_type(socket.recv(10, timeout_ms=None), bytes)
        assert_type(socket.recv_until(b"\n"), bytes)
        assert_type(socket.recv_into(bytearray(5)), int)
        assert_type(socket.send([b"a", bytearray(b"b"), memoryview(b"c")]), int)
        assert_type(socket.sendfile("a"), int)
        assert_type(socket.sendfile(Path("a"), 5, None), int)
        with open("a", "rb") as file:
            socket.sendfile(file)
        socket.sendfile(io.BytesIO(b"a"))
        socket.flush(timeout_ms=None)
        assert_type(socket.unsent, int)
        socket.shutdown("write")
        assert_type(socket.stats(), Stats)
        assert_type(socket.stats().bytes_sent, int)
        assert_type(socket.connection, Connection)
        assert_type(socket.connection_id, str)
        assert_type(socket.getpeername(), SocketAddress)
        assert_type(socket.peer_credentials(), tuple[int, int, int])
        assert_type(socket.negotiated_protocol(), str | None)
        assert_type(socket.peer_certificate(), x509.Certificate | None)
        assert_type(socket.tls_info(), TLSInfo)
        assert_type(socket.tls_info().server_name, str | None)
        certificate = socket.peer_certificate()
        if certificate is not None:
            print(certificate.subject.rfc4514_string())

    def as_others_have_it(self, socket: Socket) -> None:
        socket.setsockopt(1, 2, 3)
        socket.setsockopt(1, 2, b"3")
        assert_type(socket.getsockopt(1, 2), int)
        assert_type(socket.getsockopt(1, 2, 16), bytes)
        assert_type(socket.getpeercert(), dict[str, Any] | None)
        assert_type(socket.getpeercert(binary_form=True), bytes | None)
        assert_type(socket.gettimeout(), float | None)
        with socket as same:
            assert_type(same, Socket)

    def files(self, socket: Socket) -> None:
        assert_type(socket.makefile().readline(), bytes)
        assert_type(socket.makefile("rb").read1(), bytes)
        assert_type(socket.makefile("wb").write(b""), int)
        assert_type(socket.makefile("r", encoding="utf-8").readline(), str)
        assert_type(socket.makefile("rwb", 0), io.RawIOBase)

    def facts(self, connection: Connection) -> None:
        assert_type(connection.server, ThousandIsland)
        assert_type(connection.peername, Address)
        assert_type(connection.peername[0], str)
        assert_type(connection.accepted_at_ns, int)
        connection.post("anything", delay_ms=5)
        try:
            connection.send(b"to many")
        except SendBufferFull:
            connection.close(abort=True)
        assert_type(connection.unsent, int)
        connection.resume()
        connection.close()
