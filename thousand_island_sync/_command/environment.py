"""Options from the environment: `THOUSAND_ISLAND_<OPTION>`.

Kubernetes sets variables for each service: one called `thousand-island` gives
`THOUSAND_ISLAND_PORT=tcp://10.0.0.1:4000`. What begins so is its own, and left alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from .._base.nearest import nearest
from .errors import UsageError
from .line import Given
from .table import TABLE

PREFIX = "THOUSAND_ISLAND_"
#: Which the package reads itself, or the command line beside the options.
_KNOWN = {"DEBUG", "PURE", "CONFIG"}
_OTHERS = ("tcp://", "udp://")
#: How other names of its go on.
_OF_A_SERVICE = "SERVICE_"


def variable(name: str) -> str:
    return PREFIX + name.upper()


_SETTINGS = {variable(name): setting for name, setting in TABLE.items()}


def meant_by(name: str) -> str:
    """What an unknown variable was meant to be; empty: none is like it."""
    plain = name.removeprefix(PREFIX)
    if plain.startswith(_OF_A_SERVICE):
        return ""
    meant = nearest(plain.lower(), [*TABLE, *map(str.lower, _KNOWN)])
    return "" if meant is None else variable(meant)


def from_environment(environ: Mapping[str, str]) -> tuple[dict[str, Given], list[str]]:
    """The options, and the variables that are none.

    Raises:
        UsageError: one has a wrong value.
    """
    given: dict[str, Given] = {}
    unknown = []
    for name, text in environ.items():
        if not name.startswith(PREFIX) or text.startswith(_OTHERS):
            continue
        setting = _SETTINGS.get(name)
        if setting is None:
            if name.removeprefix(PREFIX) not in _KNOWN:
                unknown.append(name)
            continue
        try:
            value = setting.from_text(text)
        except (ValueError, TypeError, RecursionError):
            raise UsageError(f"{name}: {setting.refused(text)}") from None
        given[setting.name] = Given(setting.checked(value, f"{name}: "), name)
    return given, sorted(unknown)


def config_file(environ: Mapping[str, str]) -> str | None:
    """The file that the environment names."""
    return environ.get(PREFIX + "CONFIG") or None
