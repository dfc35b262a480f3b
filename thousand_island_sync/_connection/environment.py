"""What the connections of one run of a server share."""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from .._base.clock import REAL, Clock, Times, now
from .._scheduler.task import Task
from .._scheduler.timers import Timer
from .._stream.unsent_total import UnsentTotal
from ..handler import Handler, has_framing
from .reserve import Reserve
from .states import SERVING, Stage


class Pool(Protocol):
    """What a connection needs of the scheduler; a task is the connection's, or `Linger`."""

    #: Whether a reset of a parked connection leads to a run, though nothing is read.
    tells_resets: bool

    def make_ready(self, task: Any) -> None: ...
    def start(self, timer: Timer) -> None: ...
    def soon(self, call: Callable[[], object]) -> None: ...
    def cancel(self, timer: Timer) -> None: ...
    def detach(self, task: Any) -> None: ...
    def forget(self, task: Any) -> None: ...
    def replace(self, task: Any, successor: Task) -> None: ...
    def attach(self, task: Any) -> None: ...
    def runs(self, task: Any) -> bool: ...
    def release(self, task: Any) -> None: ...
    def watch_writes(self, task: Any) -> None: ...


class Limits(NamedTuple):
    """What a connection may take: times in seconds, and bytes; `most_senders`: how many threads may
    wait in sends."""

    read_timeout: float
    send_timeout: float
    handshake_timeout: float
    max_pending: int | None
    max_unread: int = 1_048_576
    max_unsent: int = 262_144
    max_unsent_total: int = 67_108_864
    most_senders: int = 64


class Handlers:
    """Makes the handlers of one run, each with a context of its own.

    Args:
        cls: their class.
        options: what each of them gets.
        context: that of the code that started the server; each handler gets a copy.
    """

    def __init__(self, cls: type[Handler], options: Any, context: contextvars.Context) -> None:
        self._cls = cls
        #: Makes one, to be called in its own context. Raises BaseException: what its `__init__`
        #: raised.
        self.new: Callable[[], Handler] = functools.partial(cls, options)
        self.new_context = context.copy
        self.name = cls.__name__
        self.framed = has_framing(cls)
        self.drain = cls.handle_drain is not Handler.handle_drain

    def may_make(self, handler: Handler) -> bool:
        """Whether it may be one of theirs; a class with a `__new__` may make any. Thread: any."""
        return isinstance(handler, self._cls) or self._cls.__new__ is not object.__new__


class Census(Protocol):
    """Keeps count of connections. Thread: the owner's of each."""

    def opened(self, connection: Any, /) -> None: ...
    def ended(self, connection: Any, /) -> None: ...
    def refused(self, connection: Any, error: BaseException, /) -> None:
        """Its handler could not be made."""

    def probed(self) -> None:
        """The peer has ended one before its first byte."""


class Environment:
    """What the connections of one run of a server share.

    `stage` is what the server asks of all of them: a drain or a stop changes it before it makes
    them ready. Thread: that of the change; any may read it. `interrupt` is the descriptor that
    ends waiting reads in a stop. `times` has the clocks; `clock` is that of time-outs.
    `handshaking` has the connections that wait for their peer in a handshake.
    """

    def __init__(
        self,
        server: Any,
        handlers: Handlers,
        limits: Limits,
        census: Census,
        clock: Clock,
        interrupt: int | None = None,
    ) -> None:
        self.server = server
        self.handlers = handlers
        self.limits = limits
        self.census = census
        self.interrupt = interrupt
        self.stage = SERVING
        self.handshaking: set[Any] = set()
        self.unsent = UnsentTotal(limits, clock)
        self.reserve = Reserve(limits.most_senders, now)
        self.unsent.waiting = self.reserve.begins_to_wait
        self.go_by(REAL if clock is now else Times(clock, clock))
        self.pool: Pool

    def move(self, moves: Mapping[Stage, Stage]) -> None:
        """A drain (`ON_DRAIN`) or a stop (`ON_STOP`) begins."""
        self.stage = moves.get(self.stage, self.stage)

    def go_by(self, times: Times) -> None:
        """Sets the clocks, before the first connection."""
        self.times = times
        self.clock = times.clock
        self.unsent.go_by(times)
