"""Handlers that the command line's tests serve."""

import logging
import threading
import warnings

from thousand_island_sync import Close, Error, Handler

NOT_A_HANDLER = 5


class Upper(Handler):
    def handle_data(self, data, socket):
        socket.send(data.upper())


class Stuck(Handler):
    def handle_data(self, data, socket):
        socket.send(b"busy")
        threading.Event().wait(60)


class Talks(Handler):
    """In each way in which something comes to standard error."""

    def handle_data(self, data, socket):
        words = {
            b"log": lambda: logging.getLogger("app").warning("logged", extra={"order": 7}),
            b"unprintable": lambda: logging.getLogger("app").warning("%d", "unprintable"),
            b"raise": lambda: {}["a bug"],
            b"warn": lambda: warnings.warn("warned", stacklevel=1),
            b"thread": lambda: threading.Thread(target=lambda: 1 / 0).start(),
            b"del": lambda: Refuses(),
        }
        if data in words:
            words[data]()
            return Close()
        if data == b"error":
            return Error(ValueError("no"))
        if data == b"close":
            socket.send(b"goodbye")
            return Close()
        socket.send(data)
        return None


class Refuses:
    """To go."""

    def __del__(self):
        raise ArithmeticError
