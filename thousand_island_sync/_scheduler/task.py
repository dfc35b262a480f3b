"""What the scheduler runs: a descriptor, and one step at a time."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from .._base.clock import FOREVER
from .._base.compiled import native
from .states import PARKED

if TYPE_CHECKING:
    from .time_slots import TimeSlot
    from .timers import Timer

#: Verdicts of `Task.run`: wait for an event or the deadline; run again soon; over.
PARK, AGAIN, DONE = 0, 1, 2


class Classified(Enum):
    """What is assumed of a task's callbacks (`blocking_estimate`)."""

    #: Taken for quick: its own callbacks were not measured, those of its class may be.
    UNKNOWN = False, False, False
    QUICK = False, True, False
    #: Its last run took long, or those of its class do: its next run is measured.
    SUSPECT = True, False, False
    #: It blocks on average, but the last sample did not prove it: each run is measured.
    DOUBTFUL = True, True, False
    BLOCKING = True, True, True

    def __init__(self, blocks: bool, measured: bool, certain: bool) -> None:
        #: Its thread hands its permit off before the callback.
        self.blocks = blocks
        #: Known from its own callbacks, not from those of its class.
        self.measured = measured
        #: Only one run in `SAMPLE_EVERY` is measured.
        self.certain = certain


class PythonTask:
    """What the scheduler runs. Its fields are the scheduler's, but for those that the
    task sets while it is run: `deadline`, `reads`, `wants_write` and `alert`. `_native.Task` is its
    equal in C. Only a connection has a `machine`, which runs it."""

    __slots__ = (
        "alert",
        "attached",
        "average",
        "classified",
        "deadline",
        "fd",
        "hung_up",
        "machine",
        "no_sample",
        "ownership",
        "place",
        "reads",
        "timer",
        "timer_at",
        "wants_write",
        "write_edges",
    )

    #: Whether what arrives leads to no run: such a task is not rearmed in a poller that needs it.
    deaf = False

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.ownership = PARKED  # whose it is (`_scheduler.states`)
        self.attached = False
        self.hung_up = False
        # The next step must look at more than the descriptor.
        self.alert = False
        # Whether its steps read what arrives. If not, a level-triggered poller does not watch it.
        self.reads = True
        # Whether it is to be run when there is room to write.
        self.wants_write = False
        # Whether the poller watches for room to write. (A Unix socket gives a write edge for each
        # read of its peer.)
        self.write_edges = True
        self.deadline = FOREVER
        self.timer: Timer | TimeSlot | None = None
        self.place = 0  # its index in that time slot
        self.timer_at = FOREVER
        self.average = 0.0  # seconds that its callbacks block
        self.classified = Classified.UNKNOWN
        self.no_sample = False  # whether this run tells nothing about callbacks

    def run(self) -> int:
        """One step; returns a verdict and never raises. Thread: the pool's."""
        raise NotImplementedError

    def may_stay(self) -> bool:
        """Whether `stay` may be called, when `run` has said that it parks."""
        return False

    def stay(self, timeout: float, wanted: Callable[[float], bool]) -> tuple[int, bool]:
        """Steps with waits in the kernel, each of `timeout` seconds at most, until nothing
        came in time, or until `wanted`, which gets the seconds that a callback took, returns
        true: the thread is needed elsewhere.

        Returns:
            A verdict as of `run`, and whether bytes had come in time.

        Thread: the pool's, without a permit, the descriptor not in the poller.
        """
        raise NotImplementedError

    def broke(self) -> None:
        """Called if `run` raised against its contract: must release everything."""
        raise NotImplementedError

    def unwatched(self, error: OSError) -> None:
        """The poller has no room for its descriptor: its next run, which follows, must end it.
        Thread: any, with the scheduler's lock held."""

    def stop_begins(self) -> None:
        """The server stops; the task is made ready afterwards. Thread: any."""


if TYPE_CHECKING:
    Task = PythonTask
else:
    Task = getattr(native, "Task", PythonTask)
    if Task is not PythonTask:
        native.classify(Classified.UNKNOWN, Classified.QUICK, Classified.SUSPECT)
