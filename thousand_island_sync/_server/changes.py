"""Changes of a server's status: `start`, `stop`, `suspend`, `resume`, and `wait`.

The facts. Ctrl-C is raised between any two bytecodes of the main thread; a signal handler, or a
`__del__` that the collector runs, calls `stop` in the middle of a `start` on the same thread; a
receiver never returns. If changes were made under a lock, each of the three could leave a server
half open, or block for ever.

Our decision. A change is made on a thread of its own (`own_threads`), where no signal handler runs,
one at a time (`status.Turns`). The calling thread holds no lock: it starts that thread and waits
for a latch. So Ctrl-C ends the wait, and not the change. The caller does not wait at all if its
thread waits for another change already, or is a thread of the library outside user code. Receivers
of a change are called without its turn: those of `start`, `suspend` and `resume` on the calling
thread, those of a stop on a thread for which the stop need not wait.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from .._base import waits
from .._base.clock import FOREVER, now
from .._base.latch import Latch
from .._base.patched import patched_by
from .._base.supervised import say
from .._base.types import Status
from ..errors import ListenError, ServerNotRunning, ThousandIslandError
from .asked import Asking, Caller, Change
from .config import Config
from .current_transport import CurrentTransport
from .run import Run
from .run_events import ListenerEvents
from .status import (
    ANSWERS,
    DRAINING,
    NEW,
    RUNNING,
    STOPPED,
    STOPPING,
    SUSPENDED,
    Answer,
    Ask,
    Turns,
)

#: What a stop may take beyond its timeout until its caller is answered, in seconds.
_ANSWER_S = 0.42
#: Seconds that a start which was interrupted waits until it is taken back.
_TAKE_BACK_S = 2.0
#: How often a stop is begun again after an exception.
_ATTEMPTS = 3

#: Status, run and port, as they were before a start.
Before = tuple[str, "Run | None", int]


class Changes:
    """Of one server. Thread: any may ask, signal handlers and `__del__` included.

    Args:
        server: the `ThousandIsland`, which events name.
        config: its options.
        transport: has the transport for new connections.
    """

    def __init__(self, server: Any, config: Config, transport: CurrentTransport) -> None:
        self._server = server
        self._config = config
        self._transport = transport
        self._events = ListenerEvents(server, transport)
        self._asking = Asking(config.name)
        self._turns = Turns()
        self._stopped = Latch()
        self._asked = False
        self.status: Status = NEW
        self.run: Run | None = None
        self.port = config.port
        self.pid: int | None = None

    # ---- whose it is ------------------------------------------------------------

    def is_the_parents(self) -> bool:
        """Whether it was started before this process was forked."""
        return self.pid is not None and self.pid != os.getpid()

    def check_process(self) -> None:
        """Raises ThousandIslandError: it is the parent's."""
        if self.is_the_parents():
            raise ThousandIslandError(
                "this server was started before the fork and belongs to the parent process;"
                " make a new one in the child"
            )

    # ---- what is asked for ------------------------------------------------------

    def start(self) -> None:
        """See `ThousandIsland.start`."""
        _check_threads()
        self._asked = True
        context = contextvars.copy_context()
        change = Change(lambda: self._start(change, context))
        try:
            if not self._asking.ask(change, named="start"):
                raise ThousandIslandError(
                    "start: this thread is inside start, stop, suspend or resume of this server, or"
                    " is one of the server's own outside callbacks and receivers; call start() on"
                    " another thread"
                )
            change.outcome()
        except BaseException as error:
            if change.is_or_may_be_made():
                self._take_back(change)
            elif isinstance(error, ListenError):
                self._events.failed(error)
            raise

    def stop(self, timeout: float) -> bool:
        """See `ThousandIsland.stop`; `timeout` in seconds."""
        deadline = now() + timeout
        return self._end(lambda runs, caller: self._stop(runs, caller, deadline), deadline)

    def drain(self, delay: float, timeout: float) -> bool:
        """See `ThousandIsland.drain`; both in seconds."""
        until = now() + delay

        def work(stopping: list[Run], caller: Caller) -> bool:
            self._begin_drain(delay, caller, until)
            return self._stop(stopping, caller, now() + timeout)

        return self._end(work, until + timeout)

    def _end(self, work: Callable[[list[Run], Caller], bool], deadline: float) -> bool:
        """What ends in a stop, by then. `work` gets a list in which it notes what it stops."""
        if not self._asked:
            return True
        caller = Caller()
        stopping: list[Run] = []
        change = Change(lambda: work(stopping, caller))
        try:
            done = self._asking.ask(change, until=deadline + _ANSWER_S)
        finally:
            caller.leave()
            for run in list(stopping):
                run.stop.go_on_without(caller.task)
        if change.left:
            return False
        for run in list(stopping):
            run.stop.was_told(done)
            run.stop.drain.was_told()
        return done and bool(change.outcome())

    def suspend(self) -> None:
        """See `ThousandIsland.suspend`."""
        change = Change(lambda: self._suspend(change))
        self._asking.ask(change)
        change.outcome()

    def resume(self) -> None:
        """See `ThousandIsland.resume`."""
        change = Change(lambda: self._resume(change))
        try:
            self._asking.ask(change, named="resume")
            change.outcome()
        finally:
            if not change.left:
                change.tell()

    def wait(self, timeout: float) -> bool:
        """See `ThousandIsland.wait`; `timeout` in seconds."""
        if not self._asking.may_wait(sys._getframe(1)):
            raise ThousandIslandError(
                "wait: this thread is inside start, stop, suspend or resume of this server, or is"
                " one of the server's own outside callbacks and receivers, so it would wait for"
                " itself; call wait() on another thread"
            )
        stopped = self._stopped
        waits.before_wait()
        return stopped.wait(timeout)

    def blocked(self, ident: int) -> bool:
        """Whether a thread waits for a change, which so must not wait for it. Thread: any."""
        return self._asking.blocked(ident)

    def shown(self) -> Status:
        """The status, as users see it: it does not claim to serve where nobody is accepted."""
        status, run = self.status, self.run
        if status == RUNNING and run is not None and not run.listener.serves():
            # Unless it was suspended, or stops, since it was looked at.
            return SUSPENDED if self.status == RUNNING else self.status
        return status

    # ---- the changes: on threads that were made for them -------------------------

    def _start(self, change: Change, context: contextvars.Context) -> Before:
        with self._turns:
            if ANSWERS[self.status, Ask.START] is not Answer.GO:
                raise ThousandIslandError(
                    f"start: the server is {self.status} already; call stop() first, or make"
                    " another server"
                )
            run = Run(
                self._server,
                self._config,
                self._transport,
                context,
                self,
            )
            before = self.status, self.run, self.port
            pid, self.port = self.pid, self._config.port
            self.pid = os.getpid()  # its threads may fork at once
            try:
                run.open(self.port, lambda: self._listens(run))
                if self.status == STOPPED:
                    self._stopped = Latch()
                change.then(partial(self._events.started, run.listener.address, self.port))
                change.result = before
                self.status = RUNNING
            except BaseException:
                change.result = None
                self.status, self.run, self.port = before
                self.pid = pid
                run.take_back()
                raise
        return before

    def _listens(self, run: Run) -> None:
        self.run = run
        address = run.listener.address
        if isinstance(address, tuple):
            self.port = address[1]

    def _take_back(self, start: Change) -> None:
        """A start that was interrupted leaves nothing: it is stopped as soon as it is through."""
        if start.begin():
            return  # and so will never be

        def work() -> None:
            start.wait(FOREVER)
            if start.result is not None:
                run = self.run
                self._stop([], Caller(), now())
                with self._turns:
                    if self.run is run and self.status == STOPPED:
                        self.status, self.run, self.port = start.result
                        if self.status == NEW:
                            self._stopped = Latch()

        change = Change(work)
        with contextlib.suppress(RuntimeError):
            self._asking.make(change, now() + _TAKE_BACK_S)

    def _begin_drain(self, delay: float, caller: Caller, until: float) -> None:
        """Returns when it is time to stop."""
        with self._turns:
            run, serves = self.run, self.shown() in (RUNNING, DRAINING)
            if run is not None and ANSWERS[self.status, Ask.DRAIN] is Answer.GO:
                self.status = DRAINING
                run.stop.drain.begin(delay, caller)
        try:
            if run is not None:
                run.stop.drain.wait(until if serves else now())
        except BaseException as error:
            say("the delay of a drain was broken off, and the server stops", error)

    def _stop(self, stopping: list[Run], caller: Caller, deadline: float) -> bool:
        with self._turns:
            run = self.run
            if run is None:
                return True
            stopping.append(run)
            run.stop.drain.end()
            status = self.status
            if ANSWERS[status, Ask.STOP] is Answer.NOTHING:
                return run.stop.result_to_tell()
            if status != STOPPING:  # a stop that is under way may end at any moment
                self.status = STOPPING
        for _ in range(_ATTEMPTS):
            try:
                return run.stop.take_part(deadline, caller)
            except BaseException as error:
                say("a stop was broken off and goes on", error)
        return False

    def finished(self, run: Run) -> None:
        stopped = self._stopped  # read first: once the status shows it, a new start may come
        if self.run is run and self.status == STOPPING:
            self.status = STOPPED
            stopped.open()

    def _to_change(self, ask: Ask) -> Run | None:
        """The run that is asked for something; `None`: there is nothing to do. With the turn.

        Raises:
            ServerNotRunning: there is no run.
        """
        answer = ANSWERS[self.status, ask]
        if answer is Answer.NOT_RUNNING:
            raise ServerNotRunning(f"{ask.value}: the server is {self.status}; call start() first")
        return None if answer is Answer.NOTHING else self.run

    def _suspend(self, change: Change) -> None:
        with self._turns:
            run = self._to_change(Ask.SUSPEND)
            if run is None:
                return
            address = run.listener.address
            try:
                run.close_listener()
            finally:
                self.status = SUSPENDED
        change.then(lambda: self._events.suspended(address))

    def _resume(self, change: Change) -> None:
        with self._turns:
            run = self._to_change(Ask.RESUME)
            if run is None:
                return
            try:
                run.listen_again(self.port)
                address = run.listener.address
                self.status = RUNNING
            except BaseException as error:
                self.status = SUSPENDED
                run.close_listener()
                if isinstance(error, ListenError):
                    change.then(partial(self._events.failed, error))
                raise
        change.then(lambda: self._events.resumed(address))


def _check_threads() -> None:
    patcher = patched_by()
    if patcher is not None:
        raise ThousandIslandError(
            f"start: this process was monkey-patched by {patcher}, so its threads, locks and"
            f" sockets are {patcher}'s, and a server of threads cannot run on them; start it in"
            " a process that is not patched, or exclude thread, socket and select from the"
            " patching"
        )
