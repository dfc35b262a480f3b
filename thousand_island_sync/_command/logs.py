"""The log of the command line: to standard error, by a thread of its own."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import cast

from .._telemetry.line_writer import LineHandler, LineWriter
from ..logger import LogLevel, attach_only, detach_logger
from . import uncaught
from .formats import FORMATS


class _OnceItServes(logging.Filter):
    """Keeps what is said of listeners until all servers have started: what keeps one of them
    from that is the one line that the command line ends with."""

    def __init__(self) -> None:
        super().__init__()
        self._serves = False
        self._kept: list[logging.LogRecord] = []

    def filter(self, record: logging.LogRecord) -> bool:
        told = record.args[0] if isinstance(record.args, tuple) and record.args else None
        if self._serves or not str(told).startswith("listener."):
            return True
        self._kept.append(record)
        return False

    def release(self, handler: logging.Handler) -> None:
        """They serve: gives what was kept to the handler."""
        self._serves = True
        kept, self._kept = self._kept, []
        for record in kept:
            handler.handle(record)


class Logs:
    """A context manager. Thread: the main one.

    Args:
        errors: where lines go.
        level: what is written, of `LEVELS`.
        format_: how, of `FORMATS`.
    """

    def __init__(self, errors: LineWriter, level: str, format_: str) -> None:
        self._handler = LineHandler(errors)
        self._handler.setFormatter(FORMATS[format_]())
        self._once_it_serves = _OnceItServes()
        self._level = level
        self._root_before = logging.getLogger().level
        self._uncaught = uncaught.logged()

    def __enter__(self) -> Logs:
        logging.basicConfig(handlers=[self._handler])  # nothing where there is one already
        self._uncaught.__enter__()
        self.write(self._level)
        return self

    def hide_failed_starts(self) -> None:
        """Until `it_serves`."""
        self._handler.addFilter(self._once_it_serves)

    def it_serves(self) -> None:
        self._once_it_serves.release(self._handler)

    def write(self, level: str) -> None:
        """From now on events of this level are written, and the user's own lines."""
        logging.getLogger().setLevel(attach_only(cast(LogLevel, level)))
        self._level = level

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        detach_logger()
        self._uncaught.__exit__(None, None, None)
        logging.getLogger().removeHandler(self._handler)
        logging.getLogger().setLevel(self._root_before)
