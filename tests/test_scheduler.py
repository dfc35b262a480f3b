"""The scheduler, with real threads and every poller, and with tasks that are no
connections."""

import socket
import threading
import time

import pytest

from tests.support import eventually
from tests.test_poller import MAKERS
from tests.test_trial import Bench
from thousand_island_sync._base import waits
from thousand_island_sync._base.clock import FOREVER, now
from thousand_island_sync._scheduler import stalls
from thousand_island_sync._scheduler.alarm import CALM_TICK, TICK
from thousand_island_sync._scheduler.poller import new_poller
from thousand_island_sync._scheduler.run_queue import RunQueue
from thousand_island_sync._scheduler.scheduler import Parts, Scheduler
from thousand_island_sync._scheduler.states import PARKED
from thousand_island_sync._scheduler.task import AGAIN, DONE, PARK, Task
from thousand_island_sync._scheduler.tendency import HAND_OFF_COST, LONG
from thousand_island_sync._scheduler.timers import Timer
from thousand_island_sync._scheduler.watchdog_timer import SLEEPS
from thousand_island_sync._scheduler.worker import Worker


class Pipe(Task):
    """A task that passes what it reads to a function."""

    def __init__(self, react):
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        super().__init__(self.ours.fileno())
        self.react = react
        self.running = 0
        self.overlaps = 0
        self.runs = 0
        self.scheduler = None
        self.broken = threading.Event()

    def run(self):
        self.wants_write = False
        self.running += 1
        self.overlaps += self.running > 1
        self.runs += 1
        try:
            try:
                data = self.ours.recv(65_536)
            except BlockingIOError:
                data = None
            if data == b"":
                self.end()
                return DONE
            return self.react(self, data) or PARK
        finally:
            self.running -= 1

    def end(self):
        self.scheduler.forget(self)
        self.ours.close()

    def broke(self):
        self.end()
        self.broken.set()


@pytest.fixture(params=MAKERS)
def scheduler_of(request):
    made = []

    def make(max_threads=8, permits=1, tended=True, clock=now, cls=Scheduler, patience=0.01):
        """`patience`: seconds after which the watch looks though nobody has rung."""
        bell = threading.Semaphore(0)
        edges = []

        class Clocked(cls):
            parts = cls.parts._replace(clock=clock)

        scheduler = Clocked(
            MAKERS[request.param](),
            max_threads=max_threads,
            name="test",
            ring=bell.release,
            saturation=lambda *edge: edges.append(edge),
            permits=permits,
        )
        scheduler.edges = edges
        over = threading.Event()

        def tend():
            while not over.is_set():
                timeout = scheduler.tend()
                bell.acquire(timeout=min(timeout, patience))

        thread = threading.Thread(target=tend, daemon=True)
        if tended:
            thread.start()
        pipes = []

        def pipe(react):
            one = Pipe(react)
            one.scheduler = scheduler
            pipes.append(one)
            scheduler.add(one)
            return one

        scheduler.pipe = pipe
        made.append((scheduler, bell, over, thread, pipes))
        return scheduler

    yield make
    for scheduler, bell, over, thread, pipes in made:
        for one in pipes:
            one.theirs.close()
        scheduler.close()
        assert eventually(lambda s=scheduler: not s.threads())
        over.set()
        bell.release()
        if thread.ident:
            thread.join(5)
        for one in pipes:
            one.ours.close()


def echo(pipe, data):
    if data:
        pipe.ours.send(data)


def ask(pipe, data=b"x"):
    pipe.theirs.settimeout(5)
    pipe.theirs.send(data)
    return pipe.theirs.recv(65_536)


def test_a_task_runs_for_each_message(scheduler_of):
    scheduler = scheduler_of()
    pipe = scheduler.pipe(echo)
    for number in range(50):
        assert ask(pipe, b"%d" % number) == b"%d" % number
    assert not pipe.overlaps


def test_quick_tasks_share_one_thread(scheduler_of):
    scheduler = scheduler_of()
    pipes = [scheduler.pipe(echo) for _ in range(20)]
    for _ in range(5):
        for pipe in pipes:
            assert ask(pipe) == b"x"
    # One as a rule; where everything is slow (coverage, valgrind) the watchdog may step in.
    assert scheduler.counts()[0] <= 3


