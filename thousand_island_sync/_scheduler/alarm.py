"""The watchdog's timer: set when a thread begins to run what is ready, stopped when that
thread waits again.

The facts. If requests come one by one with pauses between, waking the watchdog for each of them,
and once more to see that it is over, is two needless thread switches: at fifty requests a second
that was more than half of the CPU they cost, and 2.3 times what they cost on asyncio. Setting a
timer of the kernel and stopping it is two system calls of a microsecond (timerfd_create(2)).
"""

from __future__ import annotations

import os
import time
from typing import Any

from .._base import descriptors
from .._base.compiled import timer_open, timer_set

#: Seconds between two looks of the watchdog: while a callback may block, and when nothing
#: has blocked for a while. Each look costs two thread switches; at the
#: short interval that was a tenth of the CPU of a server under PINGs.
TICK, CALM_TICK = 0.002, 0.008
#: If runs begin so many seconds apart, the alarm is stopped after each: the watchdog never looks at
#: quick ones. If they are closer, a look now and then costs less than setting and stopping it.
SPARSE_S = 0.0005

_os: Any = os  # has timerfd since Python 3.13


class Alarm:
    """A descriptor that is readable from a while after `set` until `stop` or `hush`.

    Raises:
        OSError: no descriptor is left, or this system has none of the kind.
    """

    def __init__(self) -> None:
        self._fd = -1
        if timer_open is not None and timer_set is not None:
            self._set = timer_set
        elif hasattr(os, "timerfd_create"):
            self._set = _set_by_the_standard_library
        else:
            raise OSError("no timerfd")
        with descriptors.thread.no_fork:
            try:
                self._fd = _open()
                descriptors.hold(self)
            except BaseException:
                if self._fd >= 0:
                    os.close(self._fd)
                raise

    def fileno(self) -> int:
        return int(self._fd)

    def set(self, seconds: float) -> None:
        self._set(self._fd, seconds)

    def stop(self) -> None:
        self._set(self._fd, 0.0)

    def hush(self) -> None:
        """Makes it unreadable again."""
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            pass

    def close(self) -> None:
        """It may be called twice."""
        with descriptors.thread.no_fork:
            self.abandon()

    def abandon(self) -> None:
        """As `descriptors.Holder`."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _open() -> int:
    if timer_open is not None:
        return int(timer_open())
    return int(_os.timerfd_create(time.CLOCK_MONOTONIC, flags=_os.TFD_NONBLOCK | _os.TFD_CLOEXEC))


def _set_by_the_standard_library(fd: int, seconds: float) -> None:
    _os.timerfd_settime(fd, initial=seconds)


def alarm_if_there_is_one() -> Alarm | None:
    try:
        return Alarm()
    except OSError:
        return None
