"""`python -m tests.exits [tls]`: each way into the C, with each of its allocations failing in turn.

For each it says what is wrong afterwards: a lock that is held, bytes that are missing from a
stream or in it twice, references or memory that are kept. The last line is how many calls met a
MemoryError.
"""

import _testcapi
import contextlib
import faulthandler
import fcntl
import gc
import logging
import socket
import sys

from tests.slots import Busy, Staying, Waiting, Wired, secure
from thousand_island_sync import Socket, SocketClosed, events
from thousand_island_sync._base.options import MISSING
from thousand_island_sync._connection.connection import Lifecycle
from thousand_island_sync._connection.states import State
from thousand_island_sync._scheduler.scheduler import Scheduler
from thousand_island_sync._scheduler.worker import Worker
from thousand_island_sync.transports._tls.channel import TLSChannel, _Sink
from thousand_island_sync.transports.tcp import TCPChannel

#: Numbers that are no small ones, which Python has made already.
HUGE = 1 << 40
MOST, ALIKE, ROUNDS = 70, 16, 8
CLASSES = [Lifecycle, Socket, TCPChannel, Scheduler, Worker, Busy.Runs, TLSChannel, _Sink]

#: What Python keeps of freed objects, it gives without an allocation: all of it is taken first.
taken = []


def take_free_ones():
    taken[:] = [1.5 + number for number in range(150)]
    taken.extend((number, None) for number in range(2_100))


class Receives(Waiting):
    def __init__(self):
        super().__init__()
        self.socket._bytes_received = self.socket._recv_count = HUGE
        self.heard = b""

    def play(self):
        self.heard = self.socket.recv(4)

    def check(self):
        with contextlib.suppress(SocketClosed):
            while data := self.socket.recv(100):
                self.heard += data
            return said("bytes are missing", self.heard == b"some bytes")
        return said("bytes were made up", b"some bytes".startswith(self.heard))


class Sends(Wired):
    data = b"some bytes"

    def __init__(self):
        super().__init__()
        self.socket._bytes_sent = self.socket._send_count = self.socket._bytes_received = HUGE

    def play(self):
        self.sent = self.socket.send(self.data)

    def check(self):
        yield from said("the lock is held", not self.socket._sending.locked())
        self.socket.send(b"more")
        heard = self.theirs.recv(100)
        yield from said("some bytes went out", heard in (b"some bytesmore", b"more"))


class SendsPieces(Sends):
    data = (b"some ", b"bytes")

    def play(self):
        self.sent = self.socket.send(list(self.data))


class Runs(Wired):
    """A step that ends with an exception ends the connection; one that does not has delivered."""

    def __init__(self):
        super().__init__()
        self.socket._bytes_received = self.socket._recv_count = HUGE

    def play(self):
        self.connection.run()

    def check(self):
        return ()


class Stays(Staying):
    def __init__(self):
        super().__init__()
        self.socket._bytes_received = self.socket._recv_count = self.busy.worker.turn = HUGE

    def play(self):
        self.stay()

    def check(self):
        return ()


class Scheduled(Busy):
    """A descriptor, a turn, and other numbers that are no small ones."""

    def __init__(self, **how):
        super().__init__(**how)
        high = fcntl.fcntl(self.ours.fileno(), fcntl.F_DUPFD, 300)
        self.again = socket.socket(fileno=high)
        self.scheduler.detach(self.task)
        del self.scheduler._tasks[self.task.fd]
        self.task.fd = high
        self.scheduler._tasks[high] = self.task
        self.scheduler.attach(self.task)
        self.worker.turn = self.scheduler._sleepers = HUGE
        self.scheduler._last_found = high

    def __exit__(self, *exc):
        self.again.close()
        super().__exit__(*exc)

    def check(self):
        yield from said("the lock is held", not self.scheduler._lock.locked())


class Batch(Scheduled):
    def play(self):
        self.scheduler._run_batch(self.worker)


class Timed(Scheduled):
    def __init__(self):
        super().__init__()
        self.worker.turn = HUGE - 1

    play = Batch.play


class Look(Scheduled):
    def __init__(self):
        super().__init__(ready=False)
        self.scheduler._next_timer = 1e9

    def play(self):
        self.scheduler._look(self.worker)