def test_a_task_that_waits_in_a_call_of_ours_hands_its_permit_over(scheduler_of):
    scheduler = scheduler_of(tended=False)
    go = threading.Event()

    def wait(pipe, data):
        if data:
            waits.before_wait()
            go.wait(5)

    waiting = [scheduler.pipe(wait) for _ in range(5)]
    quick = scheduler.pipe(echo)
    for pipe in waiting:
        pipe.theirs.send(b"x")
    assert ask(quick) == b"x"
    assert eventually(lambda: scheduler.counts()[1] >= 5)
    go.set()
    assert eventually(lambda: scheduler.counts()[1] == 0)


def test_the_stall_watch_takes_the_permit_of_a_task_that_blocks(scheduler_of):
    scheduler = scheduler_of()
    go = threading.Event()
    stuck = scheduler.pipe(lambda pipe, data: go.wait(5) and None if data else None)
    quick = scheduler.pipe(echo)
    assert ask(quick) == b"x"
    stuck.theirs.send(b"x")
    before = time.monotonic()
    assert ask(quick) == b"x"
    assert time.monotonic() - before < 1
    go.set()


@pytest.mark.parametrize("how", ["an event", "another thread", "behind a look", "a timer"])
def test_however_it_became_ready_and_though_the_watch_slept(how, scheduler_of):
    behind = []

    class Queue(RunQueue):
        def look(self, worker):
            looked = super().look(worker)
            while behind:
                behind.pop()()
            return looked

    class Looks(Scheduler):
        parts = Parts(queue=Queue)

    scheduler = scheduler_of(cls=Looks, patience=20)
    inside, go = threading.Event(), threading.Event()

    def watchdog_sleeps():
        return scheduler._watchdog_timer.state == SLEEPS

    def sticks(pipe, data):
        if wanted:
            inside.set()
            go.wait(20)

    wanted = []
    stuck, quick = scheduler.pipe(sticks), scheduler.pipe(echo)
    assert ask(quick) == b"x"
    assert eventually(lambda: watchdog_sleeps() and scheduler._queue.sleepers)
    wanted.append("now")
    if how == "an event":
        stuck.theirs.send(b"x")
    elif how == "another thread":
        scheduler.make_ready(stuck)
    elif how == "behind a look":
        behind.append(lambda: scheduler.make_ready(stuck))
        scheduler._queue._poller.wake()
    else:
        scheduler.start(Timer(now(), target=lambda: scheduler.make_ready(stuck)))
    try:
        assert inside.wait(10)
        wanted.clear()
        assert ask(quick) == b"x"
    finally:
        go.set()


def test_a_task_that_tends_to_block_is_known_and_forgiven(scheduler_of):
    scheduler = scheduler_of()
    pause = [0.003]

    def sometimes(pipe, data):
        if data:
            threading.Event().wait(pause[0])
            pipe.ours.send(data)

    pipe = scheduler.pipe(sometimes)

    def blocks():
        ask(pipe)
        return pipe.classified.blocks

    assert eventually(lambda: blocks() and scheduler._estimate.tendency.average > HAND_OFF_COST)
    assert scheduler.pipe(sometimes).classified.blocks
    pipe.react = echo
    assert eventually(lambda: not blocks())


def test_at_the_bound_tasks_wait_and_are_served_in_order(scheduler_of):
    scheduler = scheduler_of(max_threads=2)
    go = threading.Event()
    blocked, order = [], []

    def block(pipe, data):
        if data:
            waits.before_wait()
            blocked.append(pipe)
            go.wait(5)

    for pipe in [scheduler.pipe(block) for _ in range(2)]:
        pipe.theirs.send(b"x")
    assert eventually(lambda: len(blocked) == 2)
    assert scheduler.counts()[1] == 2
    late = []
    for number in range(4):
        pipe = scheduler.pipe(lambda pipe, data, n=number: order.append(n) if data else None)
        late.append(pipe)
        pipe.theirs.send(b"x")
        assert eventually(lambda n=number: scheduler.counts()[2] == n + 1)
    assert scheduler.counts()[0] == 2
    assert eventually(lambda: scheduler.edges)
    assert scheduler.edges[0][0] is True
    go.set()
    assert eventually(lambda: sorted(order) == [0, 1, 2, 3])
    assert order == [0, 1, 2, 3]
    assert eventually(lambda: len(scheduler.edges) == 2)
    assert scheduler.edges[1][0] is False


