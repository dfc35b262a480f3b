"""What somebody meant by a name that there is none of."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: object, names: Iterable[str]) -> str | None:
    """The name that is most like it; `None`: none is like it."""
    import difflib  # here: it is needed for a mistake only

    found = difflib.get_close_matches(word, list(names), n=1) if isinstance(word, str) else []
    return found[0] if found else None


def did_you_mean(word: object, names: Iterable[str]) -> str:
    """The same as the end of a message; `""`: none is like it."""
    near = nearest(word, names)
    return "" if near is None else f"; did you mean {near}?"
