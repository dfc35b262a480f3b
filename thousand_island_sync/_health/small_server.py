"""A small server for probes: one thread, a poll loop, clients that cannot delay each other.

The facts. A health check matters most when the server is in trouble: every thread of its pool is in
a callback, it is at `max_connections`, no descriptor is left, it has stopped. And probes are the
simplest of clients: a few bytes each way.

What others do. Many answer on the port of the application, from its pool; or run a second server of
the same kind.

Our decision: not a second `ThousandIsland`, though that would be less code here. Receivers that are
connected for every server would get events of each probe, the log would be full of them, and the
second server would share with the first what may be at fault. So it is one poll loop on one
supervised thread, which calls nothing that waits. A client has a deadline and 4 KiB; if there are
too many, the oldest is closed. It uses only these descriptors: the listening socket, a wake-up,
those of the clients (poll(2), not epoll), and a spare one.
"""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple, Protocol

from .._base.clock import FOREVER, now
from .._base.sigpipe import QUIETLY
from .._base.spare import PAUSE_S, Spare, is_shortage
from .._base.supervised import Supervised
from .._base.wake_up import WakeUp
from ..transports.base import ListenSocket

#: Bytes that a request may have, and seconds that it may take, or its answer.
MOST_BYTES = 4_096
REQUEST_S = 2.0
#: Clients at once; one more takes the place of the one that has been here for longest.
MOST_CLIENTS = 128
#: What is read of a client that was answered for good, so that no reset overtakes the answer.
_REST_BYTES, _REST_S = 262_144, 1.0
#: Seconds that a stop waits for the thread.
_LEAVES_WITHIN_S = 1.0
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)


class Answer(NamedTuple):
    """What is sent, how many bytes of the client's it was for, and whether he may ask again."""

    data: bytes
    used: int
    goes_on: bool


class Talk(Protocol):
    """What is said to clients. Thread: the loop's. Nothing of it waits."""

    def greet(self) -> Answer | None:
        """To one that has just come; `None`: he speaks first."""

    def answer(self, received: bytes, over: bool) -> Answer | None:
        """To what has come so far; `None`: it is no whole request yet.

        Args:
            received: that, at most a few bytes more than `MOST_BYTES`.
            over: nothing more comes.
        """

    def too_late(self) -> Answer:
        """To a request that was begun, and did not come to its end in time."""


class _Step(Enum):
    """How far a client has come."""

    ASKING = "its request is awaited"
    ANSWERED = "what it asked for goes out, and it may ask again"
    LAST = "the last answer goes out"
    LEAVING = "it is read until it goes"


class _Client:
    """One. Thread: the loop's."""

    __slots__ = ("deadline", "out", "over", "received", "rest", "sock", "step")

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self.sock = sock
        self.received = b""
        self.out = b""
        self.over = False  # it has ended its side
        self.rest = _REST_BYTES
        self.step = _Step.ASKING
        self.deadline = deadline


