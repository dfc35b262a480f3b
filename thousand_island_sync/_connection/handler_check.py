"""Checks a handler class before the first client comes."""

from __future__ import annotations

import inspect
import sys
import warnings
from typing import Any

from ..errors import ConfigError
from ..framing import not_a_framing
from ..handler import Handler

#: What a subclass may define.
CALLBACKS = frozenset(name for name in vars(Handler) if name.startswith("handle_"))


def check_handler(handler_cls: Any, stacklevel: int) -> None:
    """Checks a server's `handler_cls`.

    Args:
        handler_cls: what was given.
        stacklevel: of the warning, as `warnings.warn` counts.

    Raises:
        ConfigError: it is not a subclass of `Handler`, a callback is `async def`, or its `framing`
            is not a framing.

    Warns:
        UserWarning: a method's name is a letter, or a swap of two, away from that of a
            callback which the class does not define.
    """
    if not (isinstance(handler_cls, type) and issubclass(handler_cls, Handler)):
        raise ConfigError(f"handler_cls: {_what_else(handler_cls)}")
    for name in sorted({"__init__", *CALLBACKS}):
        kind = _awaited(getattr(handler_cls, name))
        if kind:
            raise ConfigError(
                f"handler_cls: {handler_cls.__name__}.{name} is {kind}; callbacks are plain"
                " functions, which may block: write `def`, and take the `await` out"
            )
    framing = inspect.getattr_static(handler_cls, "framing")
    if framing is not None and not hasattr(type(framing), "__get__"):
        problem = not_a_framing(framing)
        if problem:
            raise ConfigError(f"handler_cls: {handler_cls.__name__}.framing: {problem}")
    for name, callback in _nearly(handler_cls):
        warnings.warn(
            f"handler_cls: {handler_cls.__name__}.{name} is never called; did you mean"
            f" {callback}, which the class does not define?",
            UserWarning,
            stacklevel=stacklevel + 1,
        )


def _what_else(given: Any) -> str:
    if isinstance(given, Handler):
        return f"got an instance; give the class itself, {type(given).__name__}"
    if is_request_handler(given):
        return (
            f"got {given.__name__}, a request handler of socketserver; give"
            f" socketserver_handler({given.__name__})"
        )
    return f"got {given!r}, takes a subclass of Handler (the class itself)"


def is_request_handler(given: Any) -> bool:
    """Whether it is one of the standard library's classes, for `socketserver_handler`."""
    standard = sys.modules.get("socketserver")  # without that import there is none
    return bool(
        standard and isinstance(given, type) and issubclass(given, standard.BaseRequestHandler)
    )


def _awaited(function: Any) -> str:
    """What a function is that has to be awaited; `""` for any other."""
    if inspect.iscoroutinefunction(function):
        return "`async def`"
    return "an asynchronous generator" if inspect.isasyncgenfunction(function) else ""


def _nearly(handler_cls: type[Handler]) -> list[tuple[str, str]]:
    """Methods whose names are almost those of callbacks, with those callbacks."""
    missing = [one for one in CALLBACKS if getattr(handler_cls, one) is getattr(Handler, one)]
    found = []
    for name in dir(handler_cls):
        if name.startswith("_") or name in vars(Handler):
            continue
        if not callable(inspect.getattr_static(handler_cls, name)):
            continue
        found += [(name, one) for one in sorted(missing) if is_slip(name, one)]
    return found


def is_slip(name: str, meant: str) -> bool:
    """Whether one letter added, removed or changed, or two letters swapped, make `name` of
    `meant` (their Damerau-Levenshtein distance is 1)."""
    if name == meant or abs(len(name) - len(meant)) > 1:
        return False
    same = 0
    while same < min(len(name), len(meant)) and name[same] == meant[same]:
        same += 1
    name, meant = name[same:], meant[same:]
    return (
        name[1:] == meant[1:]
        or name[1:] == meant
        or name == meant[1:]
        or (name[:2] == meant[1::-1] and name[2:] == meant[2:])
    )
