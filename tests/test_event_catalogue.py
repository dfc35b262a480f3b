"""`events.CATALOGUE`: the events as data, and that what is sent is what it says."""

import dataclasses
import re

import pytest

from tests.event_page import PAGE, page
from tests.support import Echo
from thousand_island_sync import events
from thousand_island_sync import logger as logger_module
from thousand_island_sync._base import reports
from thousand_island_sync._telemetry.catalogue import differences


def test_it_describes_every_event_and_no_other():
    assert list(events.CATALOGUE) == list(events.ALL)
    for name, one in events.CATALOGUE.items():
        assert one.name == name
        assert one.description.endswith(".")


def test_every_event_says_when_it_was_sent():
    for one in events.CATALOGUE.values():
        type_, _ = one.measurements["monotonic_time_ns"]
        assert type_ is int


def test_it_cannot_be_changed():
    one = events.CATALOGUE["handler.start"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.level = "error"
    with pytest.raises(TypeError):
        events.CATALOGUE["handler.start"] = one
    with pytest.raises(TypeError):
        one.metadata["more"] = (int, "more")


def test_its_levels_are_those_of_the_logger():
    assert sum(len(names) for names in logger_module.LEVELS.values()) == len(events.ALL)
    for level, names in logger_module.LEVELS.items():
        assert all(events.CATALOGUE[name].level == level for name in names)


def test_the_page_is_made_from_it():
    assert PAGE.read_text() == page(), "run: python -m tests.event_page"


GOOD = {"error": OSError(), "bytes_sent": 3, "bytes_lost": 0, "monotonic_time_ns": 1}


@pytest.mark.parametrize(
    ("measurements", "metadata", "said"),
    [
        ({**GOOD, "more": 1}, {"connection_id": "1"}, r"not described \['more'\]"),
        ({**GOOD, "bytes_sent": "3"}, {"connection_id": "1"}, "bytes_sent is str"),
        ({**GOOD, "bytes_sent": True}, {"connection_id": "1"}, "bytes_sent is bool"),
        (GOOD, {}, r"missing \['connection_id'\]"),
    ],
)
def test_what_differs_is_named(measurements, metadata, said):
    (found,) = differences("socket.send_error", measurements, metadata)
    assert re.search(said, found)


def test_what_is_as_described_is_silent():
    assert differences("socket.send_error", GOOD, {"connection_id": "1"}) == []


def test_in_debug_mode_each_event_that_is_sent_is_compared(serve, monkeypatch, record):
    recorder = record("handler.start")
    reported = []
    monkeypatch.setattr(events, "_checks", True)
    monkeypatch.setattr(reports, "report", reported.append)
    server = serve(Echo)
    events.emit(events.handler_start, server, {}, {"connection_id": 7})
    assert len(recorder.told) == 1
    assert [one.partition(":")[0] for one in reported] == ["handler.start"] * 2
