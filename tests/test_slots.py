"""What the C reads may be unset, or of a wrong type: that is an exception, as in Python."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.slots import slots_read
from thousand_island_sync import Socket
from thousand_island_sync._base import compiled
from thousand_island_sync._connection.task import ConnectionTask
from thousand_island_sync._scheduler.run_queue import RunQueue
from thousand_island_sync._scheduler.runner import Runner
from thousand_island_sync._scheduler.worker import Worker
from thousand_island_sync._server import accelerator
from thousand_island_sync.transports._tls.channel import TLSChannel
from thousand_island_sync.transports._tls.stream import Stream as TLSStream
from thousand_island_sync.transports._tls.wire import Wire as TLSWire

in_c_only = pytest.mark.skipif(not accelerator.in_c, reason="this run tests the Python")


class StandIn(Socket):
    """A user's, for a test of a handler: nothing of ours was called."""

    def __init__(self):
        self.sent = []


def test_a_stand_in_for_a_socket_lacks_attributes_and_nothing_worse():
    for call in (lambda: StandIn().send(b"x"), lambda: StandIn().recv(), lambda: StandIn().recv(5)):
        with pytest.raises(AttributeError, match="StandIn"):
            call()
    with pytest.raises(AttributeError, match="_writer"):
        Socket.__new__(Socket).send(b"x")


def test_what_was_never_made_lacks_attributes_and_nothing_worse():
    channel, worker = TLSChannel.__new__(TLSChannel), Worker.__new__(Worker)
    queue, connection = RunQueue.__new__(RunQueue), ConnectionTask.__new__(ConnectionTask)
    runner, stream = Runner.__new__(Runner), TLSStream.__new__(TLSStream)
    calls = [
        *(lambda: channel.recv(1), lambda: channel.sink().send(b"x", 0), channel.drained),
        *(lambda: stream.recv(1), lambda: stream.send(b"x", 0), stream.drained),
        *(TLSWire.__new__(TLSWire).fetch, TLSWire.__new__(TLSWire).flush),
        *(lambda: queue.look(worker), lambda: runner.run_batch(worker)),
        *(connection.run, lambda: connection.stay(1.0, lambda _: True)),
    ]
    for call in calls:
        with pytest.raises(AttributeError):
            call()


@in_c_only
def test_all_slots_are_known_to_the_test_below():
    assert len(slots_read()) > 60
    assert ("Wire", "reads_ended") in slots_read()
    assert ("RunQueue", "_ready") in slots_read()


@in_c_only
def test_no_slot_that_is_unset_or_holds_something_else_ends_the_interpreter():
    done = subprocess.run(
        [sys.executable, "-m", "tests.slots", *(["tls"] if find_spec("trustme") else [])],
        capture_output=True,
        text=True,
        timeout=300,
        env={"PYTHONMALLOC": "debug", **os.environ, "PYTHONDEVMODE": ""},
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    *faults, count = done.stdout.splitlines()
    assert faults == []
    assert int(count) > 5_000


@in_c_only
def test_a_method_in_c_works_on_what_has_its_fields_only():
    class NoTask(compiled.native.Connection):
        machine = None

    for call in (NoTask().run, NoTask().receive, lambda: NoTask().stay(1.0, None)):
        with pytest.raises(TypeError, match=r"got NoTask, takes .*Task"):
            call()
    with pytest.raises(TypeError):
        Socket.send(object(), b"x")
    with pytest.raises(TypeError):
        ConnectionTask.run(object())