def test_a_thread_with_nothing_to_do_for_long_ends(scheduler_of, monkeypatch):
    monkeypatch.setattr("thousand_island_sync._scheduler.workers._IDLE_S", 0.02)
    scheduler = scheduler_of()

    def wait(pipe, data):
        if data:
            waits.before_wait()
            threading.Event().wait(0.02)
            pipe.ours.send(data)

    pipe = scheduler.pipe(wait)
    assert ask(pipe) == b"x"
    assert eventually(lambda: scheduler.counts()[0] == 1)
    assert ask(pipe) == b"x"


def test_make_ready_runs_a_parked_task_and_marks_a_running_one(scheduler_of):
    scheduler = scheduler_of()
    pipe = scheduler.pipe(lambda pipe, data: None)
    assert eventually(lambda: pipe.runs == 1 and pipe.ownership == PARKED)
    scheduler.make_ready(pipe)
    assert eventually(lambda: pipe.runs == 2)


def test_no_wake_up_is_lost(scheduler_of):
    scheduler = scheduler_of(permits=2)
    left = [0]
    lock = threading.Lock()
    done = [0]

    def take(pipe, data):
        with lock:
            done[0] += left[0]
            left[0] = 0

    pipe = scheduler.pipe(take)

    def leave():
        for _ in range(300):
            with lock:
                left[0] += 1
            scheduler.make_ready(pipe)

    threads = [threading.Thread(target=leave) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert eventually(lambda: done[0] == 1_200)
    assert not pipe.overlaps


def test_a_deadline_wakes_a_parked_task(scheduler_of):
    scheduler = scheduler_of()
    fired = []

    def arm(pipe, data):
        if data:
            pipe.deadline = now() + 0.05
        elif now() >= pipe.deadline:
            fired.append(pipe)
            pipe.deadline = FOREVER

    pipe = scheduler.pipe(arm)
    for number in (1, 2):
        pipe.theirs.send(b"x")
        assert eventually(lambda number=number: len(fired) == number)


def test_a_deadline_that_was_moved_wakes_it_then_and_not_before(scheduler_of):
    hands = [0.0]
    scheduler = scheduler_of(clock=lambda: hands[0])

    def arm(pipe, data):
        if data:
            pipe.deadline = float(data)
        elif hands[0] >= pipe.deadline:
            pipe.deadline = FOREVER

    pipe, other = scheduler.pipe(arm), scheduler.pipe(echo)

    def runs_by(time):
        """Somebody looks at the clock for each message that comes."""
        hands[0] = time
        before = pipe.runs
        for _ in range(3):
            assert ask(other) == b"x"
        return eventually(lambda: pipe.ownership == PARKED) and pipe.runs - before

    for when in (50, 80):
        pipe.theirs.send(b"%d" % when)
        assert eventually(lambda when=when: pipe.deadline == when and pipe.ownership == PARKED)
    assert [runs_by(time) for time in (49.0, 51.0, 79.0)] == [0, 0, 0]
    assert runs_by(81.0) == 1


def test_later_calls_in_time_and_not_what_was_cancelled(scheduler_of):
    scheduler = scheduler_of()
    scheduler.pipe(lambda pipe, data: None)
    called = []
    begun = time.monotonic()
    scheduler.start(Timer(begun + 0.03, target=lambda: called.append(time.monotonic() - begun)))
    cancelled = Timer(begun + 0.01, target=lambda: called.append("cancelled"))
    scheduler.start(cancelled)
    scheduler.cancel(cancelled)
    cancelled = Timer(begun + 0.01, target=lambda: called.append("cancelled before"))
    scheduler.cancel(cancelled)
    scheduler.start(cancelled)
    assert eventually(lambda: called)
    assert len(called) == 1
    assert called[0] >= 0.03


def test_a_firehose_does_not_starve_a_quick_task(scheduler_of):
    scheduler = scheduler_of()
    busy = [True]
    hoses = [scheduler.pipe(lambda pipe, data: AGAIN if busy[0] else PARK) for _ in range(2)]
    quick = scheduler.pipe(echo)
    slowest = 0.0
    for _ in range(20):
        before = time.monotonic()
        assert ask(quick) == b"x"
        slowest = max(slowest, time.monotonic() - before)
    busy[0] = False
    assert slowest < 0.5
    assert hoses[0].runs >= 10


def test_a_task_that_breaks_costs_itself_only(scheduler_of, caplog):
    scheduler = scheduler_of()

    def break_off(pipe, data):
        if data:
            raise SystemExit

    broken, quick = scheduler.pipe(break_off), scheduler.pipe(echo)
    broken.theirs.send(b"x")
    assert broken.broken.wait(5)
    assert ask(quick) == b"x"
    assert "bug" in caplog.text


def test_a_thread_that_cannot_be_started_counts_as_the_bound(scheduler_of, monkeypatch):
    scheduler = scheduler_of(max_threads=8)
    go = threading.Event()
    quick = scheduler.pipe(echo)
    assert ask(quick) == b"x"
    start = threading.Thread.start
    allowed = [False]

    def refuse(thread):
        if "handler" in thread.name and not allowed[0]:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)

    blocked = threading.Event()

    def block(pipe, data):
        if data:
            waits.before_wait()
            blocked.set()
            go.wait(5)

    scheduler.pipe(block).theirs.send(b"x")
    assert blocked.wait(5)
    quick.theirs.send(b"y")
    # Now and then it is tried again: one thread, and for a moment one that is about to start.
    assert eventually(lambda: scheduler.counts() == (1, 1, 1))
    allowed[0] = True
    quick.theirs.settimeout(5)
    assert quick.theirs.recv(10) == b"y"
    go.set()


