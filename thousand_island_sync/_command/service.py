"""What the command line tells systemd of itself (sd_notify(3)), where NOTIFY_SOCKET asks for it.

The facts. systemd starts what comes after a service when that says READY=1, and kills one that has
not said WATCHDOG=1 for WatchdogSec=. A thread that does nothing else would say so for a server
whose poll loop stands still, and a thread of the pool would not, where all are in callbacks that
wait.

Our decision: timers in the scheduler's own table of deadlines, which whoever polls fires. So a
message costs nothing, and what says that it is alive is what reads from clients. Where a process
has several servers, it is alive when each of them has said so since the last time. All the rest
that comes by time (STATUS=, EXTEND_TIMEOUT_USEC=) comes with these timers, too.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from types import TracebackType
from typing import Any

from .. import events, systemd
from .._base import addresses
from .._base.clock import FOREVER, now, seconds
from .._base.supervised import say
from .._scheduler.timers import Timer
from ..errors import ServerNotRunning
from ..server import ThousandIsland, config_of, run_of

#: Seconds between two lines of STATUS= at least.
_STATUS_S = 5.0
#: Seconds between two extensions of a stop, at least and at most; and what each has beyond the
#: stop's own time: for cutting, joining, and the log's last lines.
_EXTEND_S = 0.2, 1.0
_GRACE_S = 2.0
#: A stop without a limit is never over half of its time: it is extended by so much each time.
_WITHOUT_LIMIT_S = 30.0


#: Nobody is to be busy with saying that he is alive.
_LEAST_S = 0.001


class _Phase(Enum):
    """What systemd knows."""

    STARTING = "nothing yet"
    SERVING = "READY=1"
    STOPPING = "STOPPING=1"


class Service:
    """Tells systemd of some servers, within a `with`. Does nothing where nobody listens.

    Args:
        servers: which.
        environment: has WATCHDOG_USEC and WATCHDOG_PID.

    Raises:
        OSError: no descriptor is free.
    """

    def __init__(
        self, servers: Sequence[ThousandIsland], environment: Mapping[str, str] = os.environ
    ) -> None:
        self._servers = servers
        self._notifications = systemd.Notifications()
        wanted = self._notifications.are_wanted
        self._watchdog = _Watchdog(watchdog_interval(environment) if wanted else FOREVER)
        self._status = _Status(servers)
        self._phase = _Phase.STARTING
        self._is_owed = False  # it could not be told of the phase: the next beat tells
        self._first_end = deque([None])  # taken by who says that it ends
        self._stop_began = self._stop_ends = self._half = FOREVER
        self._beats: dict[int, _Beats] = {}
        self._receivers: list[tuple[Any, Callable[..., None], ThousandIsland]] = []
        if wanted:
            for server in servers:
                self._receivers.append((events.listener_start, self._started, server))
                self._receivers.append((events.listener_drain, self._drains, server))
                self._receivers.append((events.listener_shutdown, self._stops, server))

    def __enter__(self) -> Service:
        for signal, receiver, server in self._receivers:
            signal.connect(receiver, sender=server)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for signal, receiver, server in self._receivers:
            signal.disconnect(receiver, sender=server)
        if self._phase is _Phase.SERVING:
            self._stop_begins(0.0)
        if self._is_owed:
            self._tell_phase(wait=False)
        for beat in list(self._beats.values()):
            beat.end()
        self._notifications.close()

    # ---- what happens ---------------------------------------------------------------

    def ready(self) -> None:
        """All of them serve, and signals are heeded."""
        if self._phase is _Phase.STARTING:
            self._phase = _Phase.SERVING
            for server in self._servers:
                if self._receivers and id(server) not in self._beats:
                    self._begin_beats(server)  # who made it has started it, too
            self._tell_phase(*self._status.news())

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """While the configuration is read anew, whatever comes of it."""
        serves = self._phase is _Phase.SERVING
        if serves:
            self._notifications.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            yield
        finally:
            if serves and self._phase is _Phase.SERVING:
                self._tell_phase()

    def _tell_phase(self, *more: str, wait: bool = True) -> None:
        """Now, or, where the queue of systemd's socket is full, with the next beat."""
        told = self._notifications.send(self._phase.value, *more, wait=wait)
        self._is_owed = self._notifications.are_wanted and not told
        if self._is_owed:
            for server in self._servers:
                self._begin_beats(server)

    def _started(self, server: ThousandIsland, **event: Any) -> None:
        """Also when it is started again: its poll loop is another one."""
        self._begin_beats(server)

    def _drains(
        self, server: ThousandIsland, *, measurements: Mapping[str, Any], **event: Any
    ) -> None:
        self._stop_begins(measurements["delay_ns"] / 1e9)

    def _stops(self, server: ThousandIsland, **event: Any) -> None:
        self._stop_begins(0.0)

    def _stop_begins(self, delay: float) -> None:
        """All of them stop together. Thread: any; only the first time counts."""
        try:
            self._first_end.pop()
        except IndexError:
            return
        longest = max(seconds(config_of(one).shutdown_timeout_ms) for one in self._servers)
        self._stop_began = now()
        self._stop_ends = self._stop_began + delay + longest
        # The delay takes its time in any case: half of it is soon enough.
        self._half = self._stop_began + (delay if 0 < delay < FOREVER else longest) / 2
        self._phase = _Phase.STOPPING
        self._tell_phase(wait=False)
        for server in self._servers:
            self._begin_beats(server)

    # ---- what comes by time: whoever polls for a server ---------------------------------

    def _begin_beats(self, server: ThousandIsland) -> None:
        run, before = run_of(server), self._beats.pop(id(server), None)
        if before is not None:
            before.end()
        if run is not None:
            beats = self._beats[id(server)] = _Beats(
                run.scheduler.start, lambda: self._beat(server)
            )
            beats.begin(self._next_beat())

    def _next_beat(self) -> float:
        """Seconds until the next beat."""
        least, most = _EXTEND_S
        if self._is_owed:
            return min(least, self._watchdog.next())
        if self._phase is not _Phase.STOPPING:
            most = _STATUS_S
        elif self._stop_ends != FOREVER:
            most = min(most, max(least, (self._half - self._stop_began) / 4))
        return min(most, self._watchdog.next())

    def _beat(self, server: ThousandIsland) -> float:
        """Tells what there is to tell; seconds until the next."""
        try:
            self._tell(server)
        except Exception as error:  # or the next beat would never come
            say("systemd could not be told", error)
        return self._next_beat()

    def _tell(self, server: ThousandIsland) -> None:
        told = []
        self._watchdog.is_alive(server)
        if self._watchdog.is_due(self._servers):
            told.append("WATCHDOG=1")
        if self._phase is _Phase.SERVING and server.status in ("draining", "stopping"):
            self._stop_begins(0.0)  # it was suspended: no event tells of the stop
        if self._phase is _Phase.STOPPING:
            told += self._extension()
        if self._phase is not _Phase.STARTING:
            told += self._status.news()
        if self._is_owed:
            told.insert(0, self._phase.value)
        if told and self._notifications.send(*told, wait=False):
            self._is_owed = False

    def _extension(self) -> list[str]:
        """In the second half of a drain's delay, or of a stop, and from then on."""
        left = self._stop_ends - now()
        if left == FOREVER:
            left = _WITHOUT_LIMIT_S
        elif now() < self._half:
            return []
        return [f"EXTEND_TIMEOUT_USEC={int((max(left, 0.0) + _GRACE_S) * 1e6)}"]


