"""A Unix socket on which one JSON object is answered by another, a line each.

The facts. A client may send anything, slowly, or nothing at all, and need not read. A command may
take long. And the pool's threads may all be in callbacks.

Our decision: threads of its own, one that accepts and one for each of eight clients, with a
deadline for each line and for each answer. Nothing is kept of a client that has disconnected. The
socket is for its owner and root: its file's mode is set before it listens and, as a mode can be
changed, the kernel is asked for the peer's user (SO_PEERCRED, unix(7)).
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

from .._base import addresses, descriptors
from .._base.clock import now
from .._base.own_threads import Launched, launch
from .._base.sigpipe import QUIETLY
from .._base.spare import PAUSE_S, Spare, is_shortage
from .._base.supervised import Supervised, say
from .._base.wake_up import WakeUp

#: Bytes that a line may have, and seconds that it, or an answer, may take.
LONGEST_LINE = 65_536
_LINE_S = 2.0
#: Clients at once.
MOST_CLIENTS = 8
_BACKLOG = 64
#: Seconds that a stop waits for answers that are on their way.
_STOP_S = 1.0
#: What is read of a client that was refused, so that it reads why (bytes, seconds).
_REST, _REST_S = 262_144, 0.2

#: Gives the answer to a line's object.
Answer = Callable[[Any], dict[str, Any]]


class LineServer:
    """Opened by `open`, ended by `close`, once.

    Args:
        path: of the socket's file.
        answer: called on the client's thread; what it raises is told and logged.
        name: of its threads.
    """

    def __init__(self, path: str, answer: Answer, name: str) -> None:
        self._path = path
        self._answer = answer
        self._name = name
        self._pid = os.getpid()
        self._over = False
        self._file: addresses.SocketFile | None = None
        self._clients: dict[socket.socket, Launched | None] = {}
        self._spare = Spare()
        self._accepting = Supervised(self._accept_all, name)

    def open(self) -> None:
        """Listens.

        Raises:
            OSError: the path cannot be had.
            RuntimeError: no thread can be started.
        """
        self._wake_up = WakeUp()
        self._socket = descriptors.open_to_listen(socket.AF_UNIX)
        try:
            self._socket.setblocking(False)
            self._file = addresses.bind_unix(self._socket, self._path, 0o600, _BACKLOG, True)
            self._spare.keep()
            self._accepting.start()
        except BaseException:
            self._close_listening()
            raise

    def close(self) -> None:
        """Answers that are on their way go out, for a second at most. Thread: any; in a forked
        child it does nothing."""
        if self._over or self._pid != os.getpid():
            return
        self._over = True
        if self._file is not None:
            self._file.remove()
        self._wake_up.wake()
        until = now() + _STOP_S
        self._accepting.wait(until, lambda ident: False)
        for how, more_s in ((socket.SHUT_RD, 0.0), (socket.SHUT_RDWR, 0.5)):
            for sock in list(self._clients):
                try:
                    sock.shutdown(how)
                except OSError:
                    pass  # it has gone
            self._wait_for_clients(until + more_s)
        self._close_listening()

    def _wait_for_clients(self, until: float) -> None:
        for launched in list(self._clients.values()):
            thread = None if launched is None else launched.thread
            if thread is not None and thread is not threading.current_thread():
                thread.join(max(0.0, until - now()))

    def _close_listening(self) -> None:
        if self._file is not None:
            self._file.remove()
        descriptors.close_listening(self._socket, shared=False)
        self._spare.close()
        self._wake_up.close()

    # ---- accepting: a thread of its own ------------------------------------------------

    def _accept_all(self) -> None:
        poller = select.poll()
        poller.register(self._socket.fileno(), select.POLLIN)
        poller.register(self._wake_up.fileno(), select.POLLIN)
        while not self._over:
            poller.poll()
            if not self._over:
                self._accept_one()

    def _accept_one(self) -> None:
        try:
            sock = self._spare.accept(self._socket)
        except BlockingIOError:
            return
        except OSError as error:
            if is_shortage(error):
                threading.Event().wait(PAUSE_S)
            return
        try:
            refusal = self._refusal(sock)
            if refusal is None:
                self._clients[sock] = None
                self._clients[sock] = launch(lambda: self._serve(sock), f"{self._name}-client")
                return
        except RuntimeError as error:
            self._clients.pop(sock, None)
            refusal = f"no thread can be started: {error}"
        sock.settimeout(0)  # nobody waits for who is refused
        _send(sock, _refused(refusal))
        self._spare.end(sock)

    def _refusal(self, sock: socket.socket) -> str | None:
        if not _may_ask(sock):
            return "only the user whose process this is, and root, may ask"
        if len(self._clients) >= MOST_CLIENTS:
            return f"{MOST_CLIENTS} clients are here already; try again"
        return None

    # ---- one client: a thread of its own -------------------------------------------------

    def _serve(self, sock: socket.socket) -> None:
        try:
            buffer = bytearray()
            while not self._over:
                line = _next_line(sock, buffer)
                if line is None:
                    break
                answer, goes_on = self._answer_to(line)
                if not _send(sock, answer):
                    break
                if not goes_on:
                    _linger(sock)
                    break
        finally:
            self._spare.end(sock)
            self._clients.pop(sock, None)

    def _answer_to(self, line: bytes | _Refused) -> tuple[dict[str, Any], bool]:
        """The answer, and whether the client may send more: what is no JSON may be anything."""
        if isinstance(line, _Refused):
            return _refused(str(line)), False
        try:
            asked = json.loads(line)
        except (ValueError, RecursionError):
            return _refused("this line is no JSON"), False
        if not isinstance(asked, dict):
            return _refused('takes one JSON object a line: {"v": 1, "do": "info"}'), False
        try:
            return self._answer(asked), True
        except Exception as error:
            say("a line of the admin socket could not be answered", error)
            return _refused(f"{type(error).__name__}; the log has more"), True


class _Refused(Exception):
    """Why a line is not read to its end."""


def _refused(why: str) -> dict[str, Any]:
    return {"ok": False, "error": why}


def _may_ask(sock: socket.socket) -> bool:
    """Whether the peer is ours, or root."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return True  # the file's mode has to do
    _, uid, _ = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, option, 12))
    return uid in (0, os.geteuid())


