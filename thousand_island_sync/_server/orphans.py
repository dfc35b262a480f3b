"""The parent's servers and connections in a forked child.

Only the thread that forked exists there. If it was in a callback, that callback may go on
with its own `Socket`, which waits in poll(2), and uses neither the scheduler nor, at its
end, the connection. All other objects of the parent must be out of use: their locks would
block for ever, and working they would serve the parent's clients.

So the class of these objects is changed, to one whose methods raise, or which ends the
process when the callback returns. That costs nothing without a fork: the hot path checks
a connection's `alert` and a worker's `permit` anyway.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from threading import get_ident
from typing import Any, NoReturn, Protocol

from .._base import descriptors, fork, waits
from .._base.clock import FOREVER, Times
from .._connection.inbox import Inbox
from .._connection.task import ConnectionTask
from .._listener.connection_limit import ConnectionLimit
from .._scheduler.scheduler import Scheduler
from .._scheduler.task import Task
from .._scheduler.timers import Timer
from .._stream import forked
from .._stream.duplex import Duplex
from .._stream.handover import share
from .._stream.states import ON_CLOSE, ON_INTERRUPT
from .._stream.unsent_total import UnsentTotal
from ..errors import ThousandIslandError
from ..handler import Handler


class Run(Protocol):
    """One run of a server, as far as a child must know it. It may have no scheduler yet."""

    scheduler: Scheduler
    limit: ConnectionLimit

    @property
    def server(self) -> Any: ...
    @property
    def times(self) -> Times: ...
    @property
    def unsent(self) -> UnsentTotal: ...
    def serves(self, handler: Handler) -> bool: ...


_runs: weakref.WeakSet[Run] = weakref.WeakSet()
_parent = 0


class _Own:
    """The connection whose callback has forked this process."""

    connection: ConnectionTask | None = None
    thread = 0  # which one is in that callback
    counted = (0, 0)  # bytes sent and received at the fork


_own = _Own()


def know(run: Run) -> None:
    """Notes a run that is about to begin."""
    _runs.add(run)


def runs() -> list[Run]:
    """The runs that were begun and still exist. Thread: any."""
    return list(_runs)


# ---- connections ------------------------------------------------------------


class _OrphansInbox(Inbox):
    """Nothing that is left here finds anybody."""

    __slots__ = ()

    def push(self, stream: Duplex, data: Any) -> int:
        """The send buffer is the parent's, so this waits as the `Socket` of a child does."""
        return stream.writer.send(data)

    def post(self, message: Any, delay_ms: float = 0) -> None:
        """What is posted is dropped with the child: no other callback will run here."""

    def call(self, message: Any, timeout_ms: float | None = 5_000) -> Any:
        raise ThousandIslandError(
            "call: a callback of the same connection would wait for itself;"
            " call a method of the handler"
        )

    def pending(self) -> int:
        return 0


class Orphan(ConnectionTask):
    """The connection whose callback goes on in the child, with a `Socket` that is a copy.

    Whatever a connection does when a callback is over ends the process instead.
    """

    __slots__ = ()

    inbox_cls = _OrphansInbox

    def came_back(self, name: str, error: BaseException | None = None) -> NoReturn:
        where = f"{self.env.handlers.name}.{name} of connection {self.id}"
        fork.end_child(f"{where} with {self.client.peer_shown()}", error)

    def run(self) -> NoReturn:
        self.came_back("run")

    def stay(self, timeout: float, wanted: Callable[[float], bool]) -> NoReturn:
        self.came_back("stay")

    def broke(self) -> NoReturn:
        self.came_back("broke")

    # ---- what its Socket and its inbox may ask ------------------------------------

    def take_out(self) -> None:
        pass  # it is not in this process's poller

    def look_again(self) -> None:
        pass

    end_soon = look_again  # with the callback

    def interrupt(self) -> int | None:
        return None

    def let_step_end(self, timeout: float = FOREVER) -> None:
        pass  # it is in its callback, for good

    def give_up(self) -> None:
        pass  # the child's copy is the caller's

    def close_asked(self) -> None:
        """Closes the copy; the parent's connection goes on. Thread: any of the child's."""
        self.client.closed = True
        forked.close_copy(self.machine.stream, _own.counted)

    def end_from_outside(self, abort: bool = False) -> None:
        self.machine.stream.on(ON_INTERRUPT)


