"""`python -m benchmarks.peers NAME WORK`: serves on a free port of 127.0.0.1 and prints it.

It serves until its standard input ends. `WORK` is the JSON of a `benchmarks.work.Work`.
"""

from __future__ import annotations

import sys
import threading

from .. import work
from . import OURS, load


def announce(port: int) -> None:
    print(port, flush=True)


def main() -> None:
    name, text = sys.argv[1:]
    work.configure(text)
    serve = load(name)
    if name.startswith(OURS) or name == "nginx":
        # The first tells how long its stop took; the second becomes another program.
        serve(announce)
    else:
        threading.Thread(target=serve, args=(announce,), daemon=True).start()
        sys.stdin.read()


if __name__ == "__main__":
    main()
