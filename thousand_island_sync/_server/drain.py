"""The drain of one run: it announces its end, and serves on while load balancers move clients away.

It is announced by the status, the event, and `handle_drain` of each connection. A `stop` meanwhile
ends the delay for all callers of `drain`; each of them then takes part in that stop.
"""

from __future__ import annotations

from typing import Protocol

from .._base import waits
from .._base.clock import now
from .._base.latch import Latch
from .._base.own_threads import Teller
from .asked import Caller

#: Seconds that receivers hold up the stop after a drain, so that they hear of it in order.
_RECEIVERS_S = 0.1


class Drained(Protocol):
    """The run that is to end. Thread: one that was made for the drain."""

    @property
    def name(self) -> str: ...
    def begin_drain(self) -> None:
        """Connections learn of it."""

    def tell_drain(self, delay: float) -> None:
        """Sends the event."""

    def blocked(self, ident: int) -> bool:
        """Whether a thread waits for the caller."""


class Drain:
    """Of one run, from its word to its stop.

    Args:
        run: which.
    """

    __slots__ = ("_over", "_raised", "_run", "_teller")

    def __init__(self, run: Drained) -> None:
        self._run = run
        self._over = Latch()
        self._teller: Teller | None = None
        # What a receiver raised that is for the program (see `events.emit`).
        self._raised: list[BaseException] = []

    def begin(self, delay: float, caller: Caller) -> None:
        """Says so, once; `delay` in seconds. Thread: one that was made for it."""
        self._run.begin_drain()
        if self._teller is None:
            self._teller = Teller(
                lambda: self._tell(delay, caller),
                caller.context,
                f"{self._run.name}-drain-events",
                self._raised,
            )

    def _tell(self, delay: float, caller: Caller) -> None:
        if caller.by_us:
            waits.this_thread_is(waits.OwnThread())
        self._run.tell_drain(delay)

    def wait(self, until: float) -> None:
        """Returns when the delay is over, or a stop has begun. Thread: one that was made for it."""
        self._over.wait(until - now())
        self.all_told(now() + _RECEIVERS_S)

    def end(self) -> None:
        """A stop begins. Thread: any."""
        self._over.open()

    def all_told(self, until: float) -> bool:
        """Whether the event has been sent, or its receivers wait for the caller themselves."""
        return self._teller is None or self._teller.wait(until, self._run.blocked)

    def was_told(self) -> None:
        """A call of `drain` returns: raises what a receiver raised that is for the program.
        Thread: who asked for it."""
        if self._raised:
            raise self._raised.pop()
