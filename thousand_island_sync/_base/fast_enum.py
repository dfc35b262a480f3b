"""An enumeration for states that are looked up in tables on the hot path."""

from __future__ import annotations

from enum import Enum


class FastEnum(Enum):
    """Hashed by identity, in C: an `Enum` is hashed in Python, ten times for each connection."""

    __hash__ = object.__hash__
