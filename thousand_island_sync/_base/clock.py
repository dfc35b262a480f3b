"""Monotonic time, and all conversions between the units of users, library and kernel.

Users give milliseconds, telemetry has nanoseconds, and inside everything is a
`float` of seconds on the monotonic clock, with `FOREVER` for "no limit": then a
deadline is compared and added to without asking whether there is one.
Tests inject a clock: any callable that returns seconds.

What the kernel takes is narrower. epoll_wait(2) and poll(2) take a C `int` of
milliseconds, so 24.8 days, and setsockopt(2) refuses a `timeval` of 1,000,000
microseconds. So a time goes to a system call through `wait_time` or `timeval`, and
nowhere else. Both may be shorter than the given time: the caller checks its own
deadline afterwards, and waits again. A lock takes no more than `threading.TIMEOUT_MAX`:
a time that reaches `ENDLESS` is no limit, from the moment that the user gives it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

FOREVER = float("inf")

#: A clock returns monotonic seconds.
Clock = Callable[[], float]

now: Clock = time.monotonic
now_ns: Callable[[], int] = time.monotonic_ns

#: Seconds that are as good as no limit: 31 years, or what a lock takes here.
ENDLESS = min(1e9, threading.TIMEOUT_MAX / 2)
#: The longest that one system call waits, in seconds: 23 days.
LONGEST_WAIT = 2e6


class Times:
    """The clocks of one server's connections, and how their calls wait.

    In a server these are the monotonic clock, whole. Tests of users' handlers have a clock that
    stands still until it is told to go on; handshakes and stops go by real time
    beside it. Each wait looks at its own deadline every `look_s` seconds, whatever the clock.

    Attributes:
        clock: of every time-out that a user has set.
        real: of handshakes, and of a stop.
        look_s: the longest that a call waits before it looks at the clock again, and whether its
            stream was given away meanwhile.
    """

    __slots__ = ("clock", "look_s", "real")

    def __init__(self, clock: Clock, real: Clock, look_s: float = 1.0) -> None:
        self.clock: Clock = clock
        self.real: Clock = real
        self.look_s: float = look_s

    def left(self, deadline: float) -> float:
        """Seconds until then."""
        return FOREVER if deadline == FOREVER else max(0.0, deadline - self.clock())

    def acquire(self, lock: Any, deadline: float) -> bool:
        """Takes a lock, waiting until then at most. `False`: it was not free in time."""
        left = self.left(deadline)
        return bool(lock.acquire(timeout=-1 if left == FOREVER else left))

    def pool(self, scheduler: Any) -> Any:
        """What connections use as scheduler: that itself, if its timers use this clock."""
        return scheduler

    def begins(self, deadline: float) -> None:
        """The calling thread is about to wait until then; called before each check."""

    def is_over(self) -> None:
        """The calling thread does not wait any longer."""


#: Those of every server outside tests.
REAL = Times(now, now)


def limited(seconds_: float | None) -> float:
    """Seconds that a user gave; `None`, and what reaches `ENDLESS`, is `FOREVER`."""
    return FOREVER if seconds_ is None or seconds_ >= ENDLESS else float(seconds_)


def seconds(milliseconds: float | None) -> float:
    """Milliseconds that a user gave, or `None` for no limit, as seconds."""
    if milliseconds is None or milliseconds >= ENDLESS * 1000:
        return FOREVER
    return milliseconds / 1000


def milliseconds(seconds_: float) -> float | None:
    """Seconds as milliseconds; `FOREVER` as `None`."""
    return None if seconds_ == FOREVER else seconds_ * 1000


def wait_time(seconds_: float) -> float | None:
    """Seconds as one system call may wait; `None`: without a limit.

    At least 0, at most `LONGEST_WAIT`. What is no whole unit of the call's is rounded up by
    select, poll, epoll and kqueue of the standard library (PEP 475).
    """
    return None if seconds_ == FOREVER else min(max(seconds_, 0.0), LONGEST_WAIT)


def timeval(seconds_: float) -> tuple[int, int]:
    """The seconds and microseconds of a `timeval` for SO_RCVTIMEO (socket(7)).

    `FOREVER` is (0, 0), which is no limit there; so any other time is a microsecond at least.
    Rounded up, as one integer: the kernel takes 0 to 999,999 microseconds.
    """
    if seconds_ == FOREVER:
        return 0, 0
    whole = math.ceil(min(max(seconds_, 0.0), LONGEST_WAIT) * 1_000_000)
    return divmod(max(whole, 1), 1_000_000)


def show(seconds_: float) -> str:
    """A duration for an error message."""
    return f"{seconds_ * 1000:g} ms"
