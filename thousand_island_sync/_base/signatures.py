"""Signatures that say every option by its name, for functions that take any and check them.

A wrong name, a missing one and a value without a name are errors of ours, which say what to do;
Python's own `TypeError` says less. So what runs takes anything, and what is written for editors,
`help` and type checkers is another signature.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import ConfigError
from .options import MISSING

F = TypeVar("F", bound=Callable[..., Any])


def written_out(work: Callable[..., Any]) -> Callable[[F], F]:
    """What it decorates has the signature alone, and is never called: `work` is, with what was
    given."""

    def decorate(written: F) -> F:
        functools.update_wrapper(work, written)
        return work  # type: ignore[return-value]

    return decorate


def spelled_out(
    options: Any, defaults: Callable[[str], Any] = lambda name: MISSING
) -> Callable[[F], F]:
    """For a method of `**options: Unpack[...]`: at run time, too, each option is a parameter, and a
    value without a name is a `ConfigError`.

    Args:
        options: the `TypedDict`.
        defaults: from a name to what it is where it is not given.
    """
    parameter = inspect.Parameter

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        *before, gathered = signature.parameters.values()
        named = [
            parameter(
                name,
                parameter.KEYWORD_ONLY,
                default=defaults(name),
                annotation=getattr(annotation, "__forward_arg__", annotation),
            )
            for name, annotation in options.__annotations__.items()
        ]
        unknown = parameter("unknown", parameter.VAR_KEYWORD, annotation="Never")
        assert gathered.kind is parameter.VAR_KEYWORD

        @functools.wraps(function)
        def run(*given: Any, **by_name: Any) -> Any:
            if len(given) > len(before):
                raise ConfigError(
                    f"{function.__name__}: got {type(given[-1]).__name__} without a name; every"
                    f" option is given by its name: {function.__name__}({named[0].name}=...)"
                )
            return function(*given, **by_name)

        run.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*before, *named, unknown]
        )
        return run  # type: ignore[return-value]

    return decorate
