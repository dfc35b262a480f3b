"""A socket in systemd's place, which notes what a service says."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from types import TracebackType


class NotifySocket:
    """A context manager; `address` is for NOTIFY_SOCKET. `said` has each datagram's lines, `times`
    when they came."""

    def __init__(self, address: str | Path) -> None:
        self.address = str(address)
        self.said: list[list[str]] = []
        self.times: list[float] = []
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(self.address.replace("@", "\0", 1))
        self._heard = threading.Condition()
        self._thread = threading.Thread(target=self._listen)

    def _listen(self) -> None:
        while True:
            data = self._sock.recv(65_536)
            if data == b"over":
                return
            with self._heard:
                self.said.append(data.decode().split("\n"))
                self.times.append(time.monotonic())
                self._heard.notify_all()

    def lines(self) -> list[str]:
        """All that was said, in order."""
        with self._heard:
            return [line for lines in self.said for line in lines]

    def when(self, start: str) -> list[float]:
        """When lines that begin so came."""
        with self._heard:
            both = zip(self.said, self.times, strict=True)
            return [at for lines, at in both if any(line.startswith(start) for line in lines)]

    def wait_for(self, start: str, count: int = 1, timeout: float = 20) -> list[str]:
        """The first so many lines that begin so."""

        def found() -> list[str]:
            return [one for lines in self.said for one in lines if one.startswith(start)]

        with self._heard:
            assert self._heard.wait_for(lambda: len(found()) >= count, timeout), self.said
            return found()[:count]

    def falls_silent(self, start: str, seconds: float, timeout: float = 6) -> bool:
        """Whether no line that begins so comes for so many seconds, at last."""

        def count() -> int:
            return sum(line.startswith(start) for lines in self.said for line in lines)

        until = time.monotonic() + timeout
        with self._heard:
            while time.monotonic() < until:
                before = count()
                if not self._heard.wait_for(lambda: count() > before, seconds):  # noqa: B023
                    return True
        return False

    def __enter__(self) -> NotifySocket:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"over", self._sock.getsockname())
        self._thread.join()
        self._sock.close()
