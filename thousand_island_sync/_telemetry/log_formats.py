"""How a line of the command line's log is written: as text, or as JSON."""

from __future__ import annotations

import logging

from ..errors import ConfigError

#: What a record of JSON begins with: our names for what `logging` calls otherwise.
_NAMES = {"levelname": "level", "name": "logger"}


def text() -> logging.Formatter:
    """One line, and a traceback below it where there is one."""
    return logging.Formatter("%(asctime)s %(levelname)s %(message)s")


def json() -> logging.Formatter:
    """One object a line: `timestamp` (UTC, RFC 3339), `level`, `logger`, `message`, the record's
    own fields, and `exc_info` where there is a traceback.

    Raises:
        ConfigError: python-json-logger is not installed.
    """
    try:
        from pythonjsonlogger.json import JsonFormatter
    except ImportError as error:
        raise ConfigError(
            "log_format: json needs the package python-json-logger, version 3.2 or later:"
            " pip install 'thousand_island_sync[json]'"
        ) from error
    begins_with = "%(levelname)s %(name)s %(message)s"
    return JsonFormatter(begins_with, rename_fields=_NAMES, timestamp=True)
