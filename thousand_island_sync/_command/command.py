"""One command line, from its words to its exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

from .._telemetry.line_writer import LineWriter, close_all
from ..errors import ThousandIslandError
from . import help as help_
from .check import check
from .errors import UsageError, one_line
from .line import parse
from .serve import serve
from .settings import Settings, collect
from .signals import Signals
from .subcommands import SUBCOMMANDS

_CHECK = "check"
_WRONG = 2
_ERRORS = (UsageError, ThousandIslandError, OSError)


def run(arguments: Sequence[str], signals: Signals) -> int:
    """Runs it.

    Returns:
        The exit code: 0, 1 if a stop had to cut, 2 for whatever the user got wrong.

    Raises:
        EndedEarly: by a signal, before it served.
    """
    errors = LineWriter(sys.stderr)
    output = LineWriter(sys.stdout)
    try:
        return _run(arguments, errors, output, signals)
    finally:
        signals.are_heeded()
        close_all(errors, output)


def _run(arguments: Sequence[str], errors: LineWriter, output: LineWriter, signals: Signals) -> int:
    settings = Settings({})
    try:
        line = parse(arguments, [_CHECK, *SUBCOMMANDS])
        if line.subcommand in SUBCOMMANDS:
            return SUBCOMMANDS[line.subcommand].run(line.words)
        checks = line.subcommand == _CHECK
        if checks:
            line = parse(line.words)
        if line.asks:
            help_.answer(line.asks)
            return 0
        settings = collect(line, os.environ)
        if checks:
            check(line, settings)
            if settings.unknown_variables:
                errors.put(f"thousand-island: {settings.about_unknown_variables()}")
            return 0
        return serve(line, settings, errors, output, signals)
    except _ERRORS as error:
        if settings.shows_tracebacks and error.__cause__ is not None:
            errors.put("".join(traceback.format_exception(error.__cause__)).rstrip())
        errors.put(f"thousand-island: {one_line(error)}")
        return _WRONG
