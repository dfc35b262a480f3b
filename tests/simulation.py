"""The scheduler in simulated time: its own code, on threads of which one runs at a time, with
clocks that are numbers.

A simulated thread is a real one with a baton. It gives the baton back when it waits: for a
time, or to be woken. The kernel then moves the clock to the next thing that is due. So a
stream of callbacks that sleep for a minute takes milliseconds, each run is the same as the
last, and what waited for how long is exact. Threads run in parallel here; on a real GIL its
switch interval of 5 ms comes on top of what is measured.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import deque
from types import SimpleNamespace

from thousand_island_sync._base.clock import FOREVER
from thousand_island_sync._base.waits import hand_off
from thousand_island_sync._scheduler import blocking_estimate, stalls, workers
from thousand_island_sync._scheduler import (
    scheduler as _scheduler,
)
from thousand_island_sync._scheduler import (
    worker as _worker,
)
from thousand_island_sync._scheduler.blocking_estimate import BlockingEstimate
from thousand_island_sync._scheduler.permits import Permits
from thousand_island_sync._scheduler.poller import READ
from thousand_island_sync._scheduler.scheduler import Parts, Scheduler
from thousand_island_sync._scheduler.task import AGAIN, PARK, Task
from thousand_island_sync._scheduler.timers import Timer


class Waiter:
    """A simulated thread that waits."""

    def __init__(self, thread):
        self.thread = thread
        self.woken = False
        self.over = False


class SimThread:
    """Stands in for `threading.Thread`."""

    def __init__(self, *, target, args=(), name="", daemon=True):
        self.kernel = Kernel.current
        self.name, self._target, self._args = name, target, args
        self.cpu = 0.0
        self.switches = 0
        self.computing, self.began = False, 0.0
        self.baton = threading.Semaphore(0)
        self.alive = False
        self._real = threading.Thread(target=self._run, name=f"simulated {name}", daemon=True)

    def start(self):
        self.alive = True
        self.kernel.threads.append(self)
        self._real.start()
        self.kernel.at(self.kernel.now, lambda: self.kernel.give_baton_to(self))

    def _run(self):
        self.baton.acquire()
        self.kernel.running = self
        try:
            self._target(*self._args)
        except BaseException as error:
            self.kernel.errors.append(error)
        finally:
            self.alive = False
            self.kernel.baton.release()

    def is_alive(self):
        return self.alive

    @property
    def ident(self):
        return self._real.ident

    @property
    def native_id(self):
        return self._real.native_id

    def join_real(self):
        self._real.join(5)
        assert not self._real.is_alive()


class SimLock:
    """Stands in for `threading.Lock`: free of contention, for one thread runs at a time, but
    as a bell it is waited for in simulated time."""

    def __init__(self):
        self.kernel = Kernel.current
        self._held = False
        self._waiters: deque[Waiter] = deque()

    def acquire(self, blocking=True, timeout=-1):
        if not self._held:
            self._held = True
            return True
        if not blocking:
            return False
        waiter = Waiter(self.kernel.running)
        self._waiters.append(waiter)
        self.kernel.wait(waiter, FOREVER if timeout < 0 else timeout)
        return waiter.woken

    def release(self):
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.over:
                self.kernel.wake(waiter)
                return
        self._held = False

    def _is_owned(self):
        return self._held

    def __enter__(self):
        assert self.acquire(blocking=False), "one thread at a time: nobody can hold it"

    def __exit__(self, *exc):
        self.release()


class SimPoller:
    """Descriptors are numbers; edges are put in by `arrive`."""

    needs_rearm = False

    def __init__(self, kernel):
        self.kernel = kernel
        self._events: dict[int, int] = {}
        self._sleepers: deque[Waiter] = deque()
        self._woken = 0

    def arrive(self, fd):
        self._events[fd] = self._events.get(fd, 0) | READ
        self._stir()

    def _stir(self):
        while self._sleepers:
            waiter = self._sleepers.popleft()
            if not waiter.over:
                self.kernel.wake(waiter)
                return

    def poll(self, timeout):
        if not self._events and not self._woken and timeout > 0:
            waiter = Waiter(self.kernel.running)
            self._sleepers.append(waiter)
            self.kernel.wait(waiter, timeout)
        self._woken = max(0, self._woken - 1)
        events, self._events = list(self._events.items()), {}
        return events

    def wake(self):
        self._woken += 1
        self._stir()

    def register(self, fd, *, write):
        pass

    def unregister(self, fd):
        pass

    def fileno(self):
        return None

    def close(self):
        pass


class Kernel:
    """Time, and who runs."""

    current: Kernel

    def __init__(self):
        Kernel.current = self
        self.now = 0.0
        self._computed = 0.0
        self._computing: list[float] = []  # when those began that compute now
        self.baton = threading.Semaphore(0)
        self.running: SimThread | None = None
        self.threads: list[SimThread] = []
        self.errors: list[BaseException] = []
        self._due: list = []
        self._order = itertools.count()

    def at(self, when, call):
        heapq.heappush(self._due, (when, next(self._order), call))

    def give_baton_to(self, thread):
        thread.baton.release()
        self.baton.acquire()
        self.running = None

    def wait(self, waiter, timeout):
        """The running thread waits until it is woken, or for `timeout` seconds."""
        thread = waiter.thread
        thread.switches += 1
        if timeout != FOREVER:
            self.at(self.now + timeout, lambda: None if waiter.over else self._go_on(waiter))
        self.baton.release()
        thread.baton.acquire()
        self.running = thread

    def wake(self, waiter):
        waiter.woken = waiter.over = True
        self.at(self.now, lambda: self.give_baton_to(waiter.thread))

    def _go_on(self, waiter):
        waiter.over = True
        self.give_baton_to(waiter.thread)

    def sleep(self, duration):
        self.wait(Waiter(self.running), duration)

    def compute(self, duration):
        """Keeps the processor for as long; others run beside it."""
        thread = self.running
        switches, began = thread.switches, self.now
        self._computing.append(began)
        thread.computing, thread.began = True, began
        self.sleep(duration)
        thread.computing = False
        self._computing.remove(began)
        thread.switches = switches  # it has not waited, for all the kernel knows
        thread.cpu += duration
        self._computed += duration

    def computes(self, native_id):
        return any(one.computing and one.native_id == native_id for one in self.threads)

    def processor_time(self, native_id):
        for one in self.threads:
            if one.native_id == native_id:
                return one.cpu + (self.now - one.began if one.computing else 0)
        return 0

    def process_time(self):
        return self._computed + sum(self.now - began for began in self._computing)

    def run_until(self, end):
        while self._due and self._due[0][0] <= end:
            when, _, call = heapq.heappop(self._due)
            self.now = max(self.now, when)
            call()
            if self.errors:
                raise self.errors[0]
        self.now = max(self.now, end)


class Stream(Task):
    """A connection: messages that arrive at their times, each with what its callback does."""

    def __init__(self, world, fd):
        super().__init__(fd)
        self.world = world
        self.arrived: deque = deque()
        # When each was ready, its own callback before it being over, and how long it waited.
        self.waits: list[tuple[float, float]] = []
        self._over_at = 0.0

    def run(self):
        self.wants_write = False
        if not self.arrived:
            return PARK
        when, kind, duration = self.arrived.popleft()
        kernel = self.world.kernel
        if self.classified.blocks:
            hand_off()
        ready = max(when, self._over_at)
        self.waits.append((ready, kernel.now - ready))
        if kind == "block":
            kernel.sleep(duration)
        else:
            kernel.compute(duration)
        self._over_at = kernel.now
        return AGAIN if self.arrived else PARK


class Estimate(BlockingEstimate):
    """C code asks the real clocks, for no class but the estimate itself."""


class SimAlarm:
    """Rings when it goes off."""

    def __init__(self, kernel, ring):
        self._kernel, self._ring, self._number = kernel, ring, 0

    def set(self, seconds):
        self._number += 1
        number = self._number
        self._kernel.at(self._kernel.now + seconds, lambda: self._go_off(number))

    def stop(self):
        self._number += 1

    def _go_off(self, number):
        if number == self._number:
            self._ring()


class World:
    """A scheduler and its streams, in simulated time; a context manager.

    `hand_offs` are the moments at which a permit changed hands. `alarm`: whether there is one.
    """

    def __init__(self, monkeypatch, max_threads=32, alarm=True):
        kernel = self.kernel = Kernel()
        current = SimpleNamespace(
            Lock=SimLock,
            Thread=SimThread,
            current_thread=lambda: kernel.running,
        )
        for module in (_worker, workers):
            monkeypatch.setattr(module, "threading", current)
        monkeypatch.setattr(_scheduler, "lock", lambda name: SimLock())
        for module in (blocking_estimate, stalls):
            monkeypatch.setattr(module, "perf_counter", lambda: kernel.now)
            monkeypatch.setattr(module, "process_time", kernel.process_time)
        for name, value in (
            ("thread_time", lambda: kernel.running.cpu),
            ("voluntary_switches", lambda: kernel.running.switches),
        ):
            monkeypatch.setattr(blocking_estimate, name, value)
        monkeypatch.setattr(stalls, "wants_processor", kernel.computes)
        monkeypatch.setattr(stalls, "processor_time", kernel.processor_time)
        self.poller = SimPoller(kernel)
        self.edges: list = []
        self.hand_offs: list[float] = []
        self._bell: Waiter | None = None
        self._rung = False

        class Simulated(Scheduler):
            parts = Parts(estimate=Estimate, clock=lambda: kernel.now)

        self.scheduler = Simulated(
            self.poller,
            max_threads=max_threads,
            name="simulated",
            ring=self._ring,
            saturation=lambda *edge: self.edges.append((kernel.now, *edge)),
            permits=1,
        )
        revoke = Permits._revoke

        def noted(permits, worker):
            self.hand_offs.append(kernel.now)
            revoke(permits, worker)

        monkeypatch.setattr(Permits, "_revoke", noted)
        self.streams: list[Stream] = []
        self.looks = 0
        self._has_alarm = alarm
        self._over = False
        SimThread(target=self._listen, name="listener").start()

    def _ring(self):
        self._rung = True
        if self._bell is not None and not self._bell.over:
            self.kernel.wake(self._bell)

    def _listen(self):
        """As the listener's thread does it."""
        if self._has_alarm:
            self.scheduler.use_alarm(SimAlarm(self.kernel, self._ring))
        while not self._over:
            self.looks += 1
            timeout = self.scheduler.tend()
            if self._over:
                return
            if timeout != FOREVER:
                self.kernel.sleep(timeout)
            elif not self._rung:
                self._bell = Waiter(self.kernel.running)
                self.kernel.wait(self._bell, FOREVER)
                self._bell = None
            self._rung = False

    def stream(self):
        made = Stream(self, 1_000 + len(self.streams))
        self.streams.append(made)
        self.kernel.at(self.kernel.now, lambda: self._add(made))
        return made

    def _add(self, stream):
        # `add` is an acceptor's: on a thread of its own, for it may start one.
        def add():
            self.scheduler.add(stream)
            self.poller.arrive(stream.fd)

        SimThread(target=add, name="acceptor").start()

    def message(self, stream, when, kind, duration, by="an event"):
        def put():
            stream.arrived.append((self.kernel.now, kind, duration))

        def arrive():
            put()
            self.poller.arrive(stream.fd)

        def post():
            put()
            self.scheduler.make_ready(stream)

        if by == "an event":
            self.kernel.at(when, arrive)
        elif by == "another thread":
            self.kernel.at(when, lambda: SimThread(target=post, name="post").start())
        else:
            set_timer = SimThread(
                target=lambda: self.scheduler.start(Timer(when, target=post)), name="timer"
            )
            self.kernel.at(self.kernel.now, set_timer.start)

    def run_until(self, end):
        self.kernel.run_until(end)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._over = True
        for stream in self.streams:
            self.kernel.at(self.kernel.now, lambda one=stream: self._forget(one))
        self.kernel.run_until(self.kernel.now + 100)
        SimThread(target=self.scheduler.close, name="stop").start()
        self._ring()
        self.kernel.run_until(self.kernel.now + 100)
        for thread in self.kernel.threads:
            thread.join_real()

    def _forget(self, stream):
        SimThread(target=lambda: self.scheduler.forget(stream), name="end").start()
