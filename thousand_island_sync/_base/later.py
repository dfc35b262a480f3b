"""Names of a module that are imported when they are first asked for (PEP 562)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def first_asked_for(
    module: dict[str, Any], names: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """The functions `__getattr__` and `__dir__` of a module. Who asks for one of the names, by an
    import, a `*` or an attribute, finds what it would have been; type checkers see an import.

    Args:
        module: its `globals()`.
        names: from a module, relative to the package, to those of its names.
    """
    where = {name: other for other, found in names.items() for name in found}

    def get(name: str) -> object:
        if name not in where:
            raise AttributeError(f"module {module['__name__']!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(where[name], module["__package__"]), name)
        module[name] = value
        return value

    def names_of() -> list[str]:
        return sorted({*module, *where})

    return get, names_of
