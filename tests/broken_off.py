"""Servers with an exception raised at one point of one of their threads, one server for each point.

python -m tests.broken_off <handler|acceptor|listener> <first> <last> [<step> [locks]]

A point is where an asynchronous exception could come (`PyThreadState_SetAsyncExc`): where a call
has begun, or is over. They are counted from the thread's first step on, over all threads of the
kind. With `locks` only those count where a lock has just been taken or given back; from CPython
3.14 on they include the beginning of each `with`. After it a new client must be served within a
second, a stop be in time, one connection be lost at most, and no thread and no descriptor be left.
Run without self-checks: what watches locks would itself be interrupted.

No point is where a descriptor is a number, and nobody's: after accept(2), before there is a socket
for it, as a socket has just given it up, and while a wake-up's is closed. What comes there loses
it, as in the standard library. And none is where `threading` strikes a thread off: from CPython
3.14 on its own lock could stay held for good, and no other thread would begin or end; or where it
asks until CPython 3.12 whether a thread is alive.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
import sys
import threading
import time
from typing import Any

from tests.support import eventually
from thousand_island_sync import Handler, ThousandIsland
from thousand_island_sync.testing._leaks import open_descriptors

SERVED_S, STOPPED_S = 1.0, 1.0
#: What the machine may add to that.
SLACK_S = 0.5


_NOBODYS = {"accept_one", "abandon"}
_STRIKES_OFF = threading.Thread._delete.__code__  # type: ignore[attr-defined]
#: Until CPython 3.12: interrupted, it takes a thread that is alive for one that has ended.
_ASKS_WHETHER_ALIVE = getattr(threading.Thread, "_wait_for_tstate_lock", None)
_THREADINGS_OWN = {_STRIKES_OFF, getattr(_ASKS_WHETHER_ALIVE, "__code__", None)}
_MAKES_SOCKETS = socket.socket.__init__.__code__
_OF_LOCKS = {"acquire", "release", "__enter__", "__exit__"}


class Interrupted(BaseException):
    """As an exception that another thread raises here."""


class Answers(Handler):
    """Echoes; waits for more, or blocks, where it is told to."""

    def handle_data(self, data, sock):
        if data == b"wait":
            sock.send(b"?")
            data = sock.recv()
        elif data == b"block":
            time.sleep(0.003)
        elif data == b"later":
            sock.connection.post(data, delay_ms=1)
            return
        sock.send(data)

    def handle_info(self, message, sock):
        sock.send(message)


class Point:
    """Raises once, at the n-th event of the threads of a kind."""

    def __init__(self, kind: str, number: int, of_locks: bool) -> None:
        self._mark = f"-{kind}"
        self._left = number
        self._of_locks = of_locks
        self.where: str | None = None

    def __call__(self, frame: Any, event: str, argument: Any) -> None:
        if event == "c_call" or self.where is not None:
            return
        # Not `current_thread`, which makes one up for a thread that has just been struck off.
        thread = threading._active.get(threading.get_ident())  # type: ignore[attr-defined]
        if thread is None or self._mark not in thread.name:
            return
        code = frame.f_code
        if code.co_filename == __file__:
            return  # the user's
        if (
            code in _THREADINGS_OWN
            or code.co_name in _NOBODYS
            or (code.co_name == "__init__" and code is _MAKES_SOCKETS)
            or (event == "c_return" and argument.__name__ == "detach")
        ):
            return
        if self._of_locks and getattr(argument, "__name__", "") not in _OF_LOCKS:
            return
        self._left -= 1
        if self._left <= 0:
            name = getattr(code, "co_qualname", code.co_name)
            of = getattr(argument, "__qualname__", "") if event.startswith("c_") else ""
            file = f"{os.path.basename(code.co_filename)}:{frame.f_lineno}"
            self.where = f"{event} {of} in {name} ({file})"
            raise Interrupted


def _open() -> dict[int, str]:
    found = open_descriptors()
    return {number: what for number, what in found.items() if not what.startswith("/proc")}


def _ask(sock: socket.socket, data: bytes, answer: bytes | None = None) -> bool:
    answer = data if answer is None else answer
    try:
        sock.sendall(data)
        return sock.recv(100) == answer
    except OSError:
        return False


def _connect(server: ThousandIsland, timeout: float) -> socket.socket:
    return socket.create_connection(server.local_address, timeout=timeout)


def _traffic(server: ThousandIsland, clients: list[socket.socket]) -> int:
    """What was lost of it."""
    lost = 0
    for _ in range(2):
        clients.append(_connect(server, 1.0))
    for sock in clients:
        served = _ask(sock, b"x") and _ask(sock, b"block") and _ask(sock, b"later")
        served = served and _ask(sock, b"wait", b"?") and _ask(sock, b"y")
        lost += not served
    with _connect(server, 1.0) as short:
        lost += not _ask(short, b"z")
    return lost


def _unserved(server: ThousandIsland) -> str | None:
    """What is wrong with how a new client is served."""
    began = time.monotonic()
    try:
        with _connect(server, SERVED_S + SLACK_S) as fresh:
            served = _ask(fresh, b"new")
    except OSError as error:
        return f"a new client cannot connect: {error}"
    took = time.monotonic() - began
    if not served:
        return f"a new client is not served, after {took:.2f} s"
    return f"a new client is served after {took:.2f} s" if took > SERVED_S + SLACK_S else None


def trial(kind: str, number: int, of_locks: bool) -> tuple[str | None, list[str]]:
    """Where it was, and what is wrong."""
    wrong: list[str] = []
    before = _open()
    point = Point(kind, number, of_locks)
    threading.setprofile(point)
    server = ThousandIsland(
        handler_cls=Answers, host="127.0.0.1", port=0, num_acceptors=2, max_handler_threads=4
    )
    clients: list[socket.socket] = []
    try:
        server.start()
        lost = _traffic(server, clients)
        if lost > 1:
            wrong.append(f"{lost} connections were lost")
        before_it = point.where
        unserved = _unserved(server)
        if unserved is not None and before_it is None and point.where is not None:
            unserved = _unserved(server)  # it came just now, and this one was the price
        if unserved is not None:
            wrong.append(unserved)
        if server.status != "running":
            wrong.append(f"the server is {server.status}")
    finally:
        began = time.monotonic()
        server.stop(STOPPED_S * 1000)
        took = time.monotonic() - began
        threading.setprofile(None)  # type: ignore[arg-type]
        if took > STOPPED_S + SLACK_S:
            wrong.append(f"the stop took {took:.2f} s")
        for sock in clients:
            sock.close()

    def left() -> list[str]:
        others = [one for one in threading.enumerate() if one is not threading.main_thread()]
        return [one.name for one in others if one.is_alive()]

    if not eventually(lambda: not left(), 2):
        wrong.append(f"threads are left: {left()}")
        import faulthandler

        faulthandler.dump_traceback(all_threads=True)
    del server
    gc.collect()
    opened = [what for name, what in _open().items() if name not in before]
    if opened:
        wrong.append(f"descriptors are left: {opened}")
    return point.where, wrong


def main(kind: str, first: int, last: int, step: int, of_locks: bool) -> int:
    logging.getLogger("thousand_island_sync").addHandler(logging.NullHandler())
    threading.excepthook = lambda args: None
    failures = reached = 0
    for number in range(first, last + 1, step):
        where, wrong = trial(kind, number, of_locks)
        reached += where is not None
        if wrong:
            failures += 1
            print(f"{kind} {number}: {where}: {'; '.join(wrong)}", flush=True)
            if any("threads" in one for one in wrong):
                break
        if where is None:
            break
    print(f"{kind}: {reached} points, {failures} failures", flush=True)
    return bool(failures)


if __name__ == "__main__":
    given = sys.argv[1:]
    of_locks = given[-1] == "locks"
    numbers = [int(one) for one in given[1 : len(given) - of_locks]]
    sys.exit(main(given[0], numbers[0], numbers[1], (numbers[2:] or [1])[0], of_locks))
