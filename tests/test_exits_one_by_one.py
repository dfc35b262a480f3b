"""Errors that the C meets in the middle of its work, each made to happen."""

import contextvars
import ctypes
import itertools
import os
import socket
import threading
import time

import pytest

from tests.slots import Broken, Busy, Quiet, Staying, Waiting, Wired, breaks
from thousand_island_sync import SocketError, events
from thousand_island_sync._base import compiled, waits
from thousand_island_sync._connection.callbacks import Callbacks
from thousand_island_sync._connection.client import Client
from thousand_island_sync._connection.states import State
from thousand_island_sync._scheduler.runner import STAYS
from thousand_island_sync._scheduler.task import PARK, Classified, PythonTask, Task
from thousand_island_sync._scheduler.watchdog_timer import LOOKS, MAY_STOP, SLEEPS
from thousand_island_sync._server import accelerator
from thousand_island_sync._stream.reader import Reader
from thousand_island_sync._stream.writer import Writer

pytestmark = pytest.mark.skipif(not accelerator.in_c, reason="this run tests the Python")


@pytest.fixture
def heard():
    """Somebody listens to each signal that the C tells of."""
    signals = (events.socket_recv, events.socket_send, events.handler_async_recv)
    for one in signals:
        one.connect(print)
    yield
    for one in signals:
        one.disconnect(print)


# ---- the scheduler ------------------------------------------------------------


def test_a_poller_that_fails_is_told_of_when_the_books_are_right_again():
    ours, theirs = os.pipe()
    with Busy(ready=False) as world:
        os.dup2(ours, world.poller.fileno())
        with pytest.raises(OSError, match="Invalid argument"):
            world.queue.look(world.worker)
        assert not world.worker.looking
        assert world.queue.sleepers == 0
        assert not world.queue.lock.locked()
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize("deadline", [1e9, float("inf")])  # asked as it is set, or by the look
def test_a_clock_that_fails_leaves_the_lock_free(deadline):
    with Busy(ready=False, clock=breaks) as world:
        world.task.deadline = deadline
        world.queue._deadlines._next = 0.0
        with pytest.raises(Broken):
            world.queue.look(world.worker)
        assert not world.queue.lock.locked()


@pytest.mark.parametrize("name", ["_await", "poll_once", "arm", "quiet"])
def test_a_step_of_a_look_that_fails_leaves_the_lock_free(name, monkeypatch):
    with Busy(ready=False) as world:
        queue, timer = world.queue, world.scheduler._watchdog_timer
        monkeypatch.setattr(type(timer if name in ("arm", "quiet") else queue), name, breaks)
        world.task.attached = name != "_await"
        timer.state = MAY_STOP if name == "quiet" else SLEEPS
        queue._deadlines._next = 0.0 if name == "poll_once" else 1e9
        with pytest.raises(Broken):
            queue.look(world.worker)
        assert not queue.lock.locked()


@pytest.mark.parametrize("name", ["begin_now", "run"])
def test_a_step_of_a_batch_that_fails_is_passed_on(name, monkeypatch):
    with Busy() as world:
        scheduler, worker = world.scheduler, world.worker
        timer = scheduler._watchdog_timer
        owner = timer if name == "begin_now" else scheduler._estimate
        monkeypatch.setattr(type(owner), name, breaks)
        timer.state = SLEEPS if name == "begin_now" else LOOKS
        world.task.classified = Classified.BLOCKING if name == "run" else Classified.QUICK
        with pytest.raises(Broken):
            world.runner.run_batch(worker)
        assert not world.queue.lock.locked()


def test_a_batch_returns_what_is_left_to_do():
    with Busy() as world:
        world.queue._alone = 1_000
        assert world.runner.run_batch(world.worker) == STAYS
    with Busy() as world:
        world.queue._alone = 0
        assert world.runner.run_batch(world.worker) is None
    with Busy() as world:
        world.worker.permit = False
        assert world.runner.run_batch(world.worker) == PARK
        assert world.worker.task is world.task


def test_a_run_that_waited_makes_its_task_a_suspect(monkeypatch):
    monkeypatch.setattr(Busy.Runs, "run", lambda task: time.sleep(0.01) or 0)
    with Busy() as world:
        world.worker.turn = world.scheduler._estimate.sample_mask  # the next is measured
        world.runner.run_batch(world.worker)
        assert world.task.classified is Classified.SUSPECT
        assert list(world.worker.parked) == [world.task]


def test_a_batch_needs_nothing_of_what_a_run_empties(monkeypatch):
    with Busy() as world:
        monkeypatch.setattr(Busy.Runs, "run", lambda task: delattr(world.worker, "task") or 0)
        world.runner.run_batch(world.worker)
        assert world.worker.task is None
        assert list(world.worker.parked) == [world.task]


