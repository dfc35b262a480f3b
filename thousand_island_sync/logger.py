"""`attach_logger` writes the events of all servers to the standard library's logging.

It connects receivers, so it works for servers that run already. Each level is a list of events,
and includes the levels before it. A record also has its event's facts as fields, those that
apply: `event_name`, `server_name`, `connection_id`, `client_address`, `client_port`,
`duration_ms`, `bytes_received`, `bytes_sent`, `reason`, `error_type` (and `error`, the
exception). Of each kind (event and type of error) of WARNING or ERROR that peers cause, at most
ten lines a second are written, and then how many were left out. An error that was logged already
is not logged again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal

from . import events
from ._base.addresses import remote
from ._base.locks import process_lock
from ._base.printable import one_line
from ._base.waits import current_task
from ._telemetry.log_fields import fields
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
#: What its logger is set to, so that a level is written.
_LETS_THROUGH = {"error": logging.WARNING, "info": logging.INFO}
_WARNINGS = {"acceptor.spawn_error", "acceptor.accept_error", "pool.saturated"}
_BY_PEERS = {*LEVELS["error"]} - {"listener.error"}

_lock = process_lock("logger")
_attached: dict[str, Callable[..., None]] = {}
#: The logger, the event, the level and the type of the error.
_Kind = tuple[logging.Logger, str, int, str]
_own = _logger = logging.getLogger("thousand_island_sync")


def attach_logger(level: LogLevel = "error", logger: logging.Logger | None = None) -> None:
    """Writes the events of every server of the process to the standard library's logging.

    A record has these fields, those that apply: `event_name` and `server_name`, `str`;
    `connection_id`, `client_address` (`""`: a Unix peer), `client_port`; `duration_ms`, a float;
    `bytes_received` and `bytes_sent`; `reason` (how a connection ended: `"peer_closed"`,
    `"local_closed"`, `"timeout"`, `"shutdown"` or `"error"`; or why an acceptor did); `error_type`,
    the class's name, and `error`, the exception itself.

    Of one kind of WARNING or ERROR that peers cause, at most ten lines a second are written, and
    then how many were left out. Tracebacks of callbacks are limited, too.

    Args:
        level: `"error"`, `"info"`, `"debug"` or `"trace"`; each includes those before.
        logger: the `logging.Logger` to write to; not given: `thousand_island_sync`. A later call
            with another logger replaces it.

    Raises:
        ConfigError: the level is unknown, or `logger` is not a logger.

    Thread: any.
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
    _own.addFilter(_tracebacks)


def detach_logger(level: LogLevel = "error") -> None:
    """Stops writing the events of a level, and of the levels after it.

    Args:
        level: `"error"`, `"info"`, `"debug"` or `"trace"`.

    Raises:
        ConfigError: the level is unknown.

    Thread: any.
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
        _own.removeFilter(_tracebacks)
        _limit.close()


def change_level(level: LogLevel) -> None:
    """What is attached is this level from now on, written where it was written before; that logger
    lets it through. Raises ConfigError: an unknown level."""
    _logger.setLevel(attach_only(level, _logger))


def attach_only(level: LogLevel, logger: logging.Logger | None = None) -> int:
    """As `attach_logger`, without the levels after it. Returns the level of `logging` that lets
    through what is written."""
    attach_logger(level, logger)
    later = list(LEVELS)[list(LEVELS).index(level) + 1 :]
    if later:
        detach_logger(later[0])  # type: ignore[arg-type]
    return _LETS_THROUGH.get(level, logging.DEBUG)


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
        extra = fields(server, event, measurements, metadata)
        if event in _BY_PEERS and not _admits(_logger, event, at, extra):
            return
        _logger.log(at, "%s %s", event, _line(server, measurements, metadata), extra=extra)

    return receiver


def _is_in_the_log(metadata: dict[str, Any]) -> bool:
    """Whether it stands in the log already. The traceback of a bug does in that of the library;
    a logger of the user's own may be another one."""
    by = metadata.by if isinstance(metadata, events.About) else None
    return by is events.By.EVENT or (by is events.By.TRACEBACK and _logger is _own)


def _admits(logger: logging.Logger, event: str, at: int, extra: Mapping[str, Any]) -> bool:
    """Whether a line that a peer causes is one of the first ten of its kind in this second."""
    kind: _Kind = (logger, event, at, extra.get("error_type", ""))
    if _limit.admits(kind):
        return True
    _servers.setdefault(kind, set()).add(extra["server_name"])
    return False


def _log_left_out(kind: _Kind, count: int) -> None:
    logger, event, at, error = kind
    extra = {"event_name": event}
    if error:
        extra["error_type"] = error
    servers = _servers.pop(kind, set())
    if len(servers) == 1:
        extra["server_name"] = servers.pop()
    what = f"{event} {error}".rstrip()
    more = "%s: %d more like these were left out, within a second"
    logger.log(at, more, what, count, extra=extra)


class _Tracebacks(logging.Filter):
    """Of the tracebacks with which callbacks' errors are told in the place of `handler.error`,
    writes as many as of any other line that a peer may cause."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.exc_info or getattr(record, "event_name", None) != "handler.error":
            return True
        return _admits(_own, "handler.error", record.levelno, vars(record))


_limit = LineLimit(_log_left_out, process_lock("logger.limit"))
_tracebacks = _Tracebacks()
#: Whose lines were left out since that was last told.
_servers: dict[_Kind, set[str]] = {}


class ConnectionFilter(logging.Filter):
    """Adds `connection_id` and `client_address` to the lines that are logged inside callbacks,
    on the thread that runs them; elsewhere both are `"-"`. What a record has already stays, as
    those of `attach_logger` do.

    Give it to a handler, so that it sees the records of all loggers::

        handler = logging.StreamHandler()
        handler.addFilter(ConnectionFilter())
        handler.setFormatter(logging.Formatter("%(connection_id)s %(client_address)s %(message)s"))

    `client_address` is as `remote_address` of the events, `""` for a Unix peer. A server pays
    nothing for it.

    Thread: any.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """As `logging.Filter.filter`: keeps every record."""
        client = getattr(current_task(), "client", None)
        known = record.__dict__
        if client is None:
            known.setdefault("connection_id", "-")
            known.setdefault("client_address", "-")
        else:
            known.setdefault("connection_id", client.id)
            known.setdefault("client_address", remote(client.peer_address)[0])
        return True


def _line(server: Any, measurements: dict[str, Any], metadata: dict[str, Any]) -> str:
    """An event's facts on one line."""
    parts = [f"server={getattr(server, 'name', server)}"]
    for name, value in {**metadata, **measurements}.items():
        if name != "monotonic_time_ns":
            parts.append(f"{name}={_shown(value)}")
    return " ".join(parts)


def _shown(value: Any) -> str:
    if isinstance(value, BaseException):
        return f"{type(value).__name__}({one_line(str(value))})"
    if isinstance(value, type):
        return value.__name__
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
