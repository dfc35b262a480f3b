"""What `import thousand_island_sync` costs over `socket`, `threading` and `logging`.

    python -m benchmarks.import_cost

Without OpenSSL, which is imported when TLS is asked for.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time

from .measure import ROOT

_STANDARD = "import socket, threading, logging"


def milliseconds(rounds: int = 15) -> float:
    """The median of the differences, the two taking turns, bytecode cached."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = cache

        def seconds(code: str) -> float:
            before = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment)
            return time.perf_counter() - before

        ours = f"{_STANDARD}, thousand_island_sync"
        seconds(ours)
        return statistics.median(seconds(ours) - seconds(_STANDARD) for _ in range(rounds)) * 1e3


if __name__ == "__main__":
    print(f"{milliseconds():.0f} ms (target: at most 60)")
