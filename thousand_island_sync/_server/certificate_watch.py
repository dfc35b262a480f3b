"""Loading certificates again while the server runs: the command line's part of renewal."""

from __future__ import annotations

import logging
import os
import queue
from collections.abc import Callable, Sequence

from .._base.clock import limited, wait_time
from .._base.supervised import Supervised
from ..errors import ConfigError

_log = logging.getLogger("thousand_island_sync")

#: Seconds that a stop waits for the thread.
_LEAVES_WITHIN_S = 0.5
#: What tells that a file has changed; `None`: it is not there.
_Stamp = tuple[int, int, int] | None


class CertificateWatch:
    """Loads when asked to, and when one of the files has changed. A context manager.

    What is wrong with the files is logged, once for each state they are in, and the old
    certificates stay in use. A certificate and its key are rarely written at one
    moment: as long as loading has failed, each later change is tried.

    Args:
        load: loads the files; raises ConfigError.
        paths: the files.
        every: seconds between two looks at them; `None`: only when asked.
    """

    def __init__(
        self, load: Callable[[], None], paths: Sequence[str], every: float | None = None
    ) -> None:
        self._load = load
        self._paths = paths
        self._every = every
        self._seen = self._stamps()
        # A queue: unlike an event's, its lock bears a signal handler amid another.
        self._asked: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._over = False
        self._thread = Supervised(self._run, "certificate-watch")

    def ask(self) -> None:
        """Loads soon. Thread: any; signal handlers may."""
        self._asked.put(True)

    def __enter__(self) -> CertificateWatch:
        try:
            self._thread.start()
        except BaseException:  # it may run: Ctrl-C came to us meanwhile
            self._leave()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._leave()
        self._thread.join(_LEAVES_WITHIN_S)  # it may be in a log handler that stands

    def _leave(self) -> None:
        self._over = True
        self._asked.put(False)

    def _stamps(self) -> list[_Stamp]:
        return [_stamp(path) for path in self._paths]

    def _run(self) -> None:
        while True:
            asked = self._wait()
            if self._over:
                return
            stamps = self._stamps()
            if asked or stamps != self._seen:
                self._seen = stamps
                self._try()

    def _wait(self) -> bool:
        """Whether it was asked to load, rather than time to look."""
        asked = False
        try:
            asked = self._asked.get(timeout=wait_time(limited(self._every)))
            while True:  # what was asked for meanwhile is the same
                asked |= self._asked.get_nowait()
        except queue.Empty:
            return asked

    def _try(self) -> None:
        try:
            self._load()
        except ConfigError as error:
            _log.error("certificates not reloaded, the old ones stay in use: %s", error)
        except Exception:
            _log.exception("certificates not reloaded, the old ones stay in use")
        else:
            _log.info("certificates reloaded")


def _stamp(path: str) -> _Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
