"""Which C sources this Python goes with, as a digest; what was compiled knows that of its own.

In a checkout the folder `native` lies beside the package. A wheel has a file that `setup.py` made,
which also runs this file by itself: it imports nothing of the package.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

#: In a wheel, beside this file.
WRITTEN_DOWN = "_native_sources.sha256"


def digest(folder: Path) -> str:
    """Of all sources in a folder, with their names.

    Raises:
        OSError: one cannot be read.
    """
    known = sha256()
    for path in sorted(folder.glob("*.[ch]")):
        content = path.read_bytes()
        known.update(f"{path.name} {len(content)}\n".encode() + content)
    return known.hexdigest()


def expected() -> str | None:
    """`None`: nobody knows, for the package was copied without either."""
    here = Path(__file__).parent
    beside = here.parent.parent / "native"
    try:
        written = here / WRITTEN_DOWN
        if written.exists():
            return written.read_text().strip()
        return digest(beside) if (beside / "native.h").exists() else None
    except OSError:
        return None
