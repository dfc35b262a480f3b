"""The reference, from the package's own tables."""

from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent.parent


def folders_of_the_repository(app: Sphinx, doctree: nodes.document) -> None:
    """A link to a folder outside docs/ works on GitHub alone: the site shows its words."""
    page = Path(app.env.doc2path(app.env.current_document.docname))
    for node in list(doctree.findall(pending_xref)):
        path = (page.parent / node["reftarget"]).resolve()
        if node["reftype"] == "myst" and path.is_dir() and path.is_relative_to(ROOT):
            node.replace_self(node.children)


def setup(app: Sphinx) -> dict[str, object]:
    """Called by Sphinx."""
    app.connect("doctree-read", folders_of_the_repository)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
