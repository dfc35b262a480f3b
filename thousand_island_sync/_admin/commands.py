"""What may be asked of servers over the admin socket: each command, what it takes, what it does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, Protocol

from .._base import addresses
from .._base.clock import now_ns
from .._base.listen_errors import no_thread
from .._base.nearest import nearest
from .._base.own_threads import launch
from .._base.supervised import say
from .._scheduler.worker import Running
from ..connection import Connection
from ..errors import ConfigError, ThousandIslandError
from ..logger import LEVELS, LogLevel
from ..server import ThousandIsland, run_of
from .stacks import CallbackWatch, stacks

#: The version of the protocol.
VERSION = 1
#: Connections that are listed where no limit is given.
LISTED = 1_000
#: Figures of several servers of which the highest counts, and not the sum.
_HIGHEST = {"oldest_wait_ms"}
#: The first of these that one of several servers is in is the status of all.
_STATUSES = ("stopping", "draining", "suspended", "new", "stopped", "running")
_STATES = {"running": "ready", "new": "starting", "stopping": "draining"}


class Control(Protocol):
    """What commands change, beside single servers. Thread: any."""

    def reload(self, *, certificates: bool) -> None:
        """Raises ThousandIslandError: it is refused, and the old holds."""

    def stop(self) -> None:
        """Begins it, and returns."""

    def drain(self) -> None:
        """Begins it, and returns."""

    def log_level(self, level: LogLevel) -> None: ...


class Command(NamedTuple):
    """A command.

    Attributes:
        run: gets what was asked for, and gives the answer's keys.
        takes: keys beside `v` and `do`: what is said of each, its type, and whether it must be
            given.
    """

    run: Callable[[Mapping[str, Any]], dict[str, Any]]
    takes: Mapping[str, tuple[str, type, bool]] = {}


class Refused(Exception):
    """What was asked for is not done; its text says why."""


_SWITCH = ("true or false", bool, False)


class Commands:
    """Of some servers. Thread: any.

    Args:
        servers: which.
        control: stops, drains and reloads all of them.
        watch: knows their callbacks.
    """

    def __init__(
        self, servers: Sequence[ThousandIsland], control: Control, watch: CallbackWatch
    ) -> None:
        self._servers = servers
        self._control = control
        self._watch = watch
        self._commands: dict[str, Command] = {
            "info": Command(lambda asked: {"info": summary(servers)}),
            "workers": Command(lambda asked: {"workers": [worker(servers)]}),
            "connections": Command(
                self._connections, {"limit": ("a whole number, 0 or more", int, False)}
            ),
            "close": Command(self._close, {"id": ("a connection's id", str, True)}),
            "suspend": Command(lambda asked: self._each_server(ThousandIsland.suspend)),
            "resume": Command(lambda asked: self._each_server(ThousandIsland.resume)),
            "drain": Command(lambda asked: _without_answer(control.drain)),
            "reload": Command(self._reload, {"wait": _SWITCH, "certificates": _SWITCH}),
            "stop": Command(lambda asked: _without_answer(control.stop)),
            "dump": Command(lambda asked: {"stacks": stacks(watch)}),
            "log-level": Command(self._log_level, {"level": (", ".join(LEVELS), str, True)}),
        }

    def answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a line."""
        try:
            return {"ok": True, **self._command(asked).run(asked)}
        except Refused as refused:
            return {"ok": False, "error": str(refused)}
        except ThousandIslandError as error:
            return {"ok": False, "error": " ".join(str(error).split())}

    def _command(self, asked: Mapping[str, Any]) -> Command:
        version, do = asked.get("v"), asked.get("do")
        if version != VERSION or isinstance(version, bool):
            raise Refused(f"v: got {_short(version)}, takes {VERSION}")
        command = self._commands.get(do) if isinstance(do, str) else None
        if command is None:
            takes = ", ".join(self._commands) + near(do, self._commands)
            raise Refused(f"do: got {_short(do)}, takes {takes}")
        for key in asked:
            if key not in ("v", "do") and key not in command.takes:
                takes = ", ".join(command.takes) or "nothing else"
                raise Refused(f"{_short(key)}: {do} takes {takes}{near(key, command.takes)}")
        for key, (takes, kind, required) in command.takes.items():
            if key not in asked and not required:
                continue
            value = asked.get(key)
            if type(value) is not kind or (isinstance(value, int) and value < 0):
                raise Refused(f"{key}: got {_short(value)}, takes {takes}")
        return command

    # ---- asking ---------------------------------------------------------------------

    def _connections(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        found = [one for server in self._servers for one in server.connections()]
        limit = asked.get("limit", LISTED)
        return {"connections": [_shown(one) for one in found[:limit]], "total": len(found)}

    # ---- changing -------------------------------------------------------------------

    def _close(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        wanted = asked["id"]
        for server in self._servers:
            for connection in server.connections():
                if connection.id == wanted:
                    connection.close()
                    return {}
        raise Refused(f"id: there is no open connection {_short(wanted)}")

    def _each_server(self, change: Callable[[ThousandIsland], object]) -> dict[str, Any]:
        for server in self._servers:
            change(server)
        return {}

    def _reload(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        # It is a matter of moments in one process, so it is always waited for.
        self._control.reload(certificates=asked.get("certificates", False))
        return {}

    def _log_level(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        if asked["level"] not in LEVELS:
            raise Refused(f"level: got {_short(asked['level'])}, takes {', '.join(LEVELS)}")
        self._control.log_level(asked["level"])
        return {}


def _without_answer(change: Callable[[], None]) -> dict[str, Any]:
    change()
    return {}


def begin(change: Callable[[], object], name: str) -> None:
    """Makes a change that takes as long as clients do, on a thread of its own.

    Raises:
        ThousandIslandError: no thread can be started.
    """

    def run() -> None:
        try:
            change()
        except Exception as error:
            say(f"{name}, asked for over the admin socket, failed", error)

    try:
        launch(run, f"admin-{name}")
    except RuntimeError as error:
        raise no_thread(name, error) from error


def check_servers(named: str, servers: Sequence[object]) -> None:
    """Looks at the servers that something is made for.

    Raises:
        ConfigError: there is no server, or one of them is none.
    """
    for server in servers:
        if not isinstance(server, ThousandIsland):
            raise ConfigError(f"{named}: got {server!r}, takes ThousandIsland servers")
    if not servers:
        raise ConfigError(f"{named}: takes at least one server")


def running(servers: Iterable[ThousandIsland]) -> list[Running]:
    """What their pools' threads run at this moment. Thread: any."""
    runs = [run for server in servers if (run := run_of(server)) is not None]
    return [one for run in runs for one in run.running()]


def summary(servers: Sequence[ThousandIsland]) -> dict[str, Any]:
    """`info()` of a server; of several the sums, with those of each under `servers`."""
    each = [{"name": server.name, **asdict(server.info())} for server in servers]
    if len(each) == 1:
        return each[0]
    found: dict[str, Any] = {}
    for name in each[0]:
        values = [one[name] for one in each]
        numbers = [one for one in values if isinstance(one, (int, float))]
        if name == "status":
            found[name] = _status(servers)
        elif not numbers:
            found[name] = values[0]
        elif isinstance(numbers[0], bool):
            found[name] = any(numbers)
        else:
            found[name] = max(numbers) if name in _HIGHEST else sum(numbers)
    return {**found, "servers": each}


def _status(servers: Sequence[ThousandIsland]) -> str:
    present = {server.status for server in servers}
    return next((one for one in _STATUSES if one in present), "running")


def worker(servers: Sequence[ThousandIsland]) -> dict[str, Any]:
    """This process, as one of its kind."""
    status = _status(servers)
    infos = [server.info() for server in servers]
    return {
        "pid": os.getpid(),
        "state": _STATES.get(status, status),
        "connections": sum(info.active_connections for info in infos),
        "busy_threads": sum(info.busy_threads for info in infos),
    }


def _shown(connection: Connection) -> dict[str, Any]:
    return {
        "id": connection.id,
        "peer": addresses.show(connection.peername),
        "server": connection.server.name,
        "age_ms": (now_ns() - connection.accepted_at_ns) // 1_000_000,
        "unsent": connection.unsent,
        "pending": connection.pending,
    }


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def near(word: object, known: Iterable[str]) -> str:
    """What a misspelt word meant, for the end of a message."""
    meant = nearest(word, known)
    return "" if meant is None else f"; the nearest is {meant}"
