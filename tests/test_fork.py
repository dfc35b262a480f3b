"""Forked children: they serve nobody of the parent's, keep nothing of it open, and end.

What `api.md` says under "Fork": wherever a child is forked, the parent's clients are the
parent's, and the child may go on with one `Socket` only.
"""

import gc
import multiprocessing
import os
import signal
import socket
import threading

import pytest

from tests.forking import Children
from tests.support import Echo, eventually, receive, receive_all
from thousand_island_sync import (
    TLS,
    Close,
    Continue,
    Error,
    Handler,
    ListenError,
    SwitchTransport,
    ThousandIsland,
    ThousandIslandError,
    events,
)
from thousand_island_sync.testing._leaks import open_descriptors

fork_context = multiprocessing.get_context("fork")
fork_context = multiprocessing.get_context("fork")

#: Callbacks, and what leads to each, on a client's connection.
CALLBACKS = {
    "__init__": lambda sock, server: None,
    "handle_connection": lambda sock, server: None,
    "handle_data": lambda sock, server: sock.sendall(b"x"),
    "handle_eof": lambda sock, server: sock.shutdown(socket.SHUT_WR),
    "handle_info": lambda sock, server: handle_of(sock, server).post("x"),
    "handle_call": lambda sock, server: handle_of(sock, server).call("x"),
    "handle_drain": lambda sock, server: drain_beside(server),
    "handle_close": lambda sock, server: sock.sendall(b"close"),
    "handle_error": lambda sock, server: sock.sendall(b"error"),
    "handle_timeout": lambda sock, server: sock.sendall(b"timeout"),
    "handle_shutdown": lambda sock, server: handle_of(sock, server).close(),
    "handle_end": lambda sock, server: sock.sendall(b"close"),
}
#: What is returned for the bytes that lead to a last callback.
LEADS_TO = {b"close": Close(), b"error": Error(ValueError("x")), b"timeout": Continue(timeout_ms=1)}


@pytest.fixture
def children():
    made = Children()
    yield made
    made.close()


def handle_of(sock, server):
    """The `Connection` of a client's."""
    found = []

    def find():
        mine = sock.getsockname()
        found[:] = [one for one in server.connections() if one.peername == mine]
        return found

    assert eventually(find)
    return found[0]


def drain_beside(server):
    """On a thread of its own, until the server is stopped."""
    threading.Thread(target=server.drain, args=(60_000,)).start()


class Callbacks(Handler):
    """Every callback is `self.run(name)`; its result, or what the bytes lead to, is returned."""

    def __init__(self, options):
        super().__init__(options)
        self.run("__init__")

    def run(self, name):
        """Tests have something here."""

    def handle_connection(self, socket):
        self.run("handle_connection")

    def handle_data(self, data, socket):
        self.run("handle_data")
        return LEADS_TO.get(data)

    def handle_eof(self, socket):
        self.run("handle_eof")
        return Close()

    def handle_info(self, message, socket):
        self.run("handle_info")

    def handle_call(self, message, socket):
        self.run("handle_call")

    def handle_drain(self, socket):
        self.run("handle_drain")

    def handle_close(self, socket):
        self.run("handle_close")

    def handle_error(self, reason, socket):
        self.run("handle_error")

    def handle_timeout(self, socket):
        self.run("handle_timeout")

    def handle_shutdown(self, socket):
        self.run("handle_shutdown")

    def handle_end(self, socket):
        self.run("handle_end")


class Who(Handler):
    """Answers with the process that it runs in."""

    def handle_data(self, data, socket):
        socket.send(b"%d;" % os.getpid())


def asks(sock):
    sock.sendall(b"who")
    answer = b""
    while not answer.endswith(b";"):
        piece = sock.recv(100)
        assert piece, "the connection ended"
        answer += piece
    return int(answer[:-1])


# ---- from each callback ---------------------------------------------------------