def _next_line(sock: socket.socket, buffer: bytearray) -> bytes | _Refused | None:
    """The next line, without its end; `None`: there is none."""
    deadline = now() + _LINE_S
    looked = 0
    while (end := buffer.find(b"\n", looked)) < 0:
        looked = len(buffer)
        if looked > LONGEST_LINE:
            break
        left = deadline - now()
        if left <= 0:
            return _Refused(f"no whole line came within {_LINE_S:.0f} s")
        sock.settimeout(left)
        try:
            data = sock.recv(LONGEST_LINE)
        except TimeoutError:
            continue
        except OSError:
            return None
        if not data:  # the last line may have no end
            rest = bytes(buffer)
            buffer.clear()
            return rest or None
        buffer += data
    if end < 0 or end > LONGEST_LINE:
        return _Refused(f"a line may have {LONGEST_LINE} bytes")
    line = bytes(buffer[:end])
    del buffer[: end + 1]
    return line


def _send(sock: socket.socket, answer: dict[str, Any]) -> bool:
    """Whether the client took it, in its time."""
    try:
        if sock.gettimeout() != 0:
            sock.settimeout(_LINE_S)
        sock.sendall(json.dumps(answer, default=str).encode() + b"\n", QUIETLY)
    except OSError:
        return False
    return True


def _linger(sock: socket.socket) -> None:
    """Ends the connection. Bytes that lie unread would turn its end into a reset (unix(7))."""
    try:
        sock.shutdown(socket.SHUT_WR)
        until, left = now() + _REST_S, _REST
        while left > 0 and now() < until:
            sock.settimeout(max(0.001, until - now()))
            data = sock.recv(LONGEST_LINE)
            if not data:
                return
            left -= len(data)
    except OSError:
        pass  # it has gone, or sends nothing more
