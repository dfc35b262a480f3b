"""Pages, public docstrings and errors are in plain English: sentences that are read once.

`BANNED` has phrases that needed a second reading, or sound translated. A new entry is a phrase, and
what to write instead.
"""

import ast
import inspect
import re

import pytest

from tests.programs import ROOT
from tests.test_public_names import MEMBERS

PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    if path.name not in ("CHANGELOG.md", "benchmarks.md", "scaling.md")
)
#: The most words that a sentence may have.
MOST_WORDS = 40
#: Sentences that are lists, or figures with their conditions.
LONG = {
    "echo, daytime, a bit of HTTP",
    "What is left above its 5,700 instructions",
    "a thread for each connection written in C",
    "so the question whether a thread",
    "the cost of a request is 12 to 14 us",
}

BANNED = {
    # Whole phrases that were read twice, or never understood.
    r"for less than on": "say what is compared: 'costs less than with asyncio's Protocol'",
    r"whatever they do\b": "name what they may do",
    r"walked around": "avoid, bypass",
    r"by way of another": "name the other way",
    r"hands are shaken|hands cannot be shaken": "the handshake is done",
    r"(?i)\bwhat is wrong with\b.* is (?:a|one)\b": "subject first: 'one line says ...'",
    r"without a word\b": "silently",
    r"nobody had to say": "active voice: who does not say what",
    r"look whether": "check whether, check that",
    # Nouns that stand for nothing.
    r"\bof the user's\b": "user code, or name what it is",
    r"\b(?:it|this|that|one of them) is none\b": "repeat the noun: 'is not a server'",
    r", say(?=[.,)]| and\b)": "for example, such as",
    # Words that are not the trade's.
    r"\bhas gone\b(?= *(?:before its first|and is))": "has closed the connection",
    r"tried and left": "tried and rejected",
    r"says? so by itself": "automatically",
}
#: In errors alone.
BANNED_IN_ERRORS = {
    r"(?<!there )\bis no (?!longer)": "is not a ...",
    r"\bwent away\b|\bhas gone\b": "closed by the peer, disconnected",
    r"\bclosed here\b": "closed locally",
    r"\bnothing came\b": "no data received",
    r"\bcannot seek\b": "not seekable",
    r"\bshall\b": "must, or the present tense",
    r"\bwhoever\b|\bwhatever\b": "name who or what",
    r"\bof ours\b|\bof the user's\b": "of the library; name it",
    r"\bhands\b": "handshake",
    r"!": "a full stop",
    r"\b[Pp]lease\b|\b[Ss]orry\b": "say what to do",
}


#: What makes an error.
OF_ERRORS = re.compile(
    r"(?:Error|Closed|Timeout|Stopping|Exceeded|Full|Overflow|NotRunning|NotSupported|Refused"
    r"|WrongWords|Unreachable|Bad)$"
)

# ---- what is read -------------------------------------------------------------


def blocks_of_page(text):
    """Paragraphs, items and cells; no code, no headings."""
    text = re.sub(r"(?ms)^ *(```+|~~~+).*?^ *\1\s*$", "\n\n", text)
    text = re.sub(r"(?s)<!--.*?-->", "", text)
    found, now = [], []
    for line in [*text.split("\n"), ""]:
        line = line.strip().removeprefix(">").strip()
        item = re.match(r"(?:[-*+]|\d+\.) ", line)
        if not line or line.startswith(("#", "|")) or item:
            found.append(" ".join(now))
            now = []
        if line.startswith("|"):
            found += [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
        elif line and not line.startswith("#"):
            now.append(line[item.end() :] if item else line)
    return [block for block in found if block]


def blocks_of_docstring(text):
    """Paragraphs, and what is said of each argument, attribute and error."""
    parts = re.split(r"\n\s*\n|\n(?= *(?:`?[*\w.]+`?: |- ))|\n(?=\w+:\n)", inspect.cleandoc(text))
    return [" ".join(part.split()) for part in parts if part.strip()]


def sentences(block):
    """What a full stop, colon or semicolon ends; a piece of code counts as one word."""
    block = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", block)
    block = re.sub(r"`[^`]*`", "`x`", block)
    return re.split(r"(?<=[.!?;:])\)?\s+", block)


def words(sentence):
    return len(re.findall(r"[\w`'%.,/-]*\w[\w`'%.,/-]*|`x`", sentence))


def texts_of_errors():
    """Each error that the package makes with a text: where, and the text, with {} for values."""
    for path in sorted((ROOT / "thousand_island_sync").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and OF_ERRORS.search(ast.unparse(node.func)):
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                for argument in node.args:
                    text = text_of(argument)
                    if text is not None and " " in text:
                        yield where, text


def text_of(node):
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values
        )
    return None


ERRORS = [*texts_of_errors()]


# ---- the rules ------------------------------------------------------------------


def too_long(blocks):
    return [
        f"{words(sentence)} words: {sentence}"
        for block in blocks
        for sentence in sentences(block)
        if words(sentence) > MOST_WORDS and not sentence.lstrip("*").startswith(tuple(LONG))
    ]


def banned(blocks, phrases=BANNED):
    return [
        f"{found[0]!r} (write: {instead}): {block[max(found.start() - 40, 0) : found.end() + 40]}"
        for block in blocks
        for phrase, instead in phrases.items()
        for found in re.finditer(phrase, block)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_has_sentences_that_are_read_once(page):
    blocks = blocks_of_page(page.read_text())
    assert blocks
    assert too_long(blocks) + banned(blocks) == []


@pytest.mark.parametrize("name", MEMBERS)
def test_a_public_docstring_has_sentences_that_are_read_once(name):
    blocks = blocks_of_docstring(inspect.getdoc(MEMBERS[name]))
    assert too_long(blocks) + banned(blocks) == []


def test_errors_are_in_the_trade_s_words():
    assert len(ERRORS) > 200
    for where, text in ERRORS:
        assert banned([text], BANNED | BANNED_IN_ERRORS) == [], where
        assert text[:1] == "{" or not text[:1].isspace(), where
        assert text.rstrip()[-1] not in ".;", f"{where}: no full stop at the end: {text}"


# ---- the rules themselves ---------------------------------------------------------


def test_a_long_sentence_is_found_and_code_tables_and_links_are_not_counted():
    long = " ".join(["word"] * 41)
    assert too_long(blocks_of_page(f"Short.\n\n{long}.\n")) == [f"41 words: {long}."]
    assert too_long(blocks_of_page(f"```python\n{long}\n```\n")) == []
    assert too_long(blocks_of_page(f"| {' '.join(['word'] * 39)} | {long[:50]} |\n")) == []
    assert too_long(blocks_of_page(f"{'[a b](c d) ' * 20}\n")) == []
    assert too_long(blocks_of_docstring(f"Short.\n\nArgs:\n    one: {long}\n")) != []


@pytest.mark.parametrize(
    "sentence",
    [
        "Blocking code for less than on asyncio's Protocol.",
        "It is back in time whatever they do.",
        "What is wrong with the arguments is one line on standard error.",
        "What one host demands cannot be walked around by way of another.",
    ],
)
def test_sentences_that_had_to_be_read_twice_are_found(sentence):
    assert banned(blocks_of_page(sentence))