class _Watchdog:
    """When WATCHDOG=1 is due. Thread: the servers' poll loops.

    Args:
        interval: seconds; `FOREVER`: never.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._at = now() + interval
        self._alive: set[int] = set()  # servers that have said so since the last time

    def is_alive(self, server: ThousandIsland) -> None:
        self._alive.add(id(server))

    def is_due(self, servers: Sequence[ThousandIsland]) -> bool:
        """Whether it is time, and each of them is alive, or does not run. Then it counts anew."""
        time_now = now()
        if time_now < self._at:
            return False
        for server in servers:
            if id(server) not in self._alive and server.status not in ("new", "stopped"):
                return False
        self._alive.clear()
        self._at = time_now + self._interval
        return True

    def next(self) -> float:
        """Seconds until it is due; where another server is waited for, until it is late."""
        left = self._at - now()
        return left if left > 0 else self._interval


class _Status:
    """The text of STATUS=."""

    def __init__(self, servers: Sequence[ThousandIsland]) -> None:
        self._servers = servers
        self._told = ""
        self._at = -FOREVER

    def news(self) -> list[str]:
        """The assignment, if there is anything new, and it was not told a moment ago."""
        if now() < self._at + _STATUS_S:
            return []
        text = "; ".join(_shown(server) for server in self._servers)
        if text == self._told:
            return []
        self._told, self._at = text, now()
        return [f"STATUS={text}"]


def _shown(server: ThousandIsland) -> str:
    info = server.info()
    where = ""
    with contextlib.suppress(ServerNotRunning):
        where = f" on {addresses.show(server.local_address)}"
    return (
        f"{info.status}{where}: {info.active_connections} connections,"
        f" {info.busy_threads} threads busy"
    )


class _Beats:
    """Calls something again and again, by timers of one scheduler; ends with that one, or before.

    There are two timers, for one moment. An exception that another thread raises in the
    polling thread may cost one of them; then the other begins it anew.

    Args:
        start: starts a timer there.
        call: what it calls; gives seconds until the next.
    """

    def __init__(self, start: Callable[[Timer], None], call: Callable[[], float]) -> None:
        self._start = start
        self._call = call
        self._over = False
        self._due = [FOREVER, FOREVER]

    def begin(self, delay: float) -> None:
        for which in range(2):
            self._begin_one(which, delay)

    def end(self) -> None:
        self._over = True

    def _begin_one(self, which: int, delay: float) -> None:
        self._due[which] = now() + delay
        self._start(Timer(self._due[which], target=lambda: self.fire(which)))

    def fire(self, which: int) -> None:
        """Its time has come. Thread: the one that polls."""
        if self._over:
            return
        delay, other = self._call(), 1 - which
        self._begin_one(which, delay)
        if now() > self._due[other] + delay:
            self._begin_one(other, delay)


def watchdog_interval(environment: Mapping[str, str]) -> float:
    """Seconds between two of WATCHDOG=1: a third of what systemd waits; `FOREVER`: it does not
    (sd_watchdog_enabled(3))."""
    usec, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if pid and pid != str(os.getpid()):
        return FOREVER
    if not usec.isdecimal() or int(usec) == 0:
        return FOREVER
    return max(int(usec) / 3e6, _LEAST_S)
