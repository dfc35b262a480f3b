"""`EventRecorder`: the events that were sent, as a list."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable
from types import TracebackType
from typing import Any, NamedTuple

from .. import events
from .._base.nearest import did_you_mean
from ..errors import ConfigError
from ..server import ThousandIsland


class Event(NamedTuple):
    """One event that was sent."""

    name: str
    measurements: dict[str, Any]
    metadata: dict[str, Any]


class EventRecorder:
    """Records every event, from its construction until `close`, or the end of `with`.

    Args:
        servers: the servers whose events it records; none given: all servers.

    Thread: any.
    """

    def __init__(self, *servers: ThousandIsland) -> None:
        self._events: list[Event] = []
        self._by_name: defaultdict[str, list[Event]] = defaultdict(list)
        self._changed = threading.Condition()
        for signal in self._signals():
            for server in servers:
                signal.connect(self._receive, sender=server)
            if not servers:
                signal.connect(self._receive)

    def __enter__(self) -> EventRecorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _signals(self) -> Iterable[events.EventSignal[Any, Any]]:
        return events.ALL.values()

    def close(self) -> None:
        """Stops recording; the recorded events stay. A second call does nothing."""
        for signal in self._signals():
            signal.disconnect(self._receive)

    def _receive(
        self,
        server: Any,
        *,
        event: str,
        measurements: dict[str, Any],
        metadata: dict[str, Any],
    ) -> None:
        with self._changed:
            told = Event(event, measurements, metadata)
            self._events.append(told)
            self._by_name[event].append(told)
            self._changed.notify_all()

    @property
    def events(self) -> list[Event]:
        """The events so far, in order: a list of `(name, measurements, metadata)`; a copy."""
        with self._changed:
            return list(self._events)

    def wait_for(self, name: str, count: int = 1, timeout_ms: float | None = 5_000) -> list[Event]:
        """Waits until an event was sent `count` times.

        Args:
            name: the dotted name of the event.
            count: how many of them.
            timeout_ms: milliseconds; `None`: no limit.

        Returns:
            The first `count` of them, including those that came before this call.

        Raises:
            AssertionError: they did not come in time; the text names the events that came.
            ConfigError: there is no event of that name.
        """
        if name not in events.ALL:
            hint = did_you_mean(name, events.ALL)
            raise ConfigError(f"wait_for: there is no event {name!r}{hint}")
        timeout = None if timeout_ms is None else timeout_ms / 1000
        with self._changed:
            found = self._by_name[name]
            if not self._changed.wait_for(lambda: len(found) >= count, timeout):
                came = ", ".join(one.name for one in self._events) or "nothing"
                raise AssertionError(
                    f"{name} came {len(found)} times within {timeout_ms:g} ms, and not {count};"
                    f" what came: {came}"
                )
            return found[:count]
