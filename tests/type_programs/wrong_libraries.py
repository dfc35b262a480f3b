"""Mistakes with request handlers, and with what libraries ask of a socket."""

import socketserver

from thousand_island_sync import Handler, Socket, ThousandIsland, socketserver_handler


class Raw(socketserver.BaseRequestHandler): ...


socketserver_handler()  # wrong
socketserver_handler(None)  # wrong
socketserver_handler(lambda: None)  # wrong
socketserver_handler(Raw, None)  # wrong
socketserver_handler(Raw, ignore_hooks="no")  # wrong
ThousandIsland(handler_cls=Raw)  # wrong
ThousandIsland(handler_cls=socketserver_handler(Raw)(None))  # wrong


class Asks(Handler):
    def handle_connection(self, socket: Socket) -> None:
        socket.timeout = 5  # wrong
        socket.settimeout("5")  # wrong
        socket.pending().strip()  # wrong
        socket.getpeercert(True).hex()  # wrong
        socket.unwrap()  # wrong
