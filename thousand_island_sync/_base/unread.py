"""Bytes of the peer that lie unread in the kernel."""

from __future__ import annotations

import fcntl
import socket
import termios

from .compiled import unread

_PIECE = 65_536
_NOTHING = bytes(4)
_DONTWAIT = int(socket.MSG_DONTWAIT)


def unread_bytes(sock: socket.socket) -> bool:
    """Whether there are any (FIONREAD, tcp(7))."""
    try:
        if unread is not None:
            return bool(unread(sock.fileno()) > 0)
        return fcntl.ioctl(sock.fileno(), termios.FIONREAD, _NOTHING) != _NOTHING
    except (OSError, ValueError):  # it is closed, or there is none
        return False


def read_away(sock: socket.socket, most: int) -> tuple[int, bool]:
    """Reads what is there, at most `most` bytes; how many, and whether more may come."""
    count = 0
    while count < most:
        try:
            data = sock.recv(_PIECE, _DONTWAIT)
        except BlockingIOError:
            return count, True
        except OSError:
            return count, False
        if not data:
            return count, False
        count += len(data)
    return count, False
