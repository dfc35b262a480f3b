"""What any thread may leave for a connection: bytes, messages, calls, and requests to resume
reading or to end.

It is made when the connection's handle is first used, which most connections never need; its queue
when the first message comes. It refers to its connection as a `Link`, until the connection ends.
"""

from __future__ import annotations

import functools
import weakref
from typing import Any, Protocol

from .._base import waits
from .._base.clock import FOREVER, seconds
from .._base.locks import process_lock
from .._base.options import MILLISECONDS, MILLISECONDS_OR_NONE, is_milliseconds
from .._scheduler.timers import Timer
from .._stream.duplex import Duplex
from .._stream.keeping import Keeping
from .._stream.writer import Writer
from ..connection import Connection
from ..errors import MailboxFull, SocketClosed, SocketTimeout, ThousandIslandError
from .client import Client
from .mailbox import CLOSED as CLOSED_BOX
from .mailbox import Call, Mailbox

#: Guards objects that are made when first used. Nothing is called under it, so no code can
#: interrupt a thread that has it.
making = process_lock("connection")


class HasStream(Protocol):
    """A machine, as far as an inbox needs it."""

    stream: Duplex


class Link(Protocol):
    """What an inbox needs of its connection. Thread: any."""

    @property
    def machine(self) -> HasStream: ...

    def look_again(self) -> None:
        """A request was left: runs the connection."""

    def end_from_outside(self, abort: bool, /) -> None:
        """Ends waiting reads, then runs the connection. `abort`: drops what waits to be sent."""


