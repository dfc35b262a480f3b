"""The fields of a connection, and what others ask of it: its socket, its handle, a stop.

Those are other threads, as a rule, and none of them acts on it: they leave word, raise
`alert`, and have it run.
"""

from __future__ import annotations

import functools
import itertools
import os
import socket as stdlib_socket
import threading
import weakref
from typing import TYPE_CHECKING, Any

from .._base import addresses, waits
from .._base.clock import FOREVER, seconds
from .._base.locks import process_lock
from .._base.options import is_milliseconds
from .._scheduler.task import Task
from .._scheduler.timers import Timer
from .._stream.core import _guard
from ..connection import Connection
from ..errors import SocketClosed, SocketTimeout, ThousandIslandError
from ..handler import Handler
from ..socket import Socket
from ..transports.base import Source, Transport
from .environment import Environment
from .mailbox import CLOSED as CLOSED_BOX
from .mailbox import Call, Mailbox
from .states import APART, CLOSED, NEW, TRANSITIONS, State

if TYPE_CHECKING:
    from .handshaking import Upgrade

_serials = itertools.count(1)
#: For what is made when first asked for. Nothing is called under it: nothing interrupts it then.
_making = process_lock("connection")
#: Never set.
_a_moment = threading.Event()


class ConnectionCore(Task):
    """See the module's docstring; how it is run and how it ends is in its subclasses."""

    __slots__ = (
        "_accepted_at",
        "_asked",
        "_clock",
        "_context",
        "_drained",
        "_env",
        "_eof_told",
        "_gone",
        "_handle",
        "_handler",
        "_handshake_at",
        "_id",
        "_mail",
        "_mail_left",
        "_no_room",
        "_read_deadline",
        "_short_proves",
        "_sock",
        "_socket",
        "_sockname",
        "_source",
        "_state",
        "_switch",
        "_total_deadline",
        "_transport",
        "acceptor_id",
        "peer_address",
        "read_timeout",
    )

    _handler: Handler
    _socket: Socket
    _source: Source
    _short_proves: bool

    def __init__(
        self,
        env: Environment,
        transport: Transport,
        sock: stdlib_socket.socket,
        peer_address: Any,
        acceptor_id: int,
    ) -> None:
        Task.__init__(self, sock.fileno())
        self._env = env
        self._transport = transport
        self._sock = sock
        self.peer_address = peer_address
        self.acceptor_id = acceptor_id
        self._id: str | int = next(_serials)  # its number, until it is asked for
        self._clock = env.clock
        self._accepted_at = env.clock()
        self._context = env.context.copy()
        self._state = NEW
        self._handle: Connection | weakref.ref[Connection] | None = None
        self._mail: Mailbox | None = None
        self._mail_left: float = FOREVER
        self._switch: Upgrade | None = None
        self._sockname: Any = None  # once it was asked for
        self._asked = False
        self._no_room: OSError | None = None
        self._eof_told = False
        self._gone = False
        self._drained = 0
        self._handshake_at = 0.0
        self._read_deadline = FOREVER
        self._total_deadline = FOREVER
        self.read_timeout = env.read_timeout

    def _become(self, state: State) -> None:
        if state is not self._state:
            assert state in TRANSITIONS[self._state], f"{self._state} -> {state}"
            self._state = state

    # ---- facts ----------------------------------------------------------------

    @property
    def handle(self) -> Connection:
        """The one `Connection` of this connection."""
        handle = self._known_handle()
        if handle is None:
            handle = self._make_handle()
        return handle

    def _make_handle(self) -> Connection:
        """Several threads may do it at once, and one thread in the middle of its own doing."""
        made = Connection(self)  # type: ignore[arg-type]
        reference = weakref.ref(made)
        while True:
            before = self._handle
            known = self._known_handle()
            if known is not None:
                return known
            with _making:
                if self._handle is before:
                    self._handle = reference if self._state is CLOSED else made

    def _known_handle(self) -> Connection | None:
        """It is held until the end, and is the same one then for as long as others hold it."""
        handle = self._handle
        return handle() if isinstance(handle, weakref.ref) else handle

    def _loosen_handle(self) -> None:
        """From now on it is there for as long as others hold it. Thread: the owner's, at the end;
        another may be making it at that moment."""
        while True:
            known = self._handle
            loose = weakref.ref(known) if isinstance(known, Connection) else known
            with _making:
                if self._handle is known:
                    self._handle = loose
                    return

    @property
    def accepted_at_ns(self) -> int:
        return int(self._accepted_at * 1e9)

    @property
    def id(self) -> str:
        known = self._id
        if isinstance(known, int):
            known = self._id = f"{os.getpid():x}-{known:x}"
        return known

    @property
    def server(self) -> Any:
        return self._env.server

    @property
    def stopping(self) -> bool:
        return self._env.stopping

    @property
    def send_timeout(self) -> float:
        return self._env.send_timeout

    @property
    def max_unread(self) -> int:
        return self._env.max_unread

    @property
    def closed(self) -> bool:
        return self._gone

    @property
    def peername(self) -> Any:
        return addresses.pair(self.peer_address)

    @property
    def sockname(self) -> Any:
        self._note_sockname()
        return None if self._sockname is None else addresses.pair(self._sockname)

    def _note_sockname(self) -> None:
        """While there is a descriptor to ask: it is a fact that outlives it. Thread: any."""
        if self._sockname is None:
            try:
                with _guard:
                    address = self._sock.getsockname()
            except OSError:
                return  # it has ended
            self._sockname = addresses.sharing_host(address)

    def peer_shown(self) -> str:
        return addresses.show(self.peer_address)

    # ---- what a Socket asks ---------------------------------------------------

    def take_out(self) -> None:
        """Only the owner may: one that is parked must be told of events."""
        if self.attached and waits.current_task() is self:
            self._env.pool.detach(self)
            self.alert = True  # the next step forgets how this callback waited

    def look_again(self) -> None:
        self._left_something()

    def interrupt(self) -> int | None:
        return self._env.interrupt

    def let_step_end(self) -> None:
        # In a callback the owner uses the descriptor by way of the socket alone, under its
        # locks; CLOSING, it asks the socket first. In all other states it may receive.
        if waits.current_task() is self:
            return
        waits.give_way()
        while self._state not in APART and self._env.pool.runs(self):
            _a_moment.wait(0.001)

    def give_up(self) -> None:
        self._note_sockname()
        self._env.pool.release(self)

    def end_soon(self) -> None:
        self._left_something()

    # ---- what any thread may ask ----------------------------------------------

    def _left_something(self) -> None:
        self.alert = True
        self._env.pool.make_ready(self)

    def unwatched(self, error: OSError) -> None:
        self._no_room = error
        self.alert = True

    def stop_begins(self) -> None:
        self._mail_left = 0 if self._mail is None else self._mail.waiting()
        self.alert = True

    def cut_off(self) -> None:
        """A stop has run out of time."""
        socket = getattr(self, "_socket", None)
        if socket is not None:
            socket._cut_off()
        self._left_something()

    def close_from_outside(self) -> None:
        self._asked = True
        socket = getattr(self, "_socket", None)
        if socket is None or socket._interrupt_read():
            self._left_something()
        else:
            self._env.pool.soon(self.close_from_outside)

    def _mailbox(self) -> Mailbox:
        mail = self._mail
        while mail is None:
            made = Mailbox(self._env.max_pending)
            with _making:
                self._mail = mail = made if self._mail is None else self._mail
        return mail

    def pending(self) -> int:
        mail = self._mail
        return 0 if mail is None else len(mail)

    def _ended_error(self, doing: str) -> SocketClosed:
        return SocketClosed(32, f"{doing}: the connection with {self.peer_shown()} has ended")

    def post(self, message: Any, delay_ms: float) -> None:
        if not is_milliseconds(delay_ms):
            raise ValueError(f"post: delay_ms: got {delay_ms!r}, takes milliseconds, 0 or more")
        mail = self._mailbox()
        if not delay_ms:
            if not mail.put(message):
                raise self._ended_error("post")
            self._left_something()
            return
        timer = Timer(self._clock() + seconds(delay_ms))
        timer.target = functools.partial(self._arrive, mail, timer, message)
        if not mail.put_delayed(timer):
            raise self._ended_error("post")
        self._env.pool.start(timer)

    def _arrive(self, mail: Mailbox, timer: Timer, message: Any) -> None:
        if mail.arrive(timer, message):
            self._left_something()

    def call(self, message: Any, timeout_ms: float | None) -> Any:
        if timeout_ms is not None and not is_milliseconds(timeout_ms):
            raise ValueError(f"call: timeout_ms: got {timeout_ms!r}, takes milliseconds or None")
        if waits.current_task() is self:
            raise ThousandIslandError(
                "call: from a callback of the same connection it would wait for itself;"
                " call a method of the handler, or post()"
            )
        call = Call(message)
        mail = self._mailbox()
        if not mail.put(call):
            raise self._ended_error("call")
        self._left_something()
        limit = seconds(timeout_ms)
        if not call.wait(-1 if limit == FOREVER else limit):
            mail.withdraw(call)
            raise SocketTimeout(
                110, f"call: {self.peer_shown()}: no answer within {timeout_ms:g} ms"
            )
        if call.error is not None:
            raise call.error
        return call.result

    def _close_mailbox(self) -> None:
        with _making:
            mail, self._mail = self._mail, CLOSED_BOX
        if mail is None or mail is CLOSED_BOX:
            return
        calls, timers = mail.close()
        for timer in timers:
            self._env.pool.cancel(timer)
        for call in calls:
            call.finish(None, self._ended_error("call"))
