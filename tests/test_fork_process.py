"""Forked children and what a process has but once: its descriptors, ports, locks and signals.

`test_fork` has what a child may do with the parent's servers and connections.
"""

import contextlib
import gc
import multiprocessing
import os
import select
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.forking import Children
from tests.support import Echo, answers, eventually, receive_all, running
from thousand_island_sync import (
    Close,
    Handler,
    ThousandIsland,
    attach_logger,
    detach_logger,
    events,
)
from thousand_island_sync._base import addresses, descriptors, fork, locks, signal_handlers, wake_up
from thousand_island_sync._scheduler import alarm, poller

ROOT = Path(__file__).resolve().parent.parent
fork_context = multiprocessing.get_context("fork")


@pytest.fixture
def children():
    made = Children()
    yield made
    made.close()


class Once(Handler):
    """Answers, and closes."""

    def handle_data(self, data, socket):
        socket.send(data)
        return Close()


class WithAHelper(Handler):
    """A worker process for each client, as libraries begin one."""

    def handle_data(self, data, socket):
        worker = fork_context.Process(target=time.sleep, args=(20,))
        worker.start()
        self.options.append(worker)
        socket.send(data)
        return Close()


@pytest.fixture
def workers():
    begun = []
    yield begun
    for worker in begun:
        worker.kill()
        worker.join()
        worker.close()


# ---- what a child has a copy of -----------------------------------------------------


def ends_at_once(sock, stopwatch):
    began = stopwatch()
    assert receive_all(sock) == b"x"
    assert stopwatch() - began < 0.5
    sock.close()


def test_f11_a_client_sees_its_end_whatever_child_was_forked_beside_it(wire, workers, stopwatch):
    server = wire.serve(Once)
    sock = wire.connect(server)
    assert eventually(server.connections)
    worker = fork_context.Process(target=time.sleep, args=(20,))
    workers.append(worker)
    worker.start()
    sock.sendall(b"x")
    ends_at_once(sock, stopwatch)


def test_g3_a_client_sees_its_end_although_a_child_of_its_callback_lives(wire, workers, stopwatch):
    server = wire.serve(WithAHelper, handler_options=workers)
    for _ in range(3):
        sock = wire.connect(server)
        sock.sendall(b"x")
        ends_at_once(sock, stopwatch)


@pytest.mark.parametrize("suspended", [False, True])
def test_g3_a_port_is_free_although_children_live(serve, client, workers, suspended):
    server = serve(WithAHelper, handler_options=workers, num_listen_sockets=1)
    with client(server) as sock:
        sock.sendall(b"x")
        assert receive_all(sock) == b"x"
    worker = fork_context.Process(target=time.sleep, args=(20,))
    workers.append(worker)
    worker.start()
    host, port = server.local_address
    if suspended:
        server.suspend()
    else:
        server.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, port), 2)
    other = serve(Once, port=port)
    assert answers(client(other))


def run(program, *arguments):
    """What a program prints that may fork while it has threads."""
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


NEVER_CLOSES = """
import os, socket, time
from tests.support import Echo
from thousand_island_sync import ThousandIsland
listener = socket.create_server(("127.0.0.1", 0))
inherited = ThousandIsland(handler_cls=Echo, transport_options={"sockets": [listener]}).start()
server = ThousandIsland(handler_cls=Echo, host="127.0.0.1", port=0).start()
port = server.local_port
from thousand_island_sync._base import fork
fork._in_child.insert(0, lambda: time.sleep(20))  # a child that does not come to closing it
pid = os.fork()
server.stop()
try:
    socket.create_connection(("127.0.0.1", port), 5)
    print("the port is still open")
except ConnectionRefusedError:
    print("free")
ThousandIsland(handler_cls=Echo, host="127.0.0.1", port=port).start().stop()
inherited.stop()
socket.create_connection(listener.getsockname(), 5).close()
print("still listening")
os.kill(pid, 9)
os.waitpid(pid, 0)
"""


def test_a_port_is_free_at_once_and_an_inherited_one_goes_on():
    done = run(NEVER_CLOSES)
    assert done.stdout == "free\nstill listening\n", done.stderr


def test_a_unix_path_is_free_although_children_live(serve, client, workers, tmp_path):
    path = tmp_path / "socket"
    server = serve(WithAHelper, handler_options=workers, host=f"unix:{path}")
    with client(server) as sock:
        sock.sendall(b"x")
        assert receive_all(sock) == b"x"
    assert path.exists()
    server.stop()
    assert not path.exists()
    assert answers(client(serve(Once, host=f"unix:{path}")))


