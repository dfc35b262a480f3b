"""What a handler gets wrong, and a type checker sees."""

from thousand_island_sync import (
    TLS,
    Close,
    Connection,
    Continue,
    Handler,
    Lines,
    Socket,
    SwitchTransport,
)


class Returns(Handler):
    def handle_data(self, data: bytes, socket: Socket) -> str:  # wrong
        return "text"

    def handle_connection(self) -> None: ...  # wrong
    def handle_close(self, socket: Socket) -> Close:  # wrong
        return Close()

    def handle_timeout(self, socket: bytes) -> None: ...  # wrong


class Frames(Handler):
    framing = b"\n"  # wrong

    def handle_data(self, data: bytes, socket: Socket) -> None:
        self.framing = Lines(delimiter="\n")  # wrong
        self.framing = Lines  # wrong


def results(socket: Socket) -> None:
    Continue(timeout_ms="5")  # wrong
    Continue(timeout=5)  # wrong
    Continue(persistent="yes")  # wrong
    SwitchTransport(TLS, {"certfil": "a.pem"})  # wrong
    SwitchTransport(Socket, {})  # wrong
    SwitchTransport(TLS, {"certfile": "a.pem"}, initial="text")  # wrong


def calls(socket: Socket, connection: Connection) -> None:
    socket.send("text")  # wrong
    socket.send(["text"])  # wrong
    socket.sendall(5)  # wrong
    socket.recv(timeout=5)  # wrong
    socket.recv(10, 0, 5)  # wrong
    socket.recv_until("\n")  # wrong
    socket.recv_into(b"read-only" if socket.secure else 5)  # wrong
    socket.unread("text")  # wrong
    socket.sendfile(5)  # wrong
    socket.shutdown("writing")  # wrong
    socket.secure = True  # wrong
    socket.setsockopt(1, 2, "3")  # wrong
    socket.settimeout("5")  # wrong
    print(socket.peer_certificate().subject)  # wrong
    print(socket.tls_info().protocol)  # wrong
    socket.makefile("r").write(b"")  # wrong
    print(connection.peername.host)  # wrong
    print(connection.server.prt)  # wrong
    connection.post("x", delay="5")  # wrong
    connection.send("text")  # wrong
    connection.close(abort="yes")  # wrong
    socket.flush(timeout=5)  # wrong
    socket.flush(timeout_ms="5")  # wrong
    connection.call("x", timeout_ms="5")  # wrong
