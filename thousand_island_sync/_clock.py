"""Monotonic time, and the two conversions between a user's units and ours.

Users give milliseconds, telemetry has nanoseconds, and inside everything is a
`float` of seconds on the monotonic clock, with `FOREVER` for "no limit": then a
deadline is compared and added to without asking whether there is one.
Tests inject a clock: any callable that returns seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable

FOREVER = float("inf")

#: A clock returns monotonic seconds.
Clock = Callable[[], float]

now: Clock = time.monotonic
now_ns: Callable[[], int] = time.monotonic_ns


def seconds(milliseconds: float | None) -> float:
    """Milliseconds, or `None` for no limit, as seconds."""
    return FOREVER if milliseconds is None else milliseconds / 1000


def milliseconds(seconds_: float) -> float | None:
    """Seconds as milliseconds; `FOREVER` as `None`."""
    return None if seconds_ == FOREVER else seconds_ * 1000


def show(seconds_: float) -> str:
    """A duration for an error message."""
    return f"{seconds_ * 1000:g} ms"