def test_a_child_leaves_the_parents_unix_path(serve, client, children, tmp_path):
    path = tmp_path / "socket"
    server = serve(Echo, host=f"unix:{path}")

    def child():
        server.__exit__(None, None, None)
        gc.collect()

    assert children.exit_code(children.run(child)) == 0
    assert path.exists()
    assert answers(client(server))


def test_a_child_keeps_no_other_server_from_the_folder_of_a_path(
    serve, children, monkeypatch, tmp_path
):
    """The folder is locked for a moment; a lock of flock(2) lives as long as its last copy."""
    before, over = addresses._remove_stale, os.pipe()

    def remove_stale(path):
        if not children.pids:
            children.run(lambda: select.select([over[0]], [], [], 20))
        before(path)

    monkeypatch.setattr(addresses, "_remove_stale", remove_stale)
    serve(Echo, host=f"unix:{tmp_path / 'one'}")
    with running(lambda: serve(Echo, host=f"unix:{tmp_path / 'other'}"), within=5):
        pass
    os.write(over[1], b"x")
    assert children.exit_codes() == [0]
    for end in over:
        os.close(end)


def test_inherited_sockets_stay_the_programs_own(serve, client, children):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = serve(Echo, transport_options={"sockets": [listener]})

        def child():
            assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            mine = ThousandIsland(handler_cls=Echo, transport_options={"sockets": [listener]})
            with mine:
                children.say(mine.local_port)

        assert children.exit_code(children.run(child)) == 0, children.said
        assert children.said == [str(server.local_port)]
        assert answers(client(server))


class Hurries(Handler):
    """Comes and goes."""

    def handle_data(self, data, socket):
        socket.send(data)
        return Close()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_whatever_is_opened_and_closed_at_the_fork_is_known(serve, children, tmp_path, kind):
    """Clients come and go on other threads: a child finds nothing that listens or was accepted."""
    host = f"unix:{tmp_path / 'socket'}" if kind == "unix" else "127.0.0.1"
    server = serve(Hurries, host=host)
    address = str(tmp_path / "socket") if kind == "unix" else server.local_address
    family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
    over = threading.Event()
    served = [0]

    def come_and_go():
        while not over.is_set():
            with socket.socket(family) as sock:
                sock.settimeout(10)
                sock.connect(address)
                sock.sendall(b"x")
                assert receive_all(sock) == b"x"
                served[0] += 1

    def child():
        for name in os.listdir("/proc/self/fd"):
            try:
                sock = socket.socket(fileno=os.dup(int(name)))
                where = sock.getsockname()
            except OSError:
                continue
            assert where != address, f"descriptor {name}"

    with running(*[come_and_go] * 3):
        try:
            for _ in range(30):
                assert children.exit_code(children.run(child)) == 0, children.said
        finally:
            over.set()
    assert served[0] > 10


# ---- descriptors, one by one ----------------------------------------------------------


HOLDERS = {
    "WakeUp": wake_up.WakeUp,
    "EpollPoller": poller.EpollPoller,
    "SelectorPoller": poller.SelectorPoller,
    "NotedSignals": lambda: signal_handlers.NotedSignals(()).__enter__(),
}
if alarm.timer_open is not None or hasattr(os, "timerfd_create"):
    HOLDERS["Alarm"] = alarm.Alarm


@pytest.mark.parametrize("holder", HOLDERS)
def test_what_a_child_has_abandoned_closes_no_number_again(children, holder):
    made = HOLDERS[holder]()

    def child():
        """The hook has abandoned it already."""
        made.abandon()
        files = [open("/dev/zero", "rb") for _ in range(50)]  # noqa: SIM115 - until the child ends
        made.close() if hasattr(made, "close") else made.__exit__()
        gc.collect()
        for file in files:
            assert file.read(1) == b"\0"

    try:
        assert children.exit_code(children.run(child)) == 0, children.said
    finally:
        made.close() if hasattr(made, "close") else made.__exit__()


def test_a_wake_up_of_a_socket_pair_is_abandoned_as_well(children, monkeypatch):
    monkeypatch.delattr(os, "eventfd")
    test_what_a_child_has_abandoned_closes_no_number_again(children, "WakeUp")


def test_a_fork_waits_for_who_opens_or_closes(children):
    inside, go_on = threading.Event(), threading.Event()

    def open_something():
        with descriptors.thread.no_fork, descriptors.thread.no_fork:
            inside.set()
            go_on.wait(10)
            children.say("opened")

    with running(open_something):
        assert inside.wait(10)
        forker = threading.Thread(target=lambda: children.run(lambda: children.say("child")))
        forker.start()
        forker.join(0.1)
        assert not children.pids
        go_on.set()
        forker.join(10)
    assert children.exit_codes() == [0]
    assert children.said == ["opened", "child"]