def test_the_first_thread_that_cannot_be_started_is_an_error(scheduler_of, monkeypatch):
    scheduler = scheduler_of()

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            scheduler.pipe(echo)
    assert scheduler.counts() == (0, 0, 0)
    assert ask(scheduler.pipe(echo)) == b"x"


def test_the_watch_does_not_see_what_is_taken_back(scheduler_of, monkeypatch):
    """It would try to start a thread for it, too, and the one who asked would wait for that."""
    scheduler = scheduler_of(tended=False)
    tried = []

    def refuse(thread):
        tried.append(thread.name)
        raise RuntimeError("can't start new thread")

    def ring():
        if len(tried) == 1:
            scheduler.tend()

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        patched.setattr(scheduler._watchdog_timer, "_ring", ring)
        with pytest.raises(RuntimeError, match="no handler thread can be started"):
            scheduler.pipe(echo)
    assert tried == ["test-handler-1"]
    assert scheduler.counts() == (0, 0, 0)


def test_reinforce_starts_a_thread_beyond_the_bound(scheduler_of):
    scheduler = scheduler_of(max_threads=1)
    go, blocked = threading.Event(), threading.Event()

    def block(pipe, data):
        if data:
            waits.before_wait()
            blocked.set()
            go.wait(5)

    scheduler.pipe(block).theirs.send(b"x")
    assert blocked.wait(5)
    quick = scheduler.pipe(echo)
    quick.theirs.send(b"x")
    assert eventually(lambda: scheduler.counts()[2] == 1)
    scheduler.reinforce()
    quick.theirs.settimeout(5)
    assert quick.theirs.recv(1) == b"x"
    assert scheduler.counts()[0] == 2
    go.set()


def test_nothing_is_added_to_a_closed_scheduler(scheduler_of):
    scheduler = scheduler_of()
    scheduler.close()
    with pytest.raises(RuntimeError, match="stopped"):
        scheduler.pipe(echo)


