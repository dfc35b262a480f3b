"""`python -m tests.slots`: each way into the C, with each slot that it reads unset, or with
something in it that does not belong there. It ends by itself, or a signal has ended it.

The last line is how many calls were made; a line before it is a call that the interpreter
found fault with ("returned NULL without setting an exception").
"""

import contextlib
import faulthandler
import itertools
import logging
import re
import socket
import sys
import threading
from pathlib import Path

from tests.test_connection import World
from thousand_island_sync import Handler
from thousand_island_sync._base.clock import now
from thousand_island_sync._connection.callbacks import Callbacks
from thousand_island_sync._connection.machine import Machine
from thousand_island_sync._connection.task import ConnectionTask
from thousand_island_sync._scheduler.affinity import Wanted
from thousand_island_sync._scheduler.poller import EpollPoller
from thousand_island_sync._scheduler.run_queue import RunQueue
from thousand_island_sync._scheduler.scheduler import Parts, Scheduler
from thousand_island_sync._scheduler.states import OWNED
from thousand_island_sync._scheduler.task import Classified, Task
from thousand_island_sync._scheduler.task_table import TaskTable
from thousand_island_sync._scheduler.worker import Worker
from thousand_island_sync.socket import Socket
from thousand_island_sync.transports.tcp import TCPChannel

NATIVE = Path(__file__).resolve().parent.parent / "native"


def slots_read():
    """(class, slot) as the C has them: members of its types."""
    text = "".join(path.read_text() for path in sorted(NATIVE.glob("*.[ch]")))
    members = re.findall(r'\{"(\w+)", T_\w+, offsetof\((\w+), ', text)
    found = []
    fields = re.findall(r"#define (\w+)_FIELDS\([A-Z, ]*\)((?:.*\\\n)*.*\n)", text)
    for class_, letters in fields:
        found += [(class_, name) for name in re.findall(r"\b[A-Z]\((\w+)\)", letters)]
    return [*found, *((class_, member) for member, class_ in members)]


class Odd:
    """Empties the slot that it lies in, and fails, whatever is asked of it."""

    def __init__(self):
        self.empty = lambda: None

    def _fail(self, *_):
        self.empty()
        raise ArithmeticError("odd")

    __bool__ = __len__ = __index__ = __float__ = __int__ = __call__ = __hash__ = __eq__ = _fail
    __lt__ = __le__ = __gt__ = __ge__ = __add__ = __sub__ = __iter__ = __enter__ = _fail


class Emptying(Odd):
    """The same, but it gives something."""

    def _one(self, *_):
        self.empty()
        return 1

    def _real(self, *_):
        self.empty()
        return 1.5

    __bool__ = __len__ = __index__ = __int__ = __hash__ = __call__ = _one
    __float__ = _real


GONE = object()
VALUES = [
    *(lambda: GONE, lambda: None, lambda: True, lambda: False, lambda: 0, lambda: -1),
    *(lambda: 1 << 40, lambda: 1 << 80, lambda: 0.5, lambda: float("nan"), lambda: float("inf")),
    *(
        lambda: "text",
        lambda: b"bytes",
        list,
        dict,
        tuple,
        set,
        object,
        lambda: [1],
        lambda: {1: 1},
    ),
    *(lambda: (0, 0, 0, 0), lambda: ("a", "b", "c", "d"), lambda: int, threading.Lock),
    *(socket.socket, lambda: Task(0), lambda: Task.__new__(Task), lambda: Worker.__new__(Worker)),
    *(
        lambda: Socket.__new__(Socket),
        lambda: RunQueue.__new__(RunQueue),
        lambda: TaskTable.__new__(TaskTable),
        Odd,
        Emptying,
    ),
    *(lambda: TCPChannel.__new__(TCPChannel), lambda: EpollPoller.__new__(EpollPoller)),
    *(lambda: ConnectionTask.__new__(ConnectionTask), lambda: Machine.__new__(Machine)),
    *(lambda: Callbacks.__new__(Callbacks), lambda: Wanted.__new__(Wanted)),
]


class Broken(Exception):
    pass


def breaks(*_):
    """Stands for what shall fail."""
    raise Broken


class Quiet(Handler):
    """Has nothing to say."""

    def handle_data(self, data, socket):
        pass


class Wired(World):
    """A connection with a real channel, from which bytes have come, and the end after them."""

    bytes = b"some bytes"

    def __init__(self):
        super().__init__(handler_cls=Quiet)
        self.run()
        self.theirs.sendall(self.bytes)
        self.theirs.shutdown(socket.SHUT_WR)
        self.theirs.settimeout(1)
        self.plain = TCPChannel(self.ours)
        self.connection.machine.source = self.ours
        self.connection.machine.short_proves = True
        self.socket = self.connection.machine.socket
        self.socket._stream.use(self.plain)

    def objects(self):
        return {
            "Task": self.connection,
            "Connection": self.connection,
            "Machine": self.connection.machine,
            "Callbacks": self.connection.machine.callbacks,
            "Socket": self.socket,
            "Duplex": self.socket._stream,
            "Reader": self.socket._reader,
            "Writer": self.socket._writer,
            "TCPChannel": self.plain,
        }


class Waiting(Wired):
    """A thread has waited for it in the kernel already."""

    def __init__(self):
        super().__init__()
        self.socket._reader.turn()
        self.socket._stream.waiter = threading.get_ident()