class ForksIn(Callbacks, Who):
    """Forks once in one callback. `options`: the children, its name, whether to do it, and what
    the child does there; whatever runs in the child besides is told."""

    def run(self, name):
        options = self.options
        children = options["children"]
        if children.in_child():
            children.say(f"{name} is run in the child")
        elif name == options["callback"] and options["armed"]:
            options["armed"] = False
            if not children.fork():
                options["child"]()

    def handle_data(self, data, socket):
        if data == b"who":
            return Who.handle_data(self, data, socket)
        return super().handle_data(data, socket)


def returns():
    pass


def raises():
    raise ValueError("in the child")


@pytest.mark.parametrize(("child", "code"), [(returns, 0), (raises, 1)])
@pytest.mark.parametrize("callback", CALLBACKS)
def test_g2_a_child_ends_with_the_callback_that_has_forked_it(
    serve, client, children, callback, child, code
):
    options = {"children": children, "callback": callback, "armed": False, "child": child}
    server = serve(ForksIn, handler_options=options)
    others = [client(server) for _ in range(6)]
    assert {asks(sock) for sock in others} == {children.parent}
    options["armed"] = True
    sock = client(server)
    CALLBACKS[callback](sock, server)
    assert children.exit_code() == code
    assert children.said == []
    assert {asks(sock) for _ in range(10) for sock in others} == {children.parent}
    assert asks(client(server)) == children.parent


class Stays(Handler):
    """Answers, slowly or at once, and forks at the hundredth message: its thread stays with its
    connection by then."""

    def __init__(self, options):
        super().__init__(options)
        self.count = 0

    def handle_data(self, data, socket):
        children, pause, child = self.options
        if pause:
            threading.Event().wait(pause)
        self.count += 1
        if self.count == 100 and not children.fork():
            child()
            return
        if children.in_child():
            children.say("a message is taken in the child")
        socket.send(data)


@pytest.mark.parametrize(("child", "code"), [(returns, 0), (raises, 1)])
@pytest.mark.parametrize("pause", [0, 0.001])
def test_a_child_ends_where_its_thread_stayed_with_the_connection(
    serve, client, children, pause, child, code
):
    server = serve(Stays, handler_options=(children, pause, child))
    sock = client(server)
    for _ in range(200):
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
    assert children.exit_code() == code
    assert children.said == []


class Upgrades(ForksIn):
    """As by STARTTLS."""

    def handle_data(self, data, socket):
        if data == b"starttls":
            socket.send(b"go on")
            return SwitchTransport(TLS, self.options["tls"])
        return super().handle_data(data, socket)

    def handle_upgrade(self, socket):
        self.run("handle_upgrade")


@pytest.mark.parametrize(("child", "code"), [(returns, 0), (raises, 1)])
def test_a_child_ends_with_handle_upgrade(serve, client, authority, children, child, code):
    options = {"children": children, "callback": "handle_upgrade", "armed": True, "child": child}
    server = serve(Upgrades, handler_options=options | {"tls": authority.options})
    plain = client(server)
    plain.sendall(b"starttls")
    assert receive(plain, 5) == b"go on"
    context = authority.client_context()
    with context.wrap_socket(plain, server_hostname="localhost") as sock:
        assert children.exit_code() == code
        assert children.said == []
        assert asks(sock) == children.parent


# ---- what the child may go on with ------------------------------------------------


class Forking(Handler):
    """A child for each client that says "fork": it talks to that client, by what `options.serve`
    does, while the parent's callback waits for it."""

    def handle_data(self, data, socket):
        if data != b"fork":
            socket.send(b"%d;" % os.getpid())
            return None
        pid = self.options.children.fork()
        if not pid:
            self.options.serve(socket)
            return None
        self.options.children.exit_code(pid)
        return Close()


class Options:
    def __init__(self, children, serve):
        self.children, self.serve = children, serve


