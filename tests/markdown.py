"""The blocks of code in a page. It imports nothing that has to be installed."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def code_blocks(text: str) -> list[tuple[str, str]]:
    """The language and the text of each fenced block of Markdown."""
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def blocks_in(language: str, page: str) -> list[str]:
    """The blocks of one language in a page of the project's."""
    return [text for one, text in code_blocks((ROOT / page).read_text()) if one == language]


def python_blocks(page: str) -> list[str]:
    return blocks_in("python", page)