class SmallServer:
    """Opened by `start`, ended by `stop`, once. Thread: any, for these two.

    Args:
        listening: where; it is closed at the end.
        talk: with the clients.
        name: of the thread.
        tick: called so often, in seconds: (`every`, `tick`). Nothing of it waits.
    """

    def __init__(
        self,
        listening: ListenSocket,
        talk: Talk,
        name: str,
        tick: tuple[float, Callable[[], None]] = (FOREVER, lambda: None),
    ) -> None:
        self._listening = listening
        self._talk = talk
        self._every, self._tick = tick
        self._ticks_at = now()
        self._accepts_at = 0.0
        self._clients: dict[int, _Client] = {}  # in the order in which they came
        self._over = False
        self._wake_up = WakeUp()
        self._spare = Spare()
        self._spare.keep()
        self._thread = Supervised(self._serve, name)

    def start(self) -> None:
        """Raises RuntimeError: no thread can be started; all is closed then."""
        try:
            self._thread.start()
        except BaseException:  # it may run: Ctrl-C came to us meanwhile
            self.stop()
            raise

    def stop(self) -> None:
        """Closes what it has. Does nothing the second time."""
        if self._over:
            return
        self._over = True
        self._listening.hide()
        self._wake_up.wake()
        if not self._thread.give_up():
            self._thread.join(_LEAVES_WITHIN_S)
        self._listening.close()
        self._spare.close()
        self._wake_up.close()

    # ---- the loop ---------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            while not self._over:
                self._poll_once()
        finally:
            for client in list(self._clients.values()):
                self._close(client)  # those of a loop that begins anew, too: none is left half done

    def _poll_once(self) -> None:
        time_now = now()
        if time_now >= self._ticks_at:
            self._ticks_at = time_now + self._every
            self._tick()
        listening = self._listening.socket.fileno()
        for fd in self._wait(time_now, listening):
            if fd == listening:
                self._accept_all()
            elif fd in self._clients:
                self._serve_client(self._clients[fd])
        time_now = now()
        for client in list(self._clients.values()):
            if time_now >= client.deadline:
                self._expire(client)

    def _wait(self, time_now: float, listening: int) -> list[int]:
        """Descriptors for which something can be done."""
        until = min([self._ticks_at, *(client.deadline for client in self._clients.values())])
        with _Selector() as selector:
            selector.register(self._wake_up.fileno(), selectors.EVENT_READ)
            if time_now >= self._accepts_at:
                selector.register(listening, selectors.EVENT_READ)
            else:
                until = min(until, self._accepts_at)
            for fd, client in self._clients.items():
                wants = selectors.EVENT_WRITE if client.out else selectors.EVENT_READ
                selector.register(fd, wants)
            timeout = None if until == FOREVER else max(0.0, until - time_now)
            return [key.fd for key, _ in selector.select(timeout)]

    def _accept_all(self) -> None:
        for _ in range(MOST_CLIENTS):
            try:
                sock = self._spare.accept(self._listening.socket)
            except BlockingIOError:
                return
            except OSError as error:
                if is_shortage(error):
                    self._accepts_at = now() + PAUSE_S
                    return
                continue  # that client has disconnected (accept(2))
            sock.setblocking(False)
            if len(self._clients) >= MOST_CLIENTS:
                self._close(next(iter(self._clients.values())))
            client = self._clients[sock.fileno()] = _Client(sock, now() + REQUEST_S)
            greeting = self._talk.greet()
            if greeting is not None:
                self._say(client, greeting)

    # ---- one client ---------------------------------------------------------------------

    def _serve_client(self, client: _Client) -> None:
        try:
            if client.out or self._has_come(client):
                self._proceed(client)
        except BlockingIOError:
            pass
        except OSError:
            self._close(client)  # it has disconnected

    def _has_come(self, client: _Client) -> bool:
        """Receives; whether there is something to be answered."""
        data = client.sock.recv(MOST_BYTES)
        if client.step is _Step.LEAVING:
            client.rest -= len(data)
            if not data or client.rest <= 0:
                self._close(client)
            return False
        client.received += data
        client.over = not data
        return True

    def _proceed(self, client: _Client) -> None:
        """Sends what waits and answers what has come, until neither can go on."""
        while True:
            if client.out:
                client.out = client.out[client.sock.send(client.out, QUIETLY) :]
                if client.out:
                    return
                if client.step is _Step.LAST:
                    client.sock.shutdown(socket.SHUT_WR)
                    client.step, client.deadline = _Step.LEAVING, now() + _REST_S
                    return
                client.step, client.deadline = _Step.ASKING, now() + REQUEST_S
            answer = self._talk.answer(client.received, client.over)
            if answer is None:
                if client.over:
                    self._close(client)
                return
            self._begin_answer(client, answer)

    def _begin_answer(self, client: _Client, answer: Answer) -> None:
        client.received = client.received[answer.used :]
        client.out = answer.data
        client.step = _Step.ANSWERED if answer.goes_on else _Step.LAST
        client.deadline = now() + REQUEST_S

    def _say(self, client: _Client, answer: Answer) -> None:
        self._begin_answer(client, answer)
        self._serve_client(client)

    def _expire(self, client: _Client) -> None:
        if client.step is _Step.ASKING and client.received:
            self._say(client, self._talk.too_late())
        else:
            self._close(client)

    def _close(self, client: _Client) -> None:
        self._clients.pop(client.sock.fileno(), None)
        self._spare.end(client.sock)