def talks(sock):
    sock.send(b"hello")
    assert sock.recv_exactly(4, timeout_ms=5_000) == b"line"
    assert sock.recv_until(b"\n") == b" two\n"
    sock.sendall(b"x" * 3_000_000)
    assert sock.recv() == b"three"
    sock.send(b"bye")


def test_g2_a_child_may_talk_to_its_client_and_nobody_else_notices(wire, children):
    server = wire.serve(Forking, handler_options=Options(children, talks))
    others = [wire.connect(server) for _ in range(3)]
    assert {asks(sock) for sock in others} == {children.parent}
    sock = wire.connect(server)
    sock.sendall(b"fork")
    assert receive(sock, 5) == b"hello"
    assert {asks(other) for _ in range(5) for other in others} == {children.parent}
    sock.sendall(b"line two\n")
    assert len(receive(sock, 3_000_000)) == 3_000_000
    assert {asks(other) for _ in range(5) for other in others} == {children.parent}
    sock.sendall(b"three")
    assert receive(sock, 3) == b"bye"
    assert eventually(lambda: len(server.connections()) == 3)
    assert {asks(other) for _ in range(5) for other in others} == {children.parent}


def limit_of(sock):
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16)


class Waits(Handler):
    """Waits for its client in the kernel, forks, and both wait again, one after the other."""

    def handle_data(self, data, sock):
        children = self.options
        sock.send(b"more?")
        assert sock.recv(timeout_ms=5_000) == b"more"
        pid = children.fork()
        if not pid:
            with pytest.raises(TimeoutError):
                sock.recv(timeout_ms=20)
            with pytest.raises(TimeoutError):
                sock.recv(timeout_ms=0)
            assert limit_of(sock) == bytes(16)
            sock.send(b"child;")
            return
        assert children.exit_code(pid) == 0
        with pytest.raises(TimeoutError):
            sock.recv(timeout_ms=20)
        assert limit_of(sock) == bytes(16)
        sock.send(b"parent;")
        assert sock.recv(timeout_ms=5_000) == b"last"
        sock.send(b"end")


@pytest.mark.parametrize("interrupt_reads", [False, True])
def test_who_waits_sets_no_limit_on_the_descriptor_that_both_have(
    serve, client, children, interrupt_reads
):
    server = serve(Waits, handler_options=children, interrupt_reads=interrupt_reads)
    sock = client(server)
    sock.sendall(b"x")
    assert receive(sock, 5) == b"more?"
    sock.sendall(b"more")
    assert receive(sock, 13) == b"child;parent;"
    sock.sendall(b"last")
    assert receive(sock, 3) == b"end"


class Leaves(Handler):
    """Leaves its client to a child for good."""

    def handle_data(self, data, sock):
        if not self.options.fork():
            sock.send(b"child;")
            number = sock.detach()
            with socket.socket(fileno=number) as mine:
                assert mine.recv(10) == b"line"
                mine.sendall(b"bye")
            assert sock.fileno() == -1
            return
        os.close(sock.detach())


def test_a_client_may_be_left_to_a_child_for_good(serve, client, children, record):
    recorder = record("handler.shutdown")
    server = serve(Leaves, handler_options=children)
    sock = client(server)
    sock.sendall(b"x")
    assert receive(sock, 6) == b"child;"
    assert recorder.wait_for("handler.shutdown")[0].measurements["reason"] == "local_closed"
    assert eventually(lambda: not server.connections())
    sock.sendall(b"line")
    assert receive_all(sock) == b"bye"
    assert children.exit_code() == 0


def closes(sock):
    sock.close()
    assert sock.fileno() == -1
    with pytest.raises(ThousandIslandError):
        sock.send(b"more")


class GoesOn(Forking):
    """The parent keeps the connection."""

    def handle_data(self, data, socket):
        super().handle_data(data, socket)


