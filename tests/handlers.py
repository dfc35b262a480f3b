"""Handlers that the command line's tests serve."""

import threading

from thousand_island_sync import Handler

NOT_A_HANDLER = 5


class Upper(Handler):
    def handle_data(self, data, socket):
        socket.send(data.upper())


class Stuck(Handler):
    def handle_data(self, data, socket):
        socket.send(b"busy")
        threading.Event().wait(60)
