"""A logger that is only a set of receivers: attach it to servers that run already.

Each level is a list of events, and includes the levels before it. What peers cause at level
WARNING or ERROR is written ten times a second for each kind (event and type of error), then
how many lines were left out. What the log has already is not written again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

from . import events
from ._base.locks import process_lock
from ._telemetry.log_limit import LineLimit
from .errors import ConfigError

#: What `attach_logger` takes.
LogLevel = Literal["error", "info", "debug", "trace"]
#: Each level's own events, in the order in which the levels include one another.
LEVELS: dict[str, tuple[str, ...]] = {
    level: tuple(name for name, one in events.CATALOGUE.items() if one.level == level)
    for level in ("error", "info", "debug", "trace")
}
_LOGGED_AT = {"error": logging.ERROR, "info": logging.INFO}
_WARNINGS = {"acceptor.spawn_error", "acceptor.accept_error", "pool.saturated"}
_BY_PEERS = {*LEVELS["error"]} - {"listener.error"}

_lock = process_lock("logger")
_attached: dict[str, Callable[..., None]] = {}
_own = _logger = logging.getLogger("thousand_island_sync")


def attach_logger(level: LogLevel = "error", logger: logging.Logger | None = None) -> None:
    """Writes the events of every server of the process to stdlib logging from now on.

    Args:
        level: `"error"`, `"info"`, `"debug"` or `"trace"`; each includes those before.
        logger: where to; the logger `thousand_island_sync` unless given. Attaching
            with another replaces the one before.

    Raises:
        ConfigError: an unknown level, or `logger` is no logger.
    """
    global _logger
    names = _through(level)
    if logger is not None and not hasattr(logger, "isEnabledFor"):
        named = repr(logger) if isinstance(logger, str) else "..."
        raise ConfigError(f"logger: got {logger!r}, takes a logger: logging.getLogger({named})")
    with _lock:
        _logger = logger or logging.getLogger("thousand_island_sync")
        for name in names:
            if name not in _attached:
                receiver = _receiver(name)
                _attached[name] = receiver
                events.ALL[name].connect(receiver, weak=False)


def detach_logger(level: LogLevel = "error") -> None:
    """Stops writing the events of a level and of those after it.

    Raises:
        ConfigError: an unknown level.
    """
    _check(level)
    order = list(LEVELS)
    with _lock:
        for later in order[order.index(level) :]:
            for name in LEVELS[later]:
                receiver = _attached.pop(name, None)
                if receiver is not None:
                    events.ALL[name].disconnect(receiver)
    if level == "error":
        _limit.close()


def _check(level: str) -> None:
    if level not in LEVELS:
        raise ConfigError(f"level: got {level!r}, takes {', '.join(map(repr, LEVELS))}")


def _through(level: str) -> list[str]:
    _check(level)
    names: list[str] = []
    for each, own in LEVELS.items():
        names.extend(own)
        if each == level:
            break
    return names


def _receiver(name: str) -> Callable[..., None]:
    level = next(each for each, own in LEVELS.items() if name in own)
    at = logging.WARNING if name in _WARNINGS else _LOGGED_AT.get(level, logging.DEBUG)

    def receiver(
        server: Any, *, event: str, measurements: dict[str, Any], metadata: dict[str, Any]
    ) -> None:
        if not _logger.isEnabledFor(at) or _is_in_the_log(metadata):
            return
        if event in _BY_PEERS and not _limit.admits((event, at, _type_of_error(measurements))):
            return
        # The exception itself, for who looks at records and not at lines.
        error = {"error": measurements.get("error")}
        _logger.log(at, "%s %s", event, _line(server, measurements, metadata), extra=error)

    return receiver


def _is_in_the_log(metadata: dict[str, Any]) -> bool:
    """Whether it stands in the log already. The traceback of a bug does in that of the library;
    a logger of the user's own may be another one."""
    by = metadata.by if isinstance(metadata, events.Told) else None
    return by is events.By.EVENT or (by is events.By.TRACEBACK and _logger is _own)


def _type_of_error(measurements: dict[str, Any]) -> str:
    error = measurements.get("error")
    return type(error).__name__ if isinstance(error, BaseException) else ""


def _log_left_out(kind: tuple[str, int, str], count: int) -> None:
    event, at, error = kind
    what = f"{event} {error}".rstrip()
    _logger.log(at, "%s: %d more like these were left out, within a second", what, count)


_limit = LineLimit(_log_left_out, process_lock("logger.limit"))


def _line(server: Any, measurements: dict[str, Any], metadata: dict[str, Any]) -> str:
    """An event's facts on one line."""
    parts = [f"server={getattr(server, 'name', server)}"]
    for name, value in {**metadata, **measurements}.items():
        if name != "monotonic_time_ns":
            parts.append(f"{name}={_shown(value)}")
    return " ".join(parts)


def _shown(value: Any) -> str:
    if isinstance(value, BaseException):
        return f"{type(value).__name__}({' '.join(str(value).split())})"
    if isinstance(value, type):
        return value.__name__
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