@pytest.mark.parametrize("child", [closes, lambda sock: sock.connection.close()])
def test_what_a_child_closes_is_its_copy(wire, children, child):
    def serve(sock):
        if not sock.secure:  # over TLS only one of the two may go on
            sock.send(b"child;")
        child(sock)

    server = wire.serve(GoesOn, handler_options=Options(children, serve))
    sock = wire.connect(server)
    sock.sendall(b"fork")
    if not wire.secure:
        assert receive(sock, 6) == b"child;"
    assert {asks(sock) for _ in range(5)} == {children.parent}


class Descriptors:
    """What a process has open: descriptor -> what it is."""

    def __init__(self):
        self.open = open_descriptors()

    def of(self, before):
        """Sockets and the like that were not there before."""
        kinds = ("socket:", "anon_inode:", "pipe:", "/dev/null")
        return {
            fd
            for fd, what in self.open.items()
            if before.open.get(fd) != what and what.startswith(kinds)
        }


@pytest.mark.parametrize("interrupt_reads", [False, True])
def test_g3_nothing_else_of_the_parents_is_open_in_a_child(wire, children, interrupt_reads):
    before = Descriptors()

    def child(sock):
        left = Descriptors().of(before) - clients
        children.say(sorted(left) == [sock.fileno()])

    server = wire.serve(
        Forking, handler_options=Options(children, child), interrupt_reads=interrupt_reads
    )
    socks = [wire.connect(server) for _ in range(5)]
    assert {asks(sock) for sock in socks} == {children.parent}
    clients = {sock.fileno() for sock in socks}
    socks[0].sendall(b"fork")
    assert socks[0].recv(1) == b""
    assert children.said == ["True"]
    assert {asks(sock) for sock in socks[1:]} == {children.parent}


def test_nothing_of_the_parents_is_open_in_a_child_of_another_thread(wire, children):
    before = Descriptors()
    server = wire.serve(Echo, interrupt_reads=True)
    socks = [wire.connect(server) for _ in range(5)]
    for sock in socks:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
    clients = {sock.fileno() for sock in socks}
    pid = children.run(lambda: children.say(Descriptors().of(before) - clients))
    assert children.exit_code(pid) == 0
    assert children.said == ["set()"]


def opens_and_collects(*_):
    """What has been ours has other owners now: the collector closes nothing of theirs."""
    files = [open("/dev/zero", "rb") for _ in range(100)]  # noqa: SIM115 - until the child ends
    gc.collect()
    for file in files:
        assert os.fstat(file.fileno()).st_rdev == os.stat("/dev/zero").st_rdev
        assert file.read(1) == b"\0"


def test_a_childs_collector_closes_no_number_that_was_the_parents(wire, children):
    class OwnSocketClosed(Forking):
        pass

    def child(sock):
        opens_and_collects()
        sock.close()
        opens_and_collects()

    server = wire.serve(OwnSocketClosed, handler_options=Options(children, child))
    socks = [wire.connect(server) for _ in range(5)]
    assert {asks(sock) for sock in socks} == {children.parent}
    socks[0].sendall(b"fork")
    assert socks[0].recv(1) == b""
    assert children.exit_code(children.run(opens_and_collects)) == 0
    server.stop()
    assert children.exit_code(children.run(opens_and_collects)) == 0
    assert children.said == []


# ---- what raises there ------------------------------------------------------------

