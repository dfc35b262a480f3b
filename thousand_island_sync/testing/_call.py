"""`call`: a handler's whole life in memory, step by step, on a clock that only steps move.

It is not a second implementation: the connection is that of a real server, on a channel that
delivers what the steps say. In place of the scheduler a loop on the caller's thread runs the
connection when something has come, or its deadline.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Unpack

from .. import events
from .._base import waits
from .._base.clock import FOREVER, Times, seconds
from .._base.types import Buffer, SocketAddress
from .._connection.environment import Environment, Handlers
from .._connection.states import ON_STOP, STOPPING
from .._scheduler.task import AGAIN, DONE, Task
from .._scheduler.timers import Timer, Timers
from .._server.config import Config
from .._server.option_types import ServerOptions
from .._stream.states import AFTER_END, AFTER_RESET
from ..errors import MailboxFull, SocketClosed
from ..handler import Handler
from ..server import ThousandIsland, config_of
from ._in_memory import MemoryConnection, Peer, ThisThread
from ._steps import EOF, RESET, Advance, Post, Step, Stop, checked
from ._transcript import Transcript

#: A connection that is still not at rest after so many runs is taken to run for ever.
_MOST_RUNS = 100_000
#: Seconds. What is due within this of a time is due then: sums of times are rounded.
_ROUNDED = 1e-9


def call(
    handler_cls: type[Handler],
    *steps: Step | Buffer,
    options: Any = None,
    peer: SocketAddress = ("192.0.2.1", 50_000),
    **server_options: Unpack[ServerOptions],
) -> Transcript:
    """Runs a handler in memory: no socket, no thread, no event, nothing logged.

    It runs the connection of a real server, with its time-outs and limits. The clock stands still;
    only `advance`, and a callback that waits for bytes in vain, move it.

    Args:
        handler_cls: a subclass of `Handler`.
        steps: what happens, in order. `bytes` come in one piece, for one `handle_data` each, unless
            a callback reads them, or framing cuts them differently; `EOF`, `RESET`,
            `advance(ms)`, `post(message)`, `stop()`. A callback that reads takes the next steps;
            if no step is left, its read times out, and the clock moves to that time. After the
            last step the connection stays open; steps after its end are dropped.
        options: given to the handler, as `handler_options`.
        peer: the client's address.
        server_options: as for `ThousandIsland`.

    Returns:
        A `Transcript`: the bytes sent, the callbacks that have run, and the end.

    Raises:
        AssertionError: a callback waits for bytes without a time-out, and no step is left; or the
            connection never comes to rest.
        ConfigError: as for `ThousandIsland`.
        TypeError: one of the steps is not a step.
        ValueError: a step is `b""`.
        MailboxFull: `max_pending_messages` posted messages wait already.

    Thread: any; it runs everything on that thread.
    """
    taken = deque(checked(step) for step in steps)
    if options is not None:
        server_options["handler_options"] = options
    server = ThousandIsland(handler_cls=handler_cls, **server_options)
    rehearsal = Rehearsal(server, config_of(server), taken, peer)
    with events.none_of(server), rehearsal.on_this_thread():
        rehearsal.play()
    return rehearsal.transcript()


class Rehearsal:
    """One `call`: the steps that are left, the clock, and the work of a scheduler.

    It is also the connection's `Pool` (`_connection.environment`).
    """

    tells_resets = True

    def __init__(
        self, server: ThousandIsland, config: Config, steps: deque[Step], address: Any
    ) -> None:
        self._steps = steps
        self._time = 0.0
        self._timers = Timers()
        self._errands: deque[Callable[[], object]] = deque()
        self._ready = True
        self._over = False
        self._failure: Exception | None = None
        self._shutdown = seconds(config.shutdown_timeout_ms)
        self._peer = Peer()
        self._env = Environment(
            server,
            Handlers(config.handler_cls, config.handler_options, contextvars.copy_context()),
            config.limits(),
            self,
            self._clock,
            -1 if config.interrupt_reads else None,
        )
        self._env.go_by(Times(self._clock, self._clock, FOREVER))
        self._env.pool = self
        self._task = MemoryConnection(self._env, address, self._peer, self._wait)

    def _clock(self) -> float:
        return self._time

    @contextlib.contextmanager
    def on_this_thread(self) -> Iterator[None]:
        """The calling thread runs the connection, and nothing else."""
        before = waits.current_worker()
        waits.this_thread_is(ThisThread(self._task))
        try:
            yield
        finally:
            waits.this_thread_is(before)

    def transcript(self) -> Transcript:
        record, sends = self._task.record, self._peer.sends
        return Transcript(
            b"".join(sends), list(sends), list(record.callbacks), record.ended, record.error
        )

    # ---- the steps ------------------------------------------------------------------

    def play(self) -> None:
        """Takes all steps.

        Raises:
            AssertionError, MailboxFull: as for `call`.
        """
        self._run_until_it_waits()
        while self._steps and not self._over:
            step = self._steps.popleft()
            if isinstance(step, Advance):
                self._advance(step.ms / 1000)
            else:
                self._do(step)
                self._run_until_it_waits()
        self._time_out_the_stop()
        if self._failure is not None:
            raise self._failure

    def _do(self, step: Step) -> None:
        """A step that takes no time."""
        if isinstance(step, bytes):
            self._peer.arrived.append(step)
        elif step is EOF:
            self._peer.does(AFTER_END)
        elif step is RESET:
            self._peer.does(AFTER_RESET)
            self._task.hung_up = True
        elif isinstance(step, Post):
            try:
                self._task.handle.post(step.message)
            except SocketClosed:
                pass  # it is about to end
            except MailboxFull as error:  # for the test, not for the callback that reads now
                self._failure = error
        elif isinstance(step, Stop):
            self._env.move(ON_STOP)
            self._task.stop_begins()
            self._stop_at = self._time + self._shutdown
        self._ready = True

    def _advance(self, duration: float) -> None:
        target = self._time + duration
        while not self._over:
            due = min(self._timers.next(), self._task.deadline)
            if due > target + _ROUNDED:
                break
            self._move(due)
            self._ready = True
            self._run_until_it_waits()
        self._move(target)

    def _time_out_the_stop(self) -> None:
        """Moves the clock to the end of a stop: its deadline, or what is due before."""
        while self._env.stage is STOPPING and not self._over:
            due = min(self._timers.next(), self._task.deadline, self._stop_at)
            if due == FOREVER:
                return
            self._move(due)
            if due >= self._stop_at:
                self._task.cut_off()
            self._ready = True
            self._run_until_it_waits()

    def _move(self, when: float) -> None:
        """Moves the clock, and calls the timers that become due."""
        while self._timers.next() <= when + _ROUNDED:
            self._time = max(self._time, self._timers.next())
            for call in self._timers.due(self._time):
                call()
        self._time = max(self._time, when)

    def _wait(self, length: int, timeout: float) -> bytes | None:
        """A callback reads, and nothing is there: it takes the next steps."""
        end = self._time + timeout
        while True:
            data = self._peer.take(length)
            if data is not None:
                return data
            reader = self._task.machine.stream.reader
            if self._task.interrupt() is not None and not reader.owes_an_answer():
                return None
            if not self._steps:
                if end == FOREVER:
                    raise self._nothing_to_read()
                self._move(end)
            elif isinstance(self._steps[0], Advance):
                target = self._time + self._steps.popleft().ms / 1000  # type: ignore[union-attr]
                self._move(end if target > end - _ROUNDED else target)
                if target > end + _ROUNDED:
                    self._steps.appendleft(Advance((target - end) * 1000))
            else:
                self._do(self._steps.popleft())
            if self._time >= end:
                return None

    def _nothing_to_read(self) -> AssertionError:
        name = self._task.record.callbacks[-1][0] if self._task.record.callbacks else "__init__"
        self._failure = failure = AssertionError(
            f"call: {name} waits for bytes without a time-out, and no step is left: add one (bytes,"
            " EOF, advance(ms), ...), or give the handler a time-out"
        )
        return failure

    # ---- what a scheduler does --------------------------------------------------------

    def _run_until_it_waits(self) -> None:
        """Runs the connection until it waits for the next step, or has ended."""
        for _ in range(_MOST_RUNS):
            while self._errands:
                self._errands.popleft()()
            if not self._ready or self._over:
                return
            self._ready = False
            given = self._peer.given
            verdict = self._task.run()
            self._over = verdict == DONE
            # More that came, of which the descriptor would tell once more.
            more = self._peer.waits and self._peer.given != given
            self._ready |= verdict == AGAIN or more or self._task.deadline <= self._time
        raise AssertionError(
            f"call: the connection has run {_MOST_RUNS} times and has something to do still; does"
            " the handler post messages to itself without end?"
        )

    def make_ready(self, task: Any) -> None:
        self._ready = True

    def soon(self, call: Callable[[], object]) -> None:
        self._errands.append(call)

    def start(self, timer: Timer) -> None:
        self._timers.put(timer)

    def cancel(self, timer: Timer) -> None:
        self._timers.cancel(timer)

    def attach(self, task: Any) -> None:
        task.attached = True

    def detach(self, task: Any) -> None:
        pass

    def forget(self, task: Any) -> None:
        task.attached = False

    release = watch_writes = forget

    def replace(self, task: Any, successor: Task) -> None:
        pass

    def runs(self, task: Any) -> bool:
        return False

    # ---- what keeps count ---------------------------------------------------------------

    def opened(self, connection: Any, /) -> None:
        pass

    ended = opened

    def refused(self, connection: Any, error: BaseException, /) -> None:
        self._task.record.ended, self._task.record.error = "error", error

    def probed(self) -> None:
        pass
