"""The site: `python -m tox -e docs` makes it, with warnings as errors."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

import thousand_island_sync  # noqa: E402

project = "thousand_island_sync"
author = "the thousand_island_sync contributors"
copyright = author
version = release = thousand_island_sync.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "reference",
]
exclude_patterns = ["_ext", "_build"]

html_theme = "furo"
html_title = f"{project} {release}"
html_show_sourcelink = False
html_copy_source = False
#: Nothing is fetched when somebody reads it.
html_static_path: list[str] = []

# Anchors of headings, as GitHub makes them.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "deflist", "attrs_block"]
suppress_warnings: list[str] = []

#: Docstrings have `names` as Markdown has them.
default_role = "code"
nitpicky = True
# Offline: the build asks no other site, so names of other packages lead nowhere; nor do names of
# ours that are private, or of the experimental interface of transports.
nitpick_ignore_regex = [
    (r"py:\w+", r"(collections|socket|os|types|weakref|logging|blinker|SSL)(\..*)?|Certificate"),
    (r"py:\w+", r"thousand_island_sync\.(\w+\.)*_.*|EndedInSilence|Built"),
    (r"py:class", r"thousand_island_sync\.(connection|transports\.base)\.\w+"),
]
intersphinx_mapping: dict[str, tuple[str, str | None]] = {}
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Thread", "notes_style")]