SERVER_CALLS = {
    "start": lambda server: server.start(),
    "__enter__": lambda server: server.__enter__(),
    "stop": lambda server: server.stop(),
    "stop(0)": lambda server: server.stop(0),
    "suspend": lambda server: server.suspend(),
    "resume": lambda server: server.resume(),
    "wait": lambda server: server.wait(),
    "serve_forever": lambda server: server.serve_forever(),
    "reload_transport": lambda server: server.reload_transport(backlog=3),
    "status": lambda server: server.status,
    "local_port": lambda server: server.local_port,
    "local_address": lambda server: server.local_address,
    "connections": lambda server: server.connections(),
    "info": lambda server: server.info(),
}
CONNECTION_CALLS = {
    "post": lambda connection: connection.post("x"),
    "post later": lambda connection: connection.post("x", delay_ms=5),
    "call": lambda connection: connection.call("x"),
    "send": lambda connection: connection.send(b"x"),
    "unsent": lambda connection: connection.unsent,
    "resume": lambda connection: connection.resume(),
    "close": lambda connection: connection.close(),
    "pending": lambda connection: connection.pending,
}
SOCKET_CALLS = {
    "recv": lambda sock: sock.recv(),
    "recv_exactly": lambda sock: sock.recv_exactly(1),
    "recv_until": lambda sock: sock.recv_until(b"x"),
    "unread": lambda sock: sock.unread(b"x"),
    "send": lambda sock: sock.send(b"x"),
    "sendall": lambda sock: sock.sendall(b"x"),
    "sendfile": lambda sock: sock.sendfile(__file__),
    "shutdown": lambda sock: sock.shutdown("both"),
    "setsockopt": lambda sock: sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    "makefile": lambda sock: sock.makefile(),
}


class Keeps(Echo):
    """Keeps its socket, for others."""

    def handle_connection(self, socket):
        self.options.append(socket)


def test_f11_what_is_the_parents_raises_in_a_child(wire, children):
    kept = []
    server = wire.serve(Keeps, handler_options=kept)
    sock = wire.connect(server)
    assert eventually(lambda: kept)
    other, handle = kept[0], kept[0].connection
    facts = (handle.id, handle.peername, handle.accepted_at_ns, handle.server, handle.closed)

    def child():
        for calls, what in (
            (SERVER_CALLS, server),
            (CONNECTION_CALLS, handle),
            (SOCKET_CALLS, other),
        ):
            for name, call in calls.items():
                with pytest.raises(ThousandIslandError):
                    call(what)
                    children.say(name)
        server.__exit__(None, None, None)
        other.close()
        assert other.fileno() == -1
        assert facts[:3] == (handle.id, handle.peername, handle.accepted_at_ns)
        assert handle.server is server
        assert repr(server)
        assert repr(handle)

    assert children.exit_code(children.run(child)) == 0, children.said
    assert children.said == []
    sock.sendall(b"x")
    assert sock.recv(1) == b"x"
    assert server.status == "running"
    assert server.info().active_connections == 1


def test_a_server_that_is_started_before_the_fork_and_stopped_is_the_parents(serve, children):
    server = serve(Echo)
    server.stop()

    def child():
        with pytest.raises(ThousandIslandError):
            server.start()

    assert children.exit_code(children.run(child)) == 0, children.said


class Own(Forking):
    """The connection's own handle, in its child."""

    def handle_info(self, message, socket):
        self.options.children.say("handle_info")


def uses_its_handle(sock):
    handle = sock.connection
    handle.post("x")
    handle.resume()
    assert handle.peername
    assert not handle.closed
    with pytest.raises(ThousandIslandError):
        handle.call("x")
    handle.send(handle.id.encode())
    assert handle.unsent == 0


def test_a_connections_own_handle_answers_in_its_child_and_reaches_nobody(serve, client, children):
    server = serve(Own, handler_options=Options(children, uses_its_handle))
    sock = client(server)
    sock.sendall(b"fork")
    told = receive_all(sock).decode()
    assert told.startswith(f"{children.parent:x}-")
    assert children.said == []


def test_a_connection_that_has_ended_raises_in_a_child_as_it_does_here(serve, client, children):
    server = serve(Echo)
    sock = client(server)
    handle = handle_of(sock, server)
    sock.close()
    assert eventually(lambda: handle.closed)

    def child():
        for call in CONNECTION_CALLS.values():
            try:
                call(handle)
            except ThousandIslandError:
                children.say("raised")

    assert children.exit_code(children.run(child)) == 0
    assert children.said.count("raised") >= 3


# ---- from elsewhere ----------------------------------------------------------------