class Inbox:
    """Holds what was left, until the connection's owner takes it.

    Attributes:
        asked: the connection was asked to end.
        framed: another thread has set the handler's `framing`.
        resumed: `resume` was called. The owner resets it when it ends a pause, or when no callback
            runs that could begin one.
    """

    __slots__ = (
        *("_client", "_handle", "_left", "_link", "_mail", "_over"),
        *("asked", "framed", "resumed"),
    )

    def __init__(self, link: Link, client: Client) -> None:
        self._link: Link | None = link
        self._client = client
        self._mail: Mailbox | None = None
        self._handle: Connection | weakref.ref[Connection] | None = None
        self._over = False
        self._left: float = FOREVER  # messages that may be taken; a stop sets it once
        self.asked = self.framed = self.resumed = False

    # ---- what a handle asks -----------------------------------------------------

    def send(self, data: Any) -> int:
        stream = self._stream()
        if stream is None:
            raise self._ended("send")
        return self.push(stream, data)

    def push(self, stream: Duplex, data: Any) -> int:
        """Sends without waiting. How many bytes."""
        return Keeping(stream).push(data)

    def unsent(self) -> int:
        stream = self._stream()
        writer: Writer | None = None if stream is None else stream.writer
        return 0 if writer is None else writer.unsent

    def _stream(self) -> Duplex | None:
        """The stream; `None`: the connection has ended, or not begun."""
        link = self._link
        stream: Duplex | None = None if link is None else link.machine.stream
        taken_apart = stream is not None and stream.writer is None
        return None if taken_apart else stream

    def post(self, message: Any, delay_ms: float = 0) -> None:
        if not is_milliseconds(delay_ms):
            raise ValueError(f"post: delay_ms: got {delay_ms!r}, takes {MILLISECONDS}")
        link, mail = self._open("post")
        try:
            if not delay_ms:
                kept = mail.put(message)
            else:
                timer = Timer(self._client.env.clock() + seconds(delay_ms))
                timer.target = functools.partial(self._arrive, mail, timer, message)
                kept = mail.put_delayed(timer)
        except MailboxFull as full:
            raise self._full("post", full) from None
        if not kept:
            raise self._ended("post")
        if not delay_ms:
            link.look_again()
        else:
            self._client.env.pool.start(timer)

    def _arrive(self, mail: Mailbox, timer: Timer, message: Any) -> None:
        link = self._link
        if mail.arrive(timer, message) and link is not None:
            link.look_again()

    def call(self, message: Any, timeout_ms: float | None = 5_000) -> Any:
        if timeout_ms is not None and not is_milliseconds(timeout_ms):
            raise ValueError(f"call: timeout_ms: got {timeout_ms!r}, takes {MILLISECONDS_OR_NONE}")
        link = self._link
        if link is not None and waits.current_task() is link:
            raise ThousandIslandError(
                "call: a callback of the same connection would wait for itself; call the handler's"
                " method, or use post()"
            )
        call = Call(message)
        link, mail = self._open("call")
        try:
            kept = mail.put(call)
        except MailboxFull as full:
            raise self._full("call", full) from None
        if not kept:
            raise self._ended("call")
        link.look_again()
        if not call.wait(self._client.env.times, seconds(timeout_ms)):
            mail.withdraw(call)
            raise SocketTimeout(
                110,
                f"call: {self._client.peer_shown()}: no answer within {timeout_ms:g} ms",
            )
        if call.error is not None:
            raise call.error
        return call.result

    def _open(self, doing: str) -> tuple[Link, Mailbox]:
        link, mail = self._link, self._mail
        if link is None:
            raise self._ended(doing)
        while mail is None:
            made = Mailbox(self._client.env.limits.max_pending)
            with making:
                self._mail = mail = made if self._mail is None else self._mail
        return link, mail

    def _ended(self, doing: str) -> SocketClosed:
        who = self._client.peer_shown()
        return SocketClosed(32, f"{doing}: the connection with {who} has ended")

    def _full(self, doing: str, full: MailboxFull) -> MailboxFull:
        return MailboxFull(f"{doing}: {self._client.peer_shown()}: {full}")

    def pending(self) -> int:
        mail = self._mail
        return 0 if mail is None else len(mail)

    def resume(self) -> None:
        link = self._link
        if link is not None:
            self.resumed = True
            link.look_again()

    def frame(self) -> None:
        """Another thread has set `framing`, which also applies to buffered bytes."""
        link = self._link
        if link is not None:
            self.framed = True
            link.look_again()

    def close(self, abort: bool = False) -> None:
        self.asked = True
        link = self._link
        if link is not None:
            link.end_from_outside(abort)

    # ---- what the connection asks -----------------------------------------------

    @property
    def used(self) -> bool:
        """Whether a message has ever come."""
        return self._mail is not None

    def waiting(self) -> int:
        """Messages that could be taken now."""
        mail = self._mail
        return 0 if mail is None or self._left <= 0 else mail.waiting()

    def take(self) -> Any:
        """The next one. Thread: the owner's. Raises IndexError: nothing waits."""
        assert self._mail is not None
        message = self._mail.take()
        if self._left != FOREVER:  # only this thread writes it from now on
            self._left -= 1
        return message

    def stop_begins(self) -> None:
        """Only the messages that wait now may be taken. Thread: any."""
        mail = self._mail
        self._left = 0 if mail is None else mail.waiting()

    def close_for_good(self) -> None:
        """Drops what waits, and takes nothing more. Thread: the owner's, or one that made this
        object while the connection ended."""
        with making:
            mail, self._mail = self._mail, CLOSED_BOX
        if mail is None or mail is CLOSED_BOX:
            return
        calls, timers = mail.close()
        for timer in timers:
            self._client.env.pool.cancel(timer)
        for call in calls:
            call.finish(None, self._ended("call"))

    # ---- the handle ---------------------------------------------------------------

    @property
    def handle(self) -> Connection:
        """The one `Connection`. Several threads may make it at once, and one thread may be
        interrupted while it makes one; only one of them is kept."""
        while True:
            before = self._handle
            known = self._known_handle()
            if known is not None:
                return known
            made = Connection(self, self._client)
            reference = weakref.ref(made)
            with making:
                if self._handle is before:
                    self._handle = reference if self._over else made

    def _known_handle(self) -> Connection | None:
        """The handle; after the connection's end, as long as other code holds it."""
        handle = self._handle
        return handle() if isinstance(handle, weakref.ref) else handle

    def let_go(self) -> None:
        """The connection has ended: from now on this holds the handle weakly, and does not refer to
        the connection. Thread: the owner's; another may be making the handle at that moment."""
        self._over = True
        self._link = None
        while True:
            known = self._handle
            loose = weakref.ref(known) if isinstance(known, Connection) else known
            with making:
                if self._handle is known:
                    self._handle = loose
                    return
