"""Escapes text that may come from a peer, for a line that may be shown on a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """The same with escapes in the place of what would move a cursor, end a line or turn it
    round."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def one_line(text: str) -> str:
    """The same, with a space for each end of a line, and for what else is white."""
    return printable(" ".join(text.split()))
