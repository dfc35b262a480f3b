"""Lines for a stream whose reader may have stopped: the thread that writes a line never waits.

There is a bounded queue, and a thread that empties it. A line that finds no room is dropped and
counted, and the number is written as soon as the stream can be written again. So a pipe whose
reader does not read (a container's stderr) costs lines, but delays no client and no stop.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import signal
from collections.abc import Callable
from typing import TextIO

from .._base import fork
from .._base.clock import now
from .._base.locks import lock
from .._base.supervised import Supervised

#: Lines that wait, and their characters: a line may be a traceback.
MOST_LINES = 4_096
MOST_CHARACTERS = 8 << 20


class LineWriter:
    """Writes lines to a stream, on a thread of its own.

    The stream's descriptor is written to straight: a thread that waits in the stream itself
    would hold its lock, which the interpreter takes at its exit. In a forked child, where the
    thread is not, a line is written by who has it.

    Args:
        stream: where to. What has no descriptor is written to as it is; `None` (standard
            error was closed before Python began) takes nothing.
        most: lines that may wait.

    Attributes:
        say_dropped: words a line on how many were dropped. Thread: the writer's.
    """

    say_dropped: Callable[[int], str]

    def __init__(self, stream: TextIO | None, most: int = MOST_LINES) -> None:
        self._stream = stream
        self._fd = _descriptor(stream)
        self._most = most
        # Its `put` may come in a signal handler or a `__del__` amid another: it takes no lock.
        # A number: so many lines were dropped here.
        self._lines: queue.SimpleQueue[str | int | None] = queue.SimpleQueue()
        self._size = 0  # of what waits
        self.say_dropped = "{} lines were dropped here: nobody read them in time".format
        self._counting = lock("lines")
        self._dropped = 0
        self._forks = fork.forks
        self._closed = False
        self._thread = Supervised(self._run, "log-lines")
        try:
            self._thread.start()
        except BaseException:  # it may run: Ctrl-C came to us meanwhile
            self.close()
            raise

    def put(self, line: str) -> None:
        """Has a line (without its end) written. Thread: any."""
        if fork.forks != self._forks:
            self._write(line)
            return
        with self._counting:
            too_much = self._size and self._size + len(line) > MOST_CHARACTERS
            if self._closed or too_much or self._lines.qsize() >= self._most:
                self._dropped += 1
                return
            self._have_dropped_said()
            self._size += len(line)
            self._lines.put(line)

    def _have_dropped_said(self) -> None:
        """Behind what waits, which came before them."""
        with self._counting:
            dropped, self._dropped = self._dropped, 0
            if dropped:
                self._lines.put(dropped)

    def close(self) -> None:
        """Lines that come later are dropped; what is queued is written still. Idempotent."""
        if fork.forks != self._forks or self._closed:
            return
        with self._counting:
            self._closed = True
            self._have_dropped_said()
            self._lines.put(None)

    def join(self, timeout: float) -> None:
        """Waits for that, so many seconds at most; the rest is lost then."""
        self._thread.join(timeout)

    def _run(self) -> None:
        _write_from_the_background()
        while True:
            line = self._lines.get()
            if line is None:
                return
            if isinstance(line, int):
                written, lost = self._write(self.say_dropped(line)), line
            else:
                written, lost = self._write(line), 1
                with self._counting:
                    self._size -= len(line)
            if not written:
                with self._counting:
                    self._dropped += lost
            elif self._dropped and self._lines.empty() and not self._closed:
                self._have_dropped_said()

    def _write(self, line: str) -> bool:
        """Whether it could be: the reader may have gone, the disk be full."""
        stream = self._stream
        if stream is None:
            return False
        try:
            if self._fd is None:
                stream.write(f"{line}\n")
                stream.flush()
            else:
                encoding = stream.encoding or "utf-8"
                _write_all(self._fd, f"{line}\n".encode(encoding, "backslashreplace"))
        except (OSError, ValueError):
            return False
        return True


def close_all(*writers: LineWriter, within: float = 0.5) -> None:
    """Closes them, and waits for all of them together so many seconds at most."""
    for writer in writers:
        writer.close()
    deadline = now() + within
    for writer in writers:
        writer.join(max(0.0, deadline - now()))


def _descriptor(stream: TextIO | None) -> int | None:
    try:
        return None if stream is None else stream.fileno()
    except (OSError, ValueError):
        return None


def _write_all(fd: int, data: bytes) -> None:
    """Also if other code has made the descriptor non-blocking, which all its copies share."""
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:
            poller = select.poll()
            poller.register(fd, select.POLLOUT)
            poller.poll()


def _write_from_the_background() -> None:
    """A terminal that stops background processes which write to it (`stty tostop`) lets those write
    that block its signal. Who handles it would be told, and refused, for ever."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})


class LineHandler(logging.Handler):
    """Log records as lines of a `LineWriter`; they are formatted where they are logged. What it has
    to say itself is a record in the same format."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer
        writer.say_dropped = self._say_dropped

    def emit(self, record: logging.LogRecord) -> None:
        """As `logging.Handler.emit`; never waits."""
        try:
            line = self.format(record)
        except Exception:
            line = self._own_line(
                logging.ERROR,
                f"a line of {record.pathname}:{record.lineno} cannot be formatted: {record.msg!r}",
            )
        self._writer.put(line)

    def _say_dropped(self, count: int) -> str:
        text = f"{count} lines were dropped here: nobody read them in time"
        return self._own_line(logging.WARNING, text, event_name="log.dropped", dropped=count)

    def _own_line(self, level: int, text: str, **fields: object) -> str:
        record = logging.LogRecord("thousand_island_sync", level, __file__, 0, "%s", (text,), None)
        vars(record).update(fields)
        try:
            return self.format(record)
        except Exception:  # a formatter that never can
            return text
