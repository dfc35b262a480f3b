"""Every option that can be written in a line: the tables of the server, of TCP and TLS, and of the
command line's own are one table here, of which flags, variables and keys are made."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple

from .._base.option_kinds import YES_NO, read_json, read_list, read_number, read_permissions
from .._base.options import MISSING, Option
from .._server.config import OPTIONS
from ..transports.tls import TLS_OPTIONS
from .errors import UsageError
from .extras import EXTRAS

#: What has no flag although it could be written: everybody sees a process's arguments.
SECRETS = frozenset({"password"})
#: Another flag for the same.
SHORT = {"alpn_protocols": "--alpn"}
#: What is no text by itself, and what a file may write as in a line all the same.
_YES = {"true": True, "yes": True, "on": True, "1": True}
_NO = {"false": False, "no": False, "off": False, "0": False}
_METAVARS: dict[object, str] = {
    int: "N",
    str: "TEXT",
    read_number: "MS",
    read_list: "A,B",
    read_permissions: "OCTAL",
}


class Home(Enum):
    """Whose an option is."""

    COMMAND = "options of the command line"
    SERVER = "options of the server"
    TRANSPORT = "options of the transport: of TLS, where there is a certfile"


class Setting(NamedTuple):
    """An option that can be written. `bare`: what its flag means without a value."""

    name: str
    option: Option
    home: Home
    bare: Any = MISSING

    @property
    def is_switch(self) -> bool:
        return self.option.takes == YES_NO

    @property
    def takes_none(self) -> bool:
        """Whether `none` is `None` for it."""
        return bool(self.option.check(None))

    @property
    def metavar(self) -> str:
        return _METAVARS.get(self.option.read, "JSON")

    def from_text(self, text: str) -> Any:
        """From a line, or a variable.

        Raises:
            ValueError, TypeError: it is none.
        """
        if text == "none" and self.takes_none:
            return None
        if self.is_switch:
            return read_switch(text)
        if self.bare is not MISSING and text.lower() in ("true", "false"):
            return self.bare if text.lower() == "true" else None
        assert self.option.read is not None
        return self.option.read(text)

    def checked(self, value: Any, where: str = "") -> Any:
        """The value.

        Args:
            value: what was given.
            where: stands before the name.

        Raises:
            UsageError: the option does not take it.
        """
        if self.option.check(value):
            return value
        raise UsageError(f"{where}{self.name}: {self.refused(value)}")

    def refused(self, value: Any) -> str:
        """What is wrong with a value, for the end of a message."""
        option = self.option
        # What is given to handlers may be the password of a database.
        if option.secret or option.read is read_json:
            takes = "JSON" if option.takes == "anything" else option.takes
            return f"got a value that is not shown, takes {takes}"
        return option.refused(value)


def read_switch(text: str) -> bool:
    """Raises ValueError: it is neither."""
    word = text.lower()
    if word in _YES:
        return True
    if word in _NO:
        return False
    raise ValueError(text)


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _can_be_written(option: Option) -> bool:
    return option.read is not None or option.takes == YES_NO


def _table() -> dict[str, Setting]:
    found = {}
    for name, extra in EXTRAS.items():
        found[name] = Setting(name, extra.option, Home.COMMAND, extra.bare)
    for home, options in ((Home.SERVER, OPTIONS), (Home.TRANSPORT, TLS_OPTIONS)):
        for name, option in options.items():
            # What both have is `host`, which means the same.
            if name not in found and _can_be_written(option):
                found[name] = Setting(name, option, home)
    found["host"] = found["host"]._replace(option=TLS_OPTIONS["host"])
    return found


#: Every option that a line, the environment or a file may give.
TABLE: Mapping[str, Setting] = _table()
#: Those of them that have a flag.
WITH_FLAGS: Mapping[str, Setting] = {
    name: setting for name, setting in TABLE.items() if name not in SECRETS
}
#: What JSON or a list is in a line; a file may write it so, too.
WRITTEN_AS_TEXT = {
    name
    for name, setting in TABLE.items()
    if setting.option.read not in (None, int, str, read_number)
}
#: Whose JSON in a file is told from a text by how it begins.
ANYTHING = {name for name, one in TABLE.items() if one.option.read is read_json}
