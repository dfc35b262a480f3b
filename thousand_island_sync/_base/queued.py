"""How many sent bytes the kernel still holds, as the peer has not taken them."""

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


#: `tcpi_last_data_sent` of struct tcp_info (<linux/tcp.h>), in milliseconds.
_TCP_INFO = getattr(socket, "TCP_INFO", None) if sys.platform.startswith("linux") else None
_INFO_SIZE, _last_data_sent = 48, struct.Struct("=44xI")


def last_data_sent(sock: socket.socket) -> float | None:
    """Seconds since the kernel sent bytes to the peer last, which it does while the peer's window
    has room; `None`: this system does not say, or it is no TCP."""
    if _TCP_INFO is None or sock.family == socket.AF_UNIX:
        return None
    try:
        found = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _INFO_SIZE)
    except OSError:
        return None  # it has just been closed
    if len(found) < _INFO_SIZE:
        return None
    return float(_last_data_sent.unpack(found)[0]) / 1_000


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
