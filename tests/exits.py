"""`python -m tests.exits [tls]`: each way into the C, with each of its allocations failing in turn.

For each it says what is wrong afterwards: a lock that is held, bytes that are missing from a
stream or in it twice, references or memory that are kept. The last line is how many calls met a
MemoryError.
"""

import _testcapi
import contextlib
import faulthandler
import gc
import logging
import os
import socket
import sys

from tests.slots import Busy, Staying, Waiting, Wired, secure
from thousand_island_sync import Socket, SocketClosed, events
from thousand_island_sync._base.options import MISSING
from thousand_island_sync._connection.callbacks import Callbacks
from thousand_island_sync._connection.machine import Machine
from thousand_island_sync._connection.states import State
from thousand_island_sync._connection.task import ConnectionTask
from thousand_island_sync._scheduler.run_queue import RunQueue
from thousand_island_sync._scheduler.runner import Runner
from thousand_island_sync._scheduler.task import DONE
from thousand_island_sync._scheduler.worker import Worker
from thousand_island_sync._stream.states import CLOSED
from thousand_island_sync.transports._tls.channel import TLSChannel
from thousand_island_sync.transports._tls.stream import Stream
from thousand_island_sync.transports._tls.wire import Wire
from thousand_island_sync.transports.tcp import TCPChannel

#: Numbers that are no small ones, which Python has made already.
HUGE = 1 << 40
MOST, ALIKE, ROUNDS = 70, 16, 8
CLASSES = [
    ConnectionTask,
    Machine,
    Callbacks,
    Socket,
    TCPChannel,
    RunQueue,
    Runner,
    Worker,
    Busy.Runs,
]
CLASSES += [Busy.Runs, TLSChannel, Stream, Wire]

#: What Python keeps of freed objects, it gives without an allocation: all of it is taken first.
taken = []


def take_free_ones():
    taken[:] = [1.5 + number for number in range(150)]
    taken.extend((number, None) for number in range(2_100))


class Receives(Waiting):
    def __init__(self):
        super().__init__()
        self.socket._reader.bytes_received = self.socket._reader.recv_count = HUGE
        self.heard = b""

    def play(self):
        self.heard = self.socket.recv(4)

    def check(self):
        with contextlib.suppress(SocketClosed):
            while data := self.socket.recv(100):
                self.heard += data
            yield from said("bytes are missing", self.heard == b"some bytes")
            return
        yield from said("bytes were made up", b"some bytes".startswith(self.heard))
        yield from said("the connection goes on", self.connection.run() == DONE)


class ReceivesAlone(Receives):
    """As a user's stand-in, which has no connection."""

    def __init__(self):
        super().__init__()
        del self.socket._stream.connection

    def check(self):
        yield from said("the lock is held", not self.socket._reader._receiving.locked())
        yield from said(
            "more is to be had", self.heard == b"some" or self.socket._stream.state is CLOSED
        )


class TakenApart(Socket):
    """Whose `close` breaks off when nothing leads to the descriptor any more."""

    __slots__ = ()

    def close(self):
        del self._reader._stream
        raise MemoryError


class ReceivesForNobody(Receives):
    def __init__(self):
        super().__init__()
        self.socket.__class__ = TakenApart

    def check(self):
        yield from said("the lock is held", not self.socket._reader._receiving.locked())


class Sends(Wired):
    data = b"some bytes"

    def __init__(self):
        super().__init__()
        self.socket._writer.bytes_sent = self.socket._writer.send_count = HUGE
        self.socket._reader.bytes_received = HUGE

    def play(self):
        self.sent = self.socket.send(self.data)

    def check(self):
        yield from said("the lock is held", not self.socket._writer._sending.locked())
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
        self.socket._reader.bytes_received = self.socket._reader.recv_count = HUGE

    def play(self):
        self.connection.run()

    def check(self):
        return ()


class RunsMuch(Runs):
    """More than there are small numbers for, of a stream that may have more."""

    bytes = b"x" * 2_000

    def __init__(self):
        super().__init__()
        self.connection.machine.short_proves = False