def test_what_is_no_task_is_not_run_and_leaves_the_lock_free():
    with Busy() as world:
        world.queue._ready[0] = "a task"
        with pytest.raises(TypeError, match=r"takes .*Task"):
            world.runner.run_batch(world.worker)
    with Busy(ready=False) as world:
        world.worker.parked[0] = "a task"
        with pytest.raises(TypeError, match=r"takes .*Task"):
            world.queue.look(world.worker)
        assert not world.queue.lock.locked()
    with Busy(ready=False) as world:
        world.queue._tasks[world.task.fd] = "a task"
        world.worker.parked.clear()
        with pytest.raises(TypeError, match=r"takes .*Task"):
            world.queue.look(world.worker)
        assert not world.queue.lock.locked()


def test_a_scheduler_that_closes_and_has_no_task_waits_for_none():
    with Busy(ready=False) as world:
        world.theirs.close()
        world.ours.close()  # nothing will happen
        world.worker.parked.clear()
        world.scheduler._table.remove(world.task)
        assert world.queue.close()
        assert not world.queue.look(world.worker)


def test_a_wake_up_that_fails_is_told_of_and_the_tasks_wait_in_the_queue():
    with Busy() as world:
        queue = world.queue
        world.poller.wake = breaks
        queue._ready.append(world.task)
        queue.sleepers, world.scheduler._watchdog_timer.state = 1, LOOKS
        with pytest.raises(Broken):
            queue.look(world.worker)
        assert len(queue._ready) == 2
        assert queue.sleepers == 1
        assert not queue.lock.locked()


def test_a_ring_that_fails_is_told_of_and_the_task_waits_in_the_queue(monkeypatch):
    with Busy() as world:
        timer = world.scheduler._watchdog_timer
        monkeypatch.setattr(type(timer), "arm", lambda timer: None)
        monkeypatch.setattr(type(timer), "ring", breaks)
        with pytest.raises(Broken):
            world.queue.look(world.worker)
        assert list(world.queue._ready) == [world.task]
        assert not world.queue.lock.locked()


def test_an_accelerator_waits_for_its_lock():
    looked = []
    with Busy(ready=False) as world:
        thread = threading.Thread(
            target=lambda: looked.append(world.queue.look(world.worker)), daemon=True
        )
        world.queue.lock.acquire()
        thread.start()
        thread.join(0.05)
        assert looked == []
        world.queue.lock.release()
        thread.join(10)
        assert looked == [True]


def test_a_base_type_looks_at_what_it_is_given():
    native, known = compiled.native, []
    for kind, wrong in (
        *((native.Task, ("one",)), (native.Deadlines, ()), (native.RunQueue, (1, 2, 3, 4))),
        *((native.Runner, (1, 2)), (native.classify, (1,))),
    ):
        with pytest.raises(TypeError):
            kind(*wrong)
    timer, estimate = native.WatchdogTimer(), native.BlockingEstimate()
    made = [
        *((native.Worker, ()), (native.Deadlines, (int,))),
        (native.RunQueue, (None, [], lambda: known[1], timer)),
        (native.Runner, (lambda: known[2], estimate)),
    ]
    for kind, given in made:
        arguments = [one() if callable(one) and one is not int else one for one in given]
        known.append(kind(*arguments))
        with pytest.raises(TypeError, match="called once"):
            known[-1].__init__(*arguments)
    unmade = native.Deadlines.__new__(native.Deadlines)
    with pytest.raises(AttributeError, match="__init__"):
        native.RunQueue(None, [], unmade, timer)
    with pytest.raises(AttributeError, match="__init__"):
        native.Runner(native.RunQueue.__new__(native.RunQueue), estimate)


def test_a_client_takes_numbers():
    given = [None, None, "host", 1, 2.0, 3]
    for _ in range(3):  # the first one is made the long way
        client = Client(*given)
        assert (client._port, client.accepted_at, client._serial) == (1, 2.0, 3)
        for index in (3, 4, 5):
            wrong = [*given[:index], "none", *given[index + 1 :]]
            with pytest.raises(TypeError):
                Client(*wrong)


def test_a_task_takes_one_descriptor():
    for kind in (Task, PythonTask):
        for wrong in ((), (3, 4)):
            with pytest.raises(TypeError):
                kind(*wrong)


def test_a_task_that_says_nothing_of_itself_does_nothing():
    for task in (Task(3), PythonTask(3)):
        for name, given in (("run", ()), ("stay", (1, print)), ("broke", ())):
            with pytest.raises(NotImplementedError):
                getattr(task, name)(*given)
        assert (task.may_stay(), task.stop_begins(), task.deaf) == (False, None, False)
        assert task.unwatched(OSError()) is None


# ---- a connection ----------------------------------------------------------------


def test_a_signal_that_fails_before_the_callback_ends_the_step(heard, monkeypatch):
    monkeypatch.setattr(Callbacks, "tell_arrival", breaks)
    with Wired() as world, pytest.raises(Broken):
        world.connection.run()
    with Wired() as world, pytest.raises(Broken):
        world.connection.stay(float("inf"), lambda duration: True)


def test_a_thread_that_cannot_hand_its_permit_off_ends_the_step(monkeypatch):
    class Stubborn:
        permit, hand_off = True, breaks

    with Wired() as world:
        world.connection.classified = Classified.BLOCKING
        before = getattr(waits._here, "worker", None)
        waits._here.worker = Stubborn()
        try:
            with pytest.raises(Broken):
                world.connection.run()
        finally:
            waits._here.worker = before


