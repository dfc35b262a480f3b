"""The known name that is most like an unknown one."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: object, names: Iterable[str]) -> str | None:
    """The name that is most like it; `None`: none is like it. Whether letters are upper or lower
    case matters only between names that are the same otherwise."""
    import difflib  # here: it is needed for a mistake only

    if not isinstance(word, str):
        return None
    every = list(names)
    folded = [name.casefold() for name in every]
    found = difflib.get_close_matches(word.casefold(), folded, n=1)
    alike = [name for name, plain in zip(every, folded, strict=True) if plain in found]
    return max(
        alike, key=lambda name: difflib.SequenceMatcher(None, word, name).ratio(), default=None
    )


def did_you_mean(word: object, names: Iterable[str]) -> str:
    """The same as the end of a message; `""`: none is like it."""
    near = nearest(word, names)
    return "" if near is None else f"; did you mean {near}?"
