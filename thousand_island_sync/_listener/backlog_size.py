"""How many clients wait in the backlogs of listening sockets, and how many may, as Linux tells.

Of a TCP socket that listens, getsockopt(TCP_INFO) has both in `tcpi_unacked` and `tcpi_sacked`
(net/ipv4/tcp.c, tcp_get_info). Of a Unix socket they are what sock_diag(7) calls the length of its
queues (`UNIX_DIAG_RQLEN`, net/unix/diag.c), which is asked for by the inode. ss(8) shows the same
numbers. Other systems, sandboxes that refuse, and kernels without `unix_diag` do not tell.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterable
from typing import Final

from .._base import descriptors

#: Waiting, and the most that may wait; `None`: the system does not tell.
Sizes = tuple[int | None, int | None]
UNKNOWN: Final[Sizes] = (None, None)

_LINUX: Final = sys.platform.startswith("linux")
_TCP_INFO: Final = getattr(socket, "TCP_INFO", None)
#: Where linux/tcp.h has the two, and how much of it is asked for.
_TCPI_UNACKED, _TCPI_SIZE = 24, 32
_TWO = struct.Struct("=II")

# linux/netlink.h, linux/sock_diag.h, linux/unix_diag.h
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST = 4, 20, 1
_ALL, _UDIAG_SHOW_RQLEN, _UNIX_DIAG_RQLEN = 0xFFFFFFFF, 0x10, 4
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBHIIIII")
_ATTRIBUTE = struct.Struct("=HH")
#: Bytes of `unix_diag_msg`, before the attributes.
_MESSAGE_SIZE = 16


def of_all(listening: Iterable[socket.socket]) -> Sizes:
    """Of several sockets together. Never raises, never waits. Thread: any."""
    waiting = most = 0
    known = False
    for sock in listening:
        sizes = of_one(sock)
        if sizes is None:
            return UNKNOWN
        waiting, most, known = waiting + sizes[0], most + sizes[1], True
    return (waiting, most) if known else UNKNOWN


def of_one(sock: socket.socket) -> tuple[int, int] | None:
    """Of one; `None`: the system does not tell, or it does not listen any more. Thread: any."""
    if not _LINUX:
        return None
    try:
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return None
        return _of_unix(sock) if sock.family == socket.AF_UNIX else _of_tcp(sock)
    except (OSError, struct.error):
        return None


def _of_tcp(sock: socket.socket) -> tuple[int, int] | None:
    if _TCP_INFO is None:
        return None
    told = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _TCPI_SIZE)
    waiting, most = _TWO.unpack_from(told, _TCPI_UNACKED)
    return waiting, most


def _of_unix(sock: socket.socket) -> tuple[int, int] | None:
    inode = os.fstat(sock.fileno()).st_ino
    body = _REQUEST.pack(socket.AF_UNIX, 0, 0, _ALL, inode, _UDIAG_SHOW_RQLEN, _ALL, _ALL)
    size = _HEADER.size + len(body)
    request = _HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0) + body
    # No fork meanwhile, so that no child inherits it.
    with (
        descriptors.thread.no_fork,
        socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as asked,
    ):
        asked.send(request)
        answer = asked.recv(4096, socket.MSG_DONTWAIT)
    length, kind, *_ = _HEADER.unpack_from(answer)
    if kind != _SOCK_DIAG_BY_FAMILY:
        return None
    place = _HEADER.size + _MESSAGE_SIZE
    while place + _ATTRIBUTE.size <= min(length, len(answer)):
        size, attribute = _ATTRIBUTE.unpack_from(answer, place)
        if attribute == _UNIX_DIAG_RQLEN:
            waiting, most = _TWO.unpack_from(answer, place + _ATTRIBUTE.size)
            return waiting, most
        place += max(size + 3 & ~3, _ATTRIBUTE.size)
    return None
