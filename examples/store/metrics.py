# metrics.py
"""Counts what happens to connections, by the server's events."""

import collections
import threading
from typing import Any

from thousand_island_sync import ThousandIsland, events


class Metrics:
    def __init__(self, server: ThousandIsland) -> None:
        self._lock = threading.Lock()
        self._counted: collections.Counter[str] = collections.Counter()
        self._seconds = 0.0
        events.handler_shutdown.connect(self.on_end, sender=server)
        events.handler_error.connect(self.on_end, sender=server)
        events.acceptor_spawn_error.connect(self.on_refusal, sender=server)

    def on_end(self, server: ThousandIsland, *, measurements: dict[str, Any], **_: Any) -> None:
        with self._lock:
            self._counted[measurements.get("reason", "error")] += 1
            self._seconds += measurements["duration_ns"] / 1e9

    def on_refusal(self, server: ThousandIsland, **_: Any) -> None:
        with self._lock:
            self._counted["refused"] += 1

    def report(self) -> str:
        with self._lock:
            counted = sorted(self._counted.items())
            seconds = self._seconds
        lines = [f'store_connections_total{{end="{end}"}} {count}' for end, count in counted]
        return "\n".join([*lines, f"store_connection_seconds_total {seconds:.3f}"])
