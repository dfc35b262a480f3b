"""What the kernel holds of what was sent, and the peer has not taken."""

from __future__ import annotations

import socket
import struct
import sys

try:
    import fcntl
    import termios
except ImportError:  # no Unix
    fcntl = termios = None  # type: ignore[assignment]

#: SIOCOUTQ has the number of TIOCOUTQ (tcp(7), unix(7)).
_OUTQ = getattr(termios, "TIOCOUTQ", None) if sys.platform.startswith("linux") else None
#: <sys/socket.h> of macOS.
_SO_NWRITE = 0x1024 if sys.platform == "darwin" else None
_number = struct.Struct("i")


def queued(sock: socket.socket) -> int | None:
    """How many bytes; `None`: this system does not say."""
    try:
        if _OUTQ is not None:
            found = fcntl.ioctl(sock.fileno(), _OUTQ, bytes(_number.size))
            return int(_number.unpack(found)[0])
        if _SO_NWRITE is not None:
            return sock.getsockopt(socket.SOL_SOCKET, _SO_NWRITE)
    except (OSError, ValueError):
        pass  # it has just been closed
    return None
