"""How a line of the log is written: what `--log-format` takes, and what makes its formatter."""

from __future__ import annotations

import logging
from collections.abc import Callable

from .._telemetry import log_formats

FORMATS: dict[str, Callable[[], logging.Formatter]] = {
    "text": log_formats.text,
    "json": log_formats.json,
}
