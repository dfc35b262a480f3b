"""Request handlers of the standard library, and what libraries ask of a socket."""

import http.server
import socket as stdlib_socket
import socketserver
import ssl
from functools import partial
from typing import Any, assert_type
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

from thousand_island_sync import TLS, Handler, Socket, ThousandIsland, socketserver_handler


class Upper(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line.upper())


class Raw(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(self.request.recv(100))


def request_handlers() -> None:
    assert_type(socketserver_handler(Upper), type[Handler])
    socketserver_handler(Raw, greeting="hello", limit=5)
    socketserver_handler(partial(http.server.SimpleHTTPRequestHandler, directory="/srv"))
    application = WSGIServer(("", 0), WSGIRequestHandler, bind_and_activate=False)
    socketserver_handler(WSGIRequestHandler, server=application)
    calls = SimpleXMLRPCServer(("", 0), bind_and_activate=False)
    made = socketserver_handler(SimpleXMLRPCRequestHandler, server=calls, ignore_hooks=True)
    ThousandIsland(handler_cls=made, transport_cls=TLS, transport_options={"certfile": "a.pem"})


class Asks(Handler):
    def handle_connection(self, socket: Socket) -> None:
        with socket as same:
            assert_type(same, Socket)
            assert_type(same.timeout, float | None)
        if hasattr(socket, "version"):
            socket.do_handshake()
            assert_type(socket.version(), str | None)
            assert_type(socket.cipher(), tuple[str, str, int] | None)
            assert_type(socket.shared_ciphers(), list[tuple[str, str, int]] | None)
            assert_type(socket.selected_alpn_protocol(), str | None)
            assert_type(socket.pending(), int)
            assert_type(socket.getpeercert(), dict[str, Any] | None)
            assert_type(socket.getpeercert(True), bytes | None)
            assert_type(socket.getpeercert(binary_form=True), bytes | None)

    def handle_data(self, data: bytes, socket: Socket) -> None:
        with socket.makefile("rb") as file:
            file.readline()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        plain = stdlib_socket.socket(fileno=socket.detach())
        context.wrap_socket(plain, server_side=True)