class Busy(contextlib.AbstractContextManager):
    """A scheduler without threads, a worker with a permit, and a task that is ready or parked."""

    class Runs(Task):
        verdict = 0

        def run(self):
            return self.verdict

        def may_stay(self):
            return False

        def broke(self):
            pass

    def __init__(self, *, ready=True, clock=now):
        self.ours, self.theirs = socket.socketpair()

        class Timed(Scheduler):
            parts = Parts(clock=clock)

        self.scheduler = Timed(
            EpollPoller(), max_threads=1, name="t", ring=lambda: None, saturation=lambda *_: None
        )
        self.queue, self.runner = self.scheduler._queue, self.scheduler._runner
        self.queue._unlooked = 64  # the next thing is a look
        self.permits = self.scheduler._permits
        self.worker = self.permits.employ()
        self.task = self.Runs(self.ours.fileno())
        self.task.deadline = 1e9
        self.task.ownership = OWNED
        self.scheduler._table.add([self.task])
        self.scheduler.attach(self.task)
        self.theirs.sendall(b"x")
        (self.queue._ready if ready else self.worker.parked).append(self.task)
        self.poller = self.queue._poller

    def objects(self):
        return {
            "Task": self.task,
            "Worker": self.worker,
            "RunQueue": self.queue,
            "Deadlines": self.queue._deadlines,
            "WatchdogTimer": self.scheduler._watchdog_timer,
            "Runner": self.runner,
            "BlockingEstimate": self.scheduler._estimate,
        }

    def __exit__(self, *exc):
        self.ours.close()
        self.theirs.close()
        self.poller.close()


class Staying(Wired):
    """Asks its scheduler whether there is something better to do."""

    def __init__(self):
        super().__init__()
        self.busy = Busy()
        self.busy.task.classified = Classified.BLOCKING
        self.affinity = self.busy.runner._affinity
        self.wanted = Wanted(self.affinity, self.busy.worker, self.busy.task)
        # A callback takes ten seconds.
        self.connection.machine.callbacks.clock = itertools.count(0, 10).__next__

    def objects(self):
        return {
            **super().objects(),
            **self.busy.objects(),
        }

    def stay(self):
        self.connection.stay(float("inf"), self.wanted)

    def __exit__(self, *exc):
        self.busy.__exit__()
        super().__exit__()


class StayingItself(Staying):
    """The same, where the task that is meddled with is the connection."""

    def objects(self):
        return {**super().objects(), "Task": self.connection}


def secure():
    """A maker of TLS channels that a client has written to, where TLS is to be had."""
    from tests.conftest import Authority
    from tests.test_tls_wire import Pair

    authority = Authority()

    class Secure(Pair):
        def __init__(self):
            super().__init__(authority)
            self.do_handshake()
            self.channel.recv(1)
            self.channel.drained()
            self.say(b"some bytes")
            self.deliver()
            self.sink = self.channel.sink()

        def __enter__(self):
            return self

        def __exit__(self, *exc):
            self.close()

        def objects(self):
            return {
                "Wire": self.channel._wire,
                "Stream": self.channel._stream,
            }

    return Secure


def entries():
    """(what it is called on, the call)"""
    made = [
        (Wired, lambda world: world.connection.run()),
        (Staying, lambda world: world.stay()),
        (StayingItself, lambda world: world.stay()),
        (Wired, lambda world: world.socket.send(b"x")),
        (Wired, lambda world: world.socket.send([b"x", b"y"])),
        (Waiting, lambda world: world.socket.recv(5)),
        (Waiting, lambda world: world.socket.recv()),
        (Busy, lambda world: world.runner.run_batch(world.worker)),
        (Busy, lambda world: world.queue.look(world.worker)),
        (lambda: Busy(ready=False), lambda world: world.queue.look(world.worker)),
    ]
    if "tls" in sys.argv:
        wire = secure()
        made += [
            (wire, lambda world: world.channel.recv(5)),
            (wire, lambda world: world.channel.recv(65536)),
            (wire, lambda world: world.sink.send(b"x", 0)),
            (wire, lambda world: world.sink.send(b"x" * 50_000, 0)),
            (wire, lambda world: world.channel.drained()),
        ]
    return made


#: Wrong arguments of each call.
ARGUMENTS = [(), (None,), (1,), ("a",), (1, 2), (1, 2, 3), (None,) * 9, (Odd(),), (Emptying(), 1)]


def play(world, call, name):
    try:
        with contextlib.suppress(Exception):
            call(world)
    except SystemError as error:
        print(name, error, flush=True)


def meddle(make, call, class_, slot, given):
    with make() as world:
        changed = world.objects()[class_]
        if isinstance(given, Odd):
            given.empty = lambda: delattr(changed, slot)
        if given is GONE:
            with contextlib.suppress(AttributeError, TypeError):
                delattr(changed, slot)
        else:  # members of a type in C take what they are for
            with contextlib.suppress(AttributeError, TypeError, OverflowError):
                setattr(changed, slot, given)
        play(world, call, f"{class_}.{slot} = {type(given).__name__}")
    if isinstance(given, socket.socket):
        given.close()


def call_with(method):
    for arguments in ARGUMENTS:
        try:
            with contextlib.suppress(Exception):
                method(*arguments)
        except SystemError as error:
            print(method, arguments, error, flush=True)


def main():
    faulthandler.enable()
    logging.disable(logging.CRITICAL)
    sys.unraisablehook = lambda unraisable: None
    done = 0
    for make, call in entries():
        with make() as world:
            known = world.objects()
        for class_, slot in slots_read():
            for value in VALUES if class_ in known else ():
                faulthandler.dump_traceback_later(20, exit=True)
                meddle(make, call, class_, slot, value())
                done += 1
    with Staying() as world:
        for method in (
            *(world.connection.run, world.connection.stay),
            *(world.socket.send, world.socket.recv),
            *(world.busy.runner.run_batch, world.busy.queue.look),
        ):
            call_with(method)
    print(done, flush=True)


if __name__ == "__main__":
    main()
