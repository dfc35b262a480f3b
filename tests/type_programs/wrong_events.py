"""Receivers that do not fit their event."""

from typing import Any

from thousand_island_sync import ThousandIsland, attach_logger, events


@events.handler_start.connect  # wrong
def of_another(
    server: ThousandIsland, *, measurements: events.HandlerErrorMeasurements, **_: Any
) -> None: ...


def positional(server: ThousandIsland, event: str, measurements: Any) -> None: ...


def without_a_place(server: ThousandIsland) -> None: ...


events.handler_start.connect(positional)  # wrong
events.handler_start.connect(without_a_place)  # wrong
events.handler_start.connect(5)  # wrong
print(events.handler_begin)  # wrong


@events.handler_error.connect
def misspells(
    server: ThousandIsland,
    *,
    measurements: events.HandlerErrorMeasurements,
    metadata: events.HandlerErrorMetadata,
    **_: Any,
) -> None:
    print(measurements["eror"])  # wrong
    print(metadata["connection"])  # wrong
    print(metadata["connection_id"] + 5)  # wrong


attach_logger("loud")  # wrong
attach_logger("info", logger="mine")  # wrong