def test_several_permits_run_several_tasks_and_each_by_one_thread(scheduler_of):
    scheduler = scheduler_of(permits=4)
    pipes = [scheduler.pipe(echo) for _ in range(30)]

    def hammer(mine):
        for _ in range(30):
            for pipe in mine:
                assert ask(pipe) == b"x"

    threads = [threading.Thread(target=hammer, args=(pipes[n::3],)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert sum(pipe.overlaps for pipe in pipes) == 0


def test_a_watch_over_an_idle_scheduler_does_not_tick(scheduler_of):
    scheduler = scheduler_of(tended=False)
    pipe = scheduler.pipe(echo)
    assert ask(pipe) == b"x"
    assert eventually(lambda: scheduler.counts()[1] == 0)
    scheduler.tend()
    assert eventually(lambda: scheduler.tend() == float("inf"))


# ---- the watchdog's policy, with a worker that only pretends ---------------


@pytest.fixture
def watched(monkeypatch):
    """A scheduler whose only thread is a pretence, at the bound, with one task.

    It is never seen to have worked.
    """
    monkeypatch.setattr(stalls, "processor_time", lambda native_id: 0.0)
    scheduler = Scheduler(
        MAKERS["epoll"](), max_threads=1, name="test", ring=lambda: None, saturation=lambda *_: None
    )
    worker = scheduler._permits.employ()
    worker.task = Task(0)
    yield scheduler, worker
    scheduler._queue._poller.close()


class PretendedClocks:
    """Finds stalls as it is told how busy the processor was."""

    def __init__(self, stalls, idle):
        self._stalls, self._idle = stalls, idle

    def was_idle(self):
        return self._idle

    def __getattr__(self, name):
        return getattr(self._stalls, name)


def processor(scheduler, busy):
    stalled = scheduler._watchdog._stalls
    scheduler._watchdog._stalls = PretendedClocks(stalled, idle=not busy)


def test_it_looks_less_often_where_nothing_has_blocked_for_a_while(watched):
    scheduler, worker = watched
    processor(scheduler, busy=True)
    looks = []
    for _ in range(100):
        worker.turn += 50
        looks.append(scheduler.tend())
    assert looks[0] == TICK
    assert looks[-1] == CALM_TICK
    assert looks == sorted(looks)


def calm_down(scheduler, worker, turns):
    """A hundred looks, each after so many callbacks; what the last of them said."""
    for _ in range(100):
        worker.turn += turns
        timeout = scheduler.tend()
    return timeout


def test_nor_where_little_happens_but_steadily(watched):
    scheduler, worker = watched
    assert calm_down(scheduler, worker, 1) == CALM_TICK


def test_but_as_often_where_it_pauses_between_two_requests(watched):
    scheduler, worker = watched
    for _ in range(100):
        for turns in (1, 1, 0):
            worker.turn += turns
            worker.looking = not turns
            assert scheduler.tend() == (TICK if turns else FOREVER)


def test_and_at_once_again_where_a_callback_stands_still(watched):
    scheduler, worker = watched
    processor(scheduler, busy=True)
    calm_down(scheduler, worker, 1)
    for _ in range(20):  # as many as it may run on, where the processor is busy
        assert scheduler.tend() == TICK
        worker.turn += 1
        assert scheduler.tend() == TICK


def test_and_at_once_again_where_something_may(watched):
    scheduler, worker = watched
    processor(scheduler, busy=True)
    calm_down(scheduler, worker, 50)
    assert scheduler.tend() == TICK  # no turn since the last look
    calm_down(scheduler, worker, 50)
    scheduler._estimate.sample_mask = 0  # the class tends to block
    worker.turn += 50
    assert scheduler.tend() == TICK


@pytest.mark.parametrize(("busy", "looks"), [(False, 2), (True, 5)])
def test_how_long_it_waits_for_a_callback(busy, looks, watched):
    scheduler, worker = watched
    processor(scheduler, busy)
    for _ in range(looks - 1):
        scheduler.tend()
        assert worker.permit
    scheduler.tend()
    assert not worker.permit
    # Where the processor was busy, it may have waited for the GIL: no reason to suspect it.
    assert worker.task.classified.blocks is not busy


def test_a_callback_that_was_at_work_for_long_makes_way_the_next_time(watched, monkeypatch):
    scheduler, worker = watched
    processor(scheduler, busy=True)
    worked = iter([0.100, 0.100 + 2 * LONG])
    monkeypatch.setattr(stalls, "processor_time", lambda native_id: next(worked))
    for _ in range(5):
        assert not worker.task.classified.blocks
        scheduler.tend()
    assert not worker.permit
    assert worker.task.classified.blocks
    assert worker.task.classified.measured
    assert scheduler._estimate.tendency.average == 0


def test_a_callback_that_wants_a_processor_is_not_suspected(watched, monkeypatch):
    """Those of other processes keep it: whoever took its permit would get none either."""
    scheduler, worker = watched
    worker.native_id = 4711
    processor(scheduler, busy=False)
    monkeypatch.setattr(stalls, "wants_processor", [worker.native_id].__contains__)
    for _ in range(4):
        scheduler.tend()
        assert worker.permit
    scheduler.tend()
    assert not worker.permit
    assert not worker.task.classified.blocks


def test_a_trial_is_over_when_nobody_looks_any_more(watched):
    """It holds on to connections, which may end."""
    scheduler, worker = watched
    bench = Bench().to_trial()
    scheduler._estimate._trial = bench.trial
    worker.looking, worker.task = True, None
    while scheduler.tend() != FOREVER:
        pass
    assert bench.taken_for_blocking() == 20
    assert bench.trial._saved == []


def test_a_callback_that_ends_while_the_watch_looks_at_it(watched):
    """The worker takes no lock for noting what it runs."""
    scheduler, worker = watched

    class Ending(Worker):
        __slots__ = ("_tasks",)

        @property
        def task(self):
            return self._tasks.pop(0) if self._tasks else None

        @task.setter
        def task(self, task):
            self._tasks = [task]

    ending = Ending(scheduler._permits)
    ending.task = worker.task
    scheduler._permits._holders[:] = [ending]
    processor(scheduler, busy=False)
    ending.seen, ending.turn = 0, 0
    scheduler.tend()
    assert not ending.permit


def test_what_was_forgotten_in_the_queue_calls_no_thread_once_all_is_over(scheduler_of):
    """As the stop forgets an inline accept that an event has just made ready."""
    scheduler = scheduler_of(tended=False)
    begun, go_on = threading.Event(), threading.Event()

    def block(pipe, data):
        if data:
            begun.set()
            go_on.wait(5)
            pipe.end()
        return DONE if data else PARK

    busy, forgotten = scheduler.pipe(block), scheduler.pipe(echo)
    assert ask(forgotten) == b"x"
    busy.theirs.send(b"x")
    assert begun.wait(5)
    scheduler.make_ready(forgotten)  # who has the permit is busy, and comes to it last
    scheduler.forget(forgotten)
    scheduler.close()
    go_on.set()
    assert eventually(lambda: not scheduler.threads())
    # The last thread has seen it in the queue: none was made for it.
    assert forgotten in scheduler._queue._ready
    assert scheduler._workers._made <= 2


def test_a_close_while_a_thread_is_about_to_look_ends_that_thread():
    """It has seen that nothing is closing, and waits for the lock, which the close has."""
    last_run, go_on = threading.Event(), threading.Event()
    ours, theirs = socket.socketpair()

    class Last(Task):
        def run(self):
            scheduler.forget(self)
            last_run.set()
            go_on.wait(5)
            return DONE

    scheduler = Scheduler(
        new_poller(), max_threads=1, name="t", ring=lambda: None, saturation=lambda *_: None
    )
    scheduler.add(Last(ours.fileno()))
    assert last_run.wait(5)
    (thread,) = scheduler.threads()
    with scheduler._lock:
        go_on.set()
        eventually(lambda: False, 0.1)  # it comes to the lock
        scheduler.close()
    thread.join(5)
    ours.close()
    theirs.close()
    assert not thread.is_alive()