class LockMaking(contextlib.nullcontext):
    def play(self):
        from thousand_island_sync._base import compiled

        compiled.native.Lock(1)
        compiled.native.RLock()._at_fork_reinit()

    def __enter__(self):
        return self

    def check(self):
        return ()


def tls_worlds():
    class ReceivesTLS(secure()):
        def __init__(self):
            super().__init__()
            self.got = []

        def play(self):
            self.got.append(self.channel.recv(100))

        def check(self):
            yield from said("the lock is held", not self.channel._lock.locked())
            self.theirs.shutdown(socket.SHUT_WR)
            with contextlib.suppress(OSError):
                for _ in range(3):
                    self.got.append(self.channel.recv(100))
            got = b"".join(filter(None, self.got))
            ended = self.channel.truncated
            yield from said("bytes are missing", got == b"some bytes" or (not got and ended))

    class SendsTLS(ReceivesTLS):
        size = 10

        def play(self):
            self.sink.send(b"x" * self.size, 0)

        def check(self):
            yield from said("the lock is held", not self.channel._lock.locked())
            with contextlib.suppress(OSError):
                while not self.channel.flush():
                    self.collect()
                self.sink.send(b"more", 0)
            heard = self.heard().replace(b"more", b"")
            yield from said("bytes were made up", heard == b"x" * len(heard))

    class SendsMuch(SendsTLS):
        size = 60_000

        def __init__(self):
            super().__init__()
            self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_608)

    return [ReceivesTLS, SendsTLS, SendsMuch]


def said(what, holds):
    return () if holds else (what,)


def play(make, number):
    """One call, of which an allocation fails: its outcome, and what is wrong then."""
    with make() as world:
        take_free_ones()
        outcome = "done"
        _testcapi.set_nomemory(number, number + 1)
        try:
            world.play()
        except MemoryError:
            outcome = "no memory"
        except Exception as error:
            outcome = type(error).__name__
        finally:
            _testcapi.remove_mem_hooks()
        taken.clear()
        faults = [*world.check()]
        if outcome == "SystemError":
            faults.append(outcome)
        return outcome, faults


def kept(make, number):
    """Which classes have more objects afterwards, or what else has more references."""
    shared: list[object] = [*CLASSES, State.PARKED, State.RUNNING, MISSING]
    if sys.version_info < (3, 12):  # from then on they are immortal, and their counts mean nothing
        shared += [None, True, False]
    counts = []
    for rounds in (2, ROUNDS):
        for _ in range(rounds):
            play(make, number)
        gc.collect()
        counts.append([sys.getrefcount(one) for one in shared])
    grown = zip(shared, *counts, strict=True)
    return [f"{one} {after - before}" for one, before, after in grown if after - before >= ROUNDS]


def sweep(make, counts=True):
    met = alike = 0
    for number in range(MOST):
        faulthandler.dump_traceback_later(60, exit=True)
        outcome, faults = play(make, number)
        for fault in faults:
            print(f"{make.__name__}, allocation {number} ({outcome}): {fault}", flush=True)
        met += outcome == "no memory"
        if counts and outcome == "no memory":
            for one in kept(make, number):
                print(f"{make.__name__}, allocation {number}: keeps {one}", flush=True)
        alike = alike + 1 if outcome == "done" else 0
        if alike > ALIKE:
            break
    return met


def main():
    faulthandler.enable()
    logging.disable(logging.CRITICAL)
    sys.unraisablehook = lambda unraisable: None
    worlds = [Receives, Sends, SendsPieces, Runs, Stays, Batch, Timed, Look, LockMaking]
    if "tls" in sys.argv:
        worlds += tls_worlds()
    met = sum(map(sweep, worlds))

    def hears(sender, **what):
        pass

    signals = (events.socket_recv, events.socket_send, events.handler_async_recv)
    for signal in signals:
        signal.connect(hears)
    # CPython 3.11 keeps a frame for good where the memory for its cells is missing; receivers have
    # such.
    met += sum(sweep(make, counts=False) for make in worlds[:6])
    print(met, flush=True)


if __name__ == "__main__":
    main()
