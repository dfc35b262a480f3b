"""Whether a handler tends to block: the policy that decides when to hand the permit off early.

A permit that the watchdog takes from a blocking callback has cost the others up to two of its
ticks; a permit that is handed off before a callback costs a thread switch. So the
second pays as soon as a callback usually blocks for longer than the switch takes.

How long did a callback block? Its wall time less its thread's CPU time is the upper
bound, for it includes the waits for the GIL. Its wall time less the
whole *process's* CPU time is the lower bound: while it waited for the GIL, another
thread used the processor. So a sample is a range. A high lower bound proves blocking, however
busy the others were; a low upper bound proves the contrary. A sample between them proves
nothing and is dropped, unless it is so short that a few GIL switches explain it.

A callback that computes for long delays the others as much as one that blocks, but no clock
shows that as a wait. So if the watchdog had to take the permit, and the thread has used the
processor meanwhile, the permit is handed off before each further callback of that connection, as
long as they compute for so long.

A thread that was preempted, or whose whole machine was suspended, has not blocked, although
the clock has run on. The kernel knows: a thread that waited has made a voluntary context
switch (getrusage(2), RUSAGE_THREAD). Without one, a sample is zero. A thread that does not
go on at this moment, but could run, wants a processor: `wants_processor`. `processor_time`
tells how much processor time a thread has had so far.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

try:
    from resource import RUSAGE_THREAD, getrusage
except ImportError:  # only Linux has it: elsewhere any callback may have waited
    voluntary_switches: Callable[[], int] = itertools.count().__next__
else:

    def voluntary_switches() -> int:
        """How often the calling thread has waited for something."""
        return getrusage(RUSAGE_THREAD).ru_nvcsw


def wants_processor(native_id: int) -> bool:
    """Whether a thread runs, or is ready to run and waits for a processor (proc(5), the state R of
    /proc/self/task/<tid>/stat). `False` where the system does not tell."""
    try:
        with open(f"/proc/self/task/{native_id}/stat", "rb") as file:
            # The name, in parentheses, may hold anything.
            return file.read(512).rpartition(b") ")[2][:1] == b"R"
    except OSError:
        return False


def processor_time(native_id: int) -> float:
    """Seconds of processor time that another thread has used; 0 where the system does not tell.

    The number of that clock is computed from the thread's number (clock_getcpuclockid(3), for a
    thread: CPUCLOCK_PERTHREAD and CPUCLOCK_SCHED in include/linux/posix-timers_types.h).
    """
    try:
        return time.clock_gettime(~native_id << 3 | 6)
    except (OSError, AttributeError):
        return 0.0


#: What a hand-off costs, in seconds: it pays if the callback blocks for longer.
HAND_OFF_COST = 50e-6
#: Seconds of the processor that make a callback long. It is the GIL's switch interval: a
#: thread that computes for longer must share the GIL anyway, so handing off costs no more.
LONG = 5e-3
#: One callback in this many is measured while the average is low; a power of two.
SAMPLE_EVERY = 16
#: One very long wait must not outweigh the next hundred callbacks.
_CEILING = 1e-3
_WEIGHT = 0.25
#: The weight of a sample without any wait, which is certain.
_WEIGHT_OF_NONE = 0.5
#: A callback that waits so often waits for the GIL. Each such wait has a time in which no thread
#: runs: from the release of the GIL until the waiting thread is awake.
_MANY_WAITS = 8
_GIL_SWITCHES = 4 * HAND_OFF_COST


class Tendency:
    """The running average of a handler class, from which its connections start.

    Not locked: the scheduler's lock guards it.
    """

    __slots__ = ("average",)

    def __init__(self) -> None:
        self.average = 0.0

    def learn(self, average: float, at_least: float, at_most: float, waits: int = 1) -> float:
        """A connection's new average after a sample; all in seconds.

        Args:
            average: its average so far.
            at_least: wall time less the process's CPU time.
            at_most: wall time less the thread's CPU time.
            waits: how often the thread waited.
        """
        if waits >= _MANY_WAITS and at_least < at_most / 2:
            return average
        if at_least > HAND_OFF_COST:
            sample = min(at_least, _CEILING)
        elif at_most <= _GIL_SWITCHES:
            sample = max(at_least, 0.0)
        else:
            return average
        weight = _WEIGHT if at_most > 0 else _WEIGHT_OF_NONE
        self.average += (sample - self.average) * weight
        return average + (sample - average) * weight
