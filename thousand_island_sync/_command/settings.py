"""What was given: the command line wins over the environment, and that over the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .environment import config_file, from_environment, meant_by
from .file import from_file
from .line import Given, Line
from .table import TABLE, Home

#: Where no host is given.
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Settings:
    """The options that were given, by name; and the environment's variables that are none."""

    given: Mapping[str, Given]
    unknown_variables: tuple[str, ...] = ()

    def value(self, name: str) -> Any:
        """An option's value, given or by default."""
        if name in self.given:
            return self.given[name].value
        return HOST if name == "host" else TABLE[name].option.default

    def of(self, home: Home) -> dict[str, Given]:
        """Those given that are at home there."""
        return {name: one for name, one in self.given.items() if TABLE[name].home is home}

    def about_unknown_variables(self) -> str:
        """A line; their values may be secrets of somebody's."""
        names = self.unknown_variables
        meant = [f"; {name}: did you mean {near}?" for name in names if (near := meant_by(name))]
        return (
            f"the environment has variables that are no options: {', '.join(names)}{''.join(meant)}"
        )

    @property
    def shows_tracebacks(self) -> bool:
        return self.value("log_level") in ("debug", "trace")


def collect(line: Line, environ: Mapping[str, str]) -> Settings:
    """Reads all of it.

    Raises:
        UsageError: an unknown key, a wrong value, or a file that cannot be read.
    """
    path = line.config if line.config is not None else config_file(environ)
    given = {} if path is None else from_file(path, line.folder)
    from_variables, unknown = from_environment(environ)
    return Settings({**given, **from_variables, **line.given}, tuple(unknown))