def test_a_child_knows_which_locks_it_has(serve, children):
    """Of those that it held over the fork it has none; else who interrupts it would wait for one
    in the middle of another."""
    serve(Echo)  # its threads open and close things
    one = locks.lock("connection.limit")

    def look():
        assert not locks.holds_any()
        with one:
            assert locks.holds_any()
        assert not locks.holds_any()

    children.run(look)
    assert children.exit_codes() == [0], children.said


def test_a_fork_does_not_wait_for_ever(children, monkeypatch):
    monkeypatch.setattr(descriptors, "_FORK_WAITS_S", 0.05)
    inside, go_on = threading.Event(), threading.Event()

    def stay():
        with descriptors.thread.no_fork:
            inside.set()
            go_on.wait(10)

    with running(stay):
        assert inside.wait(10)
        assert children.exit_code(children.run(lambda: None)) == 0
        go_on.set()


def test_who_is_inside_may_fork_and_others_may_open_afterwards(children):
    with descriptors.thread.no_fork:
        pid = children.run(lambda: wake_up.WakeUp().close())
    assert children.exit_code(pid) == 0, children.said

    def open_and_close():
        wake_up.WakeUp().close()

    with running(*[open_and_close] * 4, within=10):
        pass


# ---- locks ------------------------------------------------------------------------------


def serves_one(children):
    """A server of the child's own, with all that it may do with the process's locks."""
    attach_logger("trace")

    def receiver(*_, **__):
        pass

    events.socket_close.connect(receiver)
    with ThousandIsland(host="127.0.0.1", port=0, handler_cls=Once) as server:
        with socket.create_connection(server.local_address, 5) as sock:
            assert eventually(server.connections)
            handle = server.connections()[0]
            handle.post("x")
            sock.sendall(b"x")
            assert receive_all(sock) == b"x"
        assert eventually(lambda: handle.closed)
        with pytest.raises(OSError):
            handle.post("x")
    detach_logger("error")
    children.say("served")


@pytest.mark.parametrize("name", sorted(locks.of_process))
def test_a_lock_that_another_thread_wants_all_the_time_hangs_no_child(children, name):
    lock, over = locks.of_process[name], threading.Event()

    def hammer():
        while not over.is_set():
            with lock:
                pass

    with running(*[hammer] * 3):
        try:
            for _ in range(5):
                assert children.exit_code(children.run(lambda: serves_one(children))) == 0
        finally:
            over.set()
    assert children.said == ["served"] * 5


def test_no_lock_that_a_server_holds_at_the_fork_hangs_a_child(serve, client, children):
    """Another server works all the time, and uses every lock there is."""

    class Busy(Echo):
        def handle_connection(self, sock):
            self.chat = [sock]

        def handle_data(self, data, sock):
            for _ in range(10):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                sock.connection.post("x")
            super().handle_data(data, sock)

        def handle_info(self, message, sock):
            pass

    server = serve(Busy, max_pending_messages=None)
    over = threading.Event()

    def chat():
        with client(server) as sock:
            while not over.is_set():
                assert answers(sock)

    with running(*[chat] * 3):
        try:
            for _ in range(8):
                assert children.exit_code(children.run(lambda: serves_one(children))) == 0
        finally:
            over.set()
    assert children.said == ["served"] * 8


# ---- signals ------------------------------------------------------------------------------

SERVES = """
import multiprocessing, os, signal, sys, threading, time
from thousand_island_sync import Close, Handler, ThousandIsland

context = multiprocessing.get_context("fork")
told = []


def tell(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())


def work():
    time.sleep(30)


class Forks(Handler):
    def handle_data(self, data, socket):
        run(data.decode(), socket)
        socket.send(b"done")
        return Close()


def exit_of(process):
    process.join(10)
    code, alive = process.exitcode, process.is_alive()
    if alive:
        process.kill()
        process.join()
    return "alive" if alive else code


def run(what, socket):
    if what == "terminate":
        for _ in range(30):
            worker = context.Process(target=work)
            worker.start()
            worker.terminate()  # at once: before the child has come to itself, as a rule
            code = exit_of(worker)
            if code != -signal.SIGTERM:
                tell("exit", code)
                return
        tell("exit", code)
    elif what == "before":
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            seen = [signal.getsignal(number) is earlier[number] for number in earlier]
            os.write(write, repr((seen, signal.set_wakeup_fd(-1))).encode())
            os._exit(0)
        os.waitpid(pid, 0)
        tell("handlers", os.read(read, 100).decode())
        os.close(read)
        os.close(write)


class Later(threading.Thread):
    daemon = True

    def run(self):
        import socket
        for what in sys.argv[1:]:
            sock = socket.create_connection(server.local_address, 20)
            sock.sendall(what.encode())
            sock.recv(100)
            sock.close()
        tell("status", server.status)
        os.kill(os.getpid(), signal.SIGTERM)


def own(number, frame):
    tell("own handler", number)


earlier = {}
if "before" in sys.argv:
    signal.signal(signal.SIGTERM, own)
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    signal.set_wakeup_fd(theirs)
    tell("descriptor", theirs)
    earlier = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
server = ThousandIsland(handler_cls=Forks, host="127.0.0.1", port=0)
server.start()
Later().start()
server.serve_forever()
tell("over")
"""


