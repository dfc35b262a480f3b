"""Children of the tests: they end by themselves, and are waited for."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable

from tests.support import eventually

#: Seconds that a child lives at most.
_LONGEST_S = 30


class Children:
    """Forks, from any thread, and knows whom to wait for.

    A child tells by `say`; what all of them said is in `said`.
    """

    def __init__(self) -> None:
        self.parent = os.getpid()
        self.pids: list[int] = []
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        self._said = b""

    def fork(self) -> int:
        """As `os.fork`."""
        pid = os.fork()
        if pid:
            self.pids.append(pid)
        else:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(_LONGEST_S)
        return pid

    def run(self, job: Callable[[], object]) -> int:
        """A child that does a job and ends: status 0, or 1 if that raised. Its process id."""
        pid = self.fork()
        if pid:
            return pid
        try:
            job()
        except BaseException as error:
            self.say(f"{type(error).__name__}: {error}")
            os._exit(1)
        os._exit(0)

    def in_child(self) -> bool:
        return os.getpid() != self.parent

    def say(self, what: object) -> None:
        os.write(self._write, f"{what}\n".encode())

    @property
    def said(self) -> list[str]:
        """Lines, in the order said."""
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self._read, 65_536):
                self._said += piece
        return self._said.decode().splitlines()

    def exit_code(self, pid: int | None = None, within: float = 10) -> int:
        """Waits for a child, the first one if it is not said which, to end."""
        assert eventually(lambda: pid or self.pids, within), "there was no fork"
        pid = pid or self.pids[0]
        deadline = time.monotonic() + within
        found = 0
        while not found:
            found, status = os.waitpid(pid, os.WNOHANG)
            if not found:
                assert time.monotonic() < deadline, f"the child {pid} has not ended"
                time.sleep(0.002)
        self.pids.remove(pid)
        return os.waitstatus_to_exitcode(status)

    def exit_codes(self, within: float = 10) -> list[int]:
        """Of all that were not waited for."""
        return [self.exit_code(pid, within) for pid in self.pids[:]]

    def close(self) -> None:
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        left, self.pids = self.pids, []
        os.close(self._read)
        os.close(self._write)
        assert not left, f"children left behind: {left}"
