"""The watchdog: what the listener's thread does for the pool.

It takes the permit from a thread whose callback does not go on (`stalls`), polls while no thread
has a permit (`stand_in`), and reports when all threads are busy (`saturation`). See the essay in
`scheduler`.
"""

from __future__ import annotations

from . import alarm
from .mending import Mending
from .rousing import Rousing
from .saturation import Saturation
from .stalls import Stalls
from .stand_in import StandIn
from .workers import Workers


class Watchdog:
    """Its owner calls `look` again after the seconds that it returns. Thread: the listener's."""

    __slots__ = ("_mending", "_rousing", "_saturation", "_stalls", "_stand_in", "_workers")

    def __init__(
        self,
        stalls: Stalls,
        stand_in: StandIn,
        saturation: Saturation,
        workers: Workers,
        mending: Mending,
        rousing: Rousing,
    ) -> None:
        self._stalls = stalls
        self._stand_in = stand_in
        self._saturation = saturation
        self._workers = workers
        self._mending = mending
        self._rousing = rousing

    def look(self) -> float:
        """Seconds until the next look; `FOREVER`: when the bell rings or, if `stand_in_fileno`
        is not `None`, when that is readable."""
        if self._mending.needed or self._stalls.somebody_died():
            self._mending.put_right()
        idle = self._stalls.was_idle()
        with self._rousing as calls, self._rousing.lock:
            tick = self._stalls.look(calls, idle)
            stands_in = self._stand_in.is_needed()
        if self._mending.needed or self._stalls.found_dead():
            return alarm.TICK
        if not stands_in:
            self._saturation.look()
            return tick
        if not self._stand_in.poll():
            return alarm.TICK
        self._workers.try_again()
        self._saturation.look()
        with self._rousing.lock:
            return self._stand_in.next_look()

    def stand_in_fileno(self) -> int | None:
        """What the listener's thread waits for beside its bell."""
        with self._rousing.lock:
            needed = self._stand_in.is_needed()
        return self._stand_in.fileno() if needed else None
