"""Which C sources this Python goes with, as a digest; what was compiled knows that of its own.

In a checkout the folder `native` lies beside the package. A wheel has a file that `setup.py` made,
which also runs this file by itself: it imports nothing of the package. It runs at each import, too,
so it does without `pathlib`, and without `hashlib`, which loads OpenSSL.
"""

from __future__ import annotations

import os
from typing import Any

#: In a wheel, beside this file.
WRITTEN_DOWN = "_native_sources.sha256"


def _sha256() -> Any:
    """As `random` of the standard library does it."""
    try:
        from _sha2 import sha256  # type: ignore[import-not-found]
    except ImportError:
        try:
            from _sha256 import sha256  # type: ignore[import-not-found]  # Python 3.11
        except ImportError:
            from hashlib import sha256
    return sha256()


def digest(folder: str | os.PathLike[str]) -> str:
    """Of all sources in a folder, with their names.

    Raises:
        OSError: one cannot be read.
    """
    known = _sha256()
    for name in sorted(os.listdir(folder)):
        if name.endswith((".c", ".h")):
            with open(os.path.join(folder, name), "rb") as file:
                content = file.read()
            known.update(f"{name} {len(content)}\n".encode() + content)
    return str(known.hexdigest())


def expected() -> str | None:
    """`None`: nobody knows, for the package was copied without either."""
    here = os.path.dirname(os.path.abspath(__file__))
    beside = os.path.join(here, "..", "..", "native")
    try:
        with open(os.path.join(here, WRITTEN_DOWN), encoding="ascii") as file:
            return file.read().strip()
    except FileNotFoundError:
        pass
    except OSError:
        return None
    try:
        return digest(beside) if os.path.exists(os.path.join(beside, "native.h")) else None
    except OSError:
        return None
