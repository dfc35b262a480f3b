"""`events.CATALOGUE`: the events as data, and that what is sent is what it says."""

import dataclasses
import re
import subprocess
import sys
import types
import typing

import pytest

from tests.event_page import PAGE, page
from tests.programs import ROOT
from tests.support import Echo
from thousand_island_sync import Transport, events
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


#: What each event tells, as README and docs promise it: measurements, and then metadata.
PROMISED = """
listener.start: port / transport_cls transport_options local_address
listener.error: error / transport_cls transport_options
listener.shutdown: duration_ns / local_address
listener.suspend: / local_address
listener.resume: / local_address
listener.drain: delay_ns / local_address
acceptor.start: / acceptor_id
acceptor.accept: wait_time_ns startup_time_ns / acceptor_id connection_id remote_address remote_port
acceptor.accept_error: error / acceptor_id
acceptor.spawn_error: error / acceptor_id remote_address remote_port
acceptor.limit_reached: active_connections / acceptor_id
acceptor.limit_cleared: active_connections / acceptor_id
acceptor.shutdown: duration_ns accepted / acceptor_id reason
handler.start: / connection_id acceptor_id remote_address remote_port
handler.async_recv: data / connection_id
handler.shutdown: reason duration_ns / connection_id
handler.error: error duration_ns / connection_id
socket.handshake: duration_ns / connection_id
socket.handshake_error: error duration_ns / connection_id remote_address remote_port
socket.recv: data / connection_id
socket.recv_error: error / connection_id
socket.send: data bytes_sent / connection_id
socket.send_error: error bytes_sent bytes_lost / connection_id
socket.sendfile: file offset length bytes_sent / connection_id
socket.sendfile_error: file offset length bytes_sent error / connection_id
socket.shutdown: how / connection_id
socket.close: bytes_sent send_count bytes_received recv_count / connection_id
pool.saturated: busy_threads waiting_connections /
pool.relieved: busy_threads waiting_connections /
"""


def test_nothing_that_was_promised_is_missing():
    told = {}
    for line in PROMISED.strip().splitlines():
        name, _, keys = line.partition(":")
        measured, _, about = keys.partition("/")
        told[name] = ({*measured.split(), "monotonic_time_ns"}, {*about.split()})
    assert told == {
        name: ({*one.measurements}, {*one.metadata}) for name, one in events.CATALOGUE.items()
    }


def test_each_signal_is_an_attribute():
    for name, signal in events.ALL.items():
        assert getattr(events, name.replace(".", "_")) is signal
        assert signal.event == name


def class_of(name, kind):
    """`HandlerErrorMetadata` of `handler.error`."""
    return getattr(events, "".join(map(str.capitalize, re.split("[._]", name))) + kind)


def plainly(hint):
    """A type of a payload, as the catalogue has it: what `isinstance` takes."""
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return {type(one) for one in typing.get_args(hint)}
    if origin in (typing.Union, types.UnionType):
        return set().union(*map(plainly, typing.get_args(hint)))
    return {origin or hint}


@pytest.mark.parametrize("kind", ["Measurements", "Metadata"])
@pytest.mark.parametrize("name", events.CATALOGUE)
def test_a_payloads_type_is_what_the_catalogue_says(name, kind):
    described = getattr(events.CATALOGUE[name], kind.lower())
    hints = typing.get_type_hints(class_of(name, kind), None, {"Transport": Transport})
    assert hints.keys() == described.keys()
    for key, hint in hints.items():
        type_ = described[key][0]
        if type_ is object:
            assert key in ("error", "data", "file")  # whatever somebody has given
        else:
            assert plainly(hint) == plainly(type_), key


def test_who_annotates_nothing_does_not_wait_for_the_types():
    code = (
        "import sys, thousand_island_sync\n"
        "from thousand_island_sync import events\n"
        "print('thousand_island_sync._telemetry.payloads' in sys.modules, 'json' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ran.stdout.split() == ["False", "False"], ran.stderr


def test_another_name_is_not_there():
    for name in ("HandlerBeginMetadata", "Iterable", "handler_begin"):
        with pytest.raises(AttributeError, match=name):
            getattr(events, name)


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
