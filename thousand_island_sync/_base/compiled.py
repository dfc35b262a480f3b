"""What of the package is compiled: the C module `_native`, or nothing.

It is there where the installation found a C compiler, on Linux, with the GIL; setting
`THOUSAND_ISLAND_PURE=1` does without it. `_server.accelerator` says what it is for.
"""

from __future__ import annotations

import os
import warnings
from types import ModuleType
from typing import TypeVar

from .native_sources import expected
from .patched import patched_by

T = TypeVar("T")

native: ModuleType | None = None
if os.environ.get("THOUSAND_ISLAND_PURE") != "1":
    try:
        from .. import _native as native
    except ImportError:
        pass
    except AttributeError as error:  # a standard library that was patched has no epoll
        if patched_by() is None:
            raise ImportError(f"_native: {error}") from error


#: The package's only one works on its classes: what is imported a second time has the Python.
if native is not None:
    if hasattr(native, "taken"):
        native = None
    else:
        native.taken = True  # type: ignore[attr-defined]


def compare(numbers: dict[str, int]) -> None:
    """Raises TypeError: what was compiled has other numbers for these names."""
    for name, number in numbers.items():
        other = getattr(native, name, None)
        if other != number:
            raise TypeError(f"{name}: {other} and {number}")


def warn_of_another_version(error: object) -> None:
    """What was compiled does not fit the Python: an old file beside a new source. Nor does it fit a
    standard library that was patched, but that is told by `start`."""
    if patched_by() is not None:
        return
    warnings.warn(
        f"thousand_island_sync: the compiled module is of another version ({error}), so pure Python"
        " is used; install again, from the same source",
        RuntimeWarning,
        stacklevel=2,
    )


if native is not None:
    _expected = expected()
    if _expected is not None and getattr(native, "SOURCES", None) != _expected:
        warn_of_another_version(
            f"{getattr(native, '__file__', 'it')} is not made of the C sources that are here"
        )
        native = None


def in_c(equal: type[T]) -> type[T]:
    """Decorates a base type, `Python...`: its equal in C takes its place, where it is there."""
    name = equal.__name__.removeprefix("Python")
    equals[name] = equal
    chosen: type[T] | None = getattr(native, name, None)
    if native is None or chosen is None:
        return equal
    for method in vars(equal):
        text = None if method.startswith("_") else getattr(equal, method).__doc__
        if text and method in vars(chosen):
            native.document(chosen, method, text)
    return chosen


#: The base types in Python, by the names of their equals.
equals: dict[str, type] = {}


#: Functions of it, or `None`.
unread = getattr(native, "unread", None)
send_file = getattr(native, "send_file", None)
timer_open = getattr(native, "timer_open", None)
timer_set = getattr(native, "timer_set", None)