class Stays(Staying):
    def __init__(self):
        super().__init__()
        self.socket._reader.bytes_received = self.socket._reader.recv_count = HUGE
        self.busy.worker.turn = HUGE

    def play(self):
        self.stay()

    def check(self):
        return ()


class Scheduled(Busy):
    """A turn, and other numbers that are no small ones."""

    def __init__(self, **how):
        super().__init__(**how)
        self.worker.turn = self.queue.sleepers = HUGE
        self.queue._last_found = self.task.fd

    def check(self):
        yield from said("the lock is held", not self.queue.lock.locked())


class Batch(Scheduled):
    def play(self):
        self.runner.run_batch(self.worker)


class Timed(Scheduled):
    def __init__(self):
        super().__init__()
        self.worker.turn = HUGE - 1

    play = Batch.play


class Unpermitted(Scheduled):
    """Somebody else has its permit, and its run a verdict that is no small number."""

    def __init__(self):
        super().__init__()
        self.worker.permit = False
        self.task.verdict = HUGE

    play = Batch.play


class Look(Scheduled):
    def __init__(self):
        super().__init__(ready=False)
        self.queue._deadlines._next = 1e9

    def play(self):
        self.queue.look(self.worker)


class Making(contextlib.nullcontext):
    def play(self):
        from thousand_island_sync._base import compiled

        compiled.native.Lock(1)
        compiled.native.RLock()._at_fork_reinit()
        compiled.native.Worker()
        deadlines = compiled.native.Deadlines(int)
        compiled.native.RunQueue(None, [], deadlines, compiled.native.WatchdogTimer())

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


def play(make, first, behind):
    """One call, of which the allocations from one on fail, up to another or (0) all: its outcome,
    and what is wrong then."""
    with make() as world:
        take_free_ones()
        outcome = "done"
        _testcapi.set_nomemory(first, behind)
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


def kept(make, first, behind):
    """Which classes have more objects afterwards, or what else has more references."""
    shared: list[object] = [*CLASSES, State.PARKED, State.RUNNING, MISSING]
    if sys.version_info < (3, 12):  # from then on they are immortal, and their counts mean nothing
        shared += [None, True, False]
    counts = []
    for rounds in (2, ROUNDS):
        for _ in range(rounds):
            play(make, first, behind)
        gc.collect()
        counts.append([sys.getrefcount(one) for one in shared])
    grown = zip(shared, *counts, strict=True)
    return [f"{one} {after - before}" for one, before, after in grown if after - before >= ROUNDS]


def sweep(make, one=True, counts=True):
    """Lets one allocation after the other fail, or all from one on."""
    met = alike = 0
    for number in range(MOST):
        failing = number, number + 1 if one else 0
        faulthandler.dump_traceback_later(60, exit=True)
        outcome, faults = play(make, *failing)
        for fault in faults:
            print(f"{make.__name__}, allocations {failing} ({outcome}): {fault}", flush=True)
        met += outcome == "no memory"
        if counts and outcome == "no memory":
            for what in kept(make, *failing):
                print(f"{make.__name__}, allocations {failing}: keeps {what}", flush=True)
        alike = alike + 1 if outcome == "done" else 0
        if alike > ALIKE:
            break
    return met


def main():
    faulthandler.enable()
    logging.disable(logging.CRITICAL)
    sys.unraisablehook = lambda unraisable: None
    # No descriptor that is used has a small number, which Python has made already.
    for _ in range(300):
        os.dup(0)
    worlds = [
        Receives,
        Sends,
        SendsPieces,
        Runs,
        RunsMuch,
        Stays,
        Batch,
        Timed,
        Unpermitted,
        Look,
        Making,
        ReceivesAlone,
        ReceivesForNobody,
    ]
    if "tls" in sys.argv:
        worlds += tls_worlds()
    met = sum(sweep(make, one, counts=one) for make in worlds for one in (True, False))

    def hears(sender, **what):
        pass

    signals = (events.socket_recv, events.socket_send, events.handler_async_recv)
    for signal in signals:
        signal.connect(hears)
    # CPython 3.11 keeps a frame for good where the memory for its cells is missing; receivers have
    # such.
    met += sum(sweep(make, counts=False) for make in worlds[:7])
    print(met, flush=True)


if __name__ == "__main__":
    main()