class _ForeignInbox(Inbox):
    """Of another connection of the parent's."""

    __slots__ = ()

    def send(self, data: Any) -> int:
        raise _not_here("send")

    def unsent(self) -> int:
        raise _not_here("unsent")

    def post(self, message: Any, delay_ms: float = 0) -> None:
        raise _not_here("post")

    def call(self, message: Any, timeout_ms: float | None = 5_000) -> Any:
        raise _not_here("call")

    def resume(self) -> None:
        raise _not_here("resume")

    def close(self, abort: bool = False) -> None:
        raise _not_here("close")

    def pending(self) -> int:
        raise _not_here("pending")


class Foreign(ConnectionTask):
    """Another connection of the parent's. Facts still answer."""

    __slots__ = ()

    inbox_cls = _ForeignInbox


def _not_here(doing: str) -> ThousandIslandError:
    return ThousandIslandError(
        f"{doing}: this connection belongs to the parent process; after a fork, the child may use"
        " only the Socket of the callback that has forked"
    )


# ---- schedulers -------------------------------------------------------------


class Gone:
    """Stands in for what a thread of the parent's comes back to: it ends the process. And for what
    others ask of a scheduler, for which nobody works any more."""

    def _come_back(self, *_: Any) -> NoReturn:
        fork.end_child("a thread of the parent's")

    enlist = rest = are_done = put_away = leave = recover = stay_alone = go_on = _come_back

    def make_ready(self, task: Task) -> NoReturn:
        raise _not_here("a connection")

    def start(self, timer: Timer) -> NoReturn:
        raise _not_here("post")

    def cancel(self, timer: Timer) -> None:
        pass  # it fires in no child


# ---- the fork ---------------------------------------------------------------


_classes: dict[tuple[type, type], Any] = {}


def _become(one: Any, what: type) -> None:
    """An object gets the methods of `what`, a subclass of its class or of one of its bases."""
    kind = type(one)
    if (what, kind) not in _classes:
        _classes[what, kind] = type(kind.__name__, (what, kind), {"__slots__": ()})
    one.__class__ = _classes[what, kind]


def _before() -> None:
    global _parent
    _parent = os.getpid()
    own = _whose_callback()
    if own is not None and own.machine.stream.channel.kernel_waits:
        # Two processes have the descriptor now, and what one sets on it holds for both.
        share(own.machine.stream)


def _child() -> None:
    own = _whose_callback()
    descriptors.abandon_all(None if own is None else own.client.sock)
    worker = waits.current_worker()
    waits.forget_all()
    _own.connection, _own.thread = own, get_ident()
    for run in list(_runs):
        _abandon(run)
    _runs.clear()
    if worker is not None:
        worker.permit = False
    if own is not None and not isinstance(own, Orphan):
        _go_on_alone(own)


def _whose_callback() -> ConnectionTask | None:
    """The connection whose callback the thread is in that has forked, if it is in one."""
    if _own.thread == get_ident() and _own.connection is not None:
        return _own.connection  # a child of a child
    task = waits.current_task()
    if isinstance(task, ConnectionTask) and task.machine.stream is not None:
        return task
    return None


def _go_on_alone(own: ConnectionTask) -> None:
    own.client.known_to(_parent)
    stream = own.machine.stream
    _own.counted = forked.traffic(stream)
    _become(own, Orphan)
    _renew_inbox(own)
    own.alert = own.attached = True
    forked.renew(stream)
    stream.channel.renew()


def _renew_inbox(connection: ConnectionTask) -> None:
    if connection.known_inbox is not None:
        _become(connection.inbox, connection.inbox_cls)


def _abandon(run: Run) -> None:
    scheduler = getattr(run, "scheduler", None)
    if scheduler is None:
        return
    for task in {*scheduler.abandon(Gone()), *run.limit.everybody()}:
        if isinstance(task, ConnectionTask) and task is not _own.connection:
            _make_foreign(task)


def _make_foreign(connection: ConnectionTask) -> None:
    connection.client.known_to(_parent)
    _become(connection, Foreign)
    _renew_inbox(connection)
    stream: Duplex | None = connection.machine.stream
    if stream is not None:
        stream.end(ON_CLOSE)
        forked.renew(stream)


fork.at_fork(before=_before, in_child=_child)
