"""The tests in several processes beside each other, for most of their time is spent waiting.

    python -m tests.side_by_side [--coverage] <what pytest takes>

Which of them runs a test is decided by its name. What they print comes when they end. It
is a failure if they did not collect the same tests. A test that measures how quick something
is on a machine at rest is marked `alone`: the other processes wait meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

PROCESSES = 3
#: What pytest ends with if it has run no test.
NONE_RUN = 5


def share_of(name: str) -> int:
    """Which process runs a test."""
    return zlib.crc32(name.encode()) % PROCESSES


@contextlib.contextmanager
def turn(folder: Path, alone: bool) -> Iterator[None]:
    """While a test runs: with others of other processes, or without any.

    Who waits to be alone stands in the door, so that nobody goes in before.
    """
    with folder.joinpath("door").open("w") as door, folder.joinpath("room").open("w") as room:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        yield


def outcome(codes: list[int]) -> int:
    """A failure of any of them; that all that was asked for is the others' is none."""
    failures = [code for code in codes if code not in (0, NONE_RUN)]
    return failures[0] if failures else min(codes)


def main(arguments: list[str]) -> int:
    measure = ["-m", "coverage", "run"] if "--coverage" in arguments else []
    given = [argument for argument in arguments if argument != "--coverage"]
    development = ["-X", "dev"] if sys.flags.dev_mode else []
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for number in range(PROCESSES):
            place = Path(folder, str(number))
            place.mkdir()
            with place.joinpath("printed").open("wb") as printed:
                running.append(
                    subprocess.Popen(
                        [sys.executable, *development, *measure, "-m", "pytest", *given],
                        stdout=printed,
                        stderr=subprocess.STDOUT,
                        env={**os.environ, "TESTS_SHARE": f"{number} {place / 'collected'}"},
                    )
                )
        codes = [process.wait() for process in running]
        collected = set()
        for number in range(PROCESSES):
            place = Path(folder, str(number))
            print(f"---- {number + 1} of {PROCESSES}", flush=True)
            sys.stdout.buffer.write(place.joinpath("printed").read_bytes())
            sys.stdout.flush()
            seen = place / "collected"
            collected.add(seen.read_text() if seen.exists() else "nothing")
    if len(collected) != 1 or "nothing" in collected:
        print("the processes did not collect the same tests")
        return 1
    return outcome(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
