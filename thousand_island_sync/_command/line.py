"""The words of a command line: flags, the first word that is none, and what follows it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .._base.options import MISSING
from .errors import UsageError, nearest, nearest_option
from .table import SECRETS, SHORT, WITH_FLAGS, Setting, flag


class Given(NamedTuple):
    """A value, and where it stands: `--port`, `THOUSAND_ISLAND_PORT`, `a.toml: port`."""

    value: Any
    where: str


@dataclass
class Line:
    """What a command line says.

    Attributes:
        handler: the word with a colon, or `None`.
        subcommand: the first word, if it is one of them; `words` are all the others then.
        given: options.
        config: the file.
        folder: the one in which it was read: paths hold wherever the process goes later.
        asks: `"help"`, `"version"`, or `""`.
    """

    handler: str | None = None
    subcommand: str | None = None
    words: list[str] = field(default_factory=list)
    given: dict[str, Given] = field(default_factory=dict)
    config: str | None = None
    folder: str = ""
    asks: str = ""


_ASKS = {"--help": "help", "-h": "help", "--version": "version"}


class _Flag(NamedTuple):
    """`value`: what it means by itself, `--no-x`; `MISSING`: a text is read."""

    setting: Setting
    value: Any


def _flags() -> dict[str, _Flag]:
    found = {}
    for name, setting in WITH_FLAGS.items():
        found[flag(name)] = _Flag(setting, MISSING)
        if name in SHORT:
            found[SHORT[name]] = _Flag(setting, MISSING)
        if setting.is_switch:
            found[flag("no_" + name)] = _Flag(setting, False)
    return found


_FLAGS = _flags()


def _working_folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""  # there is none any more


class _Words:
    """Reads them one by one."""

    def __init__(self, words: Sequence[str], subcommands: Sequence[str]) -> None:
        self._words = list(words)
        self._at = 0
        self._subcommands = subcommands
        self.line = Line(folder=_working_folder())

    def read(self) -> Line:
        line = self.line
        while self._at < len(self._words):
            word = self._words[self._at]
            self._at += 1
            if line.asks:
                break
            if word == "--":
                continue
            if word.startswith("-") and word != "-":
                self._flag(word)
            elif ":" in word or not self._subcommands:
                self._handler(word)
            else:
                self._subcommand(word)
                break
        return line

    def _handler(self, word: str) -> None:
        if self.line.handler is not None:
            raise self._second(word)
        self.line.handler = word

    def _second(self, word: str) -> UsageError:
        return UsageError(
            f"{word}: a handler was given before ({self.line.handler}); every other argument begins"
            " with -- (see --help)"
        )

    def _subcommand(self, word: str) -> None:
        if self.line.handler is not None:
            raise self._second(word)
        if word not in self._subcommands:
            every = ", ".join(self._subcommands)
            raise UsageError(
                f"{word}: there is no such subcommand{nearest(word, self._subcommands)} (there are:"
                f" {every}; a handler is written package.module:HandlerClass)"
            )
        self.line.subcommand = word
        self.line.words = self._words[: self._at - 1] + self._words[self._at :]

    def _flag(self, word: str) -> None:
        name, equals, text = word.partition("=")
        if name in _ASKS and not equals:
            self.line.asks = _ASKS[name]
        elif name == "--config":
            self.line.config = text if equals else self._next_word(name, "the path of a TOML file")
        elif name in _FLAGS:
            self._option(name, text if equals else None)
        elif name.removeprefix("--") in SECRETS:
            raise UsageError(
                f"{name}: cannot be given as an argument, as every user of the machine can read"
                " those; give it in the environment"
                f" (THOUSAND_ISLAND_{name.removeprefix('--').upper()}), or in the file of --config"
            )
        else:
            near = nearest_option(name, [*_FLAGS, *_ASKS, "--config"])
            raise UsageError(f"{name}: there is no such argument{near} (--help shows them)")

    def _option(self, name: str, text: str | None) -> None:
        setting, fixed = _FLAGS[name]
        value: Any
        if fixed is not MISSING:
            if text is not None:
                raise UsageError(f"{name}: takes no value")
            value = fixed
        elif text is None and setting.is_switch:
            value = True
        elif text is None and setting.bare is not MISSING and not self._is_number_next():
            value = setting.bare
        else:
            if text is None:
                text = self._next_word(name, setting.option.takes)
            value = _read(setting, text, name)
        self.line.given[setting.name] = Given(setting.checked(value, f"{name}: "), name)

    def _is_number_next(self) -> bool:
        # What follows a flag that can stand alone may be the handler.
        try:
            float(self._words[self._at])
        except (IndexError, ValueError):
            return False
        return True

    def _next_word(self, name: str, takes: str) -> str:
        word = self._words[self._at] if self._at < len(self._words) else None
        if word is None or word.startswith("--"):
            raise UsageError(f"{name}: needs a value, takes {takes}")
        self._at += 1
        return word


def _read(setting: Setting, text: str, where: str) -> Any:
    try:
        return setting.from_text(text)
    except (ValueError, TypeError, RecursionError):
        raise UsageError(f"{where}: {setting.refused(text)}") from None


def parse(words: Sequence[str], subcommands: Sequence[str] = ()) -> Line:
    """Reads a command line.

    Args:
        words: the arguments.
        subcommands: what the first word may be that is no handler.

    Raises:
        UsageError: an unknown flag, a wrong value, an unknown first word.
    """
    return _Words(words, subcommands).read()