#: Events whose receivers run on threads of ours, and what leads to each.
EVENTS = {
    "acceptor.accept": lambda sock, server: None,
    "handler.start": lambda sock, server: None,
    "socket.handshake": lambda sock, server: None,
    "handler.async_recv": lambda sock, server: sock.sendall(b"x"),
    "socket.send": lambda sock, server: sock.sendall(b"x"),
    "handler.shutdown": lambda sock, server: sock.sendall(b"close"),
    "socket.close": lambda sock, server: sock.sendall(b"close"),
    "handler.error": lambda sock, server: sock.sendall(b"error"),
    "acceptor.limit_reached": lambda sock, server: None,
}


class Speaks(Callbacks, Who):
    """`options["children"]` are told what runs in the child."""

    def run(self, name):
        if self.options.in_child():
            self.options.say(f"{name} is run in the child")

    def handle_data(self, data, socket):
        if data == b"who":
            return Who.handle_data(self, data, socket)
        socket.send(b"said")
        return super().handle_data(data, socket)


@pytest.mark.parametrize(("child", "code"), [(returns, 0), (raises, 1)])
@pytest.mark.parametrize("event", EVENTS)
def test_a_child_ends_with_the_receiver_that_has_forked_it(
    serve, client, children, event, child, code
):
    server = serve(Speaks, handler_options=children, max_connections=5)
    others = [client(server) for _ in range(4)]
    assert {asks(sock) for sock in others} == {children.parent}
    armed = [True]

    def receiver(sender, **_):
        if children.in_child():
            children.say("a receiver is called in the child")
        elif armed and armed.pop() and not children.fork():
            child()

    def after(sender, **_):
        if children.in_child():
            children.say("another receiver is called in the child")

    events.ALL[event].connect(receiver)
    events.ALL[event].connect(after)
    sock = client(server)
    EVENTS[event](sock, server)
    assert children.exit_code() == code
    events.ALL[event].disconnect(receiver)
    assert {asks(sock) for _ in range(10) for sock in others} == {children.parent}
    assert children.said == []


def test_a_child_of_a_receiver_on_the_programs_own_thread_goes_on(serve, client, children):
    forked = []

    def receiver(sender, **_):
        if not forked:
            forked.append(children.fork())

    events.listener_start.connect(receiver)
    server = serve(Who)
    if children.in_child():
        try:
            assert threading.current_thread() is threading.main_thread()
            server.info()
        except ThousandIslandError:
            os._exit(7)
        os._exit(1)
    assert children.exit_code() == 7
    assert asks(client(server)) == children.parent


def test_a_server_is_the_parents_in_a_child_that_was_forked_while_it_started(
    serve, client, children
):
    def receiver(sender, **_):
        if children.fork():
            return
        for call in SERVER_CALLS.values():
            with pytest.raises(ThousandIslandError):
                call(sender)
        children.say("all have raised")

    events.acceptor_start.connect(receiver)
    server = serve(Who, num_acceptors=1)
    assert children.exit_code() == 0
    assert children.said == ["all have raised"]
    assert asks(client(server)) == children.parent


def test_a_server_whose_start_failed_may_be_started_in_a_child(children):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = ThousandIsland(handler_cls=Who, host="127.0.0.1", port=port)
        with pytest.raises(ListenError):
            server.start()

    def child():
        with server, socket.create_connection(server.local_address, 5) as sock:
            assert asks(sock) == os.getpid()

    assert children.exit_code(children.run(child)) == 0, children.said


def test_a_child_ends_with_the_sni_callable_that_has_forked_it(serve, secure, authority, children):
    deeds = [raises, returns]

    def choose(name):
        if deeds and not children.in_child():
            deed = deeds.pop()
            if not children.fork():
                deed()

    server = serve(Who, transport_cls=TLS, transport_options={**authority.options, "sni": choose})
    for code in (0, 1):
        with secure(server, authority.client_context()) as sock:
            assert children.exit_code() == code
            assert asks(sock) == children.parent


