"""The tests. Every server of theirs checks itself, those in processes of their own included, and
so do the locks: that is decided when the package is imported."""

import os

os.environ.setdefault("THOUSAND_ISLAND_DEBUG", "1")
