"""Writes TOML, which the standard library only reads; in ASCII, whatever the terminal takes."""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Mapping
from typing import Any

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_DATES = (datetime.datetime, datetime.date, datetime.time)


def value(of: Any) -> str:
    """A value on one line.

    Raises:
        ValueError: TOML has none like it: `None`, a text that is no Unicode.
    """
    if isinstance(of, bool):
        return "true" if of else "false"
    if isinstance(of, str):
        return _text(of)
    if isinstance(of, int):
        return str(of)
    if isinstance(of, float):
        return _float(of)
    if isinstance(of, _DATES):
        return of.isoformat()
    if isinstance(of, Mapping):
        return _table(of)
    if isinstance(of, list | tuple):
        return f"[{', '.join(map(value, of))}]"
    raise ValueError(f"{type(of).__name__} cannot be written in TOML")


def _table(of: Mapping[Any, Any]) -> str:
    pairs = [f"{key(name)} = {value(its)}" for name, its in of.items()]
    return f"{{ {', '.join(pairs)} }}" if pairs else "{}"


def key(name: Any) -> str:
    """Raises ValueError: it is no text."""
    if not isinstance(name, str):
        raise ValueError(f"{type(name).__name__} cannot be a key in TOML")
    return name if _BARE_KEY.fullmatch(name) else _text(name)


def _float(of: float) -> str:
    if math.isnan(of):
        return "nan"
    if math.isinf(of):
        return "inf" if of > 0 else "-inf"
    text = repr(of)
    return text if "." in text or "e" not in text else text.replace("e", ".0e")


def _text(of: str) -> str:
    of.encode()  # half a pair of surrogates is no Unicode
    return f'"{"".join(map(_character, of))}"'


def _character(of: str) -> str:
    if of in _ESCAPES:
        return _ESCAPES[of]
    if 0x20 <= ord(of) < 0x7F:
        return of
    return f"\\u{ord(of):04x}" if ord(of) < 0x10000 else f"\\U{ord(of):08x}"


def json_text(of: Any) -> str:
    """What JSON can say and TOML cannot, as a text of JSON."""
    return _text(json.dumps(of))
