"""Options from a file: TOML, with the options' names as keys, `[transport]` for those of the
transport."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from .._base import whole_file
from .._base.options import MISSING
from .errors import UsageError, nearest_option, one_line
from .line import Given
from .table import ANYTHING, TABLE, WRITTEN_AS_TEXT, Home, Setting

TRANSPORT = "transport"
#: How JSON begins where a text may stand as well.
_JSON = ("{", "[", '"')
_MOST_BYTES = 1 << 20
_NOT_HERE = {
    "handler_cls": "it is the first word of the command line, package.module:HandlerClass",
    "transport_cls": "it is TLS where there is a certfile",
    "transport_options": "they are the table [transport]",
}


def from_file(path: str, folder: str = "") -> dict[str, Given]:
    """The options that a file gives.

    Args:
        path: the file, as messages name it.
        folder: what it is relative to.

    Raises:
        UsageError: it cannot be read, is no TOML, or has an unknown key or a wrong value.
    """
    try:
        text = whole_file.read(os.path.join(folder, path), _MOST_BYTES)
        content = tomllib.loads(text.decode())
    except OSError as error:
        raise UsageError(f"--config: {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is one
        raise UsageError(f"--config: {path}: is not valid TOML: {one_line(error)}") from None
    given: dict[str, Given] = {}
    for where, setting, value in _settings(path, content):
        if setting.name in given:
            raise UsageError(f"{where}: given twice, also as {given[setting.name].where}")
        given[setting.name] = Given(_value(setting, value, where), where)
    return given


def _settings(path: str, content: Mapping[str, Any]) -> Iterator[tuple[str, Setting, Any]]:
    for key, value in content.items():
        if key != TRANSPORT:
            yield f"{path}: {key}", _find(path, key, False), value
            continue
        if not isinstance(value, dict):
            raise UsageError(f"{path}: {TRANSPORT}: takes a table, [transport]")
        for inner, its in value.items():
            yield f"{path}: {TRANSPORT}.{inner}", _find(path, inner, True), its


def _find(path: str, key: str, in_transport: bool) -> Setting:
    setting = TABLE.get(key)
    if setting is not None and (key == "host" or (setting.home is Home.TRANSPORT) == in_transport):
        return setting
    shown = f"{path}: {TRANSPORT}.{key}" if in_transport else f"{path}: {key}"
    if setting is not None:
        place = "under [transport]" if setting.home is Home.TRANSPORT else "above the first table"
        raise UsageError(f"{shown}: belongs {place}")
    if key in _NOT_HERE:
        raise UsageError(f"{shown}: there is no such key; {_NOT_HERE[key]}")
    names = [one.name for one in TABLE.values() if (one.home is Home.TRANSPORT) == in_transport]
    everywhere = [*TABLE, TRANSPORT]
    near = nearest_option(key, names) or nearest_option(key, everywhere)
    raise UsageError(f"{shown}: there is no such key{near}")


def _value(setting: Setting, value: Any, where: str) -> Any:
    """As the option takes it. TOML has no null: `"none"` stands for it, as in a line."""
    if value == "none" and isinstance(value, str) and setting.takes_none:
        return None
    if isinstance(value, bool) and setting.bare is not MISSING:
        return setting.bare if value else None
    try:
        value = _read(setting, value)
    except (ValueError, TypeError, RecursionError):
        raise UsageError(f"{where}: {setting.refused(value)}") from None
    if not setting.option.check(value):
        raise UsageError(f"{where}: {setting.refused(value)}")
    return value


def _read(setting: Setting, value: Any) -> Any:
    name = setting.name
    if isinstance(value, str):
        if name in ANYTHING:
            return json.loads(value) if value.startswith(_JSON) else value
        return setting.from_text(value) if name in WRITTEN_AS_TEXT else value
    if name == "socket_options" and isinstance(value, list):
        return [tuple(one) for one in value]
    return value