class ServesItself(Echo):
    """A callback whose child has a server of its own, and answers from there."""

    def handle_data(self, data, socket):
        if data != b"fork":
            super().handle_data(data, socket)
        elif not self.options.fork():
            own_server(socket)


def own_server(sock):
    with ThousandIsland(handler_cls=Who, host="127.0.0.1", port=0) as server:
        clients = [socket.create_connection(server.local_address, 5) for _ in range(4)]
        for _ in range(5):
            assert {asks(one) for one in clients} == {os.getpid()}
        sock.send(b"%d;" % server.info().active_connections)
        for one in clients:
            one.close()
    assert server.status == "stopped"
    assert threading.active_count() == 1


def test_f11_a_child_may_have_a_server_of_its_own(wire, children):
    server = wire.serve(ServesItself, handler_options=children)
    others = [wire.connect(server) for _ in range(3)]
    sock = wire.connect(server)
    sock.sendall(b"fork")
    assert receive(sock, 2) == b"4;"
    for one in others:
        one.sendall(b"x")
        assert one.recv(1) == b"x"
    assert children.exit_code() == 0


class Grandchildren(Handler):
    """A child whose child talks to the client, while the parent's callback waits."""

    def handle_data(self, data, socket):
        children, go_on = self.options
        if children.fork():
            go_on.wait(10)
            return
        grandchild = children.fork()
        if grandchild:
            assert children.exit_code(grandchild) == 0
        else:
            socket.send(b"grandchild")
            assert socket.recv(timeout_ms=5_000) == b"thanks"


def test_a_child_of_a_child_may_go_on_and_ends_as_well(wire, children):
    go_on = threading.Event()
    server = wire.serve(Grandchildren, handler_options=(children, go_on))
    sock = wire.connect(server)
    sock.sendall(b"x")
    assert receive(sock, 10) == b"grandchild"
    sock.sendall(b"thanks")
    assert children.exit_code() == 0
    go_on.set()
    assert children.said == []


def test_nothing_is_open_in_a_child_of_another_thread_of_a_child(serve, client, children):
    before = Descriptors()

    def child(sock):
        def fork():
            pid = children.run(lambda: children.say(Descriptors().of(before) - clients))
            children.exit_code(pid)

        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()

    server = serve(Forking, handler_options=Options(children, child))
    sock = client(server)
    clients = {sock.fileno()}
    sock.sendall(b"fork")
    assert receive_all(sock) == b""
    assert children.said == ["set()"]


def test_children_of_multiprocessing_may_be_many_and_nobody_is_served_by_them(serve, client):
    """A pool that a callback uses, and one of the program's."""

    class Computes(Handler):
        def handle_data(self, data, socket):
            if data == b"pool":
                with fork_context.Pool(2) as pool:
                    socket.send(b"%d;" % sum(pool.map(abs, range(-10, 10))))
            else:
                socket.send(b"%d;" % os.getpid())

    server = serve(Computes)
    others = [client(server) for _ in range(4)]
    with fork_context.Pool(2) as pool:
        result = pool.map_async(abs, range(-10, 10))
        sock = client(server)
        sock.sendall(b"pool")
        assert receive(sock, 4) == b"100;"
        assert {asks(one) for _ in range(20) for one in others} == {os.getpid()}
        assert sum(result.get(10)) == 100
        pool.close()
        pool.join()


def test_serve_forever_in_a_child_raises_and_leaves_the_handlers_alone(serve, children):
    server = serve(Echo)

    def child():
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(ThousandIslandError):
            server.serve_forever()
        fresh = ThousandIsland(handler_cls=Echo, host="127.0.0.1", port=0)
        with pytest.raises(ThousandIslandError):
            fresh.serve_forever(server)
        assert signal.getsignal(signal.SIGTERM) is before
        assert threading.active_count() == 1

    assert children.exit_code(children.run(child)) == 0, children.said
