"""The reference, from the package's own tables.

    .. public:: thousand_island_sync.testing

documents every name of a module's `__all__`, or those that stand below it. On the pages that
`tests/option_page.py` and `tests/event_page.py` make, each option, flag and event gets an anchor of
its own, and an entry in the index and in what the site's search finds.
"""

import importlib
import inspect
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from thousand_island_sync import events
from thousand_island_sync._command.environment import variable
from thousand_island_sync._command.table import SHORT, TABLE, WITH_FLAGS, flag
from thousand_island_sync._server.config import OPTIONS
from thousand_island_sync.transports.tls import TLS_OPTIONS

ROOT = Path(__file__).resolve().parent.parent.parent


class Public(SphinxDirective):
    """Documents the names of a module that are public."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        module = importlib.import_module(self.arguments[0])
        names = " ".join(self.content).split() or module.__all__
        lines = [line for name in names for line in _entry(module, name)]
        return self.parse_text_to_nodes("\n".join(lines))


def _entry(module: types.ModuleType, name: str) -> Iterator[str]:
    one = getattr(module, name)
    full = f"{module.__name__}.{name}"
    if inspect.ismodule(one):
        return
    if inspect.isclass(one) and one.__module__.startswith("thousand_island_sync"):
        if issubclass(one, BaseException):
            yield from (f".. autoexception:: {full}", "   :members:", "   :show-inheritance:", "")
            return
        yield from (f".. autoclass:: {full}", "   :members:")
        if not issubclass(one, dict | tuple):
            yield "   :inherited-members:"
    elif inspect.isfunction(one):
        yield f".. autofunction:: {full}"
    else:
        yield from (f".. autodata:: {full}", "   :no-value:")
    yield ""


def folders_of_the_repository(app: Sphinx, doctree: nodes.document) -> None:
    """A link to a folder outside docs/ works on GitHub alone: the site shows its words."""
    page = Path(app.env.doc2path(app.env.current_document.docname))
    for node in list(doctree.findall(pending_xref)):
        path = (page.parent / node["reftarget"]).resolve()
        if node["reftype"] == "myst" and path.is_dir() and path.is_relative_to(ROOT):
            node.replace_self(node.children)


def rows_of_options(app: Sphinx, doctree: nodes.document) -> None:
    """Each row of the page of options can be found: by option, by flag, by variable."""
    if app.env.current_document.docname != "reference/options":
        return
    standard = app.env.domains.standard_domain
    seen = set()
    for row in doctree.findall(nodes.row):
        name = row[0].astext()
        if name not in TABLE and name not in OPTIONS and name not in TLS_OPTIONS:
            continue
        if name in seen:
            continue  # `host` is the server's and the transport's
        seen.add(name)
        anchor = f"option-{name}"
        row["ids"].append(anchor)
        standard.note_object("setting", name, anchor, row)
        if name in WITH_FLAGS:
            flags = [flag(name), *([SHORT[name]] if name in SHORT else [])]
            if WITH_FLAGS[name].is_switch:
                flags.append(flag("no_" + name))
            for one in flags:
                standard.note_object("flag", one, anchor, row)
        if name in TABLE:
            standard.note_object("variable", variable(name), anchor, row)


def headings_of_events(app: Sphinx, doctree: nodes.document) -> None:
    """Each event can be found: by its name, its signal, and the types of what it tells."""
    if app.env.current_document.docname != "reference/events":
        return
    standard, python = app.env.domains.standard_domain, app.env.domains.python_domain
    for section in doctree.findall(nodes.section):
        name = section[0].astext()
        if name not in events.CATALOGUE:
            continue
        anchor = f"event-{name.replace('.', '-')}"
        section["ids"].append(anchor)
        standard.note_object("event", name, anchor, section)
        signal = name.replace(".", "_")
        python.note_object(f"{events.__name__}.{signal}", "data", anchor, location=section)
        stem = signal.title().replace("_", "")
        for kind in ("Measurements", "Metadata"):
            found = f"{events.__name__}.{stem}{kind}"
            assert hasattr(events, stem + kind), found
            python.note_object(found, "class", anchor, location=section)


def sentences(
    app: Sphinx, what: str, name: str, one: object, options: object, lines: list[str]
) -> None:
    """A colon in the first line of a property is a sentence's. Napoleon takes it for a type's."""
    if what in ("property", "attribute", "data") and lines:
        lines[0] = lines[0].replace(": ", " — ", 1)


class CommandLine(SphinxDirective):
    """What `thousand-island --help` prints."""

    def run(self) -> list[nodes.Node]:
        command = [sys.executable, "-m", "thousand_island_sync", "--help"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        shown = nodes.literal_block(done.stdout, done.stdout)
        shown["language"] = "text"
        return [shown]


def setup(app: Sphinx) -> dict[str, object]:
    """Called by Sphinx."""
    app.add_directive("public", Public)
    app.add_directive("help-of-the-command-line", CommandLine)
    app.connect("autodoc-process-docstring", sentences, priority=100)  # before napoleon
    for kind, word in (
        ("setting", "option"),
        ("flag", "flag"),
        ("variable", "environment variable"),
        ("event", "event"),
    ):
        app.add_object_type(kind, kind, objname=word)
    for heard in (folders_of_the_repository, rows_of_options, headings_of_events):
        app.connect("doctree-read", heard)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
