"""Receivers of events: without types, with dictionaries, and with what an event tells."""

import logging
from typing import Any

from thousand_island_sync import ThousandIsland, attach_logger, detach_logger, events


@events.handler_error.connect
def on_error(
    server: ThousandIsland,
    *,
    event: str,
    measurements: events.HandlerErrorMeasurements,
    metadata: events.HandlerErrorMetadata,
) -> None:
    print(server.name, event, metadata["connection_id"], measurements["error"])
    seconds = (measurements["monotonic_time_ns"] + measurements["duration_ns"]) / 1e9
    print(f"{seconds:.1f}")


@events.handler_shutdown.connect
def with_dictionaries(
    server: ThousandIsland, *, event: str, measurements: dict[str, Any], metadata: dict[str, Any]
) -> None:
    print(measurements["reason"], metadata["connection_id"])


@events.socket_send.connect
def what_it_needs(
    _: ThousandIsland, *, measurements: events.SocketSendMeasurements, **rest: Any
) -> None:
    print(measurements["bytes_sent"], rest)


def anything(server: object, **told: Any) -> None:
    print(server, told)


class Counter:
    def __init__(self, server: ThousandIsland) -> None:
        self.count = 0
        events.handler_start.connect(self.count_one, sender=server)

    def count_one(self, server: ThousandIsland, **_: Any) -> None:
        self.count += 1


def program(server: ThousandIsland) -> None:
    for name, signal in events.ALL.items():
        signal.connect(anything, sender=server, weak=False)
        print(name, events.CATALOGUE[name].description)
        for key, (kind, meaning) in events.CATALOGUE[name].measurements.items():
            print(key, kind, meaning)
    events.pool_saturated.connect(anything)
    events.pool_saturated.disconnect(anything)
    attach_logger("debug", logger=logging.getLogger("mine"))
    detach_logger("trace")
    Counter(server)
