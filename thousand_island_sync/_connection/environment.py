"""What the connections of one run of a server share."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any, Protocol

from .._base.clock import Clock
from .._scheduler.task import Task
from .._scheduler.timers import Timer
from ..handler import Handler


class Pool(Protocol):
    """What a connection needs of the scheduler; a task is the connection's, or `Linger`."""

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


class Environment:
    """What the connections of one run of a server share.

    Times are seconds. `stopping` is set once, by the stop, before it makes the
    connections ready; `interrupt` is the descriptor that ends waiting reads then.
    """

    def __init__(
        self,
        *,
        server: Any,
        handler_cls: type[Handler],
        handler_options: Any,
        context: contextvars.Context,
        read_timeout: float,
        send_timeout: float,
        handshake_timeout: float,
        max_pending: int | None,
        clock: Clock,
        opened: Callable[[Any], None],
        ended: Callable[[Any], None],
        refused: Callable[[Any, BaseException], None],
        probed: Callable[[], None],
        interrupt: int | None = None,
        max_unread: int = 1_048_576,
    ) -> None:
        self.server = server
        self.handler_cls = handler_cls
        self.handler_options = handler_options
        self.context = context
        self.read_timeout = read_timeout
        self.send_timeout = send_timeout
        self.handshake_timeout = handshake_timeout
        self.max_pending = max_pending
        self.max_unread = max_unread
        self.clock = clock
        self.opened = opened
        self.ended = ended
        self.refused = refused
        self.probed = probed
        self.interrupt = interrupt
        self.stopping = False
        self.pool: Pool