def serves(*orders):
    done = run(SERVES, *orders)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_g4_a_signal_to_a_child_is_the_childs_alone():
    assert serves("terminate") == ["exit -15", "status running", "over"]


def test_handlers_and_wake_up_descriptor_are_what_they_were_before():
    told = serves("before")
    descriptor = told[0].split()[1]
    assert told == [
        f"descriptor {descriptor}",
        f"handlers ([True, True], {descriptor})",
        "status running",
        "over",
    ]


def test_no_signal_is_lost_that_comes_to_the_parent_while_it_forks():
    program = """
import os, signal, threading
from thousand_island_sync import Handler, ThousandIsland
server = ThousandIsland(handler_cls=Handler, host="127.0.0.1", port=0).start()
over, forks = threading.Event(), threading.Event()
def fork():
    forked = 0
    while not over.is_set():
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
        forked += 1
        if forked == 20:
            forks.set()
def stop():
    forks.wait(20)
    os.kill(os.getpid(), signal.SIGTERM)
for job in (fork, stop):
    threading.Thread(target=job, daemon=True).start()
server.serve_forever()
over.set()
print(server.status)
"""
    done = run(program)
    assert done.stdout == "stopped\n", done.stderr


# ---- what is logged -----------------------------------------------------------------------


def test_what_a_child_raises_is_logged_with_its_traceback_once():
    program = """
import os, socket
from thousand_island_sync import Handler, ThousandIsland
class Forks(Handler):
    def handle_data(self, data, sock):
        pid = os.fork()
        if not pid:
            raise ValueError("in the child")
        sock.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
with ThousandIsland(handler_cls=Forks, host="127.0.0.1", port=0) as server:
    with socket.create_connection(server.local_address, 10) as sock:
        sock.sendall(b"x")
        print(sock.recv(10).decode())
"""
    done = run(program)
    assert done.stdout == "1\n"
    assert done.stderr.count("Traceback") == 1
    assert "Forks.handle_data of connection" in done.stderr
    assert "ValueError: in the child" in done.stderr


# ---- the hooks themselves ------------------------------------------------------------------


def test_one_hook_that_fails_keeps_no_other_from_its_work(children, monkeypatch, caplog):
    called = []

    def fails():
        raise ValueError("oh")

    for name in ("_before", "_in_parent", "_in_child"):
        hooks = [fails, *getattr(fork, name), lambda: called.append("x")]
        monkeypatch.setattr(fork, name, hooks)
    pid = children.run(lambda: children.say(len(called)))
    assert children.exit_code(pid) == 0
    assert children.said == ["2"]  # before, and in the child
    assert len(called) == 2
    assert caplog.text.count("ValueError: oh") == 2


def test_an_accepted_socket_is_known_by_its_number_until_it_is_given_up():
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        clients = [socket.create_connection(listener.getsockname()) for _ in range(2)]
        with descriptors.thread.no_fork:
            first, second = (descriptors.accept(listener)[0] for _ in range(2))
        numbers = first.fileno(), second.fileno()
        assert {*numbers} <= descriptors.sockets()
        other = descriptors.replace(first, contextlib.nullcontext())
        assert other.fileno() == numbers[0]
        assert {*numbers} <= descriptors.sockets()
        descriptors.close(first)  # its number is another one's by now
        assert {*numbers} <= descriptors.sockets()
        descriptors.close(other)
        assert not {numbers[0]} & descriptors.sockets()
        assert descriptors.give_up(second) == numbers[1]
        assert not {*numbers} & descriptors.sockets()
        os.close(numbers[1])
        for client in clients:
            client.close()