def test_a_callback_that_leaves_another_context_behind_is_an_error(monkeypatch):
    states = []

    def leave(self, data, sock):
        left.append(ctypes.py_object(contextvars.copy_context()))
        ctypes.pythonapi.PyContext_Enter(left[0])

    left = []

    def run():  # on a thread that ends with its contexts
        with Wired() as world:
            own = ctypes.py_object(world.connection.machine.callbacks.context)
            world.connection.run()
            states.append(world.state)
        for one in (left[0], own):  # `Thread` looks, from Python 3.14 on
            ctypes.pythonapi.PyContext_Exit(one)

    monkeypatch.setattr(Quiet, "handle_data", leave)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert states == [State.CLOSED]


def test_a_callback_that_takes_its_channel_away_is_an_error(monkeypatch):
    with Wired() as world:
        monkeypatch.setattr(
            Quiet, "handle_data", lambda handler, data, sock: delattr(sock._stream, "channel")
        )
        world.connection.machine.short_proves = False
        with pytest.raises(AttributeError, match="channel"):
            world.connection.run()


def test_a_callback_that_takes_its_source_away_is_an_error(monkeypatch):
    with Wired() as world:
        machine = world.connection.machine
        monkeypatch.setattr(Quiet, "handle_data", lambda *_: delattr(machine, "source"))
        machine.short_proves = False
        with pytest.raises(AttributeError, match="source"):
            world.connection.run()


class Puzzle:
    """Bytes of a transport, of which nobody can say whether they are any."""

    __bool__ = breaks


@pytest.mark.parametrize("wrong", [Puzzle, breaks])
def test_what_a_transport_gets_wrong_ends_a_stay(wrong):
    with Staying() as world:
        world.socket._stream.use(world.channel)  # a transport's own
        world.channel.incoming.append(wrong)
        with pytest.raises(Broken):
            world.stay()


def test_an_end_that_fails_ends_a_stay(monkeypatch):
    with Staying() as world:
        monkeypatch.setattr(type(world.connection.machine), "came_early", breaks)
        with pytest.raises(Broken):
            world.connection.stay(float("inf"), lambda duration: False)


@pytest.mark.parametrize("read_before", [0, 1, 2])
def test_a_clock_that_fails_ends_a_stay(read_before):
    with Staying() as world:
        times = itertools.chain(range(read_before), iter(breaks, None))
        world.connection.machine.callbacks.clock = times.__next__
        with pytest.raises(Broken):
            world.connection.stay(float("inf"), lambda duration: True)


def test_a_source_that_would_block_has_nothing_yet():
    with Wired() as world:
        world.connection.machine.source = world.channel
        world.channel.incoming.append(BlockingIOError())
        assert world.connection.run() == PARK
        assert world.state is State.PARKED


def test_a_verdict_that_is_none_ends_the_run():
    with Busy() as world:
        world.task.verdict = "park"
        with pytest.raises(TypeError, match="takes int"):
            world.runner.run_batch(world.worker)


# ---- a socket ---------------------------------------------------------------------


def test_a_sink_without_room_is_waited_for():
    class Full:
        def send(self, data, flags):
            raise BlockingIOError

    with Wired() as world:
        world.socket._writer._sink = Full()
        assert world.socket.send(b"x") == 1
        assert world.theirs.recv(10) == b"x"


def test_one_piece_of_a_list_is_sent_as_it_is():
    with Wired() as world:
        assert world.socket.send([b"one"]) == 3
        assert world.theirs.recv(10) == b"one"


def test_a_receiver_that_cannot_be_told_frees_the_locks(heard, monkeypatch):
    monkeypatch.setattr(Reader, "tell", breaks)
    monkeypatch.setattr(Writer, "tell_sent", breaks)
    with Waiting() as world:
        with pytest.raises(Broken):
            world.socket.send(b"x")
        assert not world.socket._writer._sending.locked()
        with pytest.raises(Broken):
            world.socket.recv(4)
        assert not world.socket._reader._receiving.locked()


def test_a_socket_that_was_closed_beneath_is_the_pythons_to_tell_of():
    with Waiting() as world:
        world.ours.close()
        with pytest.raises(SocketError, match="Bad file"):
            world.socket.recv(4)
        assert not world.socket._reader._receiving.locked()


def test_functions_of_the_module_look_at_what_they_get():
    native = compiled.native
    with pytest.raises(TypeError):
        native.unread("one")
    assert native.unread(-1) == -1
    with pytest.raises(TypeError):
        native.send_file(1)
    with pytest.raises(TypeError):
        native.timer_set("one", 2)
    with pytest.raises(OSError, match="Bad file"):
        native.timer_set(-1, 2)
    with pytest.raises(OSError, match="Bad file"):
        native.send_file(-1, -1, 0, 1)


def test_a_file_that_finds_no_room_is_tried_again(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10_000_000)
    ours, theirs = socket.socketpair()
    with ours, theirs, path.open("rb") as file:
        sent = 0
        while sent is not None:
            sent = compiled.native.send_file(ours.fileno(), file.fileno(), 0, 10_000_000)
